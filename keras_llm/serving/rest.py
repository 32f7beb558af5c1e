"""TF Serving's REST API as a function: method, path and body -> status and JSON. It knows no web framework.

    POST /v1/models/NAME[/versions/N|/labels/LABEL]:(predict|classify|regress)
    GET  /v1/models/NAME[/versions/N|/labels/LABEL][/metadata]

Source: tensorflow/serving, `model_servers/http_rest_api_handler.cc`, `http_rest_api_util.cc`, `http_server.cc`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from keras_llm.serving import metrics
from keras_llm.serving.json_tensor import read_predict
from keras_llm.serving.json_writer import (
    classifications_json,
    error_json,
    outputs_json,
    predictions_json,
    regressions_json,
)
from keras_llm.serving.servables import Servables
from keras_llm.serving.status import ServingError, invalid

if TYPE_CHECKING:
    from keras_llm.serving.servable import Servable

logger = logging.getLogger(__name__)

HTTP_STATUS = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}  # every other code: 500

_WHICH = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_FLAGS = re.ASCII | re.IGNORECASE
_POST = re.compile(rf"/v1/models/(?P<name>[^/:]+){_WHICH}:(?P<verb>classify|regress|predict)", _FLAGS)
_GET = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_WHICH}(?:/(?P<verb>metadata))?", _FLAGS)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The model a path names, and until when."""

    name: str
    version: int | None
    label: str | None
    deadline: float | None


class RestApi:
    """Answers requests about loaded models.

    Args:
        servables: the models.

    Example:

    >>> RestApi(servables).answer("POST", "/v1/models/half_plus_two:predict", b'{"inputs": [3.0]}')
    (200, b'{\\n    "outputs": [\\n        3.5\\n    ]\\n}')
    """

    def __init__(self, servables: Servables):
        self._servables = servables
        self._verbs = {
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
            "metadata": self._metadata,
        }

    def models(self) -> list[str]:
        """Names of the models that are served."""
        return self._servables.names()

    def answer(self, method: str, path: str, body: bytes, deadline: float | None = None) -> tuple[int, bytes]:
        """Never raises.

        Args:
            method: "GET", "POST" or another, which is answered as malformed.
            path: as it was sent, still percent-encoded, with the query if there was one.
            body: of the request.
            deadline: `time.monotonic()` at which the answer comes too late.

        Returns:
            HTTP status, and JSON (nothing for a version number beyond 64 bits, as in TF Serving).
        """
        began = time.monotonic()
        pattern = {"POST": _POST, "GET": _GET}.get(method)
        match = pattern and pattern.fullmatch(path)
        code = "OK"
        try:
            status, content = 200, self._answer(match, method, path, body, deadline)
        except ServingError as error:
            code, content = error.code, error.message and error_json(error.message)
            status = HTTP_STATUS.get(code, 500)
        except Exception as error:
            logger.exception("%s %s failed", method, path)
            code, status, content = "INTERNAL", 500, error_json(f"{type(error).__name__}: {error}")
        name = self._servables.known(_decode(match["name"] or "")) if match else ""
        metrics.REQUEST_COUNT.add(1, name, code)
        if code == "OK":
            seconds = time.monotonic() - began
            metrics.REQUEST_LATENCY.add(seconds * 1e6, name, match["verb"] or "", "REST")
        return status, content or b""

    def _answer(self, match: re.Match | None, method: str, path: str, body: bytes, deadline: float | None) -> bytes:
        handle = match and self._verbs.get(match["verb"], self._status if method == "GET" else None)
        if not handle:  # among them ":PREDICT": case matters in the verb, not in the path before it
            raise invalid(f"Malformed request: {method} {path}")
        version = match["version"] and (match["version"].lstrip("0") or "0")
        if version and (len(version) > 19 or int(version) >= 2**63):
            raise invalid("")
        asked = _Asked(
            name=_decode(match["name"] or ""),
            version=int(version) if version else None,
            label=match["label"] and _decode(match["label"]),
            deadline=deadline,
        )
        return handle(asked, body)

    def _predict(self, asked: _Asked, body: bytes) -> bytes:
        from keras_llm.serving.predict import DEFAULT_SIGNATURE, predict  # TensorFlow, which is there once a model is

        found = []

        def input_dtypes(signature: str) -> dict[str, str]:
            found.append(self._find(asked))
            name = signature or DEFAULT_SIGNATURE
            if name not in found[0].signature_defs:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            return found[0].input_dtypes(name)

        request = read_predict(body, input_dtypes)
        inputs = request.inputs
        outputs = predict(found[0], request.signature, inputs, inputs.__getitem__, deadline=asked.deadline)
        return predictions_json(outputs) if request.rows else outputs_json(outputs)

    def _classify(self, asked: _Asked, body: bytes) -> bytes:
        from keras_llm.serving import examples, json_examples

        request = json_examples.read_examples(body)
        classes = examples.classify(self._find(asked), request.signature, request.examples, asked.deadline)
        return classifications_json(classes.labels, classes.scores)

    def _regress(self, asked: _Asked, body: bytes) -> bytes:
        from keras_llm.serving import examples, json_examples

        request = json_examples.read_examples(body)
        return regressions_json(
            examples.regress(self._find(asked), request.signature, request.examples, asked.deadline)
        )

    def _find(self, asked: _Asked) -> Servable:
        return self._servables.find(asked.name, asked.version, asked.label)

    def _status(self, asked: _Asked, body: bytes) -> bytes:
        if not asked.name:
            raise invalid("Missing model name in request.")
        statuses = self._servables.statuses(asked.name, asked.version)  # TF Serving takes no notice of a label here
        return _proto_json(
            {
                "model_version_status": [
                    {
                        "version": str(status.version),
                        "state": status.state,
                        "status": {"error_code": status.code, "error_message": status.message},
                    }
                    for status in statuses
                ]
            }
        )

    def _metadata(self, asked: _Asked, body: bytes) -> bytes:
        from google.protobuf import json_format

        if not asked.name:
            raise invalid("Missing model name in request.")
        servable = self._find(asked)
        model = {"name": servable.name, "signature_name": "", "version": str(servable.version)}
        signatures = {
            name: json_format.MessageToDict(
                signature, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            for name, signature in servable.signature_defs.items()
        }
        return b'{\n"model_spec":%s,\n"metadata": {"signature_def": %s}\n}\n' % (
            _proto_json(model),
            _proto_json({"signature_def": signatures}),
        )


def _decode(text: str) -> str:
    """Percent-decoding; bytes that are not UTF-8 are surrogate-escaped."""
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def _proto_json(value: dict) -> bytes:
    """The layout of protobuf's own JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"

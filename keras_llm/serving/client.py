"""Asks a served model one question over REST: this server's, or TF Serving's own."""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping

from keras_llm.errors import UserError
from keras_llm.tasks.base import setting_value
from keras_llm.tasks.generating import SETTINGS

DEFAULT = "serving_default"
DTYPES = {"DT_FLOAT": "float32", "DT_INT32": "int32", "DT_INT64": "int32", "DT_STRING": "string"}


def ask(
    url: str,
    inputs: Mapping[str, str],
    timeout: float = 60.0,
    signature: str = DEFAULT,
    settings: Mapping[str, str] | None = None,
) -> dict:
    """One question, one answer.

    Args:
        url: of the model: http://HOST:PORT/v1/models/NAME, perhaps with /versions/N or /labels/LABEL.
        inputs: the strings its signature wants: {"question": ..., "context": ...} or {"question": ...}. A single one goes
            to a model's only input, whatever that is called.
        timeout: seconds until the server counts as unreachable.
        signature: which of the model's signatures answers.
        settings: some of its other inputs, as values or as text; the rest of `sample`'s and `beam`'s keep their defaults.

    Returns:
        What the model gives: {"answer": str, "score": float, ...}.

    Raises:
        UserError: the server cannot be reached, or it answers with an error, which is shown.

    Example:

    >>> ask("http://127.0.0.1:8501/v1/models/reader", {"question": "Who?", "context": "Ann wrote it."})["answer"]
    'Ann'
    """
    address = _predict_url(url)
    others = {}
    if signature != DEFAULT or settings:
        wanted = _dtypes(address, url, timeout, signature, "inputs")
        dtypes = {name: dtype for name, dtype in wanted.items() if name not in inputs}
        known = {name: SETTINGS[name][0] for name in dtypes if name in SETTINGS}
        others = known | {name: setting_value(name, value, dtypes) for name, value in (settings or {}).items()}

    def send(strings):
        return _send(address, url, timeout, {"signature_name": signature, "instances": [{**strings, **others}]})

    try:
        body = send(inputs)
    except _RefusedError as refused:
        # A model that is asked with one string has it under its own name.
        names = _dtypes(address, url, timeout, signature, "inputs").keys() - others if len(inputs) == 1 else ()
        if len(names) != 1 or names & inputs.keys():
            raise UserError(str(refused)) from None
        try:
            body = send(dict(zip(names, inputs.values(), strict=True)))
        except _RefusedError as again:
            raise UserError(str(again)) from None
    try:
        (answer,) = json.loads(body.decode("utf-8", "replace"))["predictions"]
    except (ValueError, KeyError, TypeError):
        answer = None
    if answer is not None and not isinstance(answer, dict):  # of a single output only the value is sent
        names = _dtypes(address, url, timeout, signature, "outputs")
        answer = dict.fromkeys(names, answer) if len(names) == 1 else None
    if not isinstance(answer, dict):
        shown = body[:200].decode("utf-8", "replace")
        raise UserError(f"{url} must be a model that answers questions. Received: {shown!r}.")
    count = answer.get("count")
    if isinstance(count, int):  # so many columns are filled, the others are padding
        answer = {name: value[:count] if isinstance(value, list) else value for name, value in answer.items()}
    return answer


class _RefusedError(Exception):
    """The server answered with an error; the message shows it."""


def _send(address, url, timeout, content=None) -> bytes:
    """The server's answer to a GET, or to a POST of `content`."""
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json"})
    try:
        with _opener(request.host).open(request, timeout=timeout) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        text = _error_text(error.read()) or error.reason
        raise _RefusedError(f"The server could not answer. Received: {error.code} from {url}: {text}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"A server must be running at {url}. Received: {reason}. Start one: python scripts/serve.py exported"
        ) from None


def _dtypes(address, url, timeout, signature, side) -> dict[str, str]:
    """Name -> dtype of a signature's inputs or outputs; none if the server does not tell."""
    try:
        body = _send(address.removesuffix(":predict") + "/metadata", url, timeout)
        signatures = json.loads(body)["metadata"]["signature_def"]["signature_def"]
        tensors = signatures.get(signature, {}).get(side, {})
        return {name: DTYPES.get(tensor["dtype"], "string") for name, tensor in sorted(tensors.items())}
    except (_RefusedError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _predict_url(url: str) -> str:
    parts = urllib.parse.urlsplit(url.strip().removesuffix(":predict").rstrip("/"))
    well_formed = re.fullmatch(r".*/v1/models/[^/:]+(/versions/[0-9]+|/labels/[^/:]+)?", parts.path)
    if parts.scheme not in ("http", "https") or not parts.hostname or not well_formed:
        raise UserError(f"A model's address is http://HOST:PORT/v1/models/NAME. Received: {url}.")
    path = urllib.parse.quote(parts.path, safe="/%") + ":predict"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _opener(host: str) -> urllib.request.OpenerDirector:
    """Proxies are for the world outside: a server on this machine is asked directly."""
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    try:
        here = ipaddress.ip_address(name).is_loopback
    except ValueError:
        here = name == "localhost"
    return urllib.request.build_opener(*[urllib.request.ProxyHandler({})] if here else [])


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body.decode("utf-8", "replace"))["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")

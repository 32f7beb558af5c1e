"""TF Serving's gRPC services, PredictionService and ModelService, over the loaded models.

Source: tensorflow/serving, `model_servers/{prediction_service,model_service,get_model_status}_impl.cc`, `grpc_status_util.cc`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import grpc
from google.protobuf.message import DecodeError, Message
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from keras_llm.serving import metrics, protos
from keras_llm.serving.servables import Servables
from keras_llm.serving.status import ServingError, invalid

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 1024
"""Of an error; TF Serving cuts longer ones."""


class Services(grpc.GenericRpcHandler):
    """Answers both services' requests.

    Args:
        servables: the models.
        request_seconds: after which a request is broken off, if its client gives no shorter time.

    Example:

    >>> server = grpc.server(threads, handlers=[Services(servables, 30)])
    """

    def __init__(self, servables: Servables, request_seconds: float):
        self._servables = servables
        self._request_seconds = request_seconds
        methods = {
            "PredictionService": {
                "Predict": (predict_pb2.PredictRequest, self._predict),
                "Classify": (classification_pb2.ClassificationRequest, self._classify),
                "Regress": (regression_pb2.RegressionRequest, self._regress),
                "MultiInference": (inference_pb2.MultiInferenceRequest, self._multi_inference),
                "GetModelMetadata": (get_model_metadata_pb2.GetModelMetadataRequest, self._metadata),
            },
            "ModelService": {
                "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, self._status),
                "HandleReloadConfigRequest": (model_management_pb2.ReloadConfigRequest, self._reload),
            },
        }
        self._handlers = {
            f"/tensorflow.serving.{service}/{method}": _handler(*entry)
            for service, entries in methods.items()
            for method, entry in entries.items()
        }

    def service(self, details):
        """gRPC's: the handler of a method, None where there is no such method."""
        return self._handlers.get(details.method)

    def _predict(self, request, context) -> Message:
        return self._counted("Predict", protos.answer_predict, request, context)

    def _classify(self, request, context) -> Message:
        return self._counted("Classify", protos.answer_classify, request, context)

    def _regress(self, request, context) -> Message:
        return self._counted("Regress", protos.answer_regress, request, context)

    def _counted(self, api: str, answer: Callable, request, context) -> Message:
        began, code = time.monotonic(), "INTERNAL"
        try:
            servable = self._find(_spec(request))
            response, code = answer(servable, request, self._deadline(context)), "OK"
        except ServingError as error:
            code = error.code
            raise
        finally:
            name = self._servables.known(request.model_spec.name)
            metrics.REQUEST_COUNT.add(1, name, code)
            if code == "OK":
                metrics.REQUEST_LATENCY.add((time.monotonic() - began) * 1e6, name, api, "GRPC")
        return response

    def _multi_inference(self, request, context) -> Message:
        spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        return protos.answer_multi_inference(self._find(spec), request, self._deadline(context))

    def _metadata(self, request, context) -> Message:
        spec = _spec(request)
        protos.check_metadata(request)
        return protos.answer_metadata(self._find(spec))

    def _status(self, request, context) -> Message:
        spec = _spec(request)
        version = spec.version.value if spec.HasField("version") else None
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self._servables.statuses(spec.name, version):
            entry = response.model_version_status.add(version=status.version, state=status.state)
            entry.status.error_code = error_codes_pb2.Code.Value(status.code)
            entry.status.error_message = _utf8(status.message)
        return response

    def _reload(self, request, context) -> Message:
        before = {name: _increase(name) for name in request.metric_names}
        self._servables.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name, value in before.items():
            response.metric.add(name=name, int64_value_increase=_increase(name) - value)
        return response

    def _find(self, spec: model_pb2.ModelSpec):
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        version = spec.version.value if spec.HasField("version") else None
        label = spec.version_label if spec.HasField("version_label") else None
        return self._servables.find(spec.name, version, label)

    def _deadline(self, context) -> float:
        left = context.time_remaining()
        return time.monotonic() + min(self._request_seconds, self._request_seconds if left is None else left)


def _handler(request_class: type[Message], answer: Callable) -> grpc.RpcMethodHandler:
    """The message is read here, not by gRPC, which would log a traceback for one that is none."""

    def behaviour(data: bytes, context: grpc.ServicerContext) -> bytes | None:
        try:
            request = request_class.FromString(data)
            return answer(request, context).SerializeToString()
        except DecodeError:
            code, message = "INTERNAL", f"The message is no {request_class.DESCRIPTOR.name}"
        except ServingError as error:
            code, message = error.code, error.message
        except Exception as error:
            logger.exception("%s failed", request_class.DESCRIPTOR.name)
            code, message = "INTERNAL", f"{type(error).__name__}: {error}"
        context.set_code(getattr(grpc.StatusCode, code))
        context.set_details(_utf8(_cut(message)))
        return b""

    return grpc.unary_unary_rpc_method_handler(behaviour)


def _spec(request) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _increase(name: str) -> int:
    return metrics.ALL[name].first() if name in metrics.ALL else 0


def _cut(message: str) -> str:
    data = message.encode("utf-8", "surrogateescape")
    if len(data) <= MESSAGE_BYTES:
        return message
    return data[:MESSAGE_BYTES].decode("utf-8", "surrogateescape") + "...TRUNCATED"


def _utf8(message: str) -> str:
    """gRPC carries UTF-8 only; other bytes become U+FFFD."""
    return message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

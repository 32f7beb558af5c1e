"""TF Serving's messages: each function answers one request message about one loaded model.

The gRPC services ask them, and so do warm-up records, which are the same messages.
"""

from __future__ import annotations

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from keras_llm.serving import examples, tensors
from keras_llm.serving.predict import DEFAULT_SIGNATURE, predict
from keras_llm.serving.servable import Servable
from keras_llm.serving.status import invalid


def answer_predict(
    servable: Servable, request: predict_pb2.PredictRequest, deadline: float | None = None
) -> predict_pb2.PredictResponse:
    """PredictRequest -> PredictResponse.

    Raises:
        ServingError: as `predict`.
    """
    outputs = predict(
        servable,
        request.model_spec.signature_name,
        request.inputs.keys(),
        lambda name: tensors.to_array(request.inputs[name], name),
        request.output_filter,
        deadline,
    )
    response = predict_pb2.PredictResponse()
    _fill_spec(response.model_spec, servable, request.model_spec)
    for name, array in outputs.items():
        tensors.to_proto(array, response.outputs[name])
    return response


def answer_classify(
    servable: Servable, request: classification_pb2.ClassificationRequest, deadline: float | None = None
) -> classification_pb2.ClassificationResponse:
    """ClassificationRequest -> ClassificationResponse."""
    classes = examples.classify(servable, request.model_spec.signature_name, _serialised(request.input), deadline)
    response = classification_pb2.ClassificationResponse()
    _fill_spec(response.model_spec, servable, request.model_spec)
    _fill_classes(response.result, classes)
    return response


def answer_regress(
    servable: Servable, request: regression_pb2.RegressionRequest, deadline: float | None = None
) -> regression_pb2.RegressionResponse:
    """RegressionRequest -> RegressionResponse."""
    values = examples.regress(servable, request.model_spec.signature_name, _serialised(request.input), deadline)
    response = regression_pb2.RegressionResponse()
    _fill_spec(response.model_spec, servable, request.model_spec)
    _fill_values(response.result, values)
    return response


def answer_multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest, deadline: float | None = None
) -> inference_pb2.MultiInferenceResponse:
    """MultiInferenceRequest -> MultiInferenceResponse."""
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    tasks = [(task.model_spec.signature_name, task.method_name) for task in request.tasks]
    results = examples.multi_inference(servable, tasks, _serialised(request.input), deadline)
    response = inference_pb2.MultiInferenceResponse()
    for task, result in zip(request.tasks, results, strict=True):
        answer = response.results.add()
        if isinstance(result, examples.Classes):
            _fill_classes(answer.classification_result, result)
        else:
            _fill_values(answer.regression_result, result)
        _fill_spec(answer.model_spec, servable, task.model_spec)
    return response


def check_metadata(request: get_model_metadata_pb2.GetModelMetadataRequest) -> None:
    """What a GetModelMetadataRequest must hold.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid(f"Metadata field {field} is not supported")


def answer_metadata(servable: Servable) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in servable.signature_defs.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata["signature_def"].Pack(signatures)
    return response


def _serialised(given: input_pb2.Input) -> np.ndarray:
    """Object array [B] of serialised tf.Examples; the context is part of each: concatenated messages merge."""
    kind = given.WhichOneof("kind")
    context = b""
    if kind == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
    messages = getattr(given, kind).examples if kind else ()
    serialised = np.empty(len(messages), np.object_)
    serialised[:] = [context + message.SerializeToString() for message in messages]
    return serialised


def _fill_spec(spec: model_pb2.ModelSpec, servable: Servable, asked: model_pb2.ModelSpec) -> None:
    spec.name = asked.name
    spec.version.value = servable.version
    spec.signature_name = asked.signature_name or DEFAULT_SIGNATURE


def _fill_classes(result: classification_pb2.ClassificationResult, classes: examples.Classes) -> None:
    for labels, scores in zip(classes.labels, classes.scores.tolist(), strict=True):
        row = result.classifications.add()
        for label, score in zip(labels, scores, strict=True):
            # A label is a proto string, which must be UTF-8.
            row.classes.add(label=label.decode("utf-8", "replace"), score=score)


def _fill_values(result: regression_pb2.RegressionResult, values: np.ndarray) -> None:
    for value in values.tolist():
        result.regressions.add(value=value)

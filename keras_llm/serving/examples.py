"""Classify and regress: JSON examples -> serialised tf.Examples -> a signature -> labels and scores, or values.

Source: tensorflow/serving, `util/json_tensor.cc`, `servables/tensorflow/{classifier,regressor,util}.cc`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from keras_llm.serving.json_tensor import (
    decode_base64,
    format_error,
    is_base64,
    read_object,
    read_signature_name,
    type_name,
)
from keras_llm.serving.servable import Servable
from keras_llm.serving.status import invalid

_KINDS = {bytes: "bytes_list", float: "float_list", int: "int64_list"}


@dataclasses.dataclass(frozen=True)
class ExamplesRequest:
    """What a classify or regress body asks for."""

    signature: str
    """Empty where the body names none."""
    examples: np.ndarray
    """Object array [B] of serialised tf.Examples."""


def read_examples(body: bytes) -> ExamplesRequest:
    """Reads `{"examples": [{...}], "context": {...}, "signature_name": "..."}`; the context is part of each example.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    document = read_object(body)
    signature = read_signature_name(document)
    context = _example(document["context"]) if "context" in document else b""
    if "examples" not in document:
        raise format_error(document, "When method is classify, key 'examples' is expected and was not found")
    examples = document["examples"]
    if type(examples) is not list:
        raise format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise format_error(document, "'examples' value is an empty array")
    serialised = np.empty(len(examples), np.object_)
    serialised[:] = [context + _example(example) for example in examples]  # concatenated messages merge
    return ExamplesRequest(signature, serialised)


def classify(servable: Servable, request: ExamplesRequest) -> tuple[list[list[bytes]], np.ndarray]:
    """Labels [B][C] ("" where the model gives none) and scores float32 [B, C] (0 where it gives none).

    Raises:
        ServingError: INVALID_ARGUMENT where the signature is no classifier's.
    """
    name, signature = _signature(servable, request.signature)
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {signature}")
    if "classes" not in signature.outputs and "scores" not in signature.outputs:
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {signature}"
        )
    outputs = servable.run(name, {"inputs": request.examples})
    classes, scores = outputs.get("classes"), outputs.get("scores")
    _check_matrix("classes", classes, np.object_, "DT_STRING", len(request.examples))
    _check_matrix("scores", scores, np.float32, "DT_FLOAT", len(request.examples))
    if classes is None:
        return [[b""] * scores.shape[1]] * len(scores), scores
    if scores is None:
        return classes.tolist(), np.zeros(classes.shape, np.float32)
    if classes.shape != scores.shape:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    return classes.tolist(), scores


def regress(servable: Servable, request: ExamplesRequest) -> np.ndarray:
    """Values float32 [B].

    Raises:
        ServingError: INVALID_ARGUMENT where the signature is no regressor's.
    """
    name, signature = _signature(servable, request.signature)
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {signature}")
    if "outputs" not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {signature}")
    values = servable.run(name, {"inputs": request.examples})["outputs"]
    if not (values.ndim == 1 or values.ndim == 2 and values.shape[1] == 1):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape_text(values)}"
        )
    if len(values) != len(request.examples):
        raise invalid(f"Input batch size did not match output batch size: {len(request.examples)} vs. {len(values)}")
    if values.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_dtype_text(values)}")
    return values.ravel()


def _signature(servable: Servable, name: str):
    name = name or "serving_default"
    if name not in servable.signature_defs:
        raise invalid(f"No signature was found with the name: {name}")
    return name, servable.signature_defs[name]


def _check_matrix(name: str, array: np.ndarray | None, dtype, dtype_text: str, examples: int) -> None:
    if array is None:
        return
    if array.ndim != 2:
        raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape_text(array)}")
    if array.dtype != dtype:
        raise invalid(f"Expected {name} Tensor of {dtype_text}. Got: {_dtype_text(array)}")
    if len(array) != examples:
        raise invalid(f"Expected {name} output batch size of {examples}. Got: {len(array)}")


def _shape_text(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _dtype_text(array: np.ndarray) -> str:
    return "DT_" + tf.as_dtype(array.dtype).name.upper().replace("FLOAT32", "FLOAT").replace("FLOAT64", "DOUBLE")


def _example(value) -> bytes:
    """A JSON object of features -> a serialised tf.Example."""
    if type(value) is not dict:
        raise invalid(f"Example must be JSON object but got JSON {type_name(value)}")
    example = tf.train.Example()
    for name, content in value.items():
        if not _is_utf8(name):
            raise invalid("The name of a feature must be UTF-8")
        feature = example.features.feature[name]
        for item in content if type(content) is list else [content]:
            _add_value(name, item, feature)
    return example.SerializeToString()


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _add_value(name: str, value, feature: tf.train.Feature) -> None:
    if is_base64(value):
        value = decode_base64(value["b64"])
    if type(value) is bool:
        value = int(value)
    if type(value) not in _KINDS:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")
    kind, other = _KINDS[type(value)], feature.WhichOneof("kind")
    if other not in (None, kind):
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {other.removesuffix('_list')}")
    if type(value) is int and value >= 2**63:
        raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    getattr(feature, kind).value.append(value)

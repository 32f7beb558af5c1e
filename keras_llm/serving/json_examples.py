"""The body of a classify or regress request: JSON examples -> serialised tf.Examples.

Source: tensorflow/serving, `util/json_tensor.cc`.
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

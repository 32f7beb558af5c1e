"""TensorProto <-> NumPy, as gRPC carries tensors.

Source: tensorflow, `core/framework/tensor.cc`.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from keras_llm.serving.json_tensor import MAX_RANK
from keras_llm.serving.status import invalid

MAX_FILL_BYTES = 100 * 2**20
"""A few values may stand for a large tensor that repeats the last; a message of some bytes must not take all memory."""

_FIELDS = {
    "half_val": ("DT_HALF", "DT_BFLOAT16"),
    "float_val": ("DT_FLOAT",),
    "double_val": ("DT_DOUBLE",),
    "int_val": ("DT_INT32", "DT_INT16", "DT_INT8", "DT_UINT8", "DT_UINT16"),
    "int64_val": ("DT_INT64",),
    "uint32_val": ("DT_UINT32",),
    "uint64_val": ("DT_UINT64",),
    "bool_val": ("DT_BOOL",),
    "string_val": ("DT_STRING",),
    "scomplex_val": ("DT_COMPLEX64",),
    "dcomplex_val": ("DT_COMPLEX128",),
}
_FIELD = {types_pb2.DataType.Value(name): field for field, names in _FIELDS.items() for name in names}


def to_array(proto: tensor_pb2.TensorProto, name: str) -> np.ndarray:
    """A tensor's values; strings are an object array of bytes.

    Args:
        proto: the tensor.
        name: of the input, for the error.

    Raises:
        ServingError: INVALID_ARGUMENT where the message holds no tensor.

    Example:

    >>> to_array(tf.make_tensor_proto([1.0, 2.0]), "x")
    array([1., 2.], dtype=float32)
    """
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    field = _FIELD.get(proto.dtype)
    if not field or proto.tensor_shape.unknown_rank or min(sizes, default=0) < 0 or len(sizes) > MAX_RANK:
        raise invalid(f"tensor parsing error: {name}")
    dtype = np.dtype(tf.as_dtype(proto.dtype).as_numpy_dtype)
    count = math.prod(sizes)
    if count == 0:
        return np.zeros(sizes, dtype)
    try:
        values = _from_content(proto.tensor_content, dtype, count)
        if values is None:
            values = _from_fields(getattr(proto, field), field, dtype, count)
        return values.reshape(sizes)
    except ValueError:
        raise invalid(f"tensor parsing error: {name}") from None


def _from_content(content: bytes, dtype: np.dtype, count: int) -> np.ndarray | None:
    """The values as they lie in memory; of strings first all lengths."""
    if not content:
        return None
    if dtype != np.object_:
        if len(content) != count * dtype.itemsize:
            raise ValueError
        if dtype == np.bool_ and max(content) > 1:
            raise ValueError
        return np.frombuffer(content, dtype).copy()
    lengths, position = [], 0
    while len(lengths) < count:
        length = shift = 0
        while True:
            byte = content[position : position + 1]
            position += 1
            if not byte or shift > 28:
                raise ValueError
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise ValueError
    values = np.empty(count, np.object_)
    for i, length in enumerate(lengths):
        values[i] = content[position : position + length]
        position += length
    return values


def _from_fields(given, field: str, dtype: np.dtype, count: int) -> np.ndarray:
    """The values one by one: the first `count`, or the last again and again, or 0 where there is none."""
    if count > max(len(given), 1) and count * 8 > MAX_FILL_BYTES:
        raise ValueError
    values = np.empty(len(given), dtype)
    if field == "half_val":
        values = np.array(given, np.int64).astype(np.uint16).view(dtype)
    elif field.endswith("complex_val"):
        values = np.array(given[: len(given) // 2 * 2], values.real.dtype).view(dtype)
    elif dtype == np.object_:
        values[:] = given
    else:
        values = np.array(given, np.int64 if field == "int_val" else dtype).astype(dtype)  # small integers wrap around
    if len(values) >= count:
        return values[:count]
    last = values[-1] if len(values) else b"" if dtype == np.object_ else 0
    filled = np.empty(count, dtype)
    filled[: len(values)], filled[len(values) :] = values, last
    return filled


def to_proto(array: np.ndarray, proto: tensor_pb2.TensorProto) -> None:
    """Writes an array into a message, in the fields of its type: clients read `float_val` or call `tf.make_ndarray`."""
    dtype = tf.as_dtype(array.dtype).as_datatype_enum
    proto.dtype = dtype
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    field = _FIELD[dtype]
    values = array.ravel()
    if field == "half_val":
        values = values.view(np.uint16)
    elif field.endswith("complex_val"):
        values = values.view(values.real.dtype)
    getattr(proto, field).extend(values.tolist())

"""The body of a predict request -> tensors, by TF Serving's rules and in its words.

Row form: `{"instances": [...]}`, one entry an example. Column form: `{"inputs": ...}`, each input whole.

Source: tensorflow/serving, `util/json_tensor.cc` and its test.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

from keras_llm.serving.json_reader import read_json
from keras_llm.serving.json_writer import excerpt
from keras_llm.serving.status import ServingError, invalid

MAX_RANK = 64  # of a NumPy array; a tensor may have 254 dimensions, but no op takes so many

_NUMBER = frozenset([int, float])
# TensorFlow's name of a dtype -> the Python types and the range [low, high) it takes, and what NumPy makes of them.
# Small integers are read as int32 and then wrap around.
_DTYPES = {
    "float": (_NUMBER, None, np.float32),
    "double": (_NUMBER, None, np.float64),
    "int32": (frozenset([int]), (-(2**31), 2**31), np.int32),
    "int16": (frozenset([int]), (-(2**31), 2**31), np.int16),
    "int8": (frozenset([int]), (-(2**31), 2**31), np.int8),
    "uint8": (frozenset([int]), (-(2**31), 2**31), np.uint8),
    "int64": (frozenset([int]), (-(2**63), 2**63), np.int64),
    "uint32": (frozenset([int]), (0, 2**32), np.uint32),
    "uint64": (frozenset([int]), (0, 2**64), np.uint64),
    "bool": (frozenset([bool]), None, np.bool_),
    "string": (frozenset([bytes]), None, np.object_),
}
_TYPE_NAMES = {dict: "Object", list: "Array", bytes: "String", int: "Number", float: "Number"}


@dataclasses.dataclass(frozen=True)
class PredictRequest:
    """What a predict body asks for."""

    signature: str
    """Empty where the body names none."""
    inputs: dict[str, np.ndarray]
    """Strings are object arrays of bytes."""
    rows: bool
    """Row form; the answer has the same form."""


def read_predict(body: bytes, input_dtypes: Callable[[str], Mapping[str, str]]) -> PredictRequest:
    """Reads the body of a predict request.

    Args:
        body: JSON text.
        input_dtypes: signature name ("" for the default one) -> TensorFlow's dtype name ("float", "string") of each
            input; called once, after the body was found to be a JSON object.

    Raises:
        ServingError: INVALID_ARGUMENT for a body that does not fit; UNIMPLEMENTED for a dtype without JSON form.

    Example:

    >>> read_predict(b'{"instances": [1, 2.5]}', lambda signature: {"x": "float"}).inputs
    {'x': array([1. , 2.5], dtype=float32)}
    """
    document = read_object(body)
    signature = read_signature_name(document)
    dtypes = input_dtypes(signature)
    if not dtypes:
        raise invalid(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    if "instances" in document:
        if "inputs" in document:
            raise format_error(
                document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
            )
        instances = document["instances"]
        if type(instances) is not list:
            raise format_error(document, "Expecting 'instances' to be an list/array")
        if not instances:
            raise format_error(document, "No values in 'instances' array")
        return PredictRequest(signature, _read_rows(instances, dtypes), rows=True)
    if "inputs" in document:
        return PredictRequest(signature, _read_columns(document["inputs"], dtypes), rows=False)
    raise invalid("Missing 'inputs' or 'instances' key")


def read_object(body: bytes) -> dict:
    """A request body, which must be a JSON object."""
    document = read_json(body)
    if type(document) is not dict:
        raise format_error(document, "Is not object")
    return document


def read_signature_name(document: dict) -> str:
    """The optional `signature_name` of any request body; "" where there is none."""
    name = document.get("signature_name", b"")
    if type(name) is not bytes:
        raise format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return name.decode("utf-8", "surrogateescape")


def format_error(value, what: str) -> ServingError:
    """An error that shows the value it is about."""
    return invalid(f"JSON Value: {excerpt(value)} {what}")


def type_name(value) -> str:
    """RapidJSON's name of a JSON value's type."""
    return _TYPE_NAMES.get(type(value)) or {None: "Null", True: "True", False: "False"}[value]


def is_base64(value) -> bool:
    """`{"b64": "..."}` stands for one string."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is bytes


def decode_base64(text: bytes) -> bytes:
    """Base64 as Abseil reads it: white space is skipped, and the padding may be left out."""
    match = re.fullmatch(rb"([A-Za-z0-9+/]*)([=.]*)", b"".join(text.split()))
    missing = -len(match[1]) % 4 if match else 3
    if missing == 3 or len(match[2]) not in (0, missing):
        raise invalid("Unable to base64 decode")
    return base64.b64decode(match[1] + b"=" * missing)


def _read_rows(instances: list, dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """One tensor an input, its first axis the instances: each of them must have the same shape."""
    if type(instances[0]) is not dict and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named = _is_named(instances[0])
    only = next(iter(dtypes))
    leaves: dict[str, list] = {name: [] for name in dtypes}
    first: dict[str, tuple[int, list[int]]] = {}  # size and shape of the first instance, by input
    for i, instance in enumerate(instances):
        if named != _is_named(instance):
            wanted, got = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {wanted} but got {got} at item {i} of input list")
        for name, value in instance.items() if named else [(only, instance)]:
            try:
                _add_instance(name, value, dtypes, leaves, first)
            except ServingError as error:
                key = f" key: {name}" if named else ""
                raise invalid(f"Failed to process element: {i}{key} of 'instances' list. Error: {error}") from None
        if named and instance.keys() != dtypes.keys():
            raise invalid(
                f"Failed to process element: {i} of 'instances' list. JSON object: {excerpt(instance)} "
                f"keys must be equal to: {','.join(sorted(dtypes))}"
            )
    return {name: _tensor(leaves[name], dtypes[name], [len(instances), *first[name][1]]) for name in first}


def _add_instance(name: str, value, dtypes: Mapping[str, str], leaves: dict, first: dict) -> None:
    if name not in dtypes:
        raise invalid(f"JSON object: does not have named input: {name}")
    before = len(leaves[name])
    shape = _shape(value, MAX_RANK - 1)
    _flatten(value, 0, shape, dtypes[name], leaves[name])
    size = len(leaves[name]) - before
    first_size, first_shape = first.setdefault(name, (size, shape))
    if size != first_size:
        raise invalid(f"Expecting tensor size: {first_size} but got: {size}")
    if shape != first_shape:
        raise invalid(f"Expecting shape {_shape_text(first_shape)} but got: {_shape_text(shape)}")


def _read_columns(value, dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    if _is_named(value):
        named = value
    elif len(dtypes) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    else:
        named = {next(iter(dtypes)): value}
    tensors = {}
    for name, dtype in dtypes.items():
        if name not in named:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        shape, leaves = _shape(named[name], MAX_RANK), []
        _flatten(named[name], 0, shape, dtype, leaves)
        tensors[name] = _tensor(leaves, dtype, shape)
    return tensors


def _is_named(value) -> bool:
    return type(value) is dict and not is_base64(value)


def _shape(value, max_rank: int) -> list[int]:
    """The shape of nested lists, judged by the first element of each."""
    shape = []
    while type(value) is list:
        shape.append(len(value))
        if len(shape) > max_rank:
            raise invalid(f"A tensor has at most {MAX_RANK} dimensions")
        if not value:
            break
        value = value[0]
    return shape


def _shape_text(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _flatten(value, level: int, shape: list[int], dtype: str, leaves: list) -> None:
    """Appends the leaves of nested lists, depth first; the lists must have exactly `shape`."""
    if type(value) is not list:
        if level != len(shape):
            raise format_error(
                value, f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}"
            )
        leaves.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    if level == len(shape) - 1 and _fit(value, dtype):
        leaves.extend(value)  # at once; below, one by one, for the others and for the exact error
        return
    for item in value:
        _flatten(item, level + 1, shape, dtype, leaves)


def _fit(values: list, dtype: str) -> bool:
    """Whether all values are of the dtype."""
    if dtype not in _DTYPES or not values:
        return False
    types, limits, _ = _DTYPES[dtype]
    return set(map(type, values)) <= types and (limits is None or limits[0] <= min(values) <= max(values) < limits[1])


def _leaf(value, dtype: str):
    if _fit([value], dtype):
        return value
    if type(value) is dict and dtype == "string":
        if is_base64(value):
            return decode_base64(value["b64"])
        raise format_error(value, "not formatted correctly for base64 data")
    if type(value) is not dict and dtype not in _DTYPES:
        raise ServingError("UNIMPLEMENTED", f"Conversion of JSON Value: {excerpt(value)} to type: {dtype}")
    raise format_error(value, f"Type: {type_name(value)} is not of expected type: {dtype}")


def _tensor(leaves: list, dtype: str, shape: list[int]) -> np.ndarray:
    if dtype not in _DTYPES:  # no element, or its error would have been raised
        raise ServingError("UNIMPLEMENTED", f"Conversion of JSON Value: [] to type: {dtype}")
    numpy_dtype = _DTYPES[dtype][2]
    if dtype == "string":
        tensor = np.empty(len(leaves), np.object_)
        tensor[:] = leaves
        return tensor.reshape(shape)
    # By way of the widest type: what is too large for float32 becomes infinite, small integers wrap around.
    wide = {"float": np.float64, "int16": np.int64, "int8": np.int64, "uint8": np.int64}.get(dtype, numpy_dtype)
    with np.errstate(over="ignore"):
        return np.array(leaves, wide).astype(numpy_dtype).reshape(shape)

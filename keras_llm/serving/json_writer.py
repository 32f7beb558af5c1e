"""Answers as JSON in the layout and with the numbers of TF Serving, byte for byte.

Source: tensorflow/serving, `util/json_tensor.cc`; RapidJSON's PrettyWriter, whose option "single-line arrays" is on for
predictions and excerpts and off for outputs.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from keras_llm.serving.status import invalid

EXCERPT_BYTES = 256  # no new piece of a value is shown in an error after that many

_SPECIAL = re.compile(rb'[\x00-\x1f"\\]')
_SHORT = {b'"': b'\\"', b"\\": b"\\\\", b"\b": b"\\b", b"\f": b"\\f", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}


def text_json(text: bytes) -> bytes:
    """A JSON string; bytes beyond ASCII are written as they are.

    Example:

    >>> text_json('a "b"'.encode())
    b'"a \\\\"b\\\\""'
    """
    return b'"' + _SPECIAL.sub(lambda match: _SHORT.get(match[0]) or b"\\u%04X" % ord(match[0]), text) + b'"'


def to_bytes(text: str) -> bytes:
    """A message or name; undoes the escaping of bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def error_json(message: str) -> bytes:
    """The body of every error."""
    return b'{\n    "error": ' + text_json(to_bytes(message)) + b"\n}"


def predictions_json(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Row form: one entry for each index of the outputs' first axis, an object where there are several outputs.

    Args:
        outputs: name -> array [B, ...], all with the same B. Strings are object arrays of bytes.

    Raises:
        ServingError: INVALID_ARGUMENT for a scalar, for different B, or for a dtype without JSON form.
    """
    outputs = dict(sorted(outputs.items()))  # the server's own order is that of a hash table
    batch = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch not in (None, len(array)):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)
    depth = 2 if len(outputs) == 1 else 3
    columns = {
        name: _nest(_leaves(array, name, depth + array.ndim - 1), batch, array.shape[1:], depth, single_line=True)
        for name, array in outputs.items()
    }
    rows = zip(*columns.values(), strict=True)
    if len(outputs) == 1:
        items = b", ".join(row[0] for row in rows)
    else:
        # An object opens in the array's layout, and that is one line only from the second on.
        objects = [_object(list(zip(columns, row, strict=True)), depth=3) for row in rows]
        items = b"".join((b",\n        " if i else b"\n        ") + text for i, text in enumerate(objects))
    close = b"\n    ]" if batch else b"]"
    return b'{\n    "predictions": [' + items + close + b"\n}"


def outputs_json(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Column form: each output whole, in an object where there are several.

    Raises:
        ServingError: INVALID_ARGUMENT for a dtype without JSON form.
    """
    depth = 1 if len(outputs) == 1 else 2
    columns = [
        (name, _nest(_leaves(array, name, depth + array.ndim), 1, array.shape, depth, single_line=False)[0])
        for name, array in sorted(outputs.items())
    ]
    value = columns[0][1] if len(outputs) == 1 else _object(columns, depth=2)
    return b'{\n    "outputs": ' + value + b"\n}"


def regressions_json(values: np.ndarray) -> bytes:
    """The answer of regress; values float [B]."""
    return b'{\n    "results": [' + b", ".join(_floats(values)) + b"]\n}"


def classifications_json(labels: Sequence[Sequence[bytes]], scores: np.ndarray) -> bytes:
    """The answer of classify: label and score of each class, one list an example; labels [B][C], scores [B, C]."""
    numbers = iter(_floats(scores))
    examples = [b", ".join(b"[" + text_json(label) + b", " + next(numbers) + b"]" for label in row) for row in labels]
    return b'{\n    "results": [' + b", ".join(b"[" + row + b"]" for row in examples) + b"\n    ]\n}"


def excerpt(value) -> str:
    """The beginning of a value that `read_json` gave, as it appears in errors."""
    out = bytearray()
    _write(value, b"", 0, out)
    return out.decode("utf-8", "surrogateescape")


def _write(value, before: bytes, depth: int, out: bytearray) -> bool:
    """False once the excerpt is long enough."""

    def more(text: bytes) -> bool:
        if len(out) >= EXCERPT_BYTES:
            return False
        out.extend(text)
        return True

    if type(value) is dict:
        if not more(before + b"{"):
            return False
        for i, (name, item) in enumerate(value.items()):
            key = (b",\n" if i else b"\n") + _indent(depth + 1) + text_json(to_bytes(name))
            if not (more(key) and _write(item, b": ", depth + 1, out)):
                return False
        return more((b"\n" + _indent(depth) if value else b"") + b"}")
    if type(value) is list:
        if not more(before + b"["):
            return False
        for i, item in enumerate(value):
            if not _write(item, b", " if i else b"", depth + 1, out):
                return False
        return more(b"]")
    if type(value) is float and not math.isfinite(value):
        more(before)
        return False  # the writer has no word for it and stops
    return more(before + _scalar_json(value))


def _scalar_json(value) -> bytes:
    if type(value) is bytes:
        return text_json(value)
    if type(value) is float:
        if value == 0 or 1e-6 <= abs(value) < 1e21:
            return np.format_float_positional(value, trim="0").encode()
        return np.format_float_scientific(value, trim="-", exp_digits=1).replace("+", "").encode()
    words = {None: b"null", True: b"true", False: b"false"}
    return words[value] if value is None or type(value) is bool else b"%d" % value


def _indent(depth: int) -> bytes:
    return b"    " * depth


def _object(members: Sequence[tuple[str, bytes]], depth: int) -> bytes:
    """`depth` is that of its members."""
    lines = [_indent(depth) + text_json(to_bytes(name)) + b": " + value for name, value in members]
    return b"{\n" + b",\n".join(lines) + b"\n" + _indent(depth - 1) + b"}"


def _nest(leaves: list[bytes], count: int, shape: Sequence[int], depth: int, single_line: bool) -> list[bytes]:
    """Leaves of an array [count, *shape] in C order -> `count` nested arrays; `depth` is that of their brackets."""
    for axis in reversed(range(len(shape))):
        size, inner = shape[axis], b"\n" + _indent(depth + axis + 1)
        start, comma, end = (b"", b", ", b"") if single_line else (inner, b"," + inner, inner[:-4])
        groups = count * math.prod(shape[:axis])
        leaves = [
            b"[" + start + comma.join(leaves[i * size : (i + 1) * size]) + end + b"]" if size else b"[]"
            for i in range(groups)
        ]
    return leaves


def _leaves(array: np.ndarray, name: str, depth: int) -> list[bytes]:
    """The JSON of each element in C order; `depth` is that of an element."""
    kind = array.dtype
    if kind in (np.float32, np.float64):
        return _floats(array)
    if kind == np.bool_:
        return [b"true" if value else b"false" for value in array.ravel().tolist()]
    if kind in (np.int32, np.int16, np.int8, np.uint8, np.int64, np.uint32, np.uint64):
        return [b"%d" % value for value in array.ravel().tolist()]
    if kind != np.object_:
        raise invalid(f"Failed to write JSON value for tensor type: {_tensorflow_name(kind)}")
    if not name.endswith("_bytes"):
        return [text_json(text) for text in array.ravel()]
    return [_object([("b64", text_json(base64.b64encode(text)))], depth + 1) for text in array.ravel()]


def _tensorflow_name(kind: np.dtype) -> str:
    return {"float16": "half"}.get(kind.name, kind.name)


def _floats(array: np.ndarray) -> list[bytes]:
    """The shorter of six digits and all digits that gives the same number back; never without "." or "e"."""
    flat = np.ravel(array)
    texts = [f"{value:g}" for value in flat.tolist()]
    changed = np.array([float(text) for text in texts], np.float64).astype(flat.dtype) != flat
    digits = 9 if flat.dtype == np.float32 else 17
    for i in np.flatnonzero(changed & np.isfinite(flat)):
        texts[i] = f"{float(flat[i]):.{digits}g}"
    words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return [words.get(text, text if "." in text or "e" in text else text + ".0").encode() for text in texts]

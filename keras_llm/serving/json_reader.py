"""JSON as TF Serving reads it: RapidJSON's rules and words, which no Python library has.

What differs from `json.loads`: strings stay bytes, so that text which is not UTF-8 reaches the model as it was sent;
NaN, Inf and Infinity are numbers; whatever follows the document is ignored; nesting may be of any depth; of a repeated
key the first counts; and an error has RapidJSON's words and offset, which clients of TF Serving may look for.

Source: https://github.com/Tencent/rapidjson 1.1.0, `reader.h`, with the flags iterative, NaN-and-Inf, stop-when-done.
"""

from __future__ import annotations

import json
import re

from keras_llm.serving.status import ServingError, invalid

# Where the reader stands: named by what it has just read.
_START, _ARRAY_START, _ARRAY_COMMA, _COLON, _OBJECT_START, _OBJECT_COMMA, _KEY, _ELEMENT, _MEMBER = range(9)
_WANTED = {
    _START: "The document is empty.",
    _ARRAY_START: "Invalid value.",
    _ARRAY_COMMA: "Invalid value.",
    _COLON: "Invalid value.",
    _OBJECT_START: "Missing a name for object member.",
    _OBJECT_COMMA: "Missing a name for object member.",
    _KEY: "Missing a colon after a name of object member.",
    _ELEMENT: "Missing a comma or ']' after an array element.",
    _MEMBER: "Missing a comma or '}' after an object member.",
}
_NOT_A_VALUE = frozenset([b"", b"\0", b",", b":", b"]", b"}"])

_SPACE = re.compile(rb"[ \n\r\t]*")
# Two things come by the thousand, and Python's own reader takes them where its result is sure to be the same:
# strings with well-formed escapes, and arrays of numbers that neither overflow nor leave 64 bits.
_STRING = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*+"')
_NUMBERS = re.compile(
    rb"\[_N_(?:_,_N_)*+\]".replace(b"N", rb"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?").replace(
        b"_", rb"[ \n\r\t]*+"
    )
)
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]*)?")
_HEX = re.compile(rb"[0-9A-Fa-f]{4}")
_WORDS = {b"n": (b"null", None), b"t": (b"true", True), b"f": (b"false", False)}
_ESCAPES = dict(zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))


def read_json(document: bytes):
    """Reads the JSON value at the beginning of `document`.

    Args:
        document: UTF-8; inside strings any bytes.

    Returns:
        dict (with str keys), list, bytes (a string), int, float, bool or None. An integer beyond 64 bits is a float.

    Raises:
        ServingError: INVALID_ARGUMENT, "JSON Parse error: WHAT at offset: N".

    Example:

    >>> read_json(b'{"x": [1, 2.5, NaN, "a"]} and so on')
    {'x': [1, 2.5, nan, b'a']}
    """
    if not document:
        raise invalid("JSON Parse error: The document is empty")
    position = 3 if document.startswith(b"\xef\xbb\xbf") else 0
    containers: list[dict | list] = []  # those still open, innermost last
    key = ""
    state = _START
    while True:
        position = _SPACE.match(document, position).end()
        token = document[position : position + 1]
        if state <= _COLON and token not in _NOT_A_VALUE:
            opened = False
            if token == b'"':
                value, position = _read_string(document, position + 1)
            elif token == b"[" and (numbers := _NUMBERS.match(document, position)):
                value, position = json.loads(numbers.group()), numbers.end()
            elif token == b"[" or token == b"{":
                value = [] if token == b"[" else {}
                position += 1
                opened = True
            elif token in _WORDS:
                value, position = _read_word(document, position, *_WORDS[token])
            else:
                value, position = _read_number(document, position)
            if state == _COLON:
                containers[-1].setdefault(key, value)
                state = _MEMBER
            elif state != _START:
                containers[-1].append(value)
                state = _ELEMENT
            if opened:
                containers.append(value)
                state = _ARRAY_START if token == b"[" else _OBJECT_START
            elif not containers:
                return value
        elif token == b"," and state >= _ELEMENT:
            position += 1
            state = _ARRAY_COMMA if state == _ELEMENT else _OBJECT_COMMA
        elif token == b'"' and state in (_OBJECT_START, _OBJECT_COMMA):
            name, position = _read_string(document, position + 1)
            key = name.decode("utf-8", "surrogateescape")
            state = _KEY
        elif token == b":" and state == _KEY:
            position += 1
            state = _COLON
        elif (token == b"]" and state in (_ARRAY_START, _ELEMENT)) or (
            token == b"}" and state in (_OBJECT_START, _MEMBER)
        ):
            position += 1
            value = containers.pop()
            if not containers:
                return value
            state = _ELEMENT if isinstance(containers[-1], list) else _MEMBER
        else:
            raise _error(_WANTED[state], position)


def _error(what: str, offset: int) -> ServingError:
    return invalid(f"JSON Parse error: {what} at offset: {offset}")


def _read_string(document: bytes, position: int) -> tuple[bytes, int]:
    """From behind the opening quotation mark to behind the closing one."""
    whole = _STRING.match(document, position)
    if whole and b"\\" not in whole.group():
        return whole.group()[:-1], whole.end()
    if whole:
        try:
            return json.loads(b'"' + whole.group()).encode(), whole.end()
        except ValueError:
            pass  # bytes that are not UTF-8, or half a surrogate pair
    parts = []
    while True:
        end = _PLAIN.match(document, position).end()
        parts.append(document[position:end])
        stop = document[end : end + 1]
        if stop == b'"':
            return b"".join(parts), end + 1
        if stop in (b"", b"\0"):
            raise _error("Missing a closing quotation mark in string.", end)
        if stop != b"\\":
            raise _error("Invalid escape character in string.", end)
        letter = document[end + 1 : end + 2]
        if letter == b"u":
            code, position = _read_code_point(document, end)
            # A low surrogate alone passes, as in RapidJSON; the result is then no UTF-8.
            parts.append(chr(code).encode("utf-8", "surrogatepass"))
        elif letter and letter[0] in _ESCAPES:
            parts.append(bytes([_ESCAPES[letter[0]]]))
            position = end + 2
        else:
            raise _error("Invalid escape character in string.", end)


def _read_code_point(document: bytes, escape: int) -> tuple[int, int]:
    """`\\uXXXX`, or two of them for one character beyond the basic plane; errors are told at the first backslash."""

    def unit(start: int) -> int:
        if not _HEX.match(document, start):
            raise _error("Incorrect hex digit after \\u escape in string.", escape)
        return int(document[start : start + 4], 16)

    code = unit(escape + 2)
    if not 0xD800 <= code <= 0xDBFF:
        return code, escape + 6
    if document[escape + 6 : escape + 8] != b"\\u":
        raise _error("The surrogate pair in string is invalid.", escape)
    low = unit(escape + 8)
    if not 0xDC00 <= low <= 0xDFFF:
        raise _error("The surrogate pair in string is invalid.", escape)
    return 0x10000 + ((code - 0xD800) << 10 | low - 0xDC00), escape + 12


def _read_word(document: bytes, position: int, word: bytes, value) -> tuple[object, int]:
    for letter in word:
        if document[position : position + 1] != bytes([letter]):
            raise _error("Invalid value.", position)
        position += 1
    return value, position


def _read_number(document: bytes, position: int) -> tuple[int | float, int]:
    match = _NUMBER.match(document, position)
    if match is None:
        return _read_not_finite(document, position)
    fraction, exponent = match.groups()
    if fraction == b".":
        raise _error("Miss fraction part in number.", match.end(1))
    if exponent and not exponent[-1:].isdigit():
        raise _error("Miss exponent in number.", match.end())
    text = match.group()
    if fraction is None and exponent is None and len(text) <= 20:  # int() is slow, and limited, for very long ones
        whole = int(text)
        if -(2**63) <= whole < 2**64:
            return whole, match.end()
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _error("Number too big to be stored in double.", position)
    return number, match.end()


def _read_not_finite(document: bytes, position: int) -> tuple[float, int]:
    """NaN, Inf or Infinity, each with or without a minus."""
    sign = -1.0 if document[position : position + 1] == b"-" else 1.0
    position += sign < 0
    first = document[position : position + 1]
    if first == b"N":
        return _read_word(document, position, b"NaN", float("nan"))
    if first != b"I":
        raise _error("Invalid value.", position)
    value, position = _read_word(document, position, b"Inf", sign * float("inf"))
    if document[position : position + 1] == b"i":
        value, position = _read_word(document, position, b"inity", value)
    return value, position

"""Files of word vectors: word2vec text, word2vec binary and GloVe. Shapes: V words, D dimension.

```
word2vec text     "V D\n", then a line a word: the word, D numbers, one space between
word2vec binary   "V D\n", then for each word: the word, a space, D float32 (little endian), perhaps a line feed
GloVe             as word2vec text, without the first line
```
Everything is cut as bytes: only a line feed ends a line and only ASCII spaces stand between values, so that words may hold
full-width, non-breaking and other spaces, and in the text forms ordinary ones too.
"""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from keras_llm import files
from keras_llm.errors import UserError

LOOKED_AT = 100  # lines from which the dimension of a file without header is found
LONGEST_LINE = 1 << 20  # bytes; a longer "line" is not one of vectors
LONGEST_WORD = 1 << 16  # bytes, in the binary form


def read(path: Path, limit: int | None = None) -> tuple[list[str], np.ndarray, int]:
    """Words, their vectors float32 [V, D], and how many words were there again.

    Args:
        path: the file, gzipped or not; which form it has is found from its content.
        limit: read only the first words.

    Raises:
        UserError: see `keras_llm.vectors.WordVectors.load`.
    """
    if limit is not None and limit < 1:
        raise UserError(f"The number of words read must be at least 1. Received: {limit}.")
    try:
        with open(path, "rb") as start:
            zipped = start.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else open(path, "rb") as file:
            return _read(file, path, limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: must be a whole gzip file. Received: {error}. Fetch it again.") from None
    except OSError as error:
        raise UserError(f"Vectors are read from a file or a run. Received: {path}: {error.strerror}.") from None


def _read(file, path, limit):
    first = file.readline(LONGEST_LINE)
    if not first.strip():
        raise UserError(f"{path} must hold words and vectors. Received: an empty file or first line. Check it.")
    header = re.fullmatch(rb"(\d+)[ \t](\d+)\s*", first)
    if header is None:
        lines = _lines_of(file)
        begin = list(itertools.islice(lines, LOOKED_AT))
        dim = _dimension([first, *begin], path)
        return _read_text(itertools.chain([first], begin, lines), path, 1, dim, None, limit)
    count, dim = map(int, header.groups())
    if not count or not dim:
        raise UserError(f"{path}:1: the header must name at least one word and dimension. Received: {count} {dim}.")
    second = file.readline(LONGEST_LINE)
    if _is_text(second, dim):
        return _read_text(itertools.chain([second], _lines_of(file)), path, 2, dim, count, limit)
    return _read_binary(_Joined(second, file), path, dim, count, limit)


def _lines_of(file):
    while line := file.readline(LONGEST_LINE):
        yield line


def _dimension(lines, path):
    """D of a file without header: how many numbers most lines end with. A word may itself end with numbers."""
    ends = Counter()
    for line in lines:
        parts = line.rstrip(b" \r\n").split(b" ")[1:]
        ends[sum(1 for _ in itertools.takewhile(_is_number, reversed(parts)))] += 1
    dim = ends.most_common(1)[0][0]
    if not dim:
        shown = lines[0][:60].decode("utf-8", "replace").strip()
        raise UserError(
            f"{path}:1: a line is a word and its numbers, with a space between. Received: {shown!r}. "
            "Name a file in word2vec or GloVe form."
        )
    return dim


def _is_number(part):
    try:
        float(part)
    except ValueError:
        return False
    return True


def _is_text(line, dim):
    """Whether the line after a header is text: a word and `dim` numbers, or what was meant to be that."""
    parts = line.rstrip(b" \r\n").rsplit(b" ", dim)
    if len(parts) == dim + 1 and all(map(_is_number, parts[1:])):
        return True
    return len(parts) > 1 and _is_number(parts[-1]) and all(byte >= 0x20 or byte in b"\t\r\n" for byte in line)


def _read_text(lines, path, first_number, dim, count, limit):
    rows = _Rows(path)
    number = first_number
    for number, line in enumerate(lines, first_number):
        if limit is not None and len(rows.words) == limit:
            return rows.result(dim)
        where = f"{path}:{number}"
        if not line.strip(b" \r\n"):
            raise UserError(f"{where}: a line is a word and {dim} numbers. Received: an empty line. Mend the file.")
        parts = line.rstrip(b" \r\n").rsplit(b" ", dim)
        try:
            if len(parts) != dim + 1:
                raise ValueError
            with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
                values = np.array(parts[1:], dtype=np.float32)
        except ValueError:
            got = sum(1 for _ in itertools.takewhile(_is_number, reversed(line.split()[1:])))
            raise UserError(
                f"{where}: a word needs {dim} numbers. Received: {got} at the end of the line. "
                "The file is cut short or of mixed dimensions; fetch it again."
            ) from None
        rows.add(parts[0], values, where)
    read = number - first_number + 1
    if count is not None and read != count:
        raise UserError(
            f"{path}:{number}: the header names {count} words. Received: {read}. "
            "The file is cut short or was changed; fetch it again or mend the header."
        )
    return rows.result(dim)


def _read_binary(file, path, dim, count, limit):
    rows = _Rows(path)
    for number in range(count):
        if limit is not None and len(rows.words) == limit:
            break
        where = f"{path}: word {number + 1} of {count}"
        word = bytearray()
        while (byte := file.read(1)) not in (b" ", b""):
            if word or byte != b"\n":  # some writers end each vector with a line feed, some do not
                word += byte
            if len(word) > LONGEST_WORD:
                raise UserError(f"{where}: must be at most {LONGEST_WORD} bytes. This is no file of word vectors.")
        data = file.read(4 * dim)
        if len(data) != 4 * dim:
            raise UserError(
                f"{where}: must be followed by {dim} numbers of 4 bytes. Received: {len(data)} bytes to the end of the "
                "file. It is cut short or of another dimension; fetch it again."
            )
        rows.add(bytes(word), np.frombuffer(data, "<f4"), where)
    return rows.result(dim)


class _Joined:
    """A file of which the first bytes were read already."""

    def __init__(self, begin, file):
        self.begin, self.file = begin, file

    def read(self, size):
        data, self.begin = self.begin[:size], self.begin[size:]
        return data if len(data) == size else data + self.file.read(size - len(data))


class _Rows:
    """Collects words and vectors; the first of equal words stays."""

    def __init__(self, path):
        self.path = path
        self.words: dict[str, None] = {}
        self.values = bytearray()
        self.duplicates = 0

    def add(self, word, values, where):
        try:
            word = word.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{where}: words must be UTF-8. Received: byte 0x{word[error.start]:02x}. Save the file as UTF-8."
            ) from None
        if not np.isfinite(values).all():
            raise UserError(f"{where}: numbers must be finite. Received: NaN or infinity for {word!r}. Mend the file.")
        if word in self.words:
            self.duplicates += 1
        else:
            self.words[word] = None
            self.values += values.tobytes()

    def result(self, dim):
        if not self.words:
            raise UserError(f"{self.path} must hold at least one word. Received: none.")
        return list(self.words), np.frombuffer(self.values, np.float32).reshape(-1, dim), self.duplicates


def write(path: Path, words: list[str], matrix: np.ndarray, form: str) -> None:
    """Writes a file in one of the three forms, all or nothing; see `WordVectors.save`."""
    if form not in ("text", "binary", "glove"):
        raise UserError(f"The form of a vector file is text, binary or glove. Received: {form!r}.")
    forbidden = "\n " if form == "binary" else "\n"
    for word in words:
        if any(mark in word for mark in forbidden) or word == "":
            raise UserError(
                f"The {form} form has no way to write the word {word!r}: "
                f"it is empty or holds a line feed{' or a space' if form == 'binary' else ''}. Drop it"
                f"{' or write the text form' if form == 'binary' else ''}."
            )
    numbers = " ".join(["%.9g"] * matrix.shape[1])  # nine digits give every float32 back
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        if form != "glove":
            file.write(b"%d %d\n" % matrix.shape)
        for word, row in zip(words, matrix, strict=True):
            if form == "binary":
                file.write(word.encode() + b" " + row.astype("<f4").tobytes() + b"\n")
            else:
                file.write(f"{word} {numbers % tuple(row.tolist())}\n".encode())

"""Text files as a stream: which files a corpus has, and their text block by block, decoded, with the place of any fault."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from keras_llm.errors import UserError

BLOCK = 1 << 20  # bytes read at a time
SUFFIXES = (
    ".txt",
    ".text",
    ".md",
    ".tokens",
    ".jsonl",
    ".ndjson",
)  # what is read out of a directory, each also with .gz
JSON_LINES = (".jsonl", ".ndjson")
MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16"}
MARKS |= {codecs.BOM_UTF16_BE: "UTF-16", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"%PDF": "PDF"}
# Tried in this order where text is not UTF-8; the last takes any bytes and so says nothing.
LIKELY = {"gb18030": "GB18030 (GBK, GB2312)", "big5": "Big5"}


def find_files(paths: Sequence[str | Path]) -> tuple[list[Path], Counter]:
    """The files of a corpus, and what was passed over.

    Args:
        paths: files, read whatever their names; directories, of which all text files are read, by `SUFFIXES`, in the
            order of their paths, subdirectories too. Names that begin with a dot are passed over.

    Returns:
        The files, each once; how many other files the directories hold, by suffix.

    Raises:
        UserError: a path does not exist or is a pipe, a directory holds no text file, or a file is one JSON text.
    """
    if not paths:
        raise UserError("A corpus needs at least one file. Received: none. Name a file or a directory.")
    files, others = [], Counter()
    for path in map(Path, paths):
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.is_file() and not _hidden(p.relative_to(path))]
            found = [p for p in inside if _suffix(p) in SUFFIXES]
            others.update(p.suffix.lower() or "no suffix" for p in inside if _suffix(p) not in SUFFIXES)
            if not found:
                raise UserError(
                    f"A directory of a corpus must hold text files ({', '.join(SUFFIXES)}, also .gz). Received: {path} with "
                    f"{len(inside)} other files. Name the files."
                )
            files += found
        elif not path.exists():
            raise UserError(f"The data file must exist. Received: {path}. Check the path.")
        elif not path.is_file():
            raise UserError(
                f"A corpus is read more than once, from files. Received: {path}, a pipe or device. Save it first."
            )
        elif _suffix(path) == ".json":
            raise UserError(
                f"A JSON corpus is JSON lines, one record a line. Received: {path}. Write it so and name it .jsonl."
            )
        else:
            files.append(path)
    return list(dict.fromkeys(files)), others


def is_json_lines(path: Path) -> bool:
    return _suffix(path) in JSON_LINES


def read_blocks(path: Path, progress: Callable[[int], object] = lambda _: None) -> Iterator[str]:
    """The text of a file, block by block; every line end is a line feed, a byte-order mark is left out.

    Args:
        path: a text file in UTF-8; with gzip if its name ends in `.gz`.
        progress: told the bytes read from the disk, each time how many more.

    Raises:
        UserError: the file is binary, broken, or not UTF-8 throughout; with file:line of the first wrong byte.
    """
    utf8 = codecs.getincrementaldecoder("utf-8")()
    text_decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    place = _Place(path)
    first = True
    for data in _read_bytes(path, progress):
        if first:
            data = _without_mark(path, data)
            first = False
        if b"\0" in data:
            line = place.line + data.count(b"\n", 0, data.index(b"\0"))
            raise UserError(
                f"{path}:{line}: text holds no NUL bytes. Received: a binary file or UTF-16. "
                "Leave it out, or convert it to UTF-8 text."
            )
        held, _ = utf8.getstate()  # the beginning of a character that the last block ended in
        try:
            text = text_decoder.decode(data)
        except UnicodeDecodeError as error:
            raise place.fault(held + data, error) from None
        data = held + data
        place.pass_by(data[: len(data) - len(utf8.getstate()[0])])
        if text:
            yield text
    held, _ = utf8.getstate()
    try:
        text = text_decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise place.fault(held, error) from None
    if text:
        yield text


class _Place:
    """Where in a file the reading is."""

    def __init__(self, path: Path):
        self.path, self.line, self.column, self.beyond_ascii = path, 1, 1, False

    def pass_by(self, data: bytes) -> None:
        self.line += data.count(b"\n")
        last = data.rfind(b"\n")
        self.column = len(data) - last if last >= 0 else self.column + len(data)
        self.beyond_ascii = self.beyond_ascii or not data.isascii()

    def fault(self, data: bytes, error: UnicodeDecodeError) -> UserError:
        """What to say of `data`, which goes on where the reading is, and has a wrong byte."""
        at = error.start
        line = self.line + data.count(b"\n", 0, at)
        begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
        wrong = data[begin : end if end >= 0 else len(data)][:10_000]
        guess = _likely(wrong)
        hint = f" It looks like {guess}." if guess else ""
        received = f"byte 0x{data[at]:02x} at column {at - begin + (1 if begin else self.column)}"
        if self.beyond_ascii or not data[:at].isascii():
            advice = (
                f"The lines before are UTF-8, so the file mixes encodings.{hint} Convert the lines that are not UTF-8, "
                "or leave them out (iconv -c -f UTF-8 -t UTF-8)."
            )
        else:
            advice = f"{hint[1:]} Convert the file: iconv -f {guess.split()[0] if guess else 'ITS-ENCODING'} -t UTF-8."
        return UserError(f"{self.path}:{line}: text must be UTF-8. Received: {received}. {advice.strip()}")


def _likely(line: bytes) -> str | None:
    """The encoding of a line that is not UTF-8, if it is one of ours: one whose characters are common ones."""
    for encoding, name in LIKELY.items():
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError:
            continue
        beyond = [c for c in text if c > "\x7f"]
        common = [
            c for c in beyond if "\u4e00" <= c <= "\u9fff" or "\u3000" <= c <= "\u303f" or "\uff00" <= c <= "\uffef"
        ]
        if len(common) > max(2, len(beyond) * 0.9):  # two letters of Latin-1 may be a Chinese character by chance
            return name
    return None


def _without_mark(path: Path, data: bytes) -> bytes:
    for mark, name in MARKS.items():
        if data.startswith(mark):
            advice = {
                "UTF-16": "Convert it: iconv -f UTF-16 -t UTF-8",
                "UTF-32": "Convert it: iconv -f UTF-32 -t UTF-8",
            }
            advice = advice.get(name, "Name it .gz" if name == "gzip" else "Unpack it, or leave it out")
            raise UserError(f"{path}:1: a corpus is UTF-8 text. Received: a file in {name}. {advice}.")
    return data.removeprefix(codecs.BOM_UTF8)


def _read_bytes(path: Path, progress) -> Iterator[bytes]:
    try:
        with open(path, "rb") as raw:
            file, seen = (gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw), 0
            while data := file.read(BLOCK):
                yield data
                progress(raw.tell() - seen)
                seen = raw.tell()
            progress(raw.tell() - seen)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: must be a whole gzip file. Received: {error}. Fetch or compress it again.") from None
    except OSError as error:
        raise UserError(f"The data file must be readable. Received: {path}: {error.strerror}. Check it.") from None


def _suffix(path: Path) -> str:
    """The suffix that says what is in the file, below `.gz`."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)

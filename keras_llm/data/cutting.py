"""A stream of text into documents, none longer than a limit, so that neither a huge file nor a huge line fills memory."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

# What ends a document. Two line feeds with nothing but white space between them are a blank line. (The double plus keeps
# no way back: a megabyte of line feeds would need a hundred for it.)
SEPARATORS = {"line": re.compile(r"\n"), "paragraph": re.compile(r"\n(?:[^\S\n]*+\n)++"), "file": None}
BLANK_LINES = re.compile(r"(?:[^\S\n]*+\n)++")
# Where a text that is too long is cut: behind a blank line, else a line, else a sentence, else white space.
PLACES = (
    re.compile(r"\n(?:[^\S\n]*+\n)++"),
    re.compile(r"\n"),
    re.compile(r"[。！？!?…]+[”’」』）)\"']*\s*|\.[”’)\"']*\s+"),
    re.compile(r"\s+"),
)


@dataclasses.dataclass(slots=True)
class Piece:
    """A document, or a part of one that was too long.

    Attributes:
        text: as it stands in the file.
        line: where it begins, from 1.
        part: 0 for a whole document, else which part of one, from 1.
    """

    text: str
    line: int
    part: int = 0


def documents(blocks: Iterable[str], document: str, limit: int) -> Iterator[Piece]:
    """Divides a text into documents.

    Args:
        blocks: the text, in blocks of any size.
        document: `line`, `paragraph` or `file`.
        limit: most characters of a document; a longer one is cut, see `cut`.

    Returns:
        The documents in order, those of white space alone left out. Not more than about twice `limit`, and a block, are
        in memory.

    Example:

    >>> [piece.text for piece in documents(["one\\ntwo", "\\n\\nthree"], "paragraph", 1000)]
    ['one\\ntwo', 'three']
    """
    separator, line, part, rest = SEPARATORS[document], 1, 0, ""

    def pieces(text):
        """The whole document, or the last parts of one."""
        nonlocal line, part
        for piece in cut(text, limit) if len(text.rstrip()) > limit else [text]:
            more = piece is not text
            if not piece.isspace() and piece:
                part += more or part > 0
                yield Piece(piece, line, part)
            line += piece.count("\n")
        part = 0

    for block in blocks:
        rest += block
        at = 0
        if document == "paragraph" and not part and (blank := BLANK_LINES.match(rest)):
            at = blank.end()  # before the first document, or what a block cut off from a separator
            line += rest.count("\n", 0, at)
        for match in separator.finditer(rest, at) if separator else ():
            yield from pieces(rest[at : match.start()])
            line += match.group().count("\n")
            at = match.end()
        rest = rest[at:]
        # White space at the end may be the beginning of a separator; so much of it is no document's.
        while len(rest.rstrip()) > limit or len(rest) > 2 * limit:
            at = _place(rest, limit)
            if not rest[:at].isspace():
                part += 1
                yield Piece(rest[:at], line, part)
            line += rest.count("\n", 0, at)
            rest = rest[at:]
    yield from pieces(rest)


def cut(text: str, limit: int) -> Iterator[str]:
    """Cuts a text into parts of at most `limit` characters; joined they are the text.

    A part ends, if one is found in its second half, behind the last blank line, else line, else sentence (of Chinese or
    English), else white space, else after `limit` characters.

    Example:

    >>> list(cut("天亮了。雨停了。走吧。", 9))
    ['天亮了。雨停了。', '走吧。']
    """
    while len(text.rstrip()) > limit:
        at = _place(text, limit)
        yield text[:at]
        text = text[at:]
    if text:
        yield text


def _place(text: str, limit: int) -> int:
    """Where to cut a text that is longer than `limit`."""
    half = (limit + 1) // 2
    for place in PLACES:
        at = max((match.end() for match in place.finditer(text, half, limit)), default=0)
        if at:
            return at
    return limit

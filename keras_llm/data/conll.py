"""Files of columns, one token a line, as CoNLL 2003 and most Chinese named-entity sets have them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from keras_llm.data.documents import read_text, short
from keras_llm.data.tags import Tag, parse_tag, read_tags, scheme_of
from keras_llm.errors import UserError

# Written without spaces: Chinese and Japanese characters, their punctuation, full-width forms.
SPACELESS = "[\u2e80-\u303f\u3040-\u30ff\u31c0-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
NUMBERED = re.compile("(.|\ufffd+)[0-9]+", re.DOTALL)  # a character, or what was one, and its place in a word
# From this share of tokens on that are one character a file is one of characters; where half of them are Chinese, those count.
CHARACTER_SHARE = 0.99


class Sentence(NamedTuple):
    """Lines between empty ones.

    Attributes:
        lines: number of each token's line.
        tokens, tags: of each line the first and the last column.
    """

    lines: list[int]
    tokens: list[str]
    tags: list[Tag]


Wrong = list[tuple[str, str]]


def conll_records(path: Path, name: str) -> Iterator[tuple[str, dict, Wrong, Wrong]]:
    """Records of a file of columns with their place, `file:line`, and what was mended and what skipped in each: `(file:line, what
    was wrong)`. An entity's own place stands in it as "where".

    The first column is the token, the last one its tag; tabs separate, or spaces in a line without tabs. A token may be a blank,
    which is one of the text: " \\tO", or " O" without tabs. White space at an entity's ends is not part of it, which is told as
    mended. An empty line ends a sentence, `-DOCSTART-` is left out. The scheme is recognised (`scheme_of`). Tokens become a text
    again: of a file of characters they are put side by side, but for words of letters, else with a space between them where
    neither neighbour is Chinese or Japanese. A number behind each character (its place in the word, Weibo NER) is left out.

    Args:
        path: the file.
        name: of the file, for ids: `<name>:<line of the first token>`.

    Raises:
        UserError: with `file:line`: a line without a tag, with another number of columns than the first one, or with a tag of no
            scheme.
    """
    sentences, letters = _sentences(path)
    scheme = scheme_of((sentence.tags for sentence in sentences), letters)
    if all(NUMBERED.fullmatch(token) for sentence in sentences for token in sentence.tokens):
        sentences = [s._replace(tokens=[NUMBERED.fullmatch(token)[1] for token in s.tokens]) for s in sentences]
    tokens = [token for sentence in sentences for token in sentence.tokens]
    of_characters = _are_characters(tokens)
    for lines, tokens, tags in sentences:
        text, starts = join(tokens, of_characters)
        entities, mended, skipped = [], [], []
        for span in read_tags(tags, scheme):
            where = f"{path}:{lines[span.start]}"
            inner = [place for place in range(span.start, span.end) if not tokens[place].isspace()]
            if not inner:
                skipped.append((where, f"an entity ({span.label}) is white space"))
                continue
            first, last = inner[0], inner[-1]
            start, end = starts[first], starts[last] + len(tokens[last])
            if span.mended:
                mended.append((where, span.mended))
            elif (first, last) != (span.start, span.end - 1):
                mended.append((where, f"white space around {short(text[start:end])}"))
            entities.append({"start": start, "end": end, "label": span.label, "where": where})
        record = {"id": f"{name}:{lines[0]}", "text": text, "entities": entities}
        yield f"{path}:{lines[0]}", record, mended, skipped


def _are_characters(tokens: list[str]) -> bool:
    """Whether a file's tokens are characters, among Chinese ones perhaps with whole words of letters."""
    chinese = [token for token in tokens if re.match(SPACELESS, token)]
    some = chinese if 2 * len(chinese) >= len(tokens) else tokens
    return sum(len(token) == 1 for token in some) >= CHARACTER_SHARE * len(some)


def join(tokens: list[str], of_characters: bool = False) -> tuple[str, list[int]]:
    """Tokens as a text, and where each begins in it.

    Example:

    >>> join(["我", "爱", "Hong", "Kong", "！"])
    ('我爱Hong Kong！', [0, 1, 2, 7, 11])
    """
    parts, starts, length = [], [], 0
    for token in tokens:
        apart = parts and " " not in (parts[-1], token)  # a blank among the tokens is one of the text
        if of_characters:  # letters and digits are characters, too, but words of them may stand side by side
            apart = apart and len(parts[-1]) > 1 and len(token) > 1
        if apart and not re.match(SPACELESS, parts[-1][-1]) and not re.match(SPACELESS, token):
            parts.append(" ")
            length += 1
        starts.append(length)
        parts.append(token)
        length += len(token)
    return "".join(parts), starts


def _sentences(path: Path) -> tuple[list[Sentence], set[str]]:
    """All sentences of a file, and the first letters of its tags as they are written."""
    sentences, letters, width = [], set(), 0
    sentence = Sentence([], [], [])
    for number, line in enumerate(read_text(path).split("\n"), 1):
        # White space may be a token: in files of characters a blank is, and the ideographic space.
        line = line.rstrip(" \t\r")
        if not line or line.startswith("-DOCSTART-"):
            if sentence.tokens:
                sentences.append(sentence)
                sentence = Sentence([], [], [])
            continue
        columns = _columns(line, width)
        where, tag = f"{path}:{number}", parse_tag(columns[-1])
        if len(columns) < 2:
            raise UserError(f"{where}: a line has a token and, in its last column, a tag. Received: {short(line)}.")
        if len(columns) != (width := width or len(columns)):
            raise UserError(
                f"{where}: every line must have as many columns as the first one, {width}. Received: {short(line)}. Mend it."
            )
        if tag is None:
            raise UserError(
                f"{where}: a tag is O or one of B-, I-, E-, S- (M-, L-, W-, U-) and a label. Received: "
                f"{short(columns[-1])}. Put the tag into the last column."
            )
        letters.add(columns[-1][0])
        for values, value in zip(sentence, (number, columns[0], tag), strict=True):
            values.append(value)
    if sentence.tokens:
        sentences.append(sentence)
    return sentences, letters


def _columns(line: str, width: int) -> list[str]:
    """A line's columns; `width` is how many the first line has, 0 for itself."""
    if "\t" in line:
        token, *more = line.split("\t")
        return [token or " ", *more]  # whoever removed white space around tokens removed blanks
    columns = re.split(" +", line.lstrip(" "))
    # Of " O" the blank is the token; of "  我 O" it only stands in front.
    return [" ", *columns] if line.startswith(" ") and len(columns) == (width or 2) - 1 else columns

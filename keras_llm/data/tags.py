"""Tags: entities written as one tag a token, to spans and back, in the schemes of the field.

`bio` (IOB2): B- begins an entity, I- goes on. `iob1`: I- begins one, too; B- only where the entity before it has the same label
and touches it. `bioes`: E- ends an entity of several tokens, S- is one of a single token; spelled BMES, BMEWO and BILOU as well.

References: Ramshaw and Marcus 1995, https://aclanthology.org/W95-0107 (IOB1); Tjong Kim Sang and Veenstra 1999,
https://aclanthology.org/E99-1023 (the others); Ratinov and Roth 2009, https://aclanthology.org/W09-1119 (BILOU).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

# How the schemes spell: begins, inside, end, single, outside.
LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "W": "S", "U": "S", "O": "O"}
UNNAMED = "_"  # the label of tags without one (B, I, O), e.g. of word segmentation


class Tag(NamedTuple):
    """What a token's tag says.

    Attributes:
        kind: "B", "I", "E", "S" or "O".
        label: of the entity; "" outside.
    """

    kind: str
    label: str


class Span(NamedTuple):
    """An entity among tokens.

    Attributes:
        start, end: its tokens, end exclusive.
        label: its kind, e.g. PER.
        mended: what was wrong with its tags, if anything was.
    """

    start: int
    end: int
    label: str
    mended: str = ""


def parse_tag(text: str) -> Tag | None:
    """A tag as files write it; None if it is none.

    Example:

    >>> parse_tag("M-ORG"), parse_tag("O"), parse_tag("B"), parse_tag("NNP")
    (Tag(kind='I', label='ORG'), Tag(kind='O', label=''), Tag(kind='B', label='_'), None)
    """
    kind, joint, label = LETTERS.get(text[:1]), text[1:2], text[2:]
    if kind is None or (kind == "O") != (text == "O") or (joint and (joint not in "-_" or not label)):
        return None
    return Tag(kind, "" if kind == "O" else label or UNNAMED)


def scheme_of(sentences: Iterable[Sequence[Tag]], spelled: Iterable[str] = ()) -> str:
    """The scheme a file is written in: "bio", "iob1" or "bioes".

    Letters that only `bioes` has decide first. Then the majority: a B- that touches no entity of its label is never written in
    iob1, an I- that begins an entity never in bio.

    Args:
        sentences: their tags.
        spelled: first letters of the tags as written, where they differ (M is bioes, but means I).

    Example:

    >>> scheme_of([[Tag("O", ""), Tag("I", "PER"), Tag("B", "PER")]])
    'iob1'
    """
    if set(spelled) & set("MELSWU"):
        return "bioes"
    against_iob1 = against_bio = 0
    for tags in sentences:
        before = Tag("O", "")
        for tag in tags:
            if tag.kind in "ES":
                return "bioes"
            if before.label != tag.label:
                against_iob1 += tag.kind == "B"
                against_bio += tag.kind == "I"
            before = tag
    return "iob1" if against_bio > against_iob1 else "bio"


def read_tags(tags: Sequence[Tag], scheme: str) -> list[Span]:
    """The entities of a sentence. Tags that cannot follow each other are mended as the CoNLL scorer and seqeval's default mode
    read them: what should go on but has nothing to go on from begins an entity; what should end but does not, ends before the
    next token. Without the spans whose `mended` is set, those of bio and bioes are what seqeval's strict mode reads.

    Args:
        tags: of the tokens in order.
        scheme: see `scheme_of`.

    Example:

    >>> read_tags([Tag("B", "PER"), Tag("I", "PER"), Tag("I", "LOC")], "bio")
    [Span(start=0, end=2, label='PER', mended=''), Span(start=2, end=3, label='LOC', mended='I-LOC follows I-PER')]
    """
    spans, start, wrong, before = [], None, "", Tag("O", "")

    def close(end, fault=""):
        nonlocal start
        if start is not None:
            spans.append(Span(start, end, tags[start].label, wrong or fault))
        start = None

    for place, tag in enumerate(tags):
        goes_on = start is not None and tag.label == before.label and tag.kind in "IE"
        if not goes_on:
            close(place, f"nothing ends what {shown(before)} leaves open" if scheme == "bioes" else "")
            if tag.kind != "O":
                touches = before.label == tag.label
                fault = {"bio": tag.kind == "I", "iob1": tag.kind == "B" and not touches, "bioes": tag.kind in "IE"}
                start, wrong = place, ""
                if fault[scheme]:
                    wrong = f"{shown(tag)} {f'follows {shown(before)}' if place else 'comes first'}"
        if tag.kind in "ES":
            close(place + 1)
        before = tag
    close(len(tags), f"nothing ends what {shown(before)} leaves open" if scheme == "bioes" else "")
    return spans


def shown(tag: Tag) -> str:
    """A tag as it is written."""
    return f"{tag.kind}-{tag.label}" if tag.label else tag.kind


def tag_names(labels: Sequence[str], scheme: str) -> list[str]:
    """All tags of "bio" or "bioes" in the order of a tagger's outputs; outside is the first.

    Example:

    >>> tag_names(["LOC", "PER"], "bio")
    ['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER']
    """
    kinds = {"bio": "BI", "bioes": "BIES"}[scheme]
    return ["O", *(f"{kind}-{label}" for label in labels for kind in kinds)]


def write_tags(spans: Iterable[tuple[int, int, str]], count: int, scheme: str) -> list[str]:
    """Spans that do not overlap, as the tags of `count` tokens in "bio" or "bioes".

    Example:

    >>> write_tags([(0, 2, "PER"), (3, 4, "LOC")], 4, "bioes")
    ['B-PER', 'E-PER', 'O', 'S-LOC']
    """
    tags = ["O"] * count
    for start, end, label, *_ in spans:
        tags[start:end] = [f"B-{label}"] + [f"I-{label}"] * (end - start - 1)
        if scheme == "bioes":
            tags[end - 1] = f"{'S' if end - start == 1 else 'E'}-{label}"
    return tags


def transitions(names: Sequence[str], scheme: str) -> np.ndarray:
    """Which tag may follow which.

    Args:
        names: K tags, from `tag_names`.
        scheme: "bio" or "bioes".

    Returns:
        bool [K + 1, K + 1]: from row to column; the last row is the beginning of a sentence, the last column its end.

    Example:

    >>> transitions(["O", "B-PER", "I-PER"], "bio").astype(int).tolist()
    [[1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1]]
    """
    tags = [parse_tag(name) for name in names]
    edge = Tag("O", "")  # both ends of a sentence are outside of any entity
    allowed = np.zeros((len(tags) + 1,) * 2, bool)
    for row, before in enumerate([*tags, edge]):
        for column, after in enumerate([*tags, edge]):
            is_open = before.kind in "BI"
            if after.kind in "IE":
                allowed[row, column] = is_open and before.label == after.label
            else:
                allowed[row, column] = scheme == "bio" or not is_open
    return allowed

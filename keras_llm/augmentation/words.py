"""Texts as words and what stands between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

HAN = "々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# A digit or letter that is part of an emoji (1️⃣, ℹ️) is no word.
LETTERS = rf"(?:[^\W_{HAN}][\u0300-\u036f]*)+(?![\ufe0f\u20e3])"
CLITIC = r"(?<!\S)['’](?:s|d|m|re|ve|ll|em)(?!\w)"  # of tokenized English: "it 's"
WORD = re.compile(rf"{CLITIC}|{LETTERS}(?:['’.\-]{LETTERS})*|[{HAN}]+")
MEETING = re.compile(rf"[^\W_{HAN}][\u0300-\u036f]*\Z")
IS_HAN = re.compile(rf"[{HAN}]+")


def split_words(text: str, segment: Callable[[str], Sequence[str]] = list) -> tuple[list[str], list[str]]:
    """Text to words, and what stands before, between and behind them: white space, punctuation, emoji.

    Args:
        text: any.
        segment: cuts a run of Chinese characters into words; default: each is one.

    Returns:
        N words and N + 1 texts around them; all of them joined in turn are the text.

    Example:

    >>> split_words("我爱 it's 👍，don't!")
    (['我', '爱', "it's", "don't"], ['', '', ' ', ' 👍，', '!'])
    """
    words, between, end = [], [], 0
    for match in WORD.finditer(text):
        found = segment(match[0]) if IS_HAN.fullmatch(match[0]) else [match[0]]
        between += [text[end : match.start()], *[""] * (len(found) - 1)]
        words += found
        end = match.end()
    return words, [*between, text[end:]]


def join_words(words: Sequence[str | None], between: Sequence[str]) -> str:
    """The other way, with other words; None: a word was dropped, and white space on one side of it goes, too.

    Words in letters that come to stand side by side get a space between them.

    Example:

    >>> join_words(["我", None, "it's", "don't"], ["", "", " ", " 👍，", "!"])
    "我 it's 👍，don't!"
    >>> join_words(["Python", None, "Java"], ["", "", "", ""])
    'Python Java'
    """
    text = between[0]
    for word, behind in zip(words, between[1:], strict=True):
        if word is None:
            text += behind.lstrip() if not text or text[-1].isspace() else behind
            continue
        if MEETING.search(text[-8:]) and not IS_HAN.match(word):
            text += " "
        text += word + behind
    return text.strip()

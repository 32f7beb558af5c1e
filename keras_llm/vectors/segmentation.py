"""Text into words: by white space, by white space and punctuation, by character, or Chinese by jieba."""

from __future__ import annotations

import functools
import logging
import re
import sys
import tempfile
import unicodedata
import warnings
from collections.abc import Callable

from keras_llm.errors import UserError

# Characters of scripts written without spaces (Chinese, Japanese): each is a word of its own.
UNSPACED = (
    "\u3005\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


def segmenter(name: str, keep_punctuation: bool = False) -> Callable[[str], list[str]]:
    """The function that cuts a line of text into words.

    Args:
        name: "spaces": at white space alone. "words": at white space and punctuation; apostrophes and hyphens inside a
            word, and points and commas inside a number, belong to it; each Chinese or Japanese character is a word.
            "characters": each character but white space. "jieba": words of jieba's Chinese dictionary, Latin ones too.
        keep_punctuation: "words", "jieba": marks are words too.

    Example:

    >>> segmenter("words")("The state-of-the-art 模型, isn't it? 3.14!")
    ['The', 'state-of-the-art', '模', '型', "isn't", 'it', '3.14']
    """
    if name == "spaces":
        return str.split
    if name == "characters":
        return lambda text: list("".join(text.split()))
    if name == "words":
        return _pattern(keep_punctuation).findall
    if name == "jieba":
        cut = _jieba().lcut
        if keep_punctuation:
            return lambda text: [word for word in map(str.strip, cut(text)) if word]
        return lambda text: [word for word in cut(text) if any(map(str.isalnum, word))]
    raise UserError(f"A segmentation is one of spaces, words, characters, jieba. Received: {name!r}.")


@functools.cache
def _pattern(keep_punctuation):
    # Marks (vowel signs of Indic scripts, accents written apart) belong to the letter before, which \w does not know.
    letters = f"[^\\W_{UNSPACED}]"
    run = f"{letters}+(?:[{_marks()}]+{letters}*)*"
    number = r"\d+(?:[.,]\d+)+(?![^\W_])"
    word = f"{run}(?:['’‑-]{run})*"
    mark = r"|[^\s]" if keep_punctuation else ""
    return re.compile(f"[{UNSPACED}]|{number}|{word}{mark}")


@functools.cache
def _marks():
    """All combining marks as ranges of a character class."""
    ranges = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@functools.cache
def _jieba():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's source has escapes that newer Pythons warn of
        import jieba

    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    # jieba reads a cache from the directory of temporary files, where anybody may have put it; so not from there.
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.tmp_dir = directory
        tokenizer.initialize()
    return tokenizer

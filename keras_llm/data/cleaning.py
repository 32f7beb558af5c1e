"""Cleaning of documents: control characters, white space at the ends of lines, and, for models that count words, stop words.

Unicode normal forms are not its subject: they are the tokenizer's policy, which is part of the exported graph.
"""

from __future__ import annotations

import re
import warnings
from importlib import resources
from pathlib import Path

from keras_llm.data.documents import read_text
from keras_llm.errors import UserError

LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")  # carriage return, vertical tab, form feed, next line
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"(?P<han>[{HAN}]+)|[^\W{HAN}]+(?:['’][^\W{HAN}]+)*")


def clean(text: str) -> str:
    """Removes control characters other than tab and line feed, white space at the ends of lines, and empty lines at both
    ends of the text; a carriage return, vertical tab, form feed or U+0085 is a line end.

    Example:

    >>> clean("\\n床前明月光，  \\n疑是\\x00地上霜。\\u3000\\n\\n")
    '床前明月光，\\n疑是地上霜。'
    """
    text = CONTROL.sub("", LINE_ENDS.sub("\n", text))
    return "\n".join(map(str.rstrip, text.split("\n"))).strip("\n")


class StopWords:
    """Removes frequent words that say little: for models that count words, such as word vectors, not for those that write.

    English and other spaced words are compared whole and without regard to case, `don't` being one; runs of Chinese
    characters are divided into words by jieba's dictionary first, so that `的` goes and `目的` stays.

    Args:
        source: `en` or `zh`, our own lists; `en+zh`, both; or a UTF-8 file with a word a line.

    Raises:
        UserError: no such list or file.

    Example:

    >>> StopWords("en+zh").remove("The aim of the model，这个模型的目的")
    'aim model，模型目的'
    """

    def __init__(self, source: str):
        self.words = frozenset(word.lower() for word in _read(source))
        self._divide = None
        if any(re.fullmatch(f"[{HAN}]+", word) for word in self.words):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is written for older versions of Python
                import jieba
            jieba.setLogLevel(60)  # loading its dictionary, a second, is reported on the terminal
            self._divide = jieba.Tokenizer().cut

    def remove(self, text: str) -> str:
        kept = WORD.sub(self._keep, text)
        # Where a word went, the spaces beside it meet.
        return kept if kept == text else re.sub(r"(?m)^ +| +$| +(?= )", "", kept)

    def _keep(self, match: re.Match) -> str:
        word = match.group()
        if match["han"]:
            return "".join(w for w in self._divide(word, HMM=False) if w not in self.words) if self._divide else word
        return "" if word.lower().replace("’", "'") in self.words else word


def _read(source: str) -> list[str]:
    names = source.split("+")
    folder = resources.files("keras_llm.data") / "stop_words"
    if all(name in ("en", "zh") for name in names):
        return [word for name in names for word in (folder / f"{name}.txt").read_text(encoding="utf-8").split()]
    if not Path(source).is_file():
        raise UserError(
            f"stop_words is en, zh, en+zh or a file with a word a line. Received: {source!r}. Check the path."
        )
    return read_text(Path(source)).split()

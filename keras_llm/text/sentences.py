"""Documents to sentences and words, for preparing data."""

from __future__ import annotations

import re
from collections.abc import Callable

from keras_llm.errors import UserError

CLOSING = "[\"'”’」』）)】》\\]]*"  # what may stand behind an end and still belongs to the sentence
OPENING = "[\"'“‘「『（(【《\\[`]*"
END = re.compile(
    "[\\r\\n\\u2028\\u2029]+"
    # Full-width ends need nothing behind them.
    f"|[。！？][。！？…]*{CLOSING}|[!?]+(?=[\\u3400-\\u9fff])"
    # Latin ones a space and no small letter: 3.14 and example.com are no ends.
    f"|[.!?]+{CLOSING}(?=\\s+{OPENING}\\s?[^\\W_a-z])"
)


def split_sentences(text: str) -> list[str]:
    """Text to sentences, at line breaks and at the ends of Chinese and English sentences; white space around them is lost.

    An abbreviation before a capital letter ("Mr. Smith") ends one, too: the text stays consecutive, which is all that
    pretraining asks for.

    Example:

    >>> split_sentences("他说：“你好！”我走了。It is 3.14 m. Why?\\nYes")
    ['他说：“你好！”', '我走了。', 'It is 3.14 m.', 'Why?', 'Yes']
    """
    ends = [match.end() for match in END.finditer(text)]
    parts = (text[begin:end].strip() for begin, end in zip([0, *ends], [*ends, len(text)], strict=True))
    return [part for part in parts if part]


def word_segmenter(segmentation: str) -> Callable[[str], list[str]] | None:
    """The function that cuts a text into words which, joined, are the text; None where each Chinese character is a word.

    Args:
        segmentation: "none" or "jieba".

    Raises:
        UserError: jieba is not installed.
    """
    if segmentation == "none":
        return None
    try:
        import jieba
    except ImportError:
        raise UserError(
            "segmentation=jieba needs the package jieba. Received: none installed. Run pip install jieba==0.42.1."
        ) from None
    jieba.setLogLevel("WARNING")  # it tells how long its dictionary took
    return jieba.lcut

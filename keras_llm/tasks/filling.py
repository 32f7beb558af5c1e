"""What tasks share that learn on documents to fill gaps, written as `[MASK]`."""

from __future__ import annotations

from keras_llm.tasks.documents import DocumentTask
from keras_llm.tasks.summing import Summing

MARK = "[MASK]"
SHOWN = 48  # characters of a text that are shown, or asked with
PREPARED_AT_ONCE = 64  # documents
EVALUATED_AT_ONCE = 32  # rows
EVALUATION_SEED = 0


class Filling(Summing, DocumentTask):
    """Subclasses give what `Task` asks for."""

    def requests(self, records):
        """The beginnings of documents, with a gap in the place of a word (or of a character where there are no spaces)."""
        return [{"text": with_gap(record["text"][:SHOWN])} for record in records]

    def answers_table(self, records):
        texts = self.requests(records)
        rows = [
            [asked["text"], found["answer"], f"{found['score']:.3f}"]
            for asked, found in zip(texts, self.ask(texts), strict=True)
        ]
        return ["text", "filled", "score"], rows


def with_gap(text: str) -> str:
    """A text whose middle word, or middle character where no spaces are near, is a `[MASK]`.

    Example:

    >>> with_gap("a large house"), with_gap("床前明月光")
    ('a [MASK] house', '床前[MASK]月光')
    """
    middle = len(text) // 2
    begin, end = text.rfind(" ", 0, middle + 1) + 1, text.find(" ", middle + 1)
    end = len(text) if end < 0 else end
    if not 0 < end - begin <= 12:
        begin, end = middle, middle + 1
    return text[:begin] + MARK + text[end:]

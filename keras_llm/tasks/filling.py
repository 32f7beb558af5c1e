"""What tasks share that learn on documents to fill gaps, written as `[MASK]`."""

from __future__ import annotations

from keras_llm.errors import UserError
from keras_llm.tasks.documents import DocumentTask

MARK = "[MASK]"
SHOWN = 48  # characters of a text that are shown, or asked with
PREPARED_AT_ONCE = 64  # documents
EVALUATED_AT_ONCE = 32  # rows
EVALUATION_SEED = 0


class Filling(DocumentTask):
    """Subclasses give what `Task` asks for."""

    def requests(self, records):
        """The beginnings of documents, with a gap in the place of a word (or of a character where there are no spaces)."""
        return [{"text": with_gap(record["text"][:SHOWN])} for record in records]

    def traced(self, method, *signature):
        """The graph of a method, made once for each task: evaluations come again and again."""
        import tensorflow as tf

        key = method.__name__
        if key not in self._traces:
            self._traces[key] = tf.function(
                method, input_signature=signature or None, autograph=False, reduce_retracing=True
            )
        return self._traces[key]

    def summed(self, batches, method) -> dict[str, float]:
        """Sums over batches of what a method gives for each.

        Args:
            batches: (x, y, sample_weight) as `split` gives them.
            method: function (x, y, sample_weight) of tensors -> named scalars.
        """
        import tensorflow as tf

        function = self.traced(method)
        found: dict[str, float] = {}
        for batch in batches:
            for name, value in function(*tf.nest.map_structure(tf.constant, batch)).items():
                found[name] = found.get(name, 0.0) + float(value)
        if not found:
            raise UserError("Evaluation needs text. Received: documents without a single token. Give others.")
        return found

    @staticmethod
    def sums(logits, labels, weights):
        """Over a batch: labels that count, those that are the most probable one, their losses. Logits [..., V], others [...]."""
        import tensorflow as tf

        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        right = tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.float32)
        return tf.reduce_sum(weights), tf.reduce_sum(weights * right), tf.reduce_sum(weights * losses)

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

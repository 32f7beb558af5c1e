"""Span corruption: an encoder-decoder that writes what is missing in a text."""

from __future__ import annotations

import itertools

import numpy as np

from keras_llm.config import SENTINELS
from keras_llm.tasks.base import encode
from keras_llm.tasks.filling import EVALUATED_AT_ONCE, EVALUATION_SEED, MARK, PREPARED_AT_ONCE, SHOWN, Filling


class SpanCorruption(Filling):
    """An encoder-decoder pretrained on documents as T5 is: it reads texts with hidden spans and writes the spans.

    `answer(text: string [B])` fills the gaps that are written `[MASK]` in a text, each with as many tokens as it takes, greedily.
    It gives `answer: string [B]`, the text with its gaps filled, and `score: float32 [B]`, the geometric mean of the
    probabilities of what was written. Without a gap: the text and 0.0. A gap beyond the context, or one that the model did not
    come to within `max_answer_length` tokens, stays.

    The model knows 100 ids more than the tokenizer: the sentinels that stand for gaps.

    Example:

    >>> task = keras_llm.load("runs/poems")
    >>> task.ask([{"text": "床前[MASK]，疑是[MASK]。"}])[0]["answer"]
    '床前明月光，疑是地上霜。'
    """

    monitor = "loss"
    token_features = ("source_ids", "target_ids")

    def make_model(self, vocabulary_size, dtype):
        self.first_sentinel = vocabulary_size
        return super().make_model(vocabulary_size + SENTINELS, dtype)

    def token_names(self):
        return self.tokenizer.tokens() + [f"<gap {number}>" for number in range(SENTINELS)]

    def example_inputs(self):
        return {"source_ids": np.array([[2, 3]], "int32"), "target_ids": np.array([[2, 3]], "int32")}

    def drawn_inputs(self, records):
        batch = next(iter(self.evaluation_batches([{"text": record["text"][:SHOWN]} for record in records])))
        return self.split({name: value[:1] for name, value in batch.items()})[0]

    # documents -> batches

    def prepare(self, records):
        """Rows of `token_ids`: start id, a document's ids, end id."""
        import tensorflow as tf

        function = self.traced(self.tokenizer.encode, tf.TensorSpec([None], tf.string))
        dtype = "uint16" if self.tokenizer.vocabulary_size <= 1 << 16 else "int32"
        begin, end = [self.tokenizer.start_id], [self.tokenizer.end_id]
        records = iter(records)
        while batch := list(itertools.islice(records, PREPARED_AT_ONCE)):
            for ids in function(tf.constant([encode(record["text"]) for record in batch])):
                yield {"token_ids": np.concatenate([begin, ids, end]).astype(dtype)}

    def batches(self, prepared, multiple):
        training = self.config.training
        return self._source(prepared, training.batch_size, training.seed, multiple).checked()

    def _source(self, prepared, batch_size, seed, multiple):
        from keras_llm.data.spans import CorruptedSpans

        length, masking = self.config.network.context_length, self.config.masking
        return CorruptedSpans(prepared, batch_size, length, self.first_sentinel, masking, seed, multiple)

    def split(self, batch):
        target = batch["target_ids"]
        labels = target[:, 1:]
        x = {"source_ids": batch["source_ids"], "target_ids": target[:, :-1]}
        return x, labels, (labels != 0).astype("float32")

    # ids -> numbers

    def evaluate(self, records, tune=False):
        """Over all texts of the documents once, always with the same gaps.

        `loss` is the mean over the targets' tokens, sentinels and ends among them; `token_accuracy` is the share of them that
        are the most probable one, given those before.
        """
        found = self.summed(map(self.split, self.evaluation_batches(records)), self._sums)
        return {
            "loss": found["loss"] / found["tokens"],
            "token_accuracy": found["right"] / found["tokens"],
            "target_tokens": int(found["tokens"]),
        }

    def evaluation_batches(self, records):
        """The batches that `evaluate` judges by, from documents: dicts as `CorruptedSpans` gives them."""
        from keras_llm.data.prepared import in_memory

        prepared = in_memory(self.prepare(records))
        return self._source(prepared, EVALUATED_AT_ONCE, EVALUATION_SEED, 8).whole(EVALUATED_AT_ONCE)

    def _sums(self, x, y, weights):
        tokens, right, loss = self.sums(self.model(x, training=False), y, weights)
        return {"tokens": tokens, "right": right, "loss": loss}

    # string -> string

    def answer(self, text):
        import tensorflow as tf

        from keras_llm.generation.decode import greedy
        from keras_llm.tasks.generating import mean_probability
        from keras_llm.text.filling import fill_marks, split_at_marks, with_ids
        from keras_llm.text.packing import pack
        from keras_llm.text.unicode import sanitise

        tokenizer = self.tokenizer
        parts, followed = split_at_marks(sanitise(text), MARK)
        number = tf.minimum(tf.ragged.range(parts.row_lengths() - 1).values, SENTINELS - 1)
        sentinels = self.first_sentinel + tf.cast(number, tf.int32)
        ids = with_ids(tokenizer.encode(parts.values), parts, followed, sentinels)
        source, _ = pack(ids, (), [tokenizer.end_id], self.config.network.context_length + 1, tokenizer.pad_id)
        read = tf.reduce_sum(tf.cast(source >= self.first_sentinel, tf.int32), axis=1)
        length = self.config.lengths.max_answer_length + 1  # one step more, for the end id
        rows = tf.shape(source)[0]
        written, log_probs = greedy(
            self.model.step,
            tf.fill([rows], tokenizer.start_id),
            self.model.start(source, length),
            tokenizer.end_id,
            tokenizer.pad_id,
            length,
        )
        # The n-th sentinel that was written begins the n-th gap's text.
        gap = tf.cumsum(tf.cast(written >= self.first_sentinel, tf.int32), axis=1) - 1
        come_to = tf.minimum(read, tf.reduce_max(gap, axis=1) + 1)
        kept = (gap >= 0) & (gap < come_to[:, None]) & (written < self.first_sentinel)
        width = tf.reduce_max(tf.concat([come_to, [1]], 0))
        place = tf.range(rows)[:, None] * width + gap
        spans = tf.RaggedTensor.from_value_rowids(
            written[kept], tf.cast(place[kept], tf.int64), tf.cast(rows * width, tf.int64)
        )
        found = tf.RaggedTensor.from_tensor(tf.reshape(tokenizer.decode(spans), [rows, width]), come_to)
        return {
            "answer": fill_marks(parts, found, MARK),
            "score": tf.where(read > 0, mean_probability(written, log_probs, tokenizer.pad_id), 0.0),
        }

"""Causal language modelling: how probable a text is, and what follows it."""

from __future__ import annotations

import math

from keras_llm.tasks.base import Signature, encode
from keras_llm.tasks.continuing import Continuing
from keras_llm.tasks.documents import DocumentTask

SHOWN = 40  # characters of a text that are shown, or asked to go on with
SCORED_AT_ONCE = 16  # texts


class CausalLM(Continuing, DocumentTask):
    """A language model over documents: each token is predicted from those before it, the end of the document like a token.

    `answer(text: string [B])` writes on greedily and gives `answer: string [B]` (what follows the text, without it) and
    `score: float32 [B]`, the geometric mean of the probabilities of its tokens (the end among them). `sample` and `beam` decode
    in other ways. Of a text longer than the context, the last tokens are read.

    `score(text: string [B])` gives `log_probability: float32 [B]` (natural logarithm, of the whole document with its end),
    `tokens: int32 [B]` and `bits_per_byte: float32 [B]`; its perplexity is exp(-log_probability / tokens).

    A document's bytes are those of its UTF-8 text and one for its end. An unknown word is charged 8 bits for each of its bytes
    besides the price of the unknown token, so that a small vocabulary is no advantage.

    Example:

    >>> task = keras_llm.load("runs/gpt")
    >>> task.ask([{"text": "床前明月"}])
    [{'answer': '光，疑是地上霜。', 'score': 0.41}]
    """

    monitor = "bits_per_byte"

    def requests(self, records):
        return [{"text": record["text"][:SHOWN]} for record in records]

    def drawn_inputs(self, records):
        import tensorflow as tf

        return {"token_ids": self.encode_document(tf.constant([encode(records[0]["text"][:SHOWN])]))[0].numpy()}

    # string -> ids

    def encode_document(self, text):
        """string [B] -> int32 [B, T]: start id, the text's ids, end id, padding; and how long each is without that."""
        import tensorflow as tf

        ids, tokenizer = tf.cast(self.tokenizer.encode(text), tf.int32), self.tokenizer
        rows = tf.shape(text)[0]
        begin, end = (tf.fill([rows, 1], special) for special in (tokenizer.start_id, tokenizer.end_id))
        ids = tf.concat([begin, ids, end], axis=1)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        return ids.to_tensor(default_value=tokenizer.pad_id, shape=[None, None]), lengths

    def text_of(self, ids):
        return self.tokenizer.continuation(ids)  # prompt and answer are one text

    def batches(self, prepared, multiple):
        from keras_llm.data.streams import Lanes, Windows

        training, length = self.config.training, self.config.network.context_length
        carry = getattr(self.model, "carry", None)
        if carry:
            carry(training.batch_size)
        return (Lanes if carry else Windows)(prepared, training.batch_size, length, training.seed)

    def split(self, batch):
        ids, segments = batch["token_ids"], batch["segment_ids"]
        x = {name: values[:, :-1] if values.ndim == 2 else values for name, values in batch.items()}
        # A document's first token follows from nothing.
        return x, ids[:, 1:], (segments[:, 1:] == segments[:, :-1]).astype("float32")

    # ids -> number

    def score(self, text):
        found = self._sums(text)
        bits = (found["unknown_bytes"] * math.log(256) - found["log_probability"]) / math.log(2)
        import tensorflow as tf

        return {
            "log_probability": tf.cast(found["log_probability"], tf.float32),
            "tokens": found["tokens"],
            "perplexity": tf.cast(tf.exp(-found["log_probability"] / tf.cast(found["tokens"], tf.float64)), tf.float32),
            "bits_per_byte": tf.cast(bits / found["bytes"], tf.float32),
        }

    def _sums(self, text):
        """Of each text: `log_probability`, `bytes`, `unknown_bytes` float64 [B], `tokens`, `unknown` int32 [B]."""
        import tensorflow as tf

        from keras_llm.text.unicode import sanitise

        text, tokenizer = sanitise(text), self.tokenizer
        ids, lengths = self.encode_document(text)
        scores = self.model.log_probs(ids)
        real = tf.sequence_mask(lengths - 1, tf.shape(ids)[1] - 1)  # padding may be the end id, too
        unknown_bytes = tf.zeros(tf.shape(text), tf.float64)
        if tokenizer.has_offsets:
            pieces, starts, ends = tokenizer.encode_with_offsets(text)
            lengths = tf.where(pieces.flat_values == tokenizer.unknown_id, ends.flat_values - starts.flat_values, 0)
            unknown_bytes = tf.cast(tf.reduce_sum(pieces.with_flat_values(lengths), axis=1), tf.float64)
        return {
            "log_probability": tf.reduce_sum(tf.where(real, tf.cast(scores, tf.float64), 0.0), axis=1),
            "tokens": tf.reduce_sum(tf.cast(real, tf.int32), axis=1),
            "bytes": tf.cast(tf.strings.length(text) + 1, tf.float64),
            "unknown": tf.reduce_sum(tf.cast(ids == tokenizer.unknown_id, tf.int32), axis=1),
            "unknown_bytes": unknown_bytes,
        }

    def evaluate(self, records, tune=False):
        # Texts of like length together: little is computed for padding.
        ordered = sorted(records, key=lambda record: len(record["text"]))
        rows = self.ask(ordered, batch_size=SCORED_AT_ONCE, function=self.trace(self._sums))
        total = {name: math.fsum(row[name] for row in rows) for name in rows[0]}
        loss = -total["log_probability"] / total["tokens"]
        return {
            "bits_per_byte": bits(total) / total["bytes"],
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "loss": loss,
            "unknown_share": total["unknown"] / total["tokens"],
            "tokens": int(total["tokens"]),
            "bytes": int(total["bytes"]),
        }

    # ids -> string

    @property
    def signatures(self):
        return {**super().signatures, "score": Signature(self.score, self.inputs)}

    def answers_table(self, records):
        texts = self.requests(records)
        answers = self.ask(texts)
        rows = [[t["text"], a["answer"], f"{a['score']:.3f}"] for t, a in zip(texts, answers, strict=True)]
        return ["text", "continuation", "score"], rows


def bits(found):
    """What texts cost: their tokens by the model, and the bytes of unknown words at 8 bits each."""
    return 8 * found["unknown_bytes"] - found["log_probability"] / math.log(2)

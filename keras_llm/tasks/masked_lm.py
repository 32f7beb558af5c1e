"""Masked language modelling: an encoder that fills gaps, and says whether one text follows another."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from keras_llm.data.masking import SPECIAL_IDS, SpecialIds
from keras_llm.errors import UserError
from keras_llm.tasks.base import encode
from keras_llm.tasks.filling import EVALUATED_AT_ONCE, EVALUATION_SEED, MARK, PREPARED_AT_ONCE, SHOWN, Filling

CANDIDATES = 5  # tokens offered for a mask


class MaskedLM(Filling):
    """An encoder pretrained on documents as BERT is: hidden words, and with `masking.next_sentence` pairs of texts.

    `answer(text: string [B])` fills the masks that are written `[MASK]` in a text, each with one token. It gives `answer: string
    [B]`, the text with each mask replaced by its most probable token; `score: float32 [B]`, the geometric mean of their
    probabilities; `tokens: string [B, 5]` and `scores: float32 [B, 5]`, the most probable ones for the first mask (`##` before
    one that goes on a word). Without a mask: the text, 0.0, "" and 0.0. A mask beyond the context stays.

    Example:

    >>> task = keras_llm.load("runs/encoder")
    >>> task.ask([{"text": "The capital of France is [MASK] ."}])[0]["answer"]
    'The capital of France is Paris .'
    """

    monitor = "mlm_loss"
    token_features = ("token_ids",)

    def make_model(self, vocabulary_size, dtype):
        from keras_llm.models import MODELS

        config = self.config
        return MODELS[config.kind, config.model](
            vocabulary_size, config.network, next_sentence=config.masking.next_sentence, dtype=dtype
        )

    def loss(self):
        heads = ("tokens", "next") if self.config.masking.next_sentence else ("tokens",)
        return {head: super(MaskedLM, self).loss() for head in heads}

    def example_inputs(self):
        return self._inputs(np.array([[2, 3]], "int32"), np.array([[0]], "int32"))

    def drawn_inputs(self, records):
        import tensorflow as tf

        ids, _ = self._framed(self.tokenizer.encode(tf.constant([encode(records[0]["text"][:SHOWN])])))
        return self._inputs(ids.numpy(), np.zeros((1, 1), "int32"))

    # documents -> batches

    def prepare(self, records):
        """Rows of a document's ids without special ones: `token_ids`, `starts_word` and `sentence_lengths`."""
        from keras_llm.text.encoding import rows

        texts = (encode(record["text"]).decode() for record in records)
        while batch := list(itertools.islice(texts, PREPARED_AT_ONCE)):
            yield from rows(self._encoder(batch))

    @functools.cached_property
    def _encoder(self):
        from keras_llm.text.encoding import SentencewiseEncoder

        return SentencewiseEncoder(self.tokenizer, self.config.masking.segmentation)

    def batches(self, prepared, multiple):
        training = self.config.training
        return self._source(prepared, training.batch_size, training.seed, multiple).checked()

    def _source(self, prepared, batch_size, seed, multiple):
        from keras_llm.data.sentences import MaskedSentences

        config = self.config
        return MaskedSentences(
            prepared,
            batch_size,
            config.network.context_length,
            self.model.vocabulary_size,
            config.masking,
            seed,
            multiple,
            self.special,
        )

    def split(self, batch):
        x = {name: batch[name] for name in ("token_ids", "segment_ids", "mask_positions")}
        y, weights = {"tokens": batch["labels"]}, {"tokens": batch["label_weights"]}
        if self.config.masking.next_sentence:
            y["next"], weights["next"] = batch["next_labels"], batch["next_weights"]
        return x, y, weights

    # ids -> numbers

    def evaluate(self, records, tune=False):
        """Over all rows of the documents once, always with the same masks and pairs.

        `mlm_loss` is the mean over the hidden tokens, `mlm_accuracy` the share of them that are the most probable one;
        `next_loss` and `next_accuracy` are there where the documents give pairs of both kinds.
        """
        found = self.summed(map(self.split, self.evaluation_batches(records)), self._sums)
        metrics = {
            "mlm_loss": found["token_loss"] / found["tokens"],
            "mlm_accuracy": found["tokens_right"] / found["tokens"],
        }
        if found.get("pairs"):
            metrics |= {
                "next_loss": found["pair_loss"] / found["pairs"],
                "next_accuracy": found["pairs_right"] / found["pairs"],
            }
        return metrics | {"masked_tokens": int(found["tokens"])}

    def evaluation_batches(self, records):
        """The batches that `evaluate` judges by, from documents: dicts as `MaskedSentences` gives them."""
        from keras_llm.data.prepared import in_memory

        prepared = in_memory(self.prepare(records))
        return self._source(prepared, EVALUATED_AT_ONCE, EVALUATION_SEED, 8).whole(EVALUATED_AT_ONCE)

    def _sums(self, x, y, weights):
        outputs = self.model(x, training=False)
        tokens, right, loss = self.sums(outputs["tokens"], y["tokens"], weights["tokens"])
        found = {"tokens": tokens, "tokens_right": right, "token_loss": loss}
        if "next" in y:
            pairs, right, loss = self.sums(outputs["next"], y["next"], weights["next"])
            found |= {"pairs": pairs, "pairs_right": right, "pair_loss": loss}
        return found

    # string -> string

    def answer(self, text):
        import tensorflow as tf

        from keras_llm.text.filling import fill_marks, with_spaces
        from keras_llm.text.unicode import sanitise

        tokenizer = self.tokenizer
        parts, logits, count = self._gaps(text)
        # Special tokens, the unknown one among them, are no answer.
        ordinary = self.special.ordinary(self.model.vocabulary_size)
        is_text = np.isin(np.arange(self.model.vocabulary_size), ordinary).astype("float32")
        scores, best = tf.math.top_k(tf.nn.softmax(logits) * is_text, min(CANDIDATES, len(ordinary)))  # [B, M, 5]
        pieces, continues = tokenizer.pieces(best)
        is_mask = tf.range(tf.shape(logits)[1]) < count[:, None]
        logs = tf.reduce_sum(tf.where(is_mask, tf.math.log(scores[:, :, 0]), 0.0), 1)
        some = count > 0
        filled = tf.RaggedTensor.from_tensor(pieces[:, :, 0], count)
        joined = tf.RaggedTensor.from_tensor(continues[:, :, 0], count)
        parts = with_spaces(parts, joined, tokenizer.begins)
        shown = tf.strings.join([tf.where(continues[:, 0], tokenizer.goes_on, tokenizer.begins), pieces[:, 0]])
        return {
            "answer": sanitise(fill_marks(parts, filled, MARK)),  # byte pairs may be parts of characters
            "score": tf.where(some, tf.exp(logs / tf.cast(tf.maximum(count, 1), tf.float32)), 0.0),
            "tokens": tf.where(some[:, None], sanitise(shown), ""),
            "scores": tf.where(some[:, None], scores[:, 0], 0.0),
        }

    def gap_logits(self, text):
        """string [B] -> logits float32 [B, M, V] of what stands in a text's masks, and how many of them are read, int32 [B]."""
        return self._gaps(text)[1:]

    def _gaps(self, text):
        """string [B] -> what stands around the masks string [B, (M + 1)], and as `gap_logits`."""
        import tensorflow as tf

        from keras_llm.text.filling import split_at_marks, with_ids, without_end
        from keras_llm.text.packing import positions
        from keras_llm.text.unicode import sanitise

        tokenizer = self.tokenizer
        parts, followed = split_at_marks(sanitise(text), MARK)
        # A mask of byte pairs stands for the space before it, too: it is a part of their tokens.
        read = tf.where(followed & (tokenizer.begins != ""), without_end(parts.values), parts.values)
        masks = tf.fill([tf.math.count_nonzero(followed)], self.special.mask)
        ids, _ = self._framed(with_ids(tokenizer.encode(read), parts, followed, masks))
        places, count = positions(ids == self.special.mask)
        return parts, self.model(self._inputs(ids, places), training=False)["tokens"], count

    @property
    def special(self):
        """Which ids are no text."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            if self.config.text.tokenizer != "wordpiece":
                raise UserError(
                    "The special ids of a checkpoint's vocabulary are known to its tokenizer, which needs TensorFlow. Received: "
                    f"tokenizer={self.config.text.tokenizer} without TensorFlow. Install it."
                )
            return SPECIAL_IDS
        framing = tokenizer.start_id, tokenizer.end_id, tokenizer.mask_id
        return SpecialIds(*framing, tokenizer.all_special_ids - set(framing), tokenizer.pad_id)

    def _framed(self, ids):
        """int32 [B, (n)] -> what the model reads of it, int32 [B, T], and where there is an id, bool [B, T]."""
        from keras_llm.text.packing import pack

        tokenizer = self.tokenizer
        limit = self.config.network.context_length
        return pack(ids, [tokenizer.start_id], [tokenizer.end_id], limit, tokenizer.pad_id)

    def _inputs(self, ids, places):
        return {"token_ids": ids, "segment_ids": ids * 0, "mask_positions": places}

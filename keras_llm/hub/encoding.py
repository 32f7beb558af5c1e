"""What encoders do with a text: class, filled masks, embedding.

Shapes: B batch, T the batch's longest text, C classes, D width, M masks, V vocabulary.
"""

from __future__ import annotations

import tensorflow as tf

from keras_llm.tasks.base import Answering
from keras_llm.text.bert import BertEncoder
from keras_llm.text.filling import fill_marks, split_at_marks, with_ids
from keras_llm.text.packing import pack, positions
from keras_llm.text.splitting import WHITE
from keras_llm.text.unicode import sanitise

CANDIDATES = 5  # tokens offered for a mask


class Encoding(Answering):
    """An encoder asked with one text.

    Args:
        kind: see `keras_llm.hub.preset.KINDS`.
        encoder: the tokenizer's graph.
        model: takes what `inputs_of` gives.
        frame: ids before and after a text.
        pad_id: fills shorter rows.
        limit: a longer text is cut to so many ids, the frame among them.
    """

    inputs = ("text",)

    def __init__(self, kind, encoder, model, frame, pad_id, limit):
        super().__init__(kind, encoder, model)
        self.frame, self.pad_id, self.limit = frame, pad_id, limit

    def example(self, text: str) -> str:
        """A text as this model is asked with it."""
        return text

    def pack(self, ids):
        return pack(ids, *self.frame, limit=self.limit, pad_id=self.pad_id)

    def call(self, tokens, mask, **others):
        """The model's outputs for int32 [B, T] and bool [B, T]."""
        given = {
            "token_ids": tokens,
            "padding_mask": tf.cast(mask, tf.int32),
            "segment_ids": tf.zeros_like(tokens),
            **others,
        }
        names = self.model.input if isinstance(self.model.input, dict) else given
        return self.model({name: given[name] for name in names}, training=False)


class Classifier(Encoding):
    """`answer(text)` gives the class's name, its probability, and those of all classes: string [B], float32 [B], [B, C].

    Args:
        labels: names of the classes.
        are_probabilities: the model's outputs are, not logits.
    """

    def __init__(self, *args, labels, are_probabilities=False):
        super().__init__("text_classifier", *args)
        self.labels, self.are_probabilities = list(labels), are_probabilities

    def answer(self, text):
        outputs = tf.cast(self.call(*self.pack(self.tokenizer.encode(text))), tf.float32)
        probabilities = outputs if self.are_probabilities else tf.nn.softmax(outputs)
        # top_k takes the first of equals; argmax would give int64.
        score, best = tf.math.top_k(probabilities, 1)
        answer = tf.gather(tf.constant(self.labels), best[:, 0])
        return {"answer": answer, "score": score[:, 0], "probabilities": probabilities}


class Embedder(Encoding):
    """`answer(text)` gives `embedding: float32 [B, D]`.

    Args:
        pooling: "mean" over the text's tokens, its frame among them; "cls", the first; or "max".
        normalised: vectors of length 1.
    """

    def __init__(self, *args, pooling, normalised):
        super().__init__("text_embedder", *args)
        self.pooling, self.normalised = pooling, normalised

    def answer(self, text):
        tokens, mask = self.pack(self.tokenizer.encode(text))
        outputs = self.call(tokens, mask)
        vectors = tf.cast(outputs["sequence_output"] if isinstance(outputs, dict) else outputs, tf.float32)
        here = tf.cast(mask, tf.float32)[:, :, None]
        if self.pooling == "mean":
            vectors = tf.reduce_sum(vectors * here, 1) / tf.maximum(tf.reduce_sum(here, 1), 1.0)
        elif self.pooling == "cls":
            vectors = vectors[:, 0]
        elif self.pooling == "max":
            vectors = tf.reduce_max(tf.where(here > 0, vectors, vectors.dtype.min), 1)
        return {"embedding": tf.math.l2_normalize(vectors, -1, 1e-24) if self.normalised else vectors}


class MaskedLM(Encoding):
    """`answer(text)` fills the masks that are written in a text, e.g. `[MASK]`.

    It gives `answer: string [B]`, the text with each mask replaced by its most probable token; `score: float32 [B]`, the
    geometric mean of their probabilities; `tokens: string [B, 5]` and `scores: float32 [B, 5]`, the most probable ones for
    the first mask. Without a mask: the text, 0.0, "" and 0.0. A mask beyond the limit stays.

    Args:
        mask_token, mask_id: as written in a text, and its id.
    """

    def __init__(self, *args, mask_token, mask_id):
        super().__init__("masked_lm", *args)
        self.mask_token, self.mask_id = mask_token, mask_id

    def answer(self, text):
        parts, followed = split_at_marks(sanitise(text), self.mask_token)
        if self.spaces_are_tokens:  # the token that is looked for brings its own
            stripped = tf.strings.regex_replace(parts.values, f"[{WHITE}]+$", "")
            parts = parts.with_values(tf.where(followed, stripped, parts.values))
        masks = tf.fill([tf.math.count_nonzero(followed)], self.mask_id)
        tokens, here = self.pack(with_ids(self.tokenizer.encode(parts.values), parts, followed, masks))
        places, count = positions(tokens == self.mask_id)
        probabilities = tf.nn.softmax(tf.cast(self.call(tokens, here, mask_positions=places), tf.float32))
        scores, ids = tf.math.top_k(probabilities, min(CANDIDATES, probabilities.shape[-1]))  # [B, M, 5]
        pieces = self.tokenizer.pieces(ids)
        is_mask = tf.range(tf.shape(places)[1]) < count[:, None]
        logs = tf.reduce_sum(tf.where(is_mask, tf.math.log(scores[:, :, 0]), 0.0), 1)
        some = count > 0
        mean = tf.exp(logs / tf.cast(tf.maximum(count, 1), tf.float32))
        return {
            "answer": sanitise(self._fill(parts, tf.RaggedTensor.from_tensor(pieces[:, :, 0], count))),
            "score": tf.where(some, mean, 0.0),
            "tokens": tf.where(some[:, None], self._clean(pieces[:, 0]), ""),
            "scores": tf.where(some[:, None], scores[:, 0], 0.0),
        }

    def example(self, text):
        return f"{text[: len(text) // 2]} {self.mask_token} {text[len(text) // 2 :]}"

    @property
    def spaces_are_tokens(self):
        """Whether a space belongs to the token after it; WordPiece has none."""
        return not isinstance(self.tokenizer, BertEncoder)

    def _fill(self, parts, found):
        """string [B, (masks + 1)], string [B, (masks that were read)] -> string [B]."""
        if not self.spaces_are_tokens:  # the text's own are kept
            found = found.with_values(tf.strings.strip(found.values))
        text = fill_marks(parts, found, self.mask_token)
        starts = tf.gather(parts.values, parts.row_starts()) == ""
        return tf.where(starts, tf.strings.regex_replace(text, "^ ", ""), text)

    def _clean(self, pieces):
        shape = tf.shape(pieces)
        return tf.reshape(sanitise(tf.strings.strip(tf.reshape(pieces, [-1]))), shape)

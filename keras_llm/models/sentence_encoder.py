"""Sentence encoders: an encoder, and one vector for the whole text.

Shapes: B batch, T length, N wrong texts of each pair, C = B (1 + N) candidates, W width of the encoder.
"""

from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.attention import penalty
from keras_llm.models.classifier import pooled
from keras_llm.models.encoders import ENCODERS, OnEncoder


class SentenceEncoder(OnEncoder):
    """Makes vectors of texts; called with pairs, it compares each text with all candidates of the batch.

    Args:
        vocabulary_size: V.
        config: the encoder's shape; also uses pooling, segments and pad_id. "first" is the first token's vector as it is.
        encoder: "lstm" or "transformer".
        normalise: `embed` gives vectors of length 1.
        temperature: cosines are divided by it.
        dtype: a dtype policy, passed to every layer.

    Call: {"token_ids": int [B, T], "pair_ids": int [B, T'], and perhaps "negative_ids": int [B, N, T''],
    "candidates": bool [B, C]} -> float32 [B, C]: cosine / temperature of each text with all second texts, and behind
    them all wrong ones, row by row. Where "candidates" is false, it is practically minus infinity.

    Example:

    >>> model = SentenceEncoder(100, ModelConfig(embedding_dim=8, hidden_dim=6, num_layers=1), "lstm")
    >>> ids = keras.ops.ones((2, 5), "int32")
    >>> model({"token_ids": ids, "pair_ids": ids}).shape, model.embed(ids).shape
    (TensorShape([2, 2]), TensorShape([2, 12]))

    Reference: Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084; Henderson et al. 2017, https://arxiv.org/abs/1705.00652
    (the other pairs of a batch as wrong answers).
    """

    def __init__(
        self, vocabulary_size, config: ModelConfig, encoder, normalise=True, temperature=0.05, dtype=None, **kwargs
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size, self.config = vocabulary_size, config
        self.normalise, self.temperature = normalise, temperature
        self.encoder = ENCODERS[encoder](
            vocabulary_size, config, segments=config.segments, name="encoder", dtype=self.dtype_policy
        )

    def build(self, input_shape=None):
        self.encoder.build()

    def call(self, inputs, training=None):
        texts = normalised(self._pooled(inputs["token_ids"], training))
        candidates = [normalised(self._pooled(inputs["pair_ids"], training))]
        if "negative_ids" in inputs:
            wrong = inputs["negative_ids"]
            flat = ops.reshape(wrong, (-1, ops.shape(wrong)[-1]))
            candidates.append(normalised(self._pooled(flat, training)))
        scores = ops.matmul(texts, ops.transpose(ops.concatenate(candidates))) / self.temperature
        return scores if "candidates" not in inputs else scores + penalty(inputs["candidates"])

    def embed(self, ids, training=None):
        """int [B, T] -> float32 [B, W]."""
        vectors = self._pooled(ids, training)
        return normalised(vectors) if self.normalise else vectors

    def encoded(self, inputs):
        return _single(inputs["token_ids"])

    def _pooled(self, ids, training):
        x = self.encoder(_single(ids), training=training)
        how = self.config.pooling
        vectors = x[:, 0] if how == "first" else pooled(x, ops.not_equal(ids, self.config.pad_id), how)
        return ops.cast(vectors, "float32")


def normalised(vectors):
    """Vectors [..., W] at length 1; zeros stay zeros."""
    return vectors * ops.rsqrt(ops.maximum(ops.sum(ops.square(vectors), axis=-1, keepdims=True), 1e-24))


def _single(ids):
    """What an encoder takes for texts that are no pairs."""
    return {"token_ids": ids, "segment_ids": ops.zeros_like(ids)}

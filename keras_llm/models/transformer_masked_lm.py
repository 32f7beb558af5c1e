"""The Transformer encoder that fills gaps and knows which sentence follows (BERT-like).

Shapes: B batch, T length, D width, P masks of a row, V vocabulary.
"""

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.linear import Linear
from keras_llm.layers.transformer import ACTIVATIONS, normalisation
from keras_llm.models.encoders import OnEncoder, TransformerEncoder


class TransformerMaskedLanguageModel(OnEncoder):
    """A Transformer encoder, a head that scores all tokens at the masks, and one that says whether the second segment follows
    the first.

    Args:
        vocabulary_size: V.
        config: uses embedding_dim, num_layers, num_heads, num_kv_heads, feedforward_dim, dropout, positions, norm, norm_first,
            activation, context_length and pad_id, the id of padding.
        next_sentence: with segments and the second head.
        dtype: a dtype policy, passed to every layer.

    Call: {"token_ids": int [B, T], "mask_positions": int [B, P], and with segments "segment_ids": int [B, T], 0 or 1}
    -> {"tokens": logits float32 [B, P, V], and with `next_sentence` "next": logits float32 [B, 2], class 1: it follows}.

    Example:

    >>> model = TransformerMaskedLanguageModel(100, ModelConfig(embedding_dim=8, num_heads=2, num_layers=1, feedforward_dim=16))
    >>> ids = keras.ops.ones((2, 5), "int32")
    >>> found = model({"token_ids": ids, "segment_ids": ids, "mask_positions": ids[:, :3]})
    >>> found["tokens"].shape, found["next"].shape
    (TensorShape([2, 3, 100]), TensorShape([2, 2]))

    Reference: Devlin et al. 2018, https://arxiv.org/abs/1810.04805.
    """

    heads = ("judge",)

    def __init__(self, vocabulary_size, config: ModelConfig, next_sentence=True, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size, self.config, self.next_sentence = vocabulary_size, config, next_sentence
        width, policy = config.embedding_dim, {"dtype": self.dtype_policy}
        segments = next_sentence or config.segments
        self.encoder = TransformerEncoder(vocabulary_size, config, segments=segments, name="encoder", **policy)
        self.transform = Linear(width, name="transform", **policy)
        self.transform_norm = normalisation(config.norm, epsilon=config.norm_epsilon, name="transform_norm", **policy)
        if next_sentence:
            self.pool = keras.layers.Dense(width, activation="tanh", name="pool", **policy)
            self.judge = keras.layers.Dense(2, name="judge", **policy)
        self.drop = keras.layers.Dropout(config.dropout, name="dropout", **policy)

    def build(self, input_shape=None):
        width = self.config.embedding_dim
        self.encoder.build()
        for layer in (self.transform, self.transform_norm):
            layer.build((None, None, width))
        if self.next_sentence:
            self.pool.build((None, width))
            self.judge.build((None, width))
        self.bias = self.add_weight(name="bias", shape=(self.vocabulary_size,), initializer="zeros")

    def call(self, inputs, training=None):
        x = self.encoder(inputs, training=training)
        found = {"tokens": self._logits(x, inputs["mask_positions"])}
        if self.next_sentence:
            pooled = self.drop(self.pool(x[:, 0]), training=training)
            found["next"] = ops.cast(self.judge(pooled), "float32")
        return found

    def _logits(self, x, positions):
        """Scores of all tokens where the masks are, and nowhere else: [B, T, D], [B, P] -> float32 [B, P, V]."""
        length, width = ops.shape(x)[1:]
        places = positions + ops.expand_dims(ops.arange(ops.shape(x)[0]) * length, 1)
        x = ops.take(ops.reshape(x, (-1, width)), places, axis=0)  # [B, P, D]
        activation = ACTIVATIONS["gelu" if self.config.activation == "swiglu" else self.config.activation]
        x = self.transform_norm(activation(self.transform(x)))
        return self.embedding.logits(x) + ops.cast(self.bias, "float32")

"""Classifiers: an encoder, one vector for the text, and a score for every label.

Shapes: B batch, T length, W width of the encoder, K labels.
"""

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.token_dropout import TokenDropout
from keras_llm.models.encoders import ENCODERS, OnEncoder


class Classifier(OnEncoder):
    """Scores labels for a text or a pair of texts.

    Args:
        vocabulary_size: V.
        config: the encoder's shape; also uses pooling, dropout, token_dropout and pad_id.
        encoder: "lstm" or "transformer".
        labels: K.
        segments: tell the texts of a pair apart by segments; a config that has them has them anyway.
        unknown_id: of unknown tokens.
        dtype: a dtype policy, passed to every layer.

    Call: {"token_ids": int [B, T], "segment_ids": int [B, T], 0 or 1} -> logits float32 [B, K].

    Example:

    >>> model = Classifier(100, ModelConfig(embedding_dim=8, hidden_dim=6, num_layers=1), "lstm", labels=3)
    >>> ids = keras.ops.ones((2, 5), "int32")
    >>> model({"token_ids": ids, "segment_ids": ids * 0}).shape
    TensorShape([2, 3])

    Reference: Devlin et al. 2018, https://arxiv.org/abs/1810.04805 (the first token's vector through a tanh layer).
    """

    heads = ("head",)

    def __init__(
        self, vocabulary_size, config: ModelConfig, encoder, labels, segments=False, unknown_id=1, dtype=None, **kwargs
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size, self.config, self.labels = vocabulary_size, config, labels
        policy = {"dtype": self.dtype_policy}
        segments = segments or config.segments
        self.encoder = ENCODERS[encoder](vocabulary_size, config, segments=segments, name="encoder", **policy)
        self.drop_tokens = TokenDropout(config.token_dropout, unknown_id, config.pad_id, name="token_dropout")
        self.pool = None
        if config.pooling == "first":
            self.pool = keras.layers.Dense(self.encoder.width, activation="tanh", name="pool", **policy)
        self.drop = keras.layers.Dropout(config.dropout, name="dropout", **policy)
        self.head = keras.layers.Dense(labels, name="head", **policy)

    def build(self, input_shape=None):
        self.encoder.build()
        for layer in (self.pool, self.head):
            if layer is not None:
                layer.build((None, self.encoder.width))

    def call(self, inputs, training=None):
        x = self.encoder(
            {**inputs, "token_ids": self.drop_tokens(inputs["token_ids"], training=training)}, training=training
        )
        if self.pool is not None:
            x = self.pool(x[:, 0])
        else:
            x = pooled(x, ops.not_equal(inputs["token_ids"], self.config.pad_id), self.config.pooling)
        return ops.cast(self.head(self.drop(x, training=training)), "float32")


def pooled(x, mask, how):
    """One vector for each text: the mean or maximum of its tokens' vectors.

    Args:
        x: [B, T, W].
        mask: bool [B, T], true at real tokens. A row without any gives zeros.
        how: "mean" or "max".

    Returns:
        [B, W].
    """
    if how == "max":
        # float16 has no -1e9: a row without tokens would be infinite, and zero times that is no number.
        seen = ops.expand_dims(mask, -1)
        highest = ops.max(ops.where(seen, x, ops.cast(-3e4, x.dtype)), axis=1)
        return ops.where(ops.any(seen, axis=1), highest, ops.zeros_like(highest))
    real = ops.expand_dims(ops.cast(mask, "float32"), -1)
    return ops.cast(ops.sum(ops.cast(x, "float32") * real, axis=1) / ops.maximum(ops.sum(real, axis=1), 1.0), x.dtype)

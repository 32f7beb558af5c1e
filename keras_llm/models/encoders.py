"""Encoders: a text's ids in, a vector for each of its tokens out. What stands on them, a head, makes the kind of model.

Shapes: B batch, T length, D embedding width, U units, V vocabulary, W width of the vectors.
"""

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.embedding import LearnedPositions, SinusoidalPositions, TokenEmbedding, positions_of
from keras_llm.layers.recurrent import LSTMStack
from keras_llm.layers.transformer import normalisation
from keras_llm.models.blocks import transformer_block


class TransformerEncoder(keras.layers.Layer):
    """Embeddings of tokens, positions and perhaps segments, and Transformer blocks that see a text from both sides.

    Args:
        vocabulary_size: V.
        config: uses embedding_dim, num_layers, num_heads, num_kv_heads, feedforward_dim, dropout, positions, norm, norm_first,
            activation, context_length and pad_id, the id of padding.
        segments: add a vector for the first and one for the second text of a pair.

    Call: {"token_ids": int [B, T], and with `segments` "segment_ids": int [B, T], 0 or 1} -> [B, T, W], W = D.

    Example:

    >>> config = ModelConfig(embedding_dim=8, num_heads=2, num_layers=1, feedforward_dim=16)
    >>> TransformerEncoder(100, config)({"token_ids": keras.ops.ones((2, 5), "int32")}).shape
    TensorShape([2, 5, 8])

    Reference: Devlin et al. 2018, https://arxiv.org/abs/1810.04805.
    """

    def __init__(self, vocabulary_size, config: ModelConfig, segments=False, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size, self.config = vocabulary_size, config
        width, policy = config.embedding_dim, {"dtype": self.dtype_policy}
        # Tokens and segments weigh the same. Behind a first norm their size does not matter, but learned positions are small.
        vectors = {"scale": config.norm_first, **policy}
        self.embedding = TokenEmbedding(vocabulary_size, width, name="embedding", **vectors)
        self.positions = self.segments = None
        if config.positions == "learned":
            self.positions = LearnedPositions(config.context_length, width, name="positions", **policy)
        elif config.positions == "sinusoidal":
            self.positions = SinusoidalPositions(width, name="positions", **policy)
        if segments:
            self.segments = TokenEmbedding(2, width, name="segments", **vectors)
        self.blocks = [transformer_block(config, name=f"block_{i}", **policy) for i in range(config.num_layers)]
        # Before the blocks where they normalise what leaves them, behind them where they normalise what enters.
        self.norm = normalisation(config.norm, epsilon=config.norm_epsilon, name="norm", **policy)
        self.drop = keras.layers.Dropout(config.dropout, name="dropout", **policy)

    @property
    def width(self):
        """W, the width of the vectors."""
        return self.config.embedding_dim

    def build(self, input_shape=None):
        shape = (None, None, self.width)
        self.embedding.build()
        if self.segments is not None:
            self.segments.build()
        for layer in (self.positions, self.norm, *self.blocks):
            if layer is not None:
                layer.build(shape)

    def call(self, inputs, training=None):
        x, mask = self._embed(inputs, training)
        positions = positions_of(mask)
        for block in self.blocks:
            x = block(x, mask=mask, positions=positions, training=training)
        return self.norm(x) if self.config.norm_first else x

    def attention(self, inputs):
        """Where the first example's tokens looked in the last block, mean of the heads: weights [T, T], names of the axes."""
        x, mask = self._embed(inputs, False)
        for block in self.blocks:
            x, weights = block(x, mask=mask, positions=positions_of(mask), return_weights=True)
        return {"weights": ops.convert_to_numpy(ops.mean(weights[0], axis=0)), "axes": ("token_ids", "token_ids")}

    def _embed(self, inputs, training):
        ids = inputs["token_ids"]
        mask = ops.not_equal(ids, self.config.pad_id)
        x = self.embedding(ids)
        if self.segments is not None:
            x = x + self.segments(inputs["segment_ids"])
        if self.positions is not None:
            x = self.positions(x, positions_of(mask))
        if not self.config.norm_first:
            x = self.norm(x)
        return self.drop(x, training=training), mask


class LSTMEncoder(keras.layers.Layer):
    """Embeddings and a stack of bidirectional LSTM layers.

    Args:
        vocabulary_size: V.
        config: uses embedding_dim, hidden_dim (U), num_layers, dropout, recurrent_dropout and pad_id.
        segments: add a vector for the first and one for the second text of a pair.
        features: F, width of further vectors that stand beside the embeddings; 0: none.

    Call: {"token_ids": int [B, T], with `segments` "segment_ids": int [B, T], 0 or 1, and with `features` "features": [B, T, F]}
    -> [B, T, W], W = 2 U; zeros at padding.

    Example:

    >>> encoder = LSTMEncoder(100, ModelConfig(embedding_dim=8, hidden_dim=6, num_layers=1))
    >>> encoder({"token_ids": keras.ops.ones((2, 5), "int32")}).shape
    TensorShape([2, 5, 12])

    Reference: Graves and Schmidhuber 2005, "Framewise phoneme classification with bidirectional LSTM".
    """

    def __init__(self, vocabulary_size, config: ModelConfig, segments=False, features=0, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size, self.config, self.features = vocabulary_size, config, features
        policy = {"dtype": self.dtype_policy}
        self.embedding = TokenEmbedding(vocabulary_size, config.embedding_dim, name="embedding", **policy)
        self.segments = TokenEmbedding(2, config.embedding_dim, name="segments", **policy) if segments else None
        self.stack = LSTMStack(
            config.hidden_dim,
            num_layers=config.num_layers,
            bidirectional=True,
            dropout=config.dropout,
            recurrent_dropout=config.recurrent_dropout,
            name="lstm",
            **policy,
        )
        # One mask for all tokens of a text: a dropped unit is missing everywhere, not guessed from its neighbours.
        self.drop = keras.layers.Dropout(config.dropout, noise_shape=(None, 1, None), name="dropout", **policy)

    @property
    def width(self):
        """W, the width of the vectors."""
        return 2 * self.config.hidden_dim

    def build(self, input_shape=None):
        self.embedding.build()
        if self.segments is not None:
            self.segments.build()
        self.stack.build((None, None, self.config.embedding_dim + self.features))

    def call(self, inputs, training=None):
        ids = inputs["token_ids"]
        x = self.embedding(ids)
        if self.segments is not None:
            x = x + self.segments(inputs["segment_ids"])
        if self.features:
            x = ops.concatenate([x, inputs["features"]], axis=-1)
        mask = ops.not_equal(ids, self.config.pad_id)
        x = self.stack(self.drop(x, training=training), mask=mask, training=training)
        return self.drop(x, training=training)


ENCODERS = {"lstm": LSTMEncoder, "transformer": TransformerEncoder}


class OnEncoder(keras.Model):
    """What models that stand on an encoder, `self.encoder`, share."""

    def encoded(self, inputs):
        """The model's inputs as the encoder takes them."""
        return inputs

    @property
    def embedding(self):
        """The encoder's."""
        return self.encoder.embedding

    @property
    def attention(self):
        """What the encoder's last block looked at, where it has attention."""
        if not hasattr(self.encoder, "attention"):
            raise AttributeError("attention")
        return lambda inputs: self.encoder.attention(self.encoded(inputs))

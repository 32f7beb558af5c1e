"""Taggers: an encoder, a score for every tag at every unit of a text, and a chain over the tags.

Shapes: B batch, T tokens, N units (words or characters), K tags, C bytes, V vocabulary.
"""

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.characters import CharacterFeatures
from keras_llm.layers.crf import LinearChainCRF
from keras_llm.models.encoders import LSTMEncoder, TransformerEncoder


class Tagger(keras.Model):
    """What both taggers share.

    Args:
        vocabulary_size: V. Id 0 is padding.
        config: what the encoder uses; character_dim (LSTM): width of vectors made from each token's bytes, 0: none.
        allowed: bool [K + 1, K + 1], which tag may follow which, see `LinearChainCRF`.
        crf: learn scores of neighbouring tags; otherwise only what is forbidden counts.
        segments: see the encoders.
        dtype: a dtype policy, passed to every layer; the chain is float32.

    Call: {"token_ids": int [B, T], "places": int [B, N], the columns of the units' first tokens, 0 where there is no unit, and with
    character_dim "character_ids": int [B, T, C]} -> emissions float32 [B, N, K].

    Attributes:
        crf: the chain that reads tags from the emissions.

    Example:

    >>> config = ModelConfig(embedding_dim=8, hidden_dim=8, num_layers=1)
    >>> model = LSTMTagger(100, config, allowed=np.ones((4, 4)))
    >>> model({"token_ids": np.array([[2, 7, 8, 3]]), "places": np.array([[1, 2]])}).shape
    TensorShape([1, 2, 3])

    References: Huang et al. 2015, https://arxiv.org/abs/1508.01991; Ma and Hovy 2016, https://arxiv.org/abs/1603.01354;
    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 5.3.
    """

    encoder_class: type

    def __init__(self, vocabulary_size, config: ModelConfig, allowed, crf=True, segments=False, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size, self.config = vocabulary_size, config
        policy = {"dtype": self.dtype_policy}
        more = {"features": config.character_dim} if config.character_dim else {}
        self.encoder = self.encoder_class(vocabulary_size, config, segments=segments, name="encoder", **more, **policy)
        self.characters = None
        if config.character_dim:
            self.characters = CharacterFeatures(
                config.character_dim, dropout=config.dropout, name="characters", **policy
            )
        self.crf = LinearChainCRF(allowed, learned=crf, name="crf")
        self.score = keras.layers.Dense(self.crf.num_tags, name="score", **policy)
        # An LSTM encoder drops some of its outputs itself.
        rate = 0.0 if self.encoder_class is LSTMEncoder else config.dropout
        self.drop = keras.layers.Dropout(rate, name="dropout", **policy)

    @property
    def embedding(self):
        """The encoder's."""
        return self.encoder.embedding

    def build(self, input_shape=None):
        self.encoder.build()
        if self.characters is not None:
            self.characters.build()
        self.score.build((None, None, self.encoder.width))
        self.crf.build()

    def call(self, inputs, training=None):
        ids = inputs["token_ids"]
        given = {"token_ids": ids}
        if self.encoder.segments is not None:
            given["segment_ids"] = ops.zeros_like(ids)
        if self.characters is not None:
            given["features"] = self.characters(inputs["character_ids"], training=training)
        x = self.encoder(given, training=training)
        x = ops.take_along_axis(x, ops.expand_dims(inputs["places"], -1), axis=1)  # [B, N, W]
        return ops.cast(self.score(self.drop(x, training=training)), "float32")


class LSTMTagger(Tagger):
    """See `Tagger`; the encoder is a bidirectional LSTM."""

    encoder_class = LSTMEncoder


class TransformerTagger(Tagger):
    """See `Tagger`; the encoder is a Transformer."""

    encoder_class = TransformerEncoder

    def attention(self, inputs):
        """What the encoder's last block looked at."""
        given = {"token_ids": inputs["token_ids"]}
        if self.encoder.segments is not None:
            given["segment_ids"] = ops.zeros_like(inputs["token_ids"])
        return self.encoder.attention(given)

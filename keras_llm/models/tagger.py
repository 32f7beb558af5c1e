"""Taggers: an encoder, a score for every tag at every unit of a text, and a chain over the tags.

Shapes: B batch, T tokens, N units (words or characters), K tags, C bytes, V vocabulary, W width of the encoder.
"""

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.characters import CharacterFeatures
from keras_llm.layers.crf import LinearChainCRF
from keras_llm.layers.token_dropout import TokenDropout
from keras_llm.models.encoders import ENCODERS, OnEncoder


class Tagger(OnEncoder):
    """Scores tags for the units of a text.

    Args:
        vocabulary_size: V.
        config: the encoder's shape; also uses dropout and character_dim (lstm): the width of a vector made from each token's
            bytes, which stands beside its embedding; and token_dropout: while training, this share of the tokens is unknown.
        encoder: "lstm" or "transformer".
        allowed: bool [K + 1, K + 1], which tag may follow which, see `LinearChainCRF`.
        crf: learn how well tags follow each other; otherwise only what is forbidden counts.
        unknown_id: of unknown tokens.
        dtype: a dtype policy, passed to every layer but the chain, which is float32.

    Call: {"token_ids": int [B, T], "places": int [B, N], the columns of the units' first tokens, 0 where there is no unit, and
    with character_dim "character_ids": int [B, T, C]} -> emissions float32 [B, N, K].

    Attributes:
        crf: the chain that reads tags from the emissions.

    Example:

    >>> config = ModelConfig(embedding_dim=8, hidden_dim=8, num_layers=1)
    >>> model = Tagger(100, config, "lstm", allowed=np.ones((4, 4)))
    >>> model({"token_ids": np.array([[2, 7, 8, 3]]), "places": np.array([[1, 2]])}).shape
    TensorShape([1, 2, 3])

    References: Huang et al. 2015, https://arxiv.org/abs/1508.01991; Ma and Hovy 2016, https://arxiv.org/abs/1603.01354;
    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 5.3.
    """

    heads = ("score", "crf")

    def __init__(
        self, vocabulary_size, config: ModelConfig, encoder, allowed, crf=True, unknown_id=1, dtype=None, **kwargs
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size, self.config = vocabulary_size, config
        policy = {"dtype": self.dtype_policy}
        features = {"features": config.character_dim} if config.character_dim else {}
        self.encoder = ENCODERS[encoder](
            vocabulary_size, config, segments=config.segments, name="encoder", **features, **policy
        )
        self.characters = None
        if config.character_dim:
            self.characters = CharacterFeatures(
                config.character_dim, dropout=config.dropout, name="characters", **policy
            )
        # An LSTM encoder drops some of its outputs itself.
        self.drop = keras.layers.Dropout(0.0 if encoder == "lstm" else config.dropout, name="dropout", **policy)
        self.drop_tokens = TokenDropout(config.token_dropout, unknown_id, config.pad_id, name="token_dropout")
        self.crf = LinearChainCRF(allowed, learned=crf, name="crf")
        self.score = keras.layers.Dense(self.crf.num_tags, name="score", **policy)

    def build(self, input_shape=None):
        self.encoder.build()
        if self.characters is not None:
            self.characters.build()
        self.score.build((None, None, self.encoder.width))
        self.crf.build()

    def call(self, inputs, training=None):
        given = self.encoded(inputs)
        given["token_ids"] = self.drop_tokens(given["token_ids"], training=training)
        if self.characters is not None:
            given["features"] = self.characters(inputs["character_ids"], training=training)
        x = self.encoder(given, training=training)
        x = ops.take_along_axis(x, ops.expand_dims(inputs["places"], -1), axis=1)  # [B, N, W]
        return ops.cast(self.score(self.drop(x, training=training)), "float32")

    def encoded(self, inputs):
        """What the encoder reads; a text by itself is the first of a pair."""
        ids = inputs["token_ids"]
        return {"token_ids": ids, "segment_ids": ops.zeros_like(ids)} if self.config.segments else {"token_ids": ids}

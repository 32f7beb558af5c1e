"""The LSTM encoder-decoder with attention: a question in, an answer out.

Shapes: B batch, S source length, T target length, D embedding width, U units, V vocabulary.
"""

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.attention import AdditiveAttention, DotAttention
from keras_llm.layers.copying import PointerGenerator
from keras_llm.layers.embedding import TokenEmbedding
from keras_llm.layers.recurrent import LSTMStack

PAD = 0


class LSTMEncoderDecoder(keras.Model):
    """A bidirectional LSTM reads the source; an LSTM, begun with its last states, writes the target, and at each token
    looks back at the source by attention. Source and target share one embedding, which is also the output head.

    Args:
        vocabulary_size: V. Id 0 is padding.
        config: uses embedding_dim, hidden_dim, num_layers, dropout, attention ("additive": Bahdanau, "dot": Luong's general) and
            copy (a token may also be copied from where the attention looks).
        dtype: a dtype policy, passed to every layer.

    Call: {"source_ids": int [B, S], "target_ids": int [B, T]} -> logits float32 [B, T, V]. Target ids begin with the start id.

    Example:

    >>> model = LSTMEncoderDecoder(100, ModelConfig(embedding_dim=8, hidden_dim=8, num_layers=1))
    >>> ids = keras.ops.ones((2, 5), "int32")
    >>> model({"source_ids": ids, "target_ids": ids}).shape
    TensorShape([2, 5, 100])

    Reference: Bahdanau et al. 2014, https://arxiv.org/abs/1409.0473; Luong et al. 2015, https://arxiv.org/abs/1508.04025.
    """

    def __init__(self, vocabulary_size, config: ModelConfig, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size = vocabulary_size
        self.config = config
        units, policy = config.hidden_dim, {"dtype": self.dtype_policy}
        self.embedding = TokenEmbedding(vocabulary_size, config.embedding_dim, name="embedding", **policy)
        stack = {"units": units, "num_layers": config.num_layers, "dropout": config.dropout, **policy}
        self.encoder = LSTMStack(bidirectional=True, name="encoder", **stack)
        self.decoder = LSTMStack(name="decoder", **stack)
        # From the encoder's two directions to the decoder's first states, one product for (h, c) of all layers.
        self.bridge = keras.layers.Dense(2 * config.num_layers * units, name="bridge", **policy)
        if config.attention == "additive":
            self.look_back = AdditiveAttention(units, name="attention", **policy)
        else:
            self.look_back = DotAttention("general", name="attention", **policy)
        self.combine = keras.layers.Dense(config.embedding_dim, activation="tanh", name="combine", **policy)
        self.copy = PointerGenerator(name="copy", **policy) if config.copy else None
        self.drop = keras.layers.Dropout(config.dropout, name="dropout", **policy)

    def build(self, input_shape=None):
        units, layers = self.config.hidden_dim, self.config.num_layers
        self.embedding.build()
        self.encoder.build((None, None, self.config.embedding_dim))
        self.decoder.build((None, None, self.config.embedding_dim))
        self.bridge.build((None, 4 * layers * units))
        self.look_back.build((None, None, units), (None, None, 2 * units))
        self.combine.build((None, None, 3 * units))
        if self.copy is not None:
            self.copy.build((None, None, self.vocabulary_size), (None, None, self.config.embedding_dim))

    def call(self, inputs, training=None):
        state = self._encode(inputs["source_ids"], training)
        x = self.drop(self.embedding(inputs["target_ids"]), training=training)
        # Padding comes last in a target and is not scored, so the decoder needs no mask.
        x = self.decoder(x, initial_state=state["decoder"], training=training)  # [B, T, U]
        x, weights = self._combine(x, state)
        return self._logits(self.drop(x, training=training), weights, state)

    def start(self, source_ids, max_length):
        """What `step` needs to begin: the encoded source [B, S, 2 U] and the decoder's first states."""
        return self._encode(source_ids, training=False)

    def step(self, ids, state):
        """The next token's logits float32 [B, V] after `ids` int [B], and the new state."""
        x, after = self.decoder.step(self.embedding(ids), state["decoder"])
        x, weights = self._combine(ops.expand_dims(x, 1), state)
        return self._logits(x, weights, state)[:, 0], {**state, "decoder": after}

    def attention(self, inputs):
        """Where the first example's target looked: weights [T, S] and the names of the axes."""
        state = self._encode(inputs["source_ids"], training=False)
        x = self.decoder(self.embedding(inputs["target_ids"]), initial_state=state["decoder"])
        _, weights = self._combine(x, state)
        return {"weights": ops.convert_to_numpy(weights[0]), "axes": ("target_ids", "source_ids")}

    def _encode(self, source_ids, training):
        mask = ops.not_equal(source_ids, PAD)
        x = self.drop(self.embedding(source_ids), training=training)
        memory, states = self.encoder(x, mask=mask, return_state=True, training=training)  # [B, S, 2 U]
        flat = ops.concatenate([part for state in states for part in state], axis=-1)
        parts = ops.split(ops.tanh(self.bridge(flat)), 2 * self.config.num_layers, axis=-1)
        return {
            # c stays float32 whatever the precision: the loop's state must enter it as it leaves.
            "decoder": tuple((h, ops.cast(c, "float32")) for h, c in zip(parts[::2], parts[1::2], strict=True)),
            "memory": memory,
            "keys": self.look_back.keys(memory),
            "mask": mask,
            "source_ids": source_ids,
        }

    def _combine(self, x, state):
        """The decoder's output [B, T, U] and what it finds in the source -> [B, T, D], weights [B, T, S]."""
        context, weights = self.look_back(x, state["memory"], mask=state["mask"], keys=state["keys"])
        return self.combine(ops.concatenate([x, context], axis=-1)), weights

    def _logits(self, x, weights, state):
        logits = self.embedding.logits(x)
        return logits if self.copy is None else self.copy(logits, x, weights, state["source_ids"])

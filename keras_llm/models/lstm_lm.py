"""LSTM language models: a state that is carried from token to token, with or without attention to the tokens before.

Shapes: B batch, T length, D embedding width, U units, V vocabulary.
"""

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.cache import slice_update
from keras_llm.layers.embedding import TokenEmbedding
from keras_llm.layers.linear import Linear
from keras_llm.layers.multi_head_attention import MultiHeadAttention
from keras_llm.layers.normalization import normalisation
from keras_llm.layers.recurrent import LSTMStack
from keras_llm.models.scoring import log_probs_in_windows, token_log_probs

SCORED_AT_ONCE = 64  # tokens of each text


class LSTMLanguageModel(keras.Model):
    """Embedding, a stack of LSTM layers, and scores of all tokens.

    While training, the last state of a batch is the first of the next (truncated back-propagation through time), once
    `carry` has made room for it.

    Args:
        vocabulary_size: V. Id 0 is padding.
        config: uses embedding_dim, hidden_dim, num_layers, dropout (of embeddings, between layers and of outputs, the same units
            at every step), recurrent_dropout and tied (the output head is the embedding's matrix; behind a layer from U to
            D where they differ).
        dtype: a dtype policy, passed to every layer.

    Call: {"token_ids": int [B, T], "keep": float [B] or absent} -> logits float32 [B, T, V], of the next tokens. `keep` is 0
    for rows that do not go on where the batch before ended.

    Example:

    >>> model = LSTMLanguageModel(100, ModelConfig(embedding_dim=8, hidden_dim=8, num_layers=1))
    >>> model({"token_ids": keras.ops.ones((2, 5), "int32")}).shape
    TensorShape([2, 5, 100])

    Reference: Zaremba et al. 2014, https://arxiv.org/abs/1409.2329; Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287
    (the same dropout at every step); Press and Wolf 2017, https://arxiv.org/abs/1608.05859 (tied head).
    """

    def __init__(self, vocabulary_size, config: ModelConfig, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size, self.config = vocabulary_size, config
        policy = {"dtype": self.dtype_policy}
        self.embedding = TokenEmbedding(vocabulary_size, config.embedding_dim, name="embedding", **policy)
        self.stack = LSTMStack(
            config.hidden_dim,
            num_layers=config.num_layers,
            dropout=config.dropout,
            recurrent_dropout=config.recurrent_dropout,
            name="lstm",
            **policy,
        )
        self.project = None
        if config.tied and config.hidden_dim != config.embedding_dim:
            self.project = Linear(config.embedding_dim, name="project", **policy)
        self.head = None if config.tied else Linear(vocabulary_size, name="head", **policy)
        self.bias = None
        self.drop = keras.layers.Dropout(config.dropout, noise_shape=(None, 1, None), name="dropout", **policy)
        self.carried = CarriedState(config.num_layers, config.hidden_dim, name="carried")

    def build(self, input_shape=None):
        width = (None, None, self.config.hidden_dim)
        self.embedding.build()
        self.stack.build((None, None, self.config.embedding_dim))
        for layer in (self.project, self.head):
            if layer is not None:
                layer.build(width)
        if self.config.tied:  # the head's own bias: frequent words are likely whatever the state is
            self.bias = self.add_weight(name="bias", shape=(self.vocabulary_size,), initializer="zeros")

    def carry(self, batch_size):
        """Makes room for the state that training carries from batch to batch; all its batches have `batch_size` rows."""
        self.carried.build((batch_size,))

    def call(self, inputs, training=None):
        carries = training and self.carried.built and "keep" in inputs
        state = self.carried.read(inputs["keep"]) if carries else None
        x = self.drop(self.embedding(inputs["token_ids"]), training=training)
        y, state = self.stack(x, initial_state=state, return_state=True, training=training)
        if carries:
            self.carried.write(state)
        return self._logits(self.drop(y, training=training))

    def start(self, ids, count, length):
        """What `step` needs after the first `count` columns of ids [B, P]: (h, c) of every layer."""
        mask = ops.broadcast_to(ops.arange(ops.shape(ids)[1]) < count, ops.shape(ids))
        _, state = self.stack(self.embedding(ids), mask=mask, return_state=True)
        return state

    def step(self, ids, state):
        """The next token's logits float32 [B, V] after `ids` int [B], and the new state."""
        y, state = self.stack.step(self.embedding(ids), state)
        return self._logits(ops.expand_dims(y, 1))[:, 0], state

    def log_probs(self, ids):
        """Log-probability of each token of ids [B, T] but the first, given all before it: float32 [B, T - 1]."""
        batch, total = ops.shape(ids)
        count = total - 1
        turns = -(-count // SCORED_AT_ONCE)
        behind = turns * SCORED_AT_ONCE - count
        ids = ops.concatenate([ids, ops.zeros((batch, behind), ids.dtype)], axis=1)

        def body(first, state, scores):
            some = ops.take(ids, first + ops.arange(SCORED_AT_ONCE + 1), axis=1)
            y, state = self.stack(self.embedding(some[:, :-1]), initial_state=state, return_state=True)
            found = token_log_probs(self._logits(y), some[:, 1:])
            return first + SCORED_AT_ONCE, state, slice_update(scores, (0, first), found)

        zeros = ops.zeros((batch, self.config.hidden_dim))
        state = tuple((ops.cast(zeros, self.compute_dtype), zeros) for _ in range(self.config.num_layers))
        first = (ops.zeros((), "int32"), state, ops.zeros((batch, turns * SCORED_AT_ONCE), "float32"))
        _, _, scores = ops.while_loop(lambda first, *_: first < count, body, first)
        return scores[:, :count]

    def _logits(self, y):
        if self.head is not None:
            return ops.cast(self.head(y), "float32")
        y = y if self.project is None else self.project(y)
        return self.embedding.logits(y) + ops.cast(self.bias, "float32")


class LSTMAttentionLanguageModel(LSTMLanguageModel):
    """An LSTM language model that also looks back at its own outputs, by causal attention over the whole context.

    What came long ago need not survive in the state. Each batch begins anew: no state is carried.

    Args:
        vocabulary_size, dtype: as for `LSTMLanguageModel`.
        config: uses num_heads, norm and context_length, too; hidden_dim must be a multiple of num_heads.

    Call: {"token_ids": int [B, T], "segment_ids" and "positions": int [B, T] or absent} -> logits float32 [B, T, V].
    Attention stays within a segment.

    Reference: Daniluk et al. 2017, https://arxiv.org/abs/1702.04521; Merity 2019, https://arxiv.org/abs/1911.11423 (one
    attention layer over an LSTM).
    """

    carry = None

    def __init__(self, vocabulary_size, config: ModelConfig, dtype=None, **kwargs):
        super().__init__(vocabulary_size, config, dtype=dtype, **kwargs)
        policy = {"dtype": self.dtype_policy}
        self.norm = normalisation(config.norm, name="norm", **policy)
        self.attention_layer = MultiHeadAttention(config.num_heads, rotary=True, name="attention", **policy)

    def build(self, input_shape=None):
        super().build(input_shape)
        width = (None, None, self.config.hidden_dim)
        self.norm.build(width)
        self.attention_layer.build(width)

    def call(self, inputs, training=None):
        x = self.drop(self.embedding(inputs["token_ids"]), training=training)
        y = self.stack(x, training=training)
        seen = self.attention_layer(
            self.norm(y),
            causal=True,
            segment_ids=inputs.get("segment_ids"),
            positions=inputs.get("positions"),
            training=training,
        )
        return self._logits(self.drop(y + seen, training=training))

    def start(self, ids, count, length):
        mask = ops.broadcast_to(ops.arange(ops.shape(ids)[1]) < count, ops.shape(ids))
        y, state = self.stack(self.embedding(ids), mask=mask, return_state=True)
        cache = self.attention_layer.new_cache(ids, ops.minimum(length, self.config.context_length))
        _, cache = self.attention_layer(self.norm(y), causal=True, cache=cache, position=0)
        return {"lstm": state, "cache": cache, "position": ops.cast(count, "int32")}

    def step(self, ids, state):
        y, lstm = self.stack.step(self.embedding(ids), state["lstm"])
        y, position = ops.expand_dims(y, 1), state["position"]
        seen, cache = self.attention_layer(self.norm(y), causal=True, cache=state["cache"], position=position)
        return self._logits(y + seen)[:, 0], {"lstm": lstm, "cache": cache, "position": position + 1}

    def log_probs(self, ids):
        context = self.config.context_length
        return log_probs_in_windows(self, ids, context, overlap=context // 2)


class CarriedState(keras.layers.Layer):
    """Where training keeps an LSTM's last state for the next batch. It is built when training begins, and no part of the
    model's weights file.

    Args:
        num_layers: LSTM layers.
        units: U.

    Example:

    >>> state = CarriedState(num_layers=1, units=4)
    >>> state.build((2,))
    >>> state.read(keras.ops.ones((2,)))[0][0].shape
    TensorShape([2, 4])
    """

    def __init__(self, num_layers, units, **kwargs):
        super().__init__(**kwargs)
        self.num_layers, self.units = num_layers, units

    def build(self, shape):
        shape = (shape[0], self.units)
        self.parts = [
            self.add_weight(name=f"{name}_{i}", shape=shape, initializer="zeros", trainable=False, dtype="float32")
            for i in range(self.num_layers)
            for name in "hc"
        ]

    def read(self, keep):
        """(h, c) of every layer [B, U], zeros where keep [B] is 0."""
        parts = [part.value * ops.expand_dims(keep, 1) for part in self.parts]
        return tuple(zip(parts[::2], parts[1::2], strict=True))

    def write(self, state):
        """Keeps (h, c) of every layer; no gradient goes through it."""
        for variable, value in zip(self.parts, (value for pair in state for value in pair), strict=True):
            variable.assign(ops.cast(ops.stop_gradient(value), "float32"))

"""Attention of one sequence to another with one head: additive and dot-product.

Shapes: B batch, T query length, S memory length, D width of the query, M width of the memory.
Masks are true at what may be seen. Scores are masked and normalised in float32 whatever the compute dtype is.
"""

import keras
from keras import ops

# Far below any score, far above float32's overflow; scores never see it in half precision.
HIDDEN = -1e9


class AdditiveAttention(keras.layers.Layer):
    """Scores = vᵀ tanh(W query + U memory), softmax over the memory.

    Args:
        units: width of the hidden layer between query and memory.

    Call:
        query: [B, T, D].
        memory: [B, S, M].
        mask: bool [B, S], true at real memory; all of it when left out.
        keys: what `keys(memory)` returned, to project an unchanging memory once while decoding.

    Returns:
        context [B, T, M] and weights float32 [B, T, S].

    Example:

    >>> context, weights = AdditiveAttention(8)(keras.ops.ones((1, 2, 4)), keras.ops.ones((1, 5, 6)))
    >>> context.shape, weights.shape
    (TensorShape([1, 2, 6]), TensorShape([1, 2, 5]))

    Reference: Bahdanau et al. 2014, https://arxiv.org/abs/1409.0473, appendix A.1.2.
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.query_projection = keras.layers.Dense(units, use_bias=False, dtype=self.dtype_policy, name="query")
        self.key_projection = keras.layers.Dense(units, dtype=self.dtype_policy, name="key")

    def build(self, query_shape, memory_shape):
        self.query_projection.build(query_shape)
        self.key_projection.build(memory_shape)
        self.score = self.add_weight(name="score", shape=(self.units, 1), initializer="glorot_uniform")

    def keys(self, memory):
        """[B, S, M] -> [B, S, units]."""
        return self.key_projection(memory)

    def call(self, query, memory, mask=None, keys=None):
        keys = self.keys(memory) if keys is None else keys
        query = self.query_projection(query)
        hidden = ops.tanh(ops.expand_dims(query, 2) + ops.expand_dims(keys, 1))  # [B, T, S, units]
        scores = ops.squeeze(ops.matmul(hidden, ops.convert_to_tensor(self.score)), -1)  # [B, T, S]
        return _attend(scores, memory, mask)

    def compute_mask(self, *args, **kwargs):
        return None  # Masks are passed explicitly; Keras' implicit ones end here.

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class DotAttention(keras.layers.Layer):
    """Scores = query · memory ("dot") or queryᵀ W memory ("general"), softmax over the memory.

    Args:
        kind: "dot" needs memory as wide as the query; "general" learns the matrix W between them.

    Call and returns: as `AdditiveAttention`.

    Example:

    >>> context, weights = DotAttention("general")(keras.ops.ones((1, 2, 4)), keras.ops.ones((1, 5, 6)))
    >>> context.shape, weights.shape
    (TensorShape([1, 2, 6]), TensorShape([1, 2, 5]))

    Reference: Luong et al. 2015, https://arxiv.org/abs/1508.04025, section 3.1.
    """

    def __init__(self, kind="dot", **kwargs):
        super().__init__(**kwargs)
        if kind not in ("dot", "general"):
            raise ValueError(f'kind is "dot" or "general". Received: kind={kind!r}.')
        self.kind = kind

    def build(self, query_shape, memory_shape):
        if self.kind == "general":
            self.key_projection = keras.layers.Dense(
                query_shape[-1], use_bias=False, dtype=self.dtype_policy, name="key"
            )
            self.key_projection.build(memory_shape)
        elif query_shape[-1] != memory_shape[-1]:
            raise ValueError(
                'kind="dot" needs memory as wide as the query. '
                f'Received: query {query_shape}, memory {memory_shape}. Use kind="general".'
            )

    def keys(self, memory):
        """[B, S, M] -> [B, S, D]."""
        return self.key_projection(memory) if self.kind == "general" else memory

    def call(self, query, memory, mask=None, keys=None):
        keys = self.keys(memory) if keys is None else keys
        scores = ops.matmul(query, ops.transpose(keys, (0, 2, 1)))  # [B, T, S]
        return _attend(scores, memory, mask)

    def compute_mask(self, *args, **kwargs):
        return None  # Masks are passed explicitly; Keras' implicit ones end here.

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


def _attend(scores, memory, mask):
    """Scores [B, T, S] over memory [B, S, M] -> context [B, T, M], weights float32 [B, T, S]."""
    scores = ops.cast(scores, "float32")
    if mask is not None:
        scores = scores + penalty(ops.expand_dims(mask, 1))
    weights = ops.softmax(scores, axis=-1)
    return ops.matmul(ops.cast(weights, memory.dtype), memory), weights


def penalty(mask):
    """0 where the mask is true, `HIDDEN` elsewhere, float32."""
    return (1.0 - ops.cast(mask, "float32")) * HIDDEN

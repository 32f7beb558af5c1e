"""Multi-head attention over the sequence itself or over a memory, whole or step by step with a key/value cache.

Shapes: B batch, T query length, S memory length, H heads, K key/value heads, D width, d width of a head.
Masks are true at what may be seen. Scores are masked and normalised in float32 whatever the compute dtype is.
"""

import keras
from keras import ops

from keras_llm.layers.attention import penalty
from keras_llm.layers.cache import empty, write
from keras_llm.layers.embedding import RotaryEmbedding
from keras_llm.layers.linear import Linear, reshape
from keras_llm.layers.normalization import EPSILON, RMSNorm


class MultiHeadAttention(keras.layers.Layer):
    """Scaled dot-product attention in H heads over K key/value heads (K = H: multi-head, K < H: grouped-query,
    K = 1: multi-query), over the sequence itself or over a memory, whole or step by step with a cache.

    Args:
        num_heads: H.
        num_kv_heads: K; must divide H; 0 means H.
        cross: attend to a memory rather than to `x` itself.
        rotary: turn queries and keys by their positions (self-attention only): True, or a dict of `RotaryEmbedding`'s arguments.
        dropout: share of the attention weights dropped while training.
        head_dim: d; 0 means D / H, which H must divide.
        qkv_bias: biases in the projections of queries, keys and values.
        output_bias: bias in the projection of the result.
        qk_norm: normalise each head's queries and keys by their root mean square, before they are turned (self-attention only).
        norm_epsilon: of that normalisation.
        scaled: divide the scores by the root of d; T5 does not.

    Call:
        x: [B, T, D], the queries.
        memory: with `cross`, [B, S, M] or what `project_memory` made of it once.
        mask: bool [B, S] over the keys, true at real tokens; with a cache [B, length] over all the tokens it will hold.
        causal: a query sees only keys up to its own position.
        segment_ids: int [B, T], self-attention without a cache: a query sees only keys with its own number, so that several
            documents can share a row.
        bias: float32 [H, T, S], is added to the scores: see `RelativePositions`.
        cache: what `new_cache` or the call before returned. The keys and values of `x` are put at `position`.
        position: int scalar, how many tokens came before; needed with `cache`. A token past the cache's room takes the place of
            the oldest one (a sliding window; give one token at a time then).
        positions: int, broadcastable to [B, T], the position ids for rotary; `position` + 0, 1, 2… when left out.
        return_weights: also return the attention weights, float32 [B, H, T, S].

    Returns:
        y [B, T, D]; with a cache (y, cache); with return_weights the weights come last.

    Example:

    >>> attend = MultiHeadAttention(num_heads=4, num_kv_heads=2, rotary=True)
    >>> attend(keras.ops.ones((1, 5, 16)), causal=True).shape
    TensorShape([1, 5, 16])

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Ainslie et al. 2023, https://arxiv.org/abs/2305.13245;
    Henry et al. 2020, https://arxiv.org/abs/2010.04245 (normalised queries and keys).
    """

    def __init__(
        self,
        num_heads,
        num_kv_heads=0,
        cross=False,
        rotary=False,
        dropout=0.0,
        head_dim=0,
        qkv_bias=True,
        output_bias=True,
        qk_norm=False,
        norm_epsilon=EPSILON,
        scaled=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.cross = cross
        self.rotary = rotary
        self.dropout = dropout
        self.head_dim = head_dim
        self.qkv_bias = qkv_bias
        self.output_bias = output_bias
        self.qk_norm = qk_norm
        self.norm_epsilon = norm_epsilon
        self.scaled = scaled
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                "num_heads must be a multiple of num_kv_heads. "
                f"Received: num_heads={num_heads}, num_kv_heads={num_kv_heads}."
            )
        if cross and rotary:
            raise ValueError(f"Rotary positions are for self-attention. Received: cross=True, rotary={rotary!r}.")
        if cross and qk_norm:
            raise ValueError("Queries and keys are normalised in self-attention. Received: cross=True, qk_norm=True.")

    def build(self, x_shape, memory_shape=None):
        width = x_shape[-1]
        if not self.head_dim and width % self.num_heads:
            raise ValueError(
                f"The width must be a multiple of num_heads. Received: width={width}, num_heads={self.num_heads}."
            )
        self.head_dim = self.head_dim or width // self.num_heads
        query_dim, kv_dim = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        dense = {"use_bias": self.qkv_bias, "dtype": self.dtype_policy}

        # One product for queries, keys and values is faster than three; each part keeps its own glorot limit.
        def initialise(*fans, first=1.0):
            def values(shape, dtype=None):
                parts = [keras.initializers.GlorotUniform()((shape[0], fan), dtype=dtype) for fan in fans]
                return ops.concatenate([parts[0] * first, *parts[1:]], axis=1)

            return values

        # Scores that are not divided by the root of d begin as small as those that are.
        first = 1.0 if self.scaled else self.head_dim**-0.5

        if self.cross:
            source = memory_shape if isinstance(memory_shape, tuple) else x_shape
            self.query_projection = Linear(
                (self.num_heads, self.head_dim),
                kernel_initializer="glorot_uniform" if self.scaled else initialise(query_dim, first=first),
                name="query",
                **dense,
            )
            self.query_projection.build(x_shape)
            self.kv_projection = Linear(
                (2 * self.num_kv_heads, self.head_dim),
                kernel_initializer=initialise(kv_dim, kv_dim),
                name="key_value",
                **dense,
            )
            self.kv_projection.build(source)
        else:
            self.qkv_projection = Linear(
                (self.num_heads + 2 * self.num_kv_heads, self.head_dim),
                kernel_initializer=initialise(query_dim, kv_dim, kv_dim, first=first),
                name="query_key_value",
                **dense,
            )
            self.qkv_projection.build(x_shape)
            if self.rotary:
                settings = self.rotary if isinstance(self.rotary, dict) else {}
                self.rotate = RotaryEmbedding(self.head_dim, dtype=self.dtype_policy, name="rotary", **settings)
            if self.qk_norm:
                norm = {"epsilon": self.norm_epsilon, "dtype": self.dtype_policy}
                self.query_norm, self.key_norm = RMSNorm(name="query_norm", **norm), RMSNorm(name="key_norm", **norm)
                self.query_norm.build((None, None, self.num_heads, self.head_dim))
                self.key_norm.build((None, None, self.num_kv_heads, self.head_dim))
        self.output_projection = Linear(width, use_bias=self.output_bias, dtype=self.dtype_policy, name="output")
        self.output_projection.build((*x_shape[:-1], query_dim))
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="dropout")

    def project_memory(self, memory):
        """[B, S, M] -> keys and values of a memory that stays the same while decoding, each [B, K, S, d]."""
        kv = self.kv_projection(memory)  # [B, S, 2 K, d]
        key, value = ops.split(_heads_first(kv), 2, axis=1)
        return {"key": key, "value": value}

    def new_cache(self, like, length):
        """A cache without tokens, for at most `length` of them and as many rows as the tensor `like` [B, ...] has."""
        return {
            name: empty(like, self.num_kv_heads, length, self.head_dim, self.compute_dtype) for name in ("key", "value")
        }

    def call(
        self,
        x,
        memory=None,
        mask=None,
        causal=False,
        segment_ids=None,
        bias=None,
        cache=None,
        position=None,
        positions=None,
        return_weights=False,
        training=None,
    ):
        if self.cross:
            memory = memory if isinstance(memory, dict) else self.project_memory(memory)
            query = _heads_first(self.query_projection(x))
            key, value = memory["key"], memory["value"]
        else:
            query, key, value = self._project(x, position, positions)
            if cache is not None:
                key, value = write(cache["key"], key, position), write(cache["value"], value, position)
                cache = {"key": key, "value": value}
        hidden = _hidden(mask, causal, ops.shape(x)[1], ops.shape(key)[2], None if cache is None else position)
        if segment_ids is not None:
            apart = penalty(segment_ids[:, None, :, None] == segment_ids[:, None, None, :])  # [B, 1, T, T]
            hidden = apart if hidden is None else hidden + apart
        if bias is not None:
            hidden = bias if hidden is None else hidden + bias
        y, weights = self._attend(query, key, value, hidden, training)
        y = ops.transpose(y, (0, 2, 1, 3))  # [B, H, T, d] -> [B, T, H, d]
        y = reshape(y, (*ops.shape(x)[:2], self.num_heads * self.head_dim))
        result = (self.output_projection(y),)
        if cache is not None:
            result += (cache,)
        if return_weights:
            result += (weights,)
        return result if len(result) > 1 else result[0]

    def _project(self, x, position, positions):
        """x [B, T, D] -> queries [B, H, T, d], keys and values [B, K, T, d]."""
        rotated = self.num_heads + self.num_kv_heads
        qkv = self.qkv_projection(x)  # [B, T, H + 2 K, d]
        if self.qk_norm:
            query, key, value = ops.split(qkv, (self.num_heads, rotated), axis=2)
            qkv = ops.concatenate([self.query_norm(query), self.key_norm(key), value], axis=2)
        if self.rotary:
            if positions is None:
                positions = ops.arange(ops.shape(x)[1]) + (0 if position is None else position)
            qk, value = ops.split(qkv, [rotated], axis=2)
            qkv = ops.concatenate([self.rotate(qk, positions), value], axis=2)
        return ops.split(_heads_first(qkv), (self.num_heads, rotated), axis=1)

    def _attend(self, query, key, value, hidden, training):
        batch, heads, length = ops.shape(query)[:3]
        groups, source = self.num_heads // self.num_kv_heads, ops.shape(key)[2]
        if self.scaled:
            query = query * self.head_dim**-0.5
        if groups > 1:
            # Queries that share a key/value head lie side by side: to group them is a reshape, nothing is repeated.
            query = reshape(query, (batch, self.num_kv_heads, groups * length, self.head_dim))
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))  # [B, K, H / K T, S]
        if groups > 1:
            scores = reshape(scores, (batch, heads, length, source))
        scores = ops.cast(scores, "float32")
        if hidden is not None:
            scores = scores + hidden
        if _is_one(length):
            # A decoding step: TensorFlow's softmax kernel would hand its few rows to other threads and wait for them.
            weights = ops.exp(ops.log_softmax(scores, axis=-1))
        else:
            weights = ops.softmax(scores, axis=-1)  # [B, H, T, S]
        dropped = self.drop(ops.cast(weights, self.compute_dtype), training=training)
        if groups > 1:
            dropped = reshape(dropped, (batch, self.num_kv_heads, groups * length, source))
        y = ops.matmul(dropped, value)  # [B, K, H / K T, d]
        return (reshape(y, (batch, heads, length, self.head_dim)) if groups > 1 else y), weights

    def compute_mask(self, *args, **kwargs):
        return None  # Masks are passed explicitly; Keras' implicit ones end here.

    def get_config(self):
        config = {
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "cross": self.cross,
            "rotary": self.rotary,
            "dropout": self.dropout,
            "head_dim": self.head_dim,
            "qkv_bias": self.qkv_bias,
            "output_bias": self.output_bias,
            "qk_norm": self.qk_norm,
            "norm_epsilon": self.norm_epsilon,
            "scaled": self.scaled,
        }
        return {**super().get_config(), **config}


def _heads_first(x):
    """[B, T, heads, d] -> [B, heads, T, d]."""
    return ops.transpose(x, (0, 2, 1, 3))


def _hidden(mask, causal, length, source, position):
    """What is added to the scores [B, H, T, S]: broadcastable to them, or None when everything may be seen."""
    added = None
    # Without a cache no key lies behind the last query.
    if (causal and not _is_one(length)) or position is not None:
        last = length - 1 if _is_one(length) or not causal else ops.expand_dims(ops.arange(length), 1)  # [] or [T, 1]
        last = last if position is None else last + position
        added = penalty(ops.arange(source) <= last)  # [S] or [T, S]
    if mask is not None:
        padding = penalty(mask[:, None, None, :])  # [B, 1, 1, S]
        added = padding if added is None else added + padding
    return added


def _is_one(length):
    return isinstance(length, int) and length == 1

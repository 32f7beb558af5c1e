"""The Transformer block: self-attention, optional cross-attention and a feed-forward part, each with a residual path.

Shapes: B batch, T length, S memory length, D width, H heads.
"""

import math

import keras
from keras import ops

from keras_llm.layers.linear import Linear
from keras_llm.layers.multi_head_attention import MultiHeadAttention
from keras_llm.layers.normalization import EPSILON, normalisation


@ops.custom_gradient
def gelu(x):
    """The exact GELU, x · Φ(x), with Φ in float32. Its gradient is written out: half the passes over memory of the derived
    one, a sixth of a half-precision training step on CPUs.

    Reference: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.
    """
    exact = ops.cast(x, "float32")
    doubled = ops.erf(exact * math.sqrt(0.5)) + 1.0  # 2 Φ(x)

    def gradient(*upstream):
        density = ops.exp(ops.square(exact) * -0.5) * (1.0 / math.sqrt(2.0 * math.pi))
        return ops.cast(ops.cast(upstream[0], "float32") * (doubled * 0.5 + exact * density), x.dtype)

    # In this form TFLite's converter knows it for its own GELU op.
    return ops.cast((exact * 0.5) * doubled, x.dtype), gradient


def gelu_tanh(x):
    """GELU with Φ approximated by a hyperbolic tangent, as in GPT-2."""
    return ops.gelu(x, approximate=True)


# What the hidden layer goes through; the gated ones take half of it as a gate for the other half.
ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": ops.relu,
    "swiglu": ops.silu,
    "geglu_tanh": gelu_tanh,
}
GATED = ("swiglu", "geglu_tanh")


class FeedForward(keras.layers.Layer):
    """Two products with a nonlinearity between: D -> F -> D. The gated ones multiply a gate into the hidden layer.

    Args:
        feedforward_dim: F.
        activation: "gelu" (exact) | "gelu_tanh" (its approximation) | "relu" | "swiglu" | "geglu_tanh" (both gated).
        use_bias: biases in both products.

    Example:

    >>> FeedForward(32, "swiglu")(keras.ops.ones((1, 3, 8))).shape
    TensorShape([1, 3, 8])

    Reference: Shazeer 2020, https://arxiv.org/abs/2002.05202 (SwiGLU, GEGLU).
    """

    def __init__(self, feedforward_dim, activation="gelu", use_bias=True, **kwargs):
        super().__init__(**kwargs)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}. Received: activation={activation!r}.")
        self.feedforward_dim = feedforward_dim
        self.activation = activation
        self.use_bias = use_bias

    def build(self, x_shape):
        width = self.feedforward_dim * (2 if self.activation in GATED else 1)
        self.inner = Linear(width, use_bias=self.use_bias, dtype=self.dtype_policy, name="inner")
        self.outer = Linear(x_shape[-1], use_bias=self.use_bias, dtype=self.dtype_policy, name="outer")
        self.inner.build(x_shape)
        self.outer.build((*x_shape[:-1], self.feedforward_dim))

    def call(self, x):
        x, function = self.inner(x), ACTIVATIONS[self.activation]
        if self.activation in GATED:
            gate, x = ops.split(x, 2, axis=-1)
            x = function(gate) * x
        else:
            x = function(x)
        return self.outer(x)

    def get_config(self):
        config = {
            "feedforward_dim": self.feedforward_dim,
            "activation": self.activation,
            "use_bias": self.use_bias,
        }
        return {**super().get_config(), **config}


class TransformerBlock(keras.layers.Layer):
    """One layer of an encoder (bidirectional), of a language model (`causal`) or of a decoder with a memory.

    Args:
        num_heads, num_kv_heads: of the attentions, see `MultiHeadAttention`.
        hidden_dim: D.
        feedforward_dim: F, inside the feed-forward part.
        activation, feedforward_bias: see `FeedForward`.
        norm: "layer" | "rms".
        norm_first: normalise what enters each part (GPT-2 and later) rather than the sum that leaves it (2017, BERT).
            With it, the model normalises once more after the last block.
        cross_attention: attend to a memory between self-attention and feed-forward.
        causal: a token sees only itself and those before it.
        rotary: rotary positions in the self-attention, see `MultiHeadAttention`.
        norm_epsilon: of all its normalisations.
        head_dim, qkv_bias, output_bias, scaled: of the attentions.
        qk_norm: of the self-attention.
        dropout: on the attention weights and on what each part adds, while training.

    Call:
        x: [B, T, D].
        mask: bool [B, T], true at real tokens.
        memory: with `cross_attention`, [B, S, D].
        memory_mask: bool [B, S].
        segment_ids: int [B, T]; tokens see only tokens with their own number, see `MultiHeadAttention`.
        bias: float32 [H, T, T], with a cache [H, T, its length], is added to the scores of the self-attention.
        cache: what `new_cache` or the call before returned; see `MultiHeadAttention`.
        position: int scalar, how many tokens the cache already holds.
        positions: int, broadcastable to [B, T], position ids for rotary.
        return_weights: also return the weights of the cross-attention, else of the self-attention, float32 [B, H, T, S].

    Returns:
        y [B, T, D]; with a cache (y, cache); with return_weights the weights come last.

    Example:

    >>> block = TransformerBlock(num_heads=2, hidden_dim=8, feedforward_dim=16, causal=True)
    >>> block(keras.ops.ones((1, 3, 8))).shape
    TensorShape([1, 3, 8])

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Xiong et al. 2020, https://arxiv.org/abs/2002.04745.
    """

    def __init__(
        self,
        num_heads,
        hidden_dim,
        feedforward_dim,
        num_kv_heads=0,
        activation="gelu",
        norm="rms",
        norm_first=True,
        cross_attention=False,
        causal=False,
        rotary=False,
        dropout=0.0,
        norm_epsilon=EPSILON,
        head_dim=0,
        qkv_bias=True,
        output_bias=True,
        feedforward_bias=True,
        qk_norm=False,
        scaled=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.feedforward_dim = feedforward_dim
        self.num_kv_heads = num_kv_heads
        self.activation = activation
        self.norm = norm
        self.norm_first = norm_first
        self.cross_attention = cross_attention
        self.causal = causal
        self.rotary = rotary
        self.dropout = dropout
        self.norm_epsilon = norm_epsilon
        self.head_dim = head_dim
        self.qkv_bias = qkv_bias
        self.output_bias = output_bias
        self.feedforward_bias = feedforward_bias
        self.qk_norm = qk_norm
        self.scaled = scaled
        policy = {"dtype": self.dtype_policy}
        normal = {"norm": norm, "epsilon": norm_epsilon, **policy}
        heads = {
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "dropout": dropout,
            "head_dim": head_dim,
            "qkv_bias": qkv_bias,
            "output_bias": output_bias,
            "scaled": scaled,
            **policy,
        }
        self.self_attention = MultiHeadAttention(
            rotary=rotary, qk_norm=qk_norm, norm_epsilon=norm_epsilon, name="self_attention", **heads
        )
        self.self_norm = normalisation(name="self_norm", **normal)
        if cross_attention:
            self.memory_attention = MultiHeadAttention(cross=True, name="memory_attention", **heads)
            self.memory_norm = normalisation(name="memory_norm", **normal)
        self.feedforward = FeedForward(feedforward_dim, activation, feedforward_bias, name="feedforward", **policy)
        self.feedforward_norm = normalisation(name="feedforward_norm", **normal)
        self.drop = keras.layers.Dropout(dropout, name="dropout", **policy)

    def build(self, x_shape, memory_shape=None):
        width = (*x_shape[:-1], self.hidden_dim)
        self.self_attention.build(width)
        self.self_norm.build(width)
        if self.cross_attention:
            self.memory_attention.build(width, memory_shape or width)
            self.memory_norm.build(width)
        self.feedforward.build(width)
        self.feedforward_norm.build(width)

    def new_cache(self, like, length, memory=None):
        """A cache without tokens: see `MultiHeadAttention.new_cache`; the memory's keys and values are computed here, once."""
        cache = {"self": self.self_attention.new_cache(like, length)}
        if self.cross_attention:
            cache["memory"] = self.memory_attention.project_memory(memory)
        return cache

    def call(
        self,
        x,
        mask=None,
        memory=None,
        memory_mask=None,
        segment_ids=None,
        bias=None,
        cache=None,
        position=None,
        positions=None,
        return_weights=False,
        training=None,
    ):
        weights = []

        def attend_self(x):
            result = self.self_attention(
                x,
                mask=mask,
                causal=self.causal,
                segment_ids=segment_ids,
                bias=bias,
                cache=None if cache is None else cache["self"],
                position=position,
                positions=positions,
                return_weights=return_weights,
                training=training,
            )
            if not isinstance(result, tuple):
                return result
            y, *rest = result
            if cache is not None:
                after["self"] = rest.pop(0)
            weights.extend(rest)
            return y

        def attend_memory(x):
            source = memory if cache is None else cache["memory"]
            result = self.memory_attention(
                x, source, mask=memory_mask, return_weights=return_weights, training=training
            )
            if return_weights:
                weights.append(result[1])
                return result[0]
            return result

        after = dict(cache) if cache is not None else None
        x = self._residual(x, self.self_norm, attend_self, training)
        if self.cross_attention:
            x = self._residual(x, self.memory_norm, attend_memory, training)
        x = self._residual(x, self.feedforward_norm, self.feedforward, training)
        result = (x,)
        if cache is not None:
            result += (after,)
        if return_weights:
            result += (weights[-1],)
        return result if len(result) > 1 else x

    def _residual(self, x, norm, part, training):
        if self.norm_first:
            return x + self.drop(part(norm(x)), training=training)
        return norm(x + self.drop(part(x), training=training))

    def compute_mask(self, *args, **kwargs):
        return None  # Masks are passed explicitly; Keras' implicit ones end here.

    def get_config(self):
        names = (
            "num_heads hidden_dim feedforward_dim num_kv_heads activation norm norm_first "
            "cross_attention causal rotary dropout norm_epsilon head_dim qkv_bias output_bias feedforward_bias qk_norm "
            "scaled"
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}

"""Tokens and positions as vectors: embedding with a tied head; learned, sinusoidal, rotary and relative positions.

Shapes: B batch, T length, H heads, D width, V vocabulary, d = D / H width of a head.
"""

import math

import keras
import numpy as np
from keras import ops


def positions_of(mask):
    """Position of every token among the real tokens of its row, so that padding anywhere shifts nothing.

    Args:
        mask: bool or int [B, T], true at real tokens.

    Returns:
        int32 [B, T]: 0, 1, 2… at the real tokens; a padding place repeats the number before it (0 at the very start).

    Example:

    >>> keras.ops.convert_to_numpy(positions_of(keras.ops.array([[1, 1, 0, 1]]))).tolist()
    [[0, 1, 1, 2]]
    """
    return ops.maximum(ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1, 0)


class TokenEmbedding(keras.layers.Layer):
    """Looks up a vector for every token id; `logits` uses the same matrix as the output head (weight tying).

    Args:
        vocabulary_size: V.
        dim: D, the width of a vector.
        scale: multiply the vectors by sqrt(D), as "Attention Is All You Need" does. Off by default.

    Call: ids int [B, T] (or [B]) -> [B, T, D] (or [B, D]) in the compute dtype.

    Example:

    >>> embed = TokenEmbedding(100, 16)
    >>> x = embed(keras.ops.array([[5, 6, 7]]))
    >>> x.shape, embed.logits(x).shape
    (TensorShape([1, 3, 16]), TensorShape([1, 3, 100]))

    Reference: Press and Wolf 2017, https://arxiv.org/abs/1608.05859 (tied head).
    """

    def __init__(self, vocabulary_size, dim, scale=False, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.dim = dim
        self.scale = scale

    def build(self, input_shape=None):
        # Vectors of about unit length: tied logits of a normalised state then start near N(0, 1) rather than N(0, D).
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.vocabulary_size, self.dim),
            initializer=keras.initializers.RandomNormal(stddev=self.dim**-0.5),
        )

    def call(self, ids):
        x = ops.take(ops.convert_to_tensor(self.embeddings), ids, axis=0)
        return x * math.sqrt(self.dim) if self.scale else x

    def logits(self, x):
        """Scores every token of the vocabulary against `x` [..., D] -> float32 [..., V]."""
        x = ops.cast(x, self.compute_dtype)
        matrix = ops.cast(ops.convert_to_tensor(self.embeddings), self.compute_dtype)
        return ops.cast(ops.matmul(x, ops.transpose(matrix)), "float32")

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.dim)

    def get_config(self):
        config = {"vocabulary_size": self.vocabulary_size, "dim": self.dim, "scale": self.scale}
        return {**super().get_config(), **config}


class LearnedPositions(keras.layers.Layer):
    """Adds a learned vector for every position, as BERT and GPT-2 do.

    Args:
        length: how many positions have a vector; later ones share the last vector.
        dim: D.

    Call:
        x: [B, T, D].
        positions: int, broadcastable to [B, T]; 0, 1, 2… when left out.

    Example:

    >>> LearnedPositions(32, 16)(keras.ops.zeros((1, 3, 16))).shape
    TensorShape([1, 3, 16])
    """

    def __init__(self, length, dim, **kwargs):
        super().__init__(**kwargs)
        self.length = length
        self.dim = dim

    def build(self, x_shape=None):
        self.vectors = self.add_weight(
            name="vectors",
            shape=(self.length, self.dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, x, positions=None):
        if positions is None:
            positions = ops.arange(ops.shape(x)[1])
        positions = ops.minimum(positions, self.length - 1)
        return x + ops.take(ops.convert_to_tensor(self.vectors), positions, axis=0)

    def compute_output_shape(self, x_shape, positions_shape=None):
        return x_shape

    def get_config(self):
        return {**super().get_config(), "length": self.length, "dim": self.dim}


class SinusoidalPositions(keras.layers.Layer):
    """Adds sines and cosines of the position: sin at even places, cos at odd ones; nothing is learned.

    Args:
        dim: D, even.
        base: wavelengths run from 2π to base · 2π.

    Call: as `LearnedPositions`.

    Example:

    >>> y = SinusoidalPositions(4)(keras.ops.zeros((1, 2, 4)))
    >>> keras.ops.convert_to_numpy(y).round(4).tolist()
    [[[0.0, 1.0, 0.0, 1.0], [0.8415, 0.5403, 0.01, 1.0]]]

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5.
    """

    def __init__(self, dim, base=10000.0, **kwargs):
        super().__init__(**kwargs)
        if dim % 2:
            raise ValueError(f"dim must be even. Received: dim={dim}.")
        self.dim = dim
        self.base = base

    def call(self, x, positions=None):
        if positions is None:
            positions = ops.arange(ops.shape(x)[1])
        angles = _angles(positions, frequencies(self.dim, self.base))  # [..., T, D / 2]
        pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # [..., T, D / 2, 2]
        waves = ops.reshape(pairs, (*ops.shape(angles)[:-1], self.dim))  # [..., T, D]
        return x + ops.cast(waves, x.dtype)

    def compute_output_shape(self, x_shape, positions_shape=None):
        return x_shape

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "base": self.base}


class RotaryEmbedding(keras.layers.Layer):
    """Turns each pair of a head's numbers by an angle that grows with the position, so that a query and a key see
    only their distance. Number i is paired with number i + d / 2 (the GPT-NeoX, Llama and KerasHub order).

    Args:
        head_dim: d, even.
        base: the slowest pair turns once in base · 2π positions.
        scaling: how the turning was slowed down for longer texts, None or a dict: {"kind": "linear", "factor": s} slows all
            pairs down s times, {"kind": "llama3", "factor": s, "low_frequency_factor": a, "high_frequency_factor": b,
            "original_length": n} those that turn less than a times in n positions; those that turn more than b times stay,
            and what lies between goes over from one to the other.

    Call:
        x: [B, T, H, d], queries or keys.
        positions: int, broadcastable to [B, T]; 0, 1, 2… when left out.

    Example:

    >>> RotaryEmbedding(8)(keras.ops.ones((1, 3, 2, 8))).shape
    TensorShape([1, 3, 2, 8])

    Reference: Su et al. 2021, https://arxiv.org/abs/2104.09864; Chen et al. 2023, https://arxiv.org/abs/2306.15595 (linear
    scaling); Llama team 2024, https://arxiv.org/abs/2407.21783 (Llama 3.1).
    """

    def __init__(self, head_dim, base=10000.0, scaling=None, **kwargs):
        super().__init__(**kwargs)
        if head_dim % 2:
            raise ValueError(f"head_dim must be even. Received: head_dim={head_dim}.")
        if scaling and scaling.get("kind") not in ("linear", "llama3"):
            raise ValueError(f'scaling is of kind "linear" or "llama3". Received: scaling={scaling!r}.')
        self.head_dim = head_dim
        self.base = base
        self.scaling = scaling

    def call(self, x, positions=None):
        if positions is None:
            positions = ops.arange(ops.shape(x)[1])
        # Angles in float32 always: in half precision positions above 256 would fall together.
        turning = scaled(frequencies(self.head_dim, self.base), self.scaling)
        angles = ops.expand_dims(_angles(positions, turning), -2)  # [..., T, 1, d / 2]
        cos, sin = ops.cast(ops.cos(angles), x.dtype), ops.cast(ops.sin(angles), x.dtype)
        first, second = ops.split(x, 2, axis=-1)  # each [B, T, H, d / 2]
        return ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def compute_output_shape(self, x_shape, positions_shape=None):
        return x_shape

    def get_config(self):
        return {**super().get_config(), "head_dim": self.head_dim, "base": self.base, "scaling": self.scaling}


class RelativePositions(keras.layers.Layer):
    """What attention scores are raised by for the distance from query to key: a learned number for each head and bucket of
    distances. Half of the buckets hold a single distance each, the others more and more of them, the last one all from
    `max_distance` on.

    Args:
        num_heads: H.
        buckets: how many there are.
        max_distance: where the last bucket begins.
        bidirectional: keys behind the query have half of the buckets for themselves. Otherwise they are those that causality
            hides.

    Call:
        queries: int [T], positions.
        keys: int [S], positions.

    Returns:
        float32 [H, T, S], whatever the compute dtype is.

    Example:

    >>> places = keras.ops.arange(5)
    >>> RelativePositions(4, bidirectional=True)(places, places).shape
    TensorShape([4, 5, 5])

    Reference: Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 2.1.
    """

    def __init__(self, num_heads, buckets=32, max_distance=128, bidirectional=False, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.buckets = buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.directed = buckets // 2 if bidirectional else buckets  # buckets of a direction
        if self.directed < 2 or max_distance <= self.directed // 2:
            raise ValueError(
                "A direction needs two buckets, and max_distance more than half of them. "
                f"Received: buckets={buckets}, max_distance={max_distance}, bidirectional={bidirectional}."
            )

    def build(self, queries_shape=None, keys_shape=None):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.buckets, self.num_heads),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, queries, keys):
        ahead = ops.expand_dims(keys, 0) - ops.expand_dims(queries, 1)  # [T, S], below 0 where the key comes first
        distance = ops.abs(ahead) if self.bidirectional else ops.maximum(-ahead, 0)
        table = ops.convert_to_tensor(distance_buckets(self.directed, self.max_distance))
        bucket = ops.take(table, ops.minimum(distance, self.max_distance), axis=0)
        if self.bidirectional:
            bucket = bucket + self.directed * ops.cast(ahead > 0, "int32")
        # Heads first, so that nothing as large as the scores is transposed.
        return ops.cast(ops.take(ops.transpose(ops.convert_to_tensor(self.embeddings)), bucket, axis=1), "float32")

    def compute_output_shape(self, queries_shape, keys_shape):
        return (self.num_heads, queries_shape[0], keys_shape[0])

    def get_config(self):
        names = ("num_heads", "buckets", "max_distance", "bidirectional")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def distance_buckets(buckets, max_distance):
    """The bucket of each distance 0 … max_distance in one direction: NumPy int32.

    Example:

    >>> distance_buckets(4, 6).tolist()
    [0, 1, 2, 2, 3, 3, 3]
    """
    distance, single = np.arange(max_distance + 1), buckets // 2
    # In float32 and in this order, as T5's own code computes it: where a bucket begins, rounding decides.
    far = np.log(np.maximum(distance, single).astype("float32") / single) / math.log(max_distance / single)
    far = single + (far * (buckets - single)).astype("int32")
    return np.where(distance < single, distance, np.minimum(far, buckets - 1)).astype("int32")


def frequencies(dim, base):
    """By how much each pair turns in a position: NumPy float64 [dim / 2], base^(-2i / dim)."""
    return float(base) ** (-np.arange(0, dim, 2) / dim)


def scaled(turning, scaling):
    """What `frequencies` gives, slowed down as `RotaryEmbedding` says.

    Example:

    >>> scaled(np.array([1.0, 0.1]), {"kind": "linear", "factor": 2.0}).tolist()
    [0.5, 0.05]
    """
    if scaling is None:
        return turning
    slow = turning / scaling["factor"]
    if scaling["kind"] == "linear":
        return slow
    low, high = scaling["low_frequency_factor"], scaling["high_frequency_factor"]
    turns = scaling["original_length"] * turning / (2 * math.pi)
    stays = np.clip((turns - low) / (high - low), 0, 1)
    return stays * turning + (1 - stays) * slow


def _angles(positions, turning):
    """float32 [..., T, dim / 2]: position · what each pair turns in one."""
    return ops.expand_dims(ops.cast(positions, "float32"), -1) * ops.convert_to_tensor(turning, "float32")

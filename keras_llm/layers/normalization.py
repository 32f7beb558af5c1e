"""Normalisation of the last axis, with its statistics in float32 whatever the compute dtype is.

Shapes: B batch, T length, D width.
"""

import keras
from keras import ops

EPSILON = 1e-5


class Normalisation(keras.layers.Layer):
    """What both kinds share.

    Args:
        epsilon: ε, added to the variance or the mean of squares.
    """

    def __init__(self, epsilon=EPSILON, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


class LayerNorm(Normalisation):
    """(x - mean) / sqrt(variance + ε) · scale + shift.

    Call: x [..., D] -> [..., D].

    Example:

    >>> keras.ops.convert_to_numpy(LayerNorm()(keras.ops.array([[1.0, 3.0]]))).round(3).tolist()
    [[-1.0, 1.0]]

    Reference: Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """

    def build(self, x_shape):
        self.scale = self.add_weight(name="scale", shape=x_shape[-1:], initializer="ones")
        self.shift = self.add_weight(name="shift", shape=x_shape[-1:], initializer="zeros")

    def call(self, x):
        x = ops.cast(x, "float32")
        mean, variance = ops.moments(x, axes=[-1], keepdims=True)
        factor = ops.rsqrt(variance + self.epsilon) * ops.cast(self.scale, "float32")
        # All that can be is computed on the statistics; over x itself goes one product and one sum.
        y = x * factor + (ops.cast(self.shift, "float32") - mean * factor)
        return ops.cast(y, self.compute_dtype)


class RMSNorm(Normalisation):
    """x / sqrt(mean of squares + ε) · scale.

    Call: x [..., D] -> [..., D].

    Example:

    >>> keras.ops.convert_to_numpy(RMSNorm()(keras.ops.array([[3.0, 3.0]]))).round(3).tolist()
    [[1.0, 1.0]]

    Reference: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.
    """

    def build(self, x_shape):
        self.scale = self.add_weight(name="scale", shape=x_shape[-1:], initializer="ones")

    def call(self, x):
        x = ops.cast(x, "float32")
        factor = ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(x * factor * ops.cast(self.scale, "float32"), self.compute_dtype)


NORMS = {"layer": LayerNorm, "rms": RMSNorm}


def normalisation(norm, **kwargs):
    """The layer behind a config's "layer" or "rms"."""
    if norm not in NORMS:
        raise ValueError(f'norm is "layer" or "rms". Received: norm={norm!r}.')
    return NORMS[norm](**kwargs)

"""Tokens that are hidden while training.

Shapes: B batch, T length.
"""

import keras
from keras import ops


class TokenDropout(keras.layers.Layer):
    """While training, makes a share of the tokens unknown: what they are must then follow from the rest.

    Args:
        rate: share of tokens, at least 0 and below 1.
        unknown_id: what stands in their place.
        pad_id: padding, which stays.
        seed: int or None.

    Call: ids int [B, T] -> int [B, T].

    Example:

    >>> TokenDropout(0.999, unknown_id=1, seed=0)(keras.ops.array([[5, 6, 0]]), training=True)
    [[1, 1, 0]]

    Reference: Iyyer et al. 2015, https://aclanthology.org/P15-1162, section 3.1.
    """

    def __init__(self, rate, unknown_id, pad_id=0, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.unknown_id, self.pad_id = rate, unknown_id, pad_id
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, ids, training=None):
        if not (training and self.rate):
            return ids
        hidden = keras.random.uniform(ops.shape(ids), seed=self.seed_generator) < self.rate
        return ops.where(hidden & (ids != self.pad_id), self.unknown_id, ids)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "unknown_id": self.unknown_id, "pad_id": self.pad_id}

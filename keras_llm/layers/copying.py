"""An output head that also copies tokens of the source.

Shapes: B batch, T target length, S source length, D width, V vocabulary.
"""

import keras
from keras import ops

TINY = 1e-20  # what a token that is not in the source has of it: log stays finite


class PointerGenerator(keras.layers.Layer):
    """Mixes two distributions over the vocabulary: the model's own, and that of the source's tokens as attention weighs them.
    How much of each, a gate decides at every token:

        p(token) = g softmax(logits)[token] + (1 - g) sum of the weights where the source has the token

    Call:
        logits: float32 [B, T, V].
        features: [B, T, D], what the gate is computed from.
        weights: float32 [B, T, S], attention to the source; each row sums to 1.
        source_ids: int [B, S].

    Returns:
        log-probabilities float32 [B, T, V], to be used like logits.

    Example:

    >>> weights, source_ids = keras.ops.array([[[0.75, 0.25]]]), keras.ops.array([[2, 1]])
    >>> found = PointerGenerator()(keras.ops.zeros((1, 1, 3)), keras.ops.zeros((1, 1, 4)), weights, source_ids)
    >>> keras.ops.exp(found)  # a new gate is 1/2
    [[[0.167, 0.292, 0.542]]]

    Reference: See et al. 2017, https://arxiv.org/abs/1704.04368, section 2.2.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)  # logits and weights come in float32 and stay so
        self.gate = keras.layers.Dense(1, dtype=self.dtype_policy, name="gate")

    def build(self, logits_shape, features_shape, weights_shape=None, source_ids_shape=None):
        self.gate.build(features_shape)

    def call(self, logits, features, weights, source_ids):
        gate = ops.cast(self.gate(features), "float32")  # [B, T, 1]
        written = ops.log_sigmoid(gate) + ops.log_softmax(logits, axis=-1)
        copied = ops.log_sigmoid(-gate) + ops.log(_by_token(weights, source_ids, ops.shape(logits)[-1]) + TINY)
        return ops.logaddexp(written, copied)

    def compute_mask(self, *args, **kwargs):
        return None  # Masks are passed explicitly; Keras' implicit ones end here.


def _by_token(weights, source_ids, size):
    """Weights [B, T, S] of the source's places -> their sums [B, T, V] by token."""
    batch, length = ops.shape(weights)[:2]
    rows = ops.expand_dims(ops.arange(batch), 1) + ops.zeros_like(source_ids)
    # Added up row by row: a one-hot matrix of the source would have [B, S, V] numbers.
    places = ops.stack([rows, source_ids], axis=-1)  # [B, S, 2]
    sums = ops.scatter(places, ops.transpose(weights, (0, 2, 1)), (batch, size, length))
    return ops.transpose(sums, (0, 2, 1))

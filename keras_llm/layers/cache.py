"""Where a decoder keeps the keys and values of its tokens: room for all of them from the start, written in place.

Shapes: B batch, K key/value heads, T new tokens, L room for tokens, d width of a head.
"""

import keras
from keras import ops


def empty(like, heads, length, dim, dtype):
    """Keys or values of no tokens yet: zeros [B, K, L, d], as many rows as the tensor `like` [B, ...] has."""
    return ops.zeros((ops.shape(like)[0], heads, length, dim), dtype)


def write(cache, new, position):
    """Puts `new` [B, K, T, d] at `position` of `cache` [B, K, L, d], behind the tokens that it holds.

    When all places are taken, single tokens go on at the first one again: the cache holds the last L tokens.
    """
    return slice_update(cache, (0, 0, ops.mod(position, ops.shape(cache)[2]), 0), new)


def slice_update(inputs, start_indices, updates):
    """What `keras.ops.slice_update` does, in a TensorFlow graph without XLA.

    There Keras' own is an op of XLA, which a stock server refuses and which copies all of `inputs`. This one writes in
    place where nothing else holds the tensor, as in a loop, and copies it where something does.

    Example:

    >>> keras.ops.convert_to_numpy(slice_update(keras.ops.zeros((1, 4)), (0, 1), keras.ops.ones((1, 2)))).tolist()
    [[0.0, 1.0, 1.0, 0.0]]
    """
    if keras.backend.backend() != "tensorflow":
        return ops.slice_update(inputs, start_indices, updates)
    import tensorflow as tf

    begin = tf.stack([tf.cast(index, tf.int32) for index in start_indices])
    end = begin + tf.shape(updates)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=inputs, begin=begin, end=end, strides=tf.ones_like(begin), value=updates
    )

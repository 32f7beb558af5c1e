"""KerasHub's decoding caches in a stock server: its layers write into them by an op of XLA, which such a server refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf
from keras.src import backend


def slice_update(inputs, start_indices, updates):
    """What `keras.ops.slice_update` does, by a core op: `updates` written into `inputs` at `start_indices`."""
    begin = tf.stack([tf.cast(index, tf.int32) for index in start_indices])
    end = begin + tf.shape(updates)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=inputs, begin=begin, end=end, strides=tf.ones_like(begin), value=updates
    )


@contextlib.contextmanager
def core_ops() -> Iterator[None]:
    """While it lasts, what is traced writes into caches by core ops."""
    theirs, backend.core.slice_update = backend.core.slice_update, slice_update
    try:
        yield
    finally:
        backend.core.slice_update = theirs

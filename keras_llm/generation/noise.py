"""Random numbers that depend on a seed and a place only: the same in any batch, on any backend, in any graph.

Keras' and TensorFlow's generators take one seed for a whole tensor, so that a row's numbers would depend on the rows
beside it. Here each row has its own seed.
"""

import numbers

from keras import ops

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def uniforms(seed, length):
    """Numbers in [0, 1) for places 0, 1, ... of each seed.

    Args:
        seed: int, a Python number, a scalar or [B]; its low 32 bits count.
        length: T, how many for each seed; the first n are the same whatever it is.

    Returns:
        float32 [1, T] or [B, T], multiples of 2^-24.

    Example:

    >>> uniforms(7, 3)[0, :2] == uniforms(7, 2)[0]
    [True, True]
    """
    if isinstance(seed, numbers.Number):
        seed = (int(seed) + 2**31) % 2**32 - 2**31  # the same 32 bits as a signed number
    key = ops.reshape(ops.cast(ops.cast(seed, "int32"), "uint32"), (-1, 1))
    place = ops.cast(ops.expand_dims(ops.arange(length, dtype="int32"), 0), "uint32")
    bits, _ = threefry((key, ops.zeros_like(key)), (place + ops.zeros_like(key), ops.zeros_like(place + key)))
    return ops.cast(ops.right_shift(bits, ops.cast(8, "uint32")), "float32") * 2.0**-24


def threefry(key, counter):
    """Threefry-2x32 with 20 rounds: two words of key and two of counter -> two random words, all uint32 and elementwise.

    Example:

    >>> zero = keras.ops.zeros((1,), "uint32")
    >>> [hex(int(word[0])) for word in threefry((zero, zero), (zero, zero))]
    ['0x6b200159', '0x99ba4efe']

    Reference: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", https://doi.org/10.1145/2063384.2063405.
    """
    keys = (*key, ops.bitwise_xor(ops.bitwise_xor(*key), ops.cast(PARITY, "uint32")))
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for bits in ROTATIONS[group % 2]:
            x = x + y
            left = ops.left_shift(y, ops.cast(bits, "uint32"))
            y = ops.bitwise_xor(ops.bitwise_or(left, ops.right_shift(y, ops.cast(32 - bits, "uint32"))), x)
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + ops.cast(group + 1, "uint32")
    return x, y

"""Strings, bytes and code points inside a `.tflite` file, as integer arithmetic.

TFLite's builtin ops cannot look into a string. tensorflow-text's `ByteSplit` gives its bytes, and its
`FastWordpieceDetokenize` joins bytes; all between the two is done here on int32 tensors with builtin ops only.

Shapes: N bytes, M characters.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow_text.core.pybinds.pywrap_fast_wordpiece_tokenizer_model_builder import build_fast_wordpiece_model
from tensorflow_text.python.ops.fast_wordpiece_tokenizer import gen_fast_wordpiece_tokenizer

END = 0x110000  # stands behind the last character, so that no tensor is ever empty
REPLACEMENT = 0xFFFD
WHOLE = 512  # added to a code point that stands among bytes

# Of each byte, and of anything else (256): how many bytes its character has, which second bytes may follow, its bits.
NOTHING = 256
NEED = [1] * 0xC2 + [2] * 30 + [3] * 16 + [4] * 5 + [1] * 11 + [1]
LOW = [0x1000] * 0xC2 + [0x80] * 30 + [0xA0] + [0x80] * 15 + [0x90] + [0x80] * 4 + [0x1000] * 12
HIGH = [0] * 0xC2 + [0xBF] * 43 + [0x9F] + [0xBF] * 2 + [0xBF] * 4 + [0x8F] + [0] * 12
BITS = [*range(0x80)] + [0] * 66 + [*range(2, 32)] + [*range(16)] + [*range(5)] + [0] * 12


def bytes_of(text):
    """string [1] -> int32 [N]."""
    return tf.cast(tf_text.ByteSplitter().split(text).values, tf.int32)


def code_points(values, each_byte=False):
    """Reads UTF-8. Malformed sequences become U+FFFD, exactly as in `keras_llm.text.unicode.sanitise`.

    Args:
        values: int32 [N], bytes; or WHOLE + a code point, which stands for itself.
        each_byte: each byte of a malformed sequence becomes a U+FFFD of its own, as in SentencePiece.

    Returns:
        int32 [M + 1], END last.
    """
    size = tf.size(values) + 1
    padded = tf.concat([[NOTHING] * 3, values, [NOTHING] * 4], 0)

    def at(offset):
        return tf.slice(padded, [3 + offset], [size])

    value = {offset: at(offset) for offset in range(-3, 4)}
    kind = {offset: tf.minimum(value[offset], NOTHING) for offset in value}
    need = {offset: tf.gather(NEED, kind[offset]) for offset in range(-3, 1)}

    def second(offset):
        """Whether the next byte may follow this lead byte."""
        following = value[offset + 1]
        return (following >= tf.gather(LOW, kind[offset])) & (following <= tf.gather(HIGH, kind[offset]))

    def continues(offset):
        return (value[offset] >= 0x80) & (value[offset] < 0xC0)

    def whole(offset):
        """Whether all bytes of the character that begins here are there."""
        found = second(offset) & ((need[offset] < 3) | continues(offset + 2))
        return found & ((need[offset] < 4) | continues(offset + 3))

    if each_byte:
        inside = tf.zeros([size], tf.bool)
        for back in (1, 2, 3):
            inside |= (need[-back] > back) & whole(-back)
    else:
        inside = second(-1)
        inside |= (need[-2] >= 3) & second(-2) & continues(0)
        inside |= (need[-3] >= 4) & second(-3) & continues(-1) & continues(0)

    here = value[0]
    two = tf.gather(BITS, kind[0]) * 64 + value[1] - 0x80
    three = two * 64 + value[2] - 0x80
    four = three * 64 + value[3] - 0x80
    many = tf.where(need[0] == 2, two, tf.where(need[0] == 3, three, four))
    one = tf.where(here < 0x80, here, tf.where(here >= WHOLE, here - WHOLE, REPLACEMENT))
    read = tf.where(need[0] == 1, one, tf.where(whole(0), many, REPLACEMENT))
    read = tf.where(here == NOTHING, END, read)
    return tf.boolean_mask(read, ~inside)


def utf8(points):
    """Code points int32 [M], END for nothing -> bytes int32 [N]."""
    length = utf8_length(points)
    nth = tf.range(4)[None, :]
    behind = tf.maximum(length[:, None] - 1 - nth, 0)  # bytes that follow this one
    bits = points[:, None] // tf.gather([1, 64, 4096, 262144], behind)
    lead = tf.gather([0, 0, 0xC0, 0xE0, 0xF0], length)[:, None]
    values = tf.where(nth == 0, lead + bits, 0x80 + bits % 64)
    return tf.boolean_mask(values, nth < length[:, None])


def utf8_length(points):
    """How many bytes each code point has; END has none."""
    length = 1 + sum(tf.cast(points >= limit, tf.int32) for limit in (0x80, 0x800, 0x10000))
    return tf.where(points == END, 0, length)


def string_of(values):
    """Bytes int32 [N] -> string [1]."""
    size = tf.size(values)
    return gen_fast_wordpiece_tokenizer.tf_text_fast_wordpiece_detokenize(
        input_values=values + tf.where(tf.range(size) == 0, 1, 257),
        input_row_splits=tf.cast(tf.stack([0, size]), tf.int64),
        wp_model=_joiner(),
    )


@functools.cache
def _joiner() -> np.ndarray:
    """A WordPiece model whose piece 1 + b is the byte b as it begins a word, and 257 + b as it continues one."""
    single = [b"\1\1", *(bytes([byte]) for byte in range(1, 256))]
    pieces = [b"[UNK]", *single, *(b"##" + byte for byte in single)]
    model = build_fast_wordpiece_model(pieces, 100, "##", "[UNK]", True, True)
    # The builder refuses a NUL. A string in the model is its length, its bytes and a NUL.
    two, nul = b"\2\0\0\0\1\1\0", b"\1\0\0\0\0\0\0"
    if model.count(two) != 2:
        raise RuntimeError("tensorflow-text lays its WordPiece models out in another way than before.")
    return np.frombuffer(model.replace(two, nul), np.uint8)


def spread(counts):
    """Repeats each place as often as it counts.

    Args:
        counts: int32 [M], 0 or more; the last one at least 1.

    Returns:
        owner: int32 [T], the place each entry comes from.
        nth: int32 [T], its number among those of its place.
        following: int32 [T], the next place that has entries.
    """
    source = tf.cast(tf.where(counts > 0)[:, 0], tf.int32)
    some = tf.gather(counts, source)
    first = tf.cumsum(some, exclusive=True)
    total = tf.reduce_sum(some)
    rank = tf.cumsum(tf.scatter_nd(first[:, None], tf.ones_like(first), total[None])) - 1
    after = tf.concat([source[1:], tf.size(counts)[None]], 0)
    return tf.gather(source, rank), tf.range(total) - tf.gather(first, rank), tf.gather(after, rank)

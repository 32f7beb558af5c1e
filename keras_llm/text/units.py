"""What carries a tag: a word, a Chinese character, or a character, whatever the tokens are; and where it stands in the text.

Shapes: B batch, n tokens of a text, u units of a text, c characters of a text, N windows, T tokens and W units of a
window, C bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_llm.text.tokenizer import Tokenizer

WHITE_SPACE = (*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)


class Units(NamedTuple):
    """Texts as tokens and units.

    Attributes:
        ids: int32 [B, (n)], tokens.
        first: bool [B, (n)], whether a token is the first of a unit.
        begins, ends: int32 [B, (n)], bytes of the tokens among those of all texts together.
        tokens: int32 [B, (u)], each unit's first token.
        unit_starts, unit_ends: int32 [B, (u)], characters of the text, ends exclusive, white space not among them.
        codes: int32 [B, (c)], the texts' code points.
    """

    ids: tf.RaggedTensor
    first: tf.RaggedTensor
    begins: tf.RaggedTensor
    ends: tf.RaggedTensor
    tokens: tf.RaggedTensor
    unit_starts: tf.RaggedTensor
    unit_ends: tf.RaggedTensor
    codes: tf.RaggedTensor


def units_of(tokenizer: Tokenizer, text) -> Units:
    """Tokens and the units they make up. A piece that goes on a word (`##ing`), and the bytes of one character, belong to the
    unit before them; tokens of white space to none. With byte pairs a word is letters and digits without white space between.

    Args:
        tokenizer: one with offsets.
        text: string [B], valid UTF-8 (`sanitise`).

    Example:

    >>> tokenizer = CharacterTokenizer.train(["我爱 Rom"], 300)
    >>> found = units_of(tokenizer, ["我 🙂"])
    >>> found.tokens.to_list(), found.unit_starts.to_list(), found.unit_ends.to_list()
    ([[0, 2]], [[0, 2]], [[1, 3]])
    """
    text = tf.convert_to_tensor(text, tf.string)
    ids, starts, ends = tokenizer.encode_with_offsets(text)
    codes, places = tf.strings.unicode_decode_with_offsets(text, "UTF-8")
    # Places in the batch's bytes, one text behind the other: one sorted list for all of it.
    base = tf.cumsum(tf.strings.length(text), exclusive=True)
    begins = starts.values + tf.gather(base, ids.value_rowids())
    stops = ends.values + tf.gather(base, ids.value_rowids())
    places = tf.cast(places.values, tf.int32) + tf.gather(base, codes.value_rowids())
    opened, closed = (tf.searchsorted(places, bounds) for bounds in (begins, stops))  # characters of the batch
    visible = tf.reduce_all(codes.values[:, None] != tf.constant(WHITE_SPACE), axis=1)
    shown = tf.cast(tf.where(visible)[:, 0], tf.int32)
    rank = tf.concat([[0], tf.cumsum(tf.cast(visible, tf.int32))], 0)  # visible characters before each

    rows = ids.value_rowids()
    goes_on = tokenizer.continues(ids, starts, ends).values
    first = ~goes_on & (tf.gather(rank, closed) > tf.gather(rank, opened))
    units = tf.cast(tf.where(first)[:, 0], tf.int32)
    row = tf.gather(rows, units)
    limit = tf.cast(tf.gather(ids.row_limits(), row), tf.int32)
    last = tf.minimum(tf.concat([units[1:], [tf.size(begins)]], 0)[: tf.size(units)], limit) - 1
    unit_starts = tf.gather(shown, tf.gather(rank, tf.gather(opened, units)))
    unit_ends = tf.gather(shown, tf.gather(rank, tf.gather(closed, last)) - 1) + 1

    def by_text(values):
        return tf.RaggedTensor.from_value_rowids(values, row, ids.nrows(), validate=False)

    before = tf.cast(tf.gather(codes.row_starts(), row), tf.int32)
    return Units(
        ids,
        ids.with_values(first),
        ids.with_values(begins),
        ids.with_values(stops),
        by_text(units - tf.cast(tf.gather(ids.row_starts(), row), tf.int32)),
        by_text(unit_starts - before),
        by_text(unit_ends - before),
        codes,
    )


def token_bytes(text, begins, ends, length: int) -> tf.Tensor:
    """The first bytes of tokens, as numbers from 1; 0 behind a token's end.

    Args:
        text: string [B].
        begins, ends: int32 [m], as in `Units`.
        length: C.

    Returns:
        int32 [m, C].

    Example:

    >>> token_bytes(["a bc"], [0, 2], [1, 4], 3).numpy().tolist()
    [[98, 0, 0], [99, 100, 0]]
    """
    # One byte more than there is, so that a batch of empty texts has something to gather.
    values = tf.io.decode_raw(tf.strings.reduce_join(text) + "\0", tf.uint8)
    places = tf.convert_to_tensor(begins)[:, None] + tf.range(length)
    real = places < tf.convert_to_tensor(ends)[:, None]
    return tf.where(real, tf.cast(tf.gather(values, tf.where(real, places, 0)), tf.int32) + 1, 0)


class Windows(NamedTuple):
    """Texts as a model reads them: framed windows that share half of their tokens.

    Attributes:
        token_ids: int32 [N, T].
        places: int32 [N, W], the column of each unit's first token, 0 where there is no unit.
        flat: int32 [N, T], which of all tokens stands in a column, -1 for the frame and padding.
        window, column: int32 [units of all texts], where in [N, W] each unit has most tokens around it.
    """

    token_ids: tf.Tensor
    places: tf.Tensor
    flat: tf.Tensor
    window: tf.Tensor
    column: tf.Tensor


def windows_of(units: Units, length: int, start_id: int, end_id: int, pad_id: int = 0) -> Windows:
    """Cuts texts into windows; a text that fits is one window.

    Args:
        units: of the texts.
        length: T is at most this, the frame included.
        start_id, end_id: the frame.
        pad_id: fills shorter windows.

    Example:

    >>> tokenizer = CharacterTokenizer.train(["abcdef"], 300)
    >>> found = windows_of(units_of(tokenizer, ["abcdef"]), 6, 2, 3)
    >>> found.places.numpy().tolist(), found.window.numpy().tolist()
    ([[1, 2, 3, 4], [1, 2, 3, 4]], [0, 0, 0, 1, 1, 1])
    """
    room = length - 2
    advance = max(room // 2, 1)
    starts, sizes = (tf.cast(x, tf.int32) for x in (units.ids.row_starts(), units.ids.row_lengths()))
    count = 1 + (tf.maximum(sizes - room, 0) + advance - 1) // advance
    before = tf.cumsum(count, exclusive=True)
    text = tf.repeat(tf.range(tf.size(sizes)), count)
    first = (tf.range(tf.size(text)) - tf.gather(before, text)) * advance
    stop = tf.minimum(first + room, tf.gather(sizes, text))
    width = tf.reduce_max(tf.concat([stop - first, [0]], 0))
    column = first[:, None] + tf.range(-1, width + 1)[None]
    real = (column >= first[:, None]) & (column < stop[:, None])
    flat = tf.where(real, tf.gather(starts, text)[:, None] + column, -1)
    frame = tf.where(column < first[:, None], start_id, tf.where(column == stop[:, None], end_id, pad_id))
    # One more value, so that a batch of empty texts has something to gather.
    ids = tf.gather(tf.concat([units.ids.values, [0]], 0), tf.maximum(flat, 0))
    token_ids = tf.where(real, ids, frame)

    firsts = tf.concat([[0], tf.cumsum(tf.cast(units.first.values, tf.int32))], 0)  # units before each token
    low, high = (tf.gather(firsts, tf.gather(starts, text) + bound) for bound in (first, stop))
    span = tf.range(tf.maximum(tf.reduce_max(tf.concat([high - low, [1]], 0)), 1))[None]
    own = span < (high - low)[:, None]
    tokens = tf.concat([units.tokens.values, [0]], 0)
    places = tf.gather(tokens, tf.where(own, low[:, None] + span, 0)) - first[:, None] + 1
    row = units.tokens.value_rowids()
    home = tf.math.floordiv(units.tokens.values - (room - advance) // 2, advance)
    window = tf.gather(before, row) + tf.clip_by_value(home, 0, tf.gather(count, row) - 1)
    place = tf.range(tf.size(units.tokens.values)) - tf.gather(low, window)
    return Windows(token_ids, tf.where(own, places, 0), flat, window, place)

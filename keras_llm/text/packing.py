"""Ids of texts as a model takes them: cut, framed by start and end, padded to the longest of the batch.

Shapes: B batch, T the batch's longest text with its frame, M masks.
"""

from __future__ import annotations

import tensorflow as tf


def pack(ids: tf.RaggedTensor, start=(), end=(), limit=512, pad_id=0, keep="first"):
    """Frames and pads.

    Args:
        ids: int32 [B, (n)], without special ids.
        start, end: the frame's ids; the first `start` id is also what a text without any id becomes.
        limit: T is at most this; of a longer text the first ids stay.
        pad_id: fills shorter rows.
        keep: "first" or "last": which of the ids stay.

    Returns:
        int32 [B, T] with T of at least 1, and bool [B, T]: where there is an id.

    Example:

    >>> pack(tf.ragged.constant([[5, 6, 7], []], tf.int32, row_splits_dtype=tf.int64), [1], [2], limit=4)[0].numpy().tolist()
    [[1, 5, 6, 2], [1, 2, 0, 0]]
    """
    room = max(limit - len(start) - len(end), 0)
    ids = ids[:, :room] if keep == "first" else ids[:, -room:] if room else ids[:, :0]
    rows = ids.nrows()
    frame = [
        tf.RaggedTensor.from_tensor(tf.tile(tf.constant([part], tf.int32), [rows, 1])) for part in (start, end) if part
    ]
    parts = [*frame[: bool(start)], ids, *frame[bool(start) :]]
    packed = tf.concat(parts, axis=1) if len(parts) > 1 else ids
    lengths = packed.row_lengths()
    width = tf.maximum(tf.reduce_max(tf.concat([lengths, [1]], 0)), 1)
    tokens = packed.to_tensor(pad_id, shape=[None, None])
    tokens = tf.pad(tokens, [[0, 0], [0, width - tf.shape(tokens, tf.int64)[1]]], constant_values=pad_id)
    return tokens, tf.range(width) < lengths[:, None]


def pack_pair(first, second, start, end, limit=512, pad_id=0, between=1):
    """Frames and pads pairs of texts as BERT does: start, first, end, second, end; RoBERTa has two ends between them. Of a pair
    that is too long the longer text loses its end, up to where both are equally long.

    Args:
        first, second: int32 [B, (n)], without special ids.
        start, end: the frame's ids.
        limit: T is at most this, at least 2 + `between`.
        pad_id: fills shorter rows.
        between: how many ends stand behind the first text.

    Returns:
        ids int32 [B, T], and segments int32 [B, T]: 1 from the second text on, 0 elsewhere.

    Example:

    >>> one, two = (tf.ragged.constant([ids], tf.int32, row_splits_dtype=tf.int64) for ids in ([5, 6, 7], [8]))
    >>> [rows.numpy().tolist() for rows in pack_pair(one, two, 1, 2, limit=6)]
    [[[1, 5, 6, 2, 8, 2]], [[0, 0, 0, 0, 1, 1]]]
    """
    room, lengths = limit - 2 - between, [ids.row_lengths() for ids in (first, second)]
    kept = tf.minimum(lengths[0], tf.maximum(tf.constant(room - room // 2, tf.int64), room - lengths[1]))
    first, second = _first(first, kept), _first(second, tf.minimum(lengths[1], room - kept))
    ends = tf.RaggedTensor.from_tensor(tf.fill([first.nrows(), between], end))
    before = tf.concat([first, ends], axis=1)
    # With the start in front, the first text and what follows it take one place more than they have ids.
    ids, here = pack(tf.concat([before, second], axis=1), [start], [end], limit, pad_id)
    is_second = tf.range(tf.shape(ids, tf.int64)[1]) > before.row_lengths()[:, None]
    return ids, tf.cast(is_second & here, tf.int32)


def _first(ids, lengths):
    """The first ids of each row: ragged [B, (n)], int64 [B] -> ragged [B, (n)]."""
    places = tf.ragged.range(ids.row_lengths())
    return tf.ragged.boolean_mask(ids, places < lengths[:, None])


def positions(found):
    """Where a table of flags is true, row by row.

    Args:
        found: bool [B, T].

    Returns:
        int32 [B, M], padded with 0, M at least 1; and how many there are in each row, int32 [B].
    """
    places = tf.where(found)
    rows = tf.shape(found, tf.int64)[0]
    ragged = tf.RaggedTensor.from_value_rowids(tf.cast(places[:, 1], tf.int32), places[:, 0], rows, validate=False)
    dense = ragged.to_tensor(0)
    dense = tf.pad(dense, [[0, 0], [0, tf.cast(tf.shape(dense)[1] == 0, tf.int32)]])
    return dense, tf.cast(ragged.row_lengths(), tf.int32)

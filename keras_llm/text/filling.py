"""Texts with gaps: marks such as `[MASK]`, written in a text, and what comes into their place.

No text gives a special id; so a text is cut at its marks before it is tokenized.

Shapes: B batch, M marks of a text.
"""

from __future__ import annotations

import tensorflow as tf

from keras_llm.text.splitting import WHITE


def split_at_marks(text, mark: str) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Cuts texts at a mark.

    Args:
        text: string [B], valid UTF-8.
        mark: e.g. "[MASK]".

    Returns:
        string [B, (M + 1)], what stands before the first, between, and behind the last mark; and bool of all parts, flat:
        whether a mark follows.

    Example:

    >>> split_at_marks(["a [MASK] b", "c"], "[MASK]")[0].to_list()
    [[b'a ', b' b'], [b'c']]
    """
    parts = tf.strings.split(text, mark)
    last = tf.range(tf.size(parts.values, tf.int64)) == tf.gather(parts.row_limits() - 1, parts.value_rowids())
    return parts, ~last


def with_ids(ids: tf.RaggedTensor, parts: tf.RaggedTensor, followed, mark_ids) -> tf.RaggedTensor:
    """The ids of texts, an id in the place of each mark.

    Args:
        ids: int32 [N, (n)], of all parts.
        parts, followed: from `split_at_marks`.
        mark_ids: int32, one for each mark of all texts.

    Returns:
        int32 [B, (n)].
    """
    marks = tf.RaggedTensor.from_row_lengths(mark_ids, tf.cast(followed, tf.int64))
    return parts.with_values(tf.concat([ids, marks], 1)).merge_dims(1, 2)


def without_end(text):
    """Texts without the white space at their end: string [n] -> string [n]."""
    return tf.strings.regex_replace(text, f"[{WHITE}]+$", "")


def with_spaces(parts: tf.RaggedTensor, joined: tf.RaggedTensor, space: str) -> tf.RaggedTensor:
    """Texts around gaps, ready for what comes into the gaps: no white space before what goes on a word.

    Args:
        parts: string [B, (M + 1)], from `split_at_marks`.
        joined: bool [B, (at most M)], whether what comes into a text's first gaps goes on the word before.
        space: what stands before something that does not, if there is no white space already; "" where texts are left as
            they are.

    Returns:
        string [B, (M + 1)].

    Example:

    >>> parts, _ = split_at_marks(["[MASK] do [MASK][MASK]"], "[MASK]")
    >>> with_spaces(parts, tf.ragged.constant([[False, True, False]]), " ").to_list()
    [[b'', b' do', b' ', b'']]
    """
    joined = joined.with_row_splits_dtype(tf.int64)
    unread = parts.row_lengths() - joined.row_lengths()
    none = tf.RaggedTensor.from_row_lengths(tf.zeros([tf.reduce_sum(unread)], tf.bool), unread)
    goes_on, begins = (tf.concat([flags, none], 1).values for flags in (joined, joined.with_values(~joined.values)))
    bare = without_end(parts.values)
    texts = tf.where(goes_on, bare, parts.values)
    if space:
        first = tf.range(tf.size(texts, tf.int64)) == tf.gather(parts.row_starts(), parts.value_rowids())
        begins &= (parts.values == bare) & ~(first & (bare == ""))
        texts = tf.strings.join([texts, tf.where(begins, space, "")])
    return parts.with_values(texts)


def fill_marks(parts: tf.RaggedTensor, found: tf.RaggedTensor, mark: str) -> tf.Tensor:
    """Texts with their gaps filled.

    Args:
        parts: string [B, (M + 1)], from `split_at_marks`.
        found: string [B, (at most M)], for the first marks of each text; the others stay.
        mark: as it was written.

    Returns:
        string [B].

    Example:

    >>> parts, _ = split_at_marks(["a [MASK] b [MASK]"], "[MASK]")
    >>> fill_marks(parts, tf.ragged.constant([["x"]]), "[MASK]").numpy().tolist()
    [b'a x b [MASK]']
    """
    unread = parts.row_lengths() - 1 - tf.cast(found.row_lengths(), tf.int64)
    rest = tf.RaggedTensor.from_row_lengths(tf.fill([tf.reduce_sum(unread)], mark), unread)
    none = tf.RaggedTensor.from_tensor(tf.fill([tf.shape(unread)[0], 1], ""))
    filled = tf.concat([found.with_row_splits_dtype(tf.int64), rest, none], 1)
    return tf.strings.reduce_join(parts.with_values(tf.strings.join([parts.values, filled.values])), axis=1)

"""The unicode policy of a tokenizer, in the graph: repair invalid UTF-8, normalise, and map offsets back to the source.

Policies
- `identity`: nothing changes.
- `nfc`, `nfkc`: the Unicode normal forms (https://unicode.org/reports/tr15/). NFKC also folds full-width letters,
  ligatures and circled numbers: `，` becomes `,`.
- `lowercase`: the rule of uncased BERT as tensorflow-text implements it: Unicode case folding with compatibility
  mapping, decomposition, accents dropped, control characters read as a space. `Ａ！É` becomes `a!e`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf
import tensorflow_text as tf_text

from keras_llm.errors import UserError

POLICIES = ("identity", "nfc", "nfkc", "lowercase")
NORMAL_FORMS = {"nfc": "NFC", "nfkc": "NFKC"}

# Takes the starts and ends of tokens in normalised text, gives those in the source; int32 [B, (n)] all four.
ToSource = Callable[[tf.RaggedTensor, tf.RaggedTensor], tuple[tf.RaggedTensor, tf.RaggedTensor]]


def check_policy(policy: str) -> str:
    """Returns `policy`, or raises UserError if there is no such policy."""
    if policy not in POLICIES:
        raise UserError(
            f"unicode_policy must be one of {', '.join(POLICIES)}. Received: {policy!r}. Choose one of them."
        )
    return policy


def sanitise(text) -> tf.Tensor:
    """Replaces each malformed byte sequence by U+FFFD; valid UTF-8 comes back byte for byte.

    Args:
        text: string `[B]`.

    Returns:
        string `[B]`, valid UTF-8.

    Example:

    >>> sanitise([b"caf\\xc3", "中文".encode()]).numpy()[0].decode()
    'caf�'
    """
    text = tf.convert_to_tensor(text, tf.string)
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD)


def normalise(text, policy: str) -> tf.Tensor:
    """Applies a unicode policy.

    Args:
        text: string `[B]`, valid UTF-8.
        policy: one of `POLICIES`.

    Returns:
        string `[B]`.

    Example:

    >>> normalise(["Ｃafé"], "lowercase").numpy()
    array([b'cafe'], dtype=object)
    """
    text = tf.convert_to_tensor(text, tf.string)
    if policy == "identity":
        return text
    if policy == "lowercase":
        return _lowercase().normalize(text)
    return tf_text.normalize_utf8(text, NORMAL_FORMS[check_policy(policy)])


def normalise_with_offsets(text, policy: str) -> tuple[tf.Tensor, ToSource]:
    """As `normalise`, and gives the function that takes offsets in the normalised text back to `text`.

    A token that covers part of what one source character became (`k` of `㎏`) covers the whole character in the
    source: slices of the source are never empty and never split a character.

    Args:
        text: string `[B]`, valid UTF-8.
        policy: one of `POLICIES`.

    Returns:
        string `[B]` and `to_source(starts, ends) -> starts, ends`, all int32 `[B, (n)]` byte offsets, ends exclusive.
    """
    text = tf.convert_to_tensor(text, tf.string)
    if policy == "identity":
        return text, lambda starts, ends: (starts, ends)
    if policy == "lowercase":
        normalised, origin = _lowercase().normalize_with_offsets(text)  # each byte: where its source character starts
        origin = tf.cast(origin, tf.int32)
        before = tf.concat([[-1], origin.values[:-1]], 0)
        opens = (origin.values != before) | _at(origin.row_starts(), tf.size(origin.values))
    else:
        # One row more than there is: FindSourceOffsets crashes on a batch without rows.
        normalised, edits = tf_text.normalize_utf8_with_offsets_map(
            tf.concat([text, [""]], 0), NORMAL_FORMS[check_policy(policy)]
        )
        positions = tf.ragged.range(tf.strings.length(normalised) + 1)
        # The first byte of a changed stretch maps to the stretch's start, the others to its end.
        origin = tf.cast(tf_text.find_source_offsets(edits, tf.cast(positions, tf.int64)), tf.int32)
        normalised, origin = normalised[:-1], origin[:-1]
        after = tf.concat([origin.values[1:], [-1]], 0)
        opens = (origin.values != after) | _at(origin.row_limits() - 1, tf.size(origin.values))
    # Each source stretch has one entry in `stretches` (its start; the last of a row is the text's length), and each
    # normalised byte the number of its stretch.
    stretches = tf.boolean_mask(origin.values, opens)
    number = origin.with_values(tf.cumsum(tf.cast(opens, tf.int32)) - 1)

    def to_source(starts, ends):
        first = gather_rows(number, starts)
        last = gather_rows(number, ends - 1)
        return (
            first.with_values(tf.gather(stretches, first.values)),
            last.with_values(tf.gather(stretches, last.values + 1)),
        )

    return normalised, to_source


def gather_rows(table: tf.RaggedTensor, positions: tf.RaggedTensor) -> tf.RaggedTensor:
    """`table[b][positions[b]]` for each row b; `tf.gather` with `batch_dims` says the same and is ten times as slow."""
    rows = positions.value_rowids()
    place = tf.gather(table.row_starts(), rows) + tf.cast(positions.values, table.row_splits.dtype)
    return positions.with_values(tf.gather(table.values, place))


@functools.cache
def _lowercase() -> tf_text.FastBertNormalizer:
    with tf.init_scope():  # its table outlives the graph that first asks for it
        return tf_text.FastBertNormalizer(lower_case_nfd_strip_accents=True)


def _at(positions, size) -> tf.Tensor:
    """bool `[size]`, True at `positions`."""
    return tf.scatter_nd(positions[:, None], tf.ones_like(positions), [tf.cast(size, positions.dtype)]) > 0

"""Words: one id a frequent word between white space, one for the line feed, one for all other words. With offsets."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from keras_llm.errors import UserError
from keras_llm.text.splitting import CUT, WHITE
from keras_llm.text.tokenizer import Tokenizer, check_size, clean_texts, printable

SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")
LINE_FEED_ID = len(SPECIAL_TOKENS)
FIRST_WORD = LINE_FEED_ID + 1
FINGERPRINTS = 2**63 - 1  # number of values a word's fingerprint can have


class WordsTokenizer(Tokenizer):
    """The classic closed vocabulary of language modelling: white space separates words, the most frequent words have an
    id each, every other word is `unknown_id`.

    A line feed is a token of its own, so that a text of lines, read as one document, has the end-of-line tokens that
    Mikolov et al. 2010 (https://www.isca-archive.org/interspeech_2010/mikolov10_interspeech.html) put into the Penn
    Treebank. All of Unicode's white space separates; punctuation does not, nor do Chinese characters: text must be
    segmented before. `<unk>` and `</s>` written in the text are words like others. Not reversible: `decode` puts one
    space between words and none beside a line feed. The policy `lowercase` reads a line feed as a space, as all control
    characters.

    Args:
        words: the words with an id of their own, most frequent first; without white space.
        unicode_policy: see `Tokenizer`.

    Raises:
        UserError: a word occurs twice, is empty or holds white space; two words have the same 64-bit fingerprint.

    Example:

    >>> tokenizer = WordsTokenizer.train(["the cat saw the dog \\n the end"], vocabulary_size=7)
    >>> tokenizer.encode(["the cat\\nthe tree"]).to_list()
    [[5, 6, 4, 5, 1]]
    """

    kind = "words"
    reversible = False
    has_offsets = True
    vocabulary_file = "vocab.txt"

    def __init__(self, words: Sequence[str], unicode_policy: str = "identity"):
        file = "".join(f"{word}\n" for word in words).encode()
        super().__init__(file, FIRST_WORD + len(words), unicode_policy)
        _check(words)
        self._words = tuple(words)
        pieces = np.array([*[b""] * LINE_FEED_ID, b"\n", *(word.encode() for word in words)], object)
        self._pieces = tf.constant(pieces, tf.string)
        # Found by binary search over fingerprints, then compared: a table of strings would be state with an initialiser.
        prints = tf.strings.to_hash_bucket_fast(self._pieces[LINE_FEED_ID:], FINGERPRINTS).numpy()
        order = np.argsort(prints)
        same = np.flatnonzero(np.diff(prints[order]) == 0)
        if same.size:
            pair = [pieces[LINE_FEED_ID + place].decode() for place in order[same[0] : same[0] + 2]]
            raise UserError(
                f"The words' fingerprints must differ. Received: the same for {pair}. Leave one of them out."
            )
        # The last entry is larger than any fingerprint; its id is the first's, so that a comparison decides there, too.
        self._fingerprints = tf.constant(np.append(prints[order], FINGERPRINTS), tf.int64)
        self._ids = tf.constant(np.append(order + LINE_FEED_ID, LINE_FEED_ID), tf.int32)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int, unicode_policy: str = "identity") -> WordsTokenizer:
        check_size(vocabulary_size, FIRST_WORD + 1, "4 special ids, the line feed, one word")
        counts = Counter()
        texts = clean_texts(texts, unicode_policy)
        while batch := list(itertools.islice(texts, 256)):
            parts, is_word, _ = _split(tf.constant(batch))
            counts.update(tf.boolean_mask(parts.values, is_word).numpy().tolist())
        del counts[b"\n"]
        if not counts:
            raise UserError("A vocabulary is made of words. Received: text without any. Give at least one sentence.")
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls([word.decode() for word in ranked[: vocabulary_size - FIRST_WORD]], unicode_policy)

    @classmethod
    def _from_bytes(cls, vocabulary: bytes, unicode_policy: str) -> WordsTokenizer:
        try:
            return cls(vocabulary.decode().split("\n")[:-1], unicode_policy)
        except UnicodeDecodeError as error:
            raise UserError(f"{cls.vocabulary_file} must be UTF-8. Received: {error}. Train anew.") from None

    def tokens(self) -> list[str]:
        return [*SPECIAL_TOKENS, *map(_visible, ("\n", *self._words))]

    def _encode(self, text):
        parts, is_word, splits = _split(text)
        return self._rows(self._lookup(tf.boolean_mask(parts.values, is_word)), splits)

    def _encode_with_offsets(self, text):
        parts, is_word, splits = _split(text)
        words = tf.boolean_mask(parts.values, is_word)
        lengths = tf.strings.length(parts.values)
        ends = tf.cumsum(lengths)
        ends -= tf.gather(tf.concat([[0], ends], 0), tf.gather(parts.row_starts(), parts.value_rowids()))
        ends, lengths = tf.boolean_mask(ends, is_word), tf.boolean_mask(lengths, is_word)
        return tuple(self._rows(values, splits) for values in (self._lookup(words), ends - lengths, ends))

    def _rows(self, values, splits) -> tf.RaggedTensor:
        return tf.RaggedTensor.from_row_splits(values, splits, validate=False)

    def _lookup(self, words):
        place = tf.searchsorted(self._fingerprints, tf.strings.to_hash_bucket_fast(words, FINGERPRINTS))
        ids = tf.gather(self._ids, place)
        return tf.where(tf.gather(self._pieces, ids) == words, ids, self.unknown_id)

    def _decode(self, ids):
        flat = ids.values
        line_feed = flat == LINE_FEED_ID
        after_line_feed = tf.concat([[True], line_feed[:-1]], 0)[: tf.size(flat)]
        first = tf.range(tf.size(flat)) == tf.cast(tf.gather(ids.row_starts(), ids.value_rowids()), tf.int32)
        pieces = tf.where(line_feed | after_line_feed | first, "", " ") + tf.gather(self._pieces, flat)
        return tf.strings.reduce_join(ids.with_values(pieces), axis=-1)


def _split(text) -> tuple[tf.RaggedTensor, tf.Tensor, tf.Tensor]:
    """Valid UTF-8, string `[B]` -> parts string `[B, (P)]`, which of all parts are words bool, row splits of the words.

    The parts are white space (perhaps empty), word, white space, word, ..., white space: together the text. A line feed
    is a word.
    """
    parts = tf.strings.split(tf.strings.regex_replace(text, rf"[^{WHITE}]+|\n", CUT + rb"\0" + CUT), CUT)
    # Each row has an odd number of parts, so before row r stand as many odd numbers.
    row = parts.value_rowids()
    is_word = (tf.range(tf.size(row, row.dtype)) + row) % 2 == 1
    return parts, is_word, (parts.row_splits - tf.range(tf.size(parts.row_splits, row.dtype))) // 2


def _check(words: Sequence[str]) -> None:
    if not words:
        raise UserError("A vocabulary holds at least one word. Received: none. Train anew.")
    twice = [word for word, count in Counter(words).items() if count > 1]
    split = ~tf.strings.regex_full_match([word.encode() for word in words], f"[^{WHITE}]+").numpy()
    wrong = [*twice, *(words[i] for i in np.flatnonzero(split))]
    if wrong:
        raise UserError(f"A vocabulary holds words without white space, each once. Received: {wrong[0]!r}. Train anew.")


def _visible(word: str) -> str:
    """As `printable`; the word `<unk>` differs from the special token, a backslash and n from a line feed."""
    word = word.replace("\\", "\\\\")
    return f"\\x{ord(word[0]):02x}{word[1:]}" if word in SPECIAL_TOKENS else printable(word)

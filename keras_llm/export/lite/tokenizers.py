"""WordPiece and characters over code points instead of strings, with builtin TFLite ops only.

Each gives exactly the ids, and the characters they come from, that its original in `keras_llm.text` gives: tensorflow-text's
own TFLite kernels know neither byte fallback nor our escapes (decision 18), and have no ops for repairing UTF-8.

Shapes: M characters of the text, N ids, L ids of an answer.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from keras_llm.export.lite.tables import CodePoints, Mapping, Trie, mapping_of
from keras_llm.export.lite.text import END, WHOLE, code_points, spread, utf8_length
from keras_llm.text.characters import FIRST_BYTE, FIRST_CHARACTER
from keras_llm.text.unicode import normalise
from keras_llm.text.wordpiece import LONGEST_WORD

SPACE, SINGLE, LETTER = 0, 1, 2  # what a character is to WordPiece: between words, a word alone, part of one


class NotPossibleError(Exception):
    """No `.tflite` file can do what this tokenizer does; the message says why."""


class LiteTokenizer:
    """What all three share.

    Args:
        tokenizer: the original.

    Raises:
        NotPossibleError: its Unicode policy looks at more than one character at a time.
    """

    def __init__(self, tokenizer):
        if tokenizer.unicode_policy not in ("identity", "lowercase"):
            raise NotPossibleError(
                f"the Unicode policy {tokenizer.unicode_policy} composes and reorders neighbouring characters, for which "
                "TFLite has no op; identity and lowercase have string files"
            )
        self.policy = tokenizer.unicode_policy
        self.vocabulary_size = tokenizer.vocabulary_size
        self.special_ids = tokenizer.special_ids

    def encode(self, points, limit):
        """Code points int32 [M + 1], END last -> ids int32 [N]; of more than `limit` ids the first ones are right."""
        return self.encode_with_places(points)[0]

    def encode_with_places(self, points):
        """Code points int32 [M + 1], END last -> ids, first character, character behind the last: int32 [N] each."""
        raise NotImplementedError

    def decode(self, ids):
        """int32 [L] -> code points int32 [M + 1], END last; special ids vanish."""
        raise NotImplementedError


class WordPiece(LiteTokenizer):
    """Words into their longest pieces, all words at once: the longest piece at every character, then jumps from piece to
    piece that double in each round."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        cleaner = tf_text.FastBertNormalizer()
        self.normalise = Mapping(mapping_of(lambda text: cleaner.normalize(normalise(text, self.policy))))
        kinds = _kinds()
        self.kind = CodePoints(kinds, default=LETTER)
        first, later = {}, {}
        for id_, piece in enumerate(tokenizer._tokens):
            continues = piece.startswith("##") and len(piece) > 2
            letters = piece[2:] if continues else piece
            # No other piece can be part of a word; the names of the special tokens are among these.
            alone = len(letters) == 1 and not continues and kinds.get(ord(letters), LETTER) != SPACE
            if alone or all(kinds.get(ord(letter), LETTER) == LETTER for letter in letters):
                (later if continues else first)[letters] = id_
        letters = sorted({ord(letter) for letter in itertools.chain(*first, *later)})
        number = {code: i + 1 for i, code in enumerate(letters)}
        self.symbol = CodePoints(number)
        self.trie = Trie(*({tuple(number[ord(c)] for c in p): id_ for p, id_ in d.items()} for d in (first, later)))
        self.unknown_id = tokenizer.unknown_id

    def encode_with_places(self, points):
        points, owner, following = self.normalise(points)
        kind, size = self.kind(points), tf.size(points)
        letter_before = tf.concat([[False], kind[:-1] == LETTER], 0)
        begins = (kind == SINGLE) | ((kind == LETTER) & ~letter_before)  # END is a space
        boundary = begins | (kind == SPACE)
        word_first, word_last, word = _words(begins, boundary)
        root = tf.where(begins, self.trie.roots[0], self.trie.roots[1])
        length, piece = self.trie.longest(self.symbol(points), root)

        # From each character to the one after its piece, or nowhere (`size`) where the word is over or nothing matches.
        jump = tf.range(size) + length
        jump = tf.where((length == 0) | tf.gather(boundary, tf.minimum(jump, size - 1)), size, jump)
        jump = tf.concat([jump, size[None]], 0)
        reached = tf.concat([tf.cast(begins, tf.int32), [0]], 0)
        for _ in range(LONGEST_WORD.bit_length()):
            arrived = tf.scatter_nd(jump[:, None], reached, (size + 1)[None])
            reached = tf.minimum(reached + arrived, 1)
            jump = tf.gather(jump, jump)
        reached = reached[:-1] > 0

        failed = tf.cumsum(tf.cast(reached & (length == 0), tf.int32), exclusive=True)
        weight = tf.cumsum(utf8_length(points), exclusive=True)
        too_long = tf.gather(weight, word_last) - tf.gather(weight, word_first) > LONGEST_WORD
        unknown = too_long | (tf.gather(failed, word_last) > tf.gather(failed, word_first))
        unknown = tf.gather(unknown, word)  # of each character's word
        at = tf.cast(tf.where(tf.where(unknown, begins, reached))[:, 0], tf.int32)
        unknown = tf.gather(unknown, at)
        ids = tf.where(unknown, self.unknown_id, tf.gather(piece, at))
        end = tf.where(unknown, tf.gather(word_last, tf.gather(word, at)), at + tf.gather(length, at))
        return ids, tf.gather(owner, at), tf.gather(following, end - 1)


class Characters(LiteTokenizer):
    """A character with an id becomes it, another its UTF-8 bytes."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.normalise = None
        if self.policy != "identity":
            self.normalise = Mapping(mapping_of(lambda text: normalise(text, self.policy)))
        codes = [ord(character) for character in tokenizer._characters]
        self.id = CodePoints({code: FIRST_CHARACTER + i for i, code in enumerate(codes)})
        self._values = np.array([*[0] * FIRST_BYTE, *range(256), *(WHOLE + code for code in codes)], np.int32)

    def encode_with_places(self, points):
        owner = tf.range(tf.size(points))
        following = owner + 1
        if self.normalise:
            points, owner, following = self.normalise(points)
        ids, place = with_bytes(points, self.id(points))
        return ids[:-1], tf.gather(owner, place)[:-1], tf.gather(following, place)[:-1]  # without END's

    def decode(self, ids):
        ids = tf.boolean_mask(ids, (ids >= self.special_ids) & (ids < self.vocabulary_size))
        return code_points(tf.gather(self._values, ids))


@functools.cache
def _kinds():
    """SPACE or SINGLE for each character that is one, found by asking the op that splits text."""
    splitter = tf_text.FastWordpieceTokenizer(["[UNK]", "a"], max_bytes_per_word=LONGEST_WORD, token_out_type=tf.int32)
    codes = np.concatenate([np.arange(0xD800), np.arange(0xE000, END)]).astype(np.int32)
    middle = tf.strings.unicode_encode(codes[:, None], "UTF-8")
    words = splitter.tokenize(tf.strings.join(["a", middle, "a"])).row_lengths().numpy()
    kinds = {int(code): {2: SPACE, 3: SINGLE}[count] for code, count in zip(codes, words, strict=True) if count > 1}
    return {**kinds, END: SPACE}


def _words(begins, boundary):
    """First character and the one behind the last of each word, int32 [W], and the word of each character, int32 [M]; a
    word of no characters stands where there is none."""
    places = tf.cast(tf.where(boundary)[:, 0], tf.int32)  # END is the last
    is_word = tf.gather(begins, places)
    first = tf.concat([[0], tf.boolean_mask(places[:-1], is_word[:-1])], 0)
    last = tf.concat([[0], tf.boolean_mask(places[1:], is_word[:-1])], 0)
    return first, last, tf.cumsum(tf.cast(begins, tf.int32))


def with_bytes(points, ids):
    """Characters and the id of each or 0 -> ids with the bytes of those without, and the place each comes from.

    END gives one id that means nothing.
    """
    length = tf.maximum(utf8_length(points), 1)
    owner, nth, _ = spread(tf.where(ids > 0, 1, length))
    count, point, id_ = tf.gather(length, owner), tf.gather(points, owner), tf.gather(ids, owner)
    bits = point // tf.gather([1, 64, 4096, 262144], tf.maximum(count - 1 - nth, 0))
    byte = tf.where(nth == 0, tf.gather([0, 0, 0xC0, 0xE0, 0xF0], count) + bits, 0x80 + bits % 64)
    return tf.where(id_ > 0, id_, FIRST_BYTE + byte), owner

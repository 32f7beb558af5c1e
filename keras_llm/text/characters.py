"""Characters: one id a frequent Unicode code point, bytes for all others. Exactly reversible, with offsets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from keras_llm.errors import UserError
from keras_llm.text.tokenizer import Tokenizer, check_size, clean_texts, printable
from keras_llm.text.unicode import sanitise

SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")
FIRST_BYTE = len(SPECIAL_TOKENS)  # ids 4 to 259 are the bytes 0 to 255
FIRST_CHARACTER = FIRST_BYTE + 256


class CharacterTokenizer(Tokenizer):
    """The most frequent characters of a text; a rarer one becomes its UTF-8 bytes (1 to 4 ids), so nothing is unknown.

    Each byte of a rare character has the offsets of the whole character.

    Args:
        characters: the characters with an id of their own, most frequent first.
        unicode_policy: see `Tokenizer`.

    Example:

    >>> tokenizer = CharacterTokenizer.train(["你好 hello"], vocabulary_size=300)
    >>> tokenizer.decode(tokenizer.encode(["你好 😀"])).numpy()[0].decode()
    '你好 😀'
    """

    kind = "characters"
    reversible = True
    has_offsets = True
    vocabulary_file = "vocab.txt"

    def __init__(self, characters: str, unicode_policy: str = "identity"):
        codes = np.array([ord(c) for c in characters], np.int32)
        lines = "".join(f"{code:04X}\n" for code in codes)
        super().__init__(lines.encode(), FIRST_CHARACTER + len(codes), unicode_policy)
        self._characters = characters
        # Sorted, for a binary search; the last entry is larger than any code point.
        order = np.argsort(codes)
        self._sorted_codes = tf.constant(np.append(codes[order], 0x110000), tf.int32)
        self._sorted_ids = tf.constant(np.append(order + FIRST_CHARACTER, 0), tf.int32)
        pieces = [b""] * FIRST_BYTE + [bytes([b]) for b in range(256)] + [c.encode() for c in characters]
        self._pieces = tf.constant(pieces, tf.string)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int, unicode_policy: str = "identity") -> CharacterTokenizer:
        check_size(vocabulary_size, FIRST_CHARACTER + 1, "4 special ids, 256 bytes, one character")
        counts = Counter()
        for text in clean_texts(texts, unicode_policy):
            counts.update(text)
        ranked = sorted(counts, key=lambda c: (-counts[c], c))
        return cls("".join(ranked[: vocabulary_size - FIRST_CHARACTER]), unicode_policy)

    @classmethod
    def _from_bytes(cls, vocabulary: bytes, unicode_policy: str) -> CharacterTokenizer:
        try:
            return cls("".join(chr(int(line, 16)) for line in vocabulary.decode().splitlines()), unicode_policy)
        except ValueError as error:
            raise UserError(
                f"{cls.vocabulary_file} must hold hexadecimal code points. Received: {error}. Train anew."
            ) from None

    def tokens(self) -> list[str]:
        pieces = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
        return pieces + [printable(character) for character in self._characters]

    def _encode(self, text):
        return self._encode_with_offsets(text)[0]

    def _encode_with_offsets(self, text):
        codes, starts = tf.strings.unicode_decode_with_offsets(text, "UTF-8")  # [B, (c)], c characters
        starts = tf.cast(starts, tf.int32)
        code = codes.values
        place = tf.searchsorted(self._sorted_codes, code)
        known = tf.gather(self._sorted_codes, place) == code
        length = 1 + sum(tf.cast(code >= limit, tf.int32) for limit in (0x80, 0x800, 0x10000))  # UTF-8 bytes
        count = tf.where(known, 1, length)  # ids this character becomes

        # One entry an id from here on: `owner` is the id's character, `nth` its place within it.
        owner = tf.repeat(tf.range(tf.size(code)), count)
        nth = tf.range(tf.size(owner)) - tf.gather(tf.cumsum(count, exclusive=True), owner)
        owner_length = tf.gather(length, owner)
        bits = tf.bitwise.right_shift(tf.gather(code, owner), 6 * (owner_length - 1 - nth))
        lead = tf.gather([0, 0, 0xC0, 0xE0, 0xF0], owner_length)
        byte = tf.where(nth == 0, lead + bits, 0x80 + tf.bitwise.bitwise_and(bits, 0x3F))
        ids = tf.where(tf.gather(known, owner), tf.gather(tf.gather(self._sorted_ids, place), owner), FIRST_BYTE + byte)

        splits = tf.gather(tf.concat([[0], tf.cumsum(count)], 0), codes.row_splits)
        splits = tf.cast(splits, codes.row_splits.dtype)
        begin = tf.gather(starts.values, owner)
        return tuple(
            tf.RaggedTensor.from_row_splits(values, splits, validate=False)
            for values in (ids, begin, begin + owner_length)
        )

    def _decode(self, ids):
        pieces = tf.gather(self._pieces, ids)
        return sanitise(tf.strings.reduce_join(pieces, axis=-1))

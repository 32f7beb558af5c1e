"""Byte-level byte-pair encoding in the graph, with tables that never grow: GPT-2's, Llama 3's, Qwen's and their kin's.

It reads the vocabularies of others and learns none; Hugging Face's `tokenizers` is the oracle of its tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_llm.errors import UserError
from keras_llm.text.splitting import Splitting, split_words
from keras_llm.text.unicode import normalise, sanitise

NEVER = np.int32(2**31 - 1)  # rank of a pair that does not merge


class BytePairEncoder(tf.Module):
    """Text to ids and back (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, over bytes).

    A pure function of its input: no cache, no state. All words of a batch merge side by side; each turn of the loop
    merges, in every word at once, the pairs of least rank. Special tokens in the text are plain text.

    Args:
        vocabulary: token -> id, tokens written in GPT-2's letters for bytes (`Ġ` is a space).
        merges: pairs of tokens in their order of rank, "a b" or ("a", "b").
        splitting: what a word is, e.g. `SPLITTINGS["gpt2"]`.
        special_ids: vanish when decoding.
        prefix_space: a text that does not begin with a space gets one, as in some BERT-like models.

    Example:

    >>> letters = {letter: i for i, letter in enumerate(byte_letters())}
    >>> encoder = BytePairEncoder({**letters, "ab": 256, "abab": 257}, ["a b", "ab ab"], SPLITTINGS["gpt2"])
    >>> encoder.encode(["ababab"]).to_list()
    [[257, 256]]
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[str | Sequence[str]],
        splitting: Splitting,
        special_ids: Sequence[int] = (),
        prefix_space: bool = False,
    ):
        super().__init__(name="byte_pair")
        self.splitting = splitting
        self.prefix_space = prefix_space
        self.vocabulary_size = max(vocabulary.values()) + 1
        letters = byte_letters()
        missing = [byte for byte, letter in enumerate(letters) if letter not in vocabulary]
        if missing:
            raise UserError(
                f"A byte-level vocabulary must have a token for each of the 256 bytes. Received: {len(missing)} missing, the "
                f"first is {letters[missing[0]]!r}. Use the vocabulary the model was trained with."
            )
        self._byte_ids = tf.constant([vocabulary[letter] for letter in letters], tf.int32)
        bytes_of = {letter: bytes([byte]) for byte, letter in enumerate(letters)}
        written = {token: _written(token, bytes_of) for token in vocabulary}
        texts = [b""] * self.vocabulary_size
        for token, id_ in vocabulary.items():
            texts[id_] = b"" if id_ in set(special_ids) else written[token]
        # One more, empty, for ids outside the vocabulary: embeddings may be larger than it.
        self._texts = tf.constant([*texts, b""])
        # Merging never makes a longer token; see `_merge`.
        self._block = 2 * max(map(len, written.values()))
        keys, merged = _merge_table(vocabulary, merges, self.vocabulary_size)
        order = np.argsort(keys, kind="stable")
        self._keys = tf.constant(keys[order], tf.int64)
        self._ranks = tf.constant(order, tf.int32)
        self._merged = tf.constant(merged, tf.int32)
        if self.splitting.whole_words:
            whole = {written[token]: id_ for token, id_ in vocabulary.items() if id_ not in set(special_ids)}
            table = tf.lookup.KeyValueTensorInitializer(list(whole), list(whole.values()), tf.string, tf.int32)
            self._whole = tf.lookup.StaticHashTable(table, -1)

    def encode(self, text) -> tf.RaggedTensor:
        """Text to ids; no special id is added.

        Args:
            text: string `[B]`, any bytes; what is not UTF-8 is read as U+FFFD.

        Returns:
            int32 `[B, (n)]`.
        """
        text = normalise(sanitise(text), self.splitting.normal_form)
        if self.prefix_space:
            text = tf.strings.regex_replace(text, r"^([^ ])", r" \1")
        words = split_words(text, self.splitting)
        different, place = tf.unique(words.values)
        ids = tf.gather(self._encode_words(different), place)
        return words.with_values(ids).merge_dims(1, 2)

    def decode(self, ids) -> tf.Tensor:
        """Ids to text; special ids, and ids outside the vocabulary, vanish.

        Args:
            ids: int32 `[B, T]`, dense or ragged.

        Returns:
            string `[B]`, valid UTF-8: half a character becomes U+FFFD.
        """
        return sanitise(tf.strings.reduce_join(self.pieces(ids), axis=-1))

    def pieces(self, ids):
        """The text of each id, bytes that need not be whole characters: int32 `[...]` -> string `[...]`."""
        known = (ids >= 0) & (ids < self.vocabulary_size)
        return tf.gather(self._texts, tf.where(known, ids, self.vocabulary_size))

    def _encode_words(self, words) -> tf.RaggedTensor:
        """string `[W]` -> int32 `[W, (n)]`."""
        lengths = tf.strings.length(words)
        count = tf.size(words)
        ids = tf.gather(self._byte_ids, tf.cast(tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8), tf.int32))
        word = tf.repeat(tf.range(count), lengths)
        if self.splitting.whole_words:
            whole = self._whole.lookup(words)
            merging = tf.gather(whole < 0, word)
            ids, word = tf.boolean_mask(ids, merging), tf.boolean_mask(word, merging)
        ids, word = self._merge(ids, word)
        if self.splitting.whole_words:
            found = tf.cast(tf.where(whole >= 0)[:, 0], tf.int32)
            ids, word = tf.concat([ids, tf.gather(whole, found)], 0), tf.concat([word, found], 0)
            order = tf.argsort(word, stable=True)
            ids, word = tf.gather(ids, order), tf.gather(word, order)
        word = tf.cast(word, tf.int64)
        return tf.RaggedTensor.from_value_rowids(ids, word, tf.cast(count, tf.int64), validate=False)

    def _merge(self, ids, word):
        """Merges until nothing merges: ids and the word of each, int32 `[n]`, sorted by word -> the same, shorter.

        In each turn a pair merges if no pair that could still reach it comes first. What reaches it must become one
        token with its neighbour, so it begins less than the longest token away, on the right from the end of the
        pair's own left token: words are cut into blocks of twice that length, and a pair needs to look at its own
        block and the two beside it only. So a "word" of 100,000 letters takes as few turns as its parts.
        """
        # Where each word begins, in bytes, and with that the place of each byte in its word.
        size = tf.size(ids)
        new_word = tf.concat([[True], word[1:] != word[:-1]], 0)[:size]
        begin = tf.where(new_word)[:, 0]
        place = tf.range(size, dtype=tf.int64) - tf.gather(begin, tf.cumsum(tf.cast(new_word, tf.int32)) - 1)
        opens = place % self._block == 0
        block = tf.cumsum(tf.cast(opens, tf.int32)) - 1
        word_of = tf.boolean_mask(word, opens)  # of each block
        blocks = tf.size(word_of)
        joined = word_of[1:] == word_of[:-1]  # whether a block and the next belong to one word

        def turn(ids, block, rank):
            least = tf.math.unsorted_segment_min(rank, block, blocks)
            before = tf.concat([[NEVER], tf.where(joined, least[:-1], NEVER)], 0)[:blocks]
            after = tf.concat([tf.where(joined, least[1:], NEVER), [NEVER]], 0)[:blocks]
            ready = rank <= tf.gather(tf.minimum(least, tf.minimum(before, after)), block)
            # In a run of one rank (aaaaa) every second pair merges, counted from the run's first: the run is decided
            # as a whole, or not yet.
            first = tf.concat([[True], rank[1:] != rank[:-1]], 0)[: tf.size(rank)]
            run = tf.cumsum(tf.cast(first, tf.int32)) - 1
            runs = tf.reduce_sum(tf.cast(first, tf.int32))
            start = tf.where(first)[:, 0]
            even = (tf.range(tf.size(rank), dtype=tf.int64) - tf.gather(start, run)) % 2 == 0
            waits = tf.math.unsorted_segment_max(tf.cast(~ready, tf.int32), run, runs)
            merges = even & (rank < NEVER) & (tf.gather(waits, run) == 0)
            ids = tf.where(merges, tf.gather(self._merged, tf.where(merges, rank, 0)), ids)
            stays = tf.concat([[True], ~merges[:-1]], 0)[: tf.size(rank)]
            ids, block = tf.boolean_mask(ids, stays), tf.boolean_mask(block, stays)
            return ids, block, self._rank(ids, tf.gather(word_of, block))

        vector = tf.TensorShape([None])
        ids, block, _ = tf.while_loop(
            lambda ids, block, rank: tf.reduce_any(rank < NEVER),
            turn,
            (ids, block, self._rank(ids, word)),
            shape_invariants=(vector, vector, vector),
        )
        return ids, tf.gather(word_of, block)

    def _rank(self, ids, word):
        """The rank of each id's pair with the next one of its word, `NEVER` where it does not merge: int32 `[n]`."""
        left, right = tf.cast(ids[:-1], tf.int64), tf.cast(ids[1:], tf.int64)
        keys = left * self.vocabulary_size + right
        places = tf.minimum(tf.searchsorted(self._keys, keys), tf.size(self._keys) - 1)
        merges = (tf.gather(self._keys, places) == keys) & (word[1:] == word[:-1])
        rank = tf.where(merges, tf.gather(self._ranks, places), NEVER)
        return tf.concat([rank, [NEVER]], 0)[: tf.size(ids)]


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it is visible in Latin-1, else one of the letters from U+0100.

    Example:

    >>> byte_letters()[ord("a")], byte_letters()[ord(" ")]
    ('a', 'Ġ')
    """
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


def _written(token: str, bytes_of: Mapping[str, bytes]) -> bytes:
    """The bytes of a token; one with other letters than those for bytes is a special token, written as it is."""
    if all(letter in bytes_of for letter in token):
        return b"".join(bytes_of[letter] for letter in token)
    return token.encode()


def _merge_table(vocabulary, merges, size):
    """Merge rules -> the key of each pair, left id x size + right id, and the id it becomes, in order of rank."""
    keys, merged = [], []
    seen = set()
    for merge in merges:
        if isinstance(merge, str) and merge.startswith("#version"):
            continue
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        unknown = [token for token in (left, right, left + right) if token not in vocabulary]
        if unknown:
            raise UserError(
                f"Merge rules and vocabulary must belong together. Received: the rule {left!r} {right!r} without the token "
                f"{unknown[0]!r}. Take both from one tokenizer."
            )
        key = vocabulary[left] * size + vocabulary[right]
        if key not in seen:
            seen.add(key)
            keys.append(key)
            merged.append(vocabulary[left + right])
    if not keys:  # a search needs something to search in
        keys, merged = [-1], [0]
    return np.array(keys, np.int64), np.array(merged, np.int32)

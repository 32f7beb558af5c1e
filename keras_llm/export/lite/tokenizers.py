"""Our tokenizers over code points instead of strings, with builtin TFLite ops only.

Each gives exactly the ids, and the characters they come from, that its original in `keras_llm.text` gives: tensorflow-text's
own TFLite kernels know neither byte fallback nor our escapes (decision 18), and have no ops for repairing UTF-8.

Shapes: M characters of the text, N ids, L ids of an answer, K the longest piece.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import sentencepiece.sentencepiece_model_pb2 as sentencepiece_model
import tensorflow as tf
import tensorflow_text as tf_text

from keras_llm.export.lite.tables import CodePoints, Mapping, Trie, mapping_of
from keras_llm.export.lite.text import END, WHOLE, code_points, spread, utf8_length
from keras_llm.text.characters import FIRST_BYTE, FIRST_CHARACTER
from keras_llm.text.sentencepiece import ESCAPE, ESCAPED, ESCAPES
from keras_llm.text.unicode import normalise
from keras_llm.text.wordpiece import LONGEST_WORD

SPACE, SINGLE, LETTER = 0, 1, 2  # what a character is to WordPiece: between words, a word alone, part of one
BLOCK = 128  # places the best segmentation is found for before they are stored
FRACTION = 24  # bits of a float32's mantissa


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
        ids, place = _with_bytes(points, self.id(points))
        return ids[:-1], tf.gather(owner, place)[:-1], tf.gather(following, place)[:-1]  # without END's

    def decode(self, ids):
        ids = tf.boolean_mask(ids, (ids >= self.special_ids) & (ids < self.vocabulary_size))
        return code_points(tf.gather(self._values, ids))


class SentencePiece(LiteTokenizer):
    """The most probable pieces (Viterbi), and bytes of characters without one.

    Float32 sums in the order of the SentencePiece library, so that equal paths stay equal: scores are kept as integers,
    which no quantisation touches.
    """

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        escapes = {ord(char): [ord(c) for c in written] for char, written in {**ESCAPES, " ": "\u2581"}.items()}
        changed = {}
        if self.policy != "identity":
            changed = mapping_of(lambda text: normalise(text, self.policy))
        changed = {code: sum((escapes.get(c, [c]) for c in became), []) for code, became in changed.items()}
        self.normalise = Mapping({**escapes, **changed})
        proto = sentencepiece_model.ModelProto.FromString(tokenizer._vocabulary)
        kinds = sentencepiece_model.ModelProto.SentencePiece
        pieces = {p.piece: id_ for id_, p in enumerate(proto.pieces) if p.type == kinds.NORMAL}
        number = {code: i + 1 for i, code in enumerate(sorted({ord(c) for piece in pieces for c in piece}))}
        self.symbol = CodePoints(number)
        self.trie = Trie({tuple(number[ord(c)] for c in piece): id_ for piece, id_ in pieces.items()})
        scores = np.array([p.score for p in proto.pieces], np.float32)
        scores[tokenizer.unknown_id] = np.float32(min(scores[id_] for id_ in pieces.values())) - np.float32(10)
        mantissa, self._exponent = np.frexp(scores)
        self._mantissa = np.round(mantissa.astype(np.float64) * 2.0**FRACTION).astype(np.int32)
        self.unknown_id = tokenizer.unknown_id
        # What a piece writes, as elements that `code_points` reads: bytes, and whole characters.
        written = [[] for _ in proto.pieces]
        for id_, piece in enumerate(proto.pieces):
            if piece.type == kinds.BYTE:
                written[id_] = [int(piece.piece[3:-1], 16)]
            elif piece.type == kinds.NORMAL:
                written[id_] = [WHOLE + ord(c) for c in piece.piece.replace("\u2581", " ")]
        self._written_length = np.array([*map(len, written), 1], np.int32)
        self._written_first = np.cumsum([0, *map(len, written)], dtype=np.int32)
        self._written = np.array([*itertools.chain(*written), WHOLE + END], np.int32)

    def encode(self, points, limit):
        points, _, _ = self.normalise(points)
        pieces = self.trie.all(self.symbol(points))  # [M + 1, K]
        single = tf.where((pieces[:, 0] == 0) & (points != END), self.unknown_id, pieces[:, 0])
        pieces = tf.concat([single[:, None], pieces[:, 1:]], 1)
        pieces = pieces[: self._enough(pieces, limit)]
        back = self._best(pieces)  # [M + 1]
        # Backwards from the end along the best path, in jumps that double in each round.
        size = tf.size(back)

        def body(_, jump, reached):
            arrived = tf.scatter_nd(jump[:, None], reached, size[None])
            return (
                tf.reduce_any((arrived > 0) & (reached == 0)),
                tf.gather(jump, jump),
                tf.minimum(reached + arrived, 1),
            )

        first = (tf.constant(True), tf.range(size) - back, tf.cast(tf.range(size) == size - 1, tf.int32))
        shapes = (tf.TensorShape([]), tf.TensorShape([None]), tf.TensorShape([None]))
        _, _, reached = tf.while_loop(lambda more, *_: more, body, first, shape_invariants=shapes)
        end = tf.cast(tf.where((reached > 0) & (tf.range(size) > 0))[:, 0], tf.int32)
        length = tf.gather(back, end)
        begin = end - length
        ids = tf.gather(tf.reshape(pieces, [-1]), begin * self.trie.depth + length - 1)
        # END as one more character, so that nothing is empty
        points = tf.concat([tf.gather(points, begin), [END]], 0)
        ids = tf.concat([ids, [self.special_ids]], 0)
        ids, _ = _with_bytes(points, tf.where(ids == self.unknown_id, 0, ids))
        return ids[:-1]

    def _enough(self, pieces, limit):
        """How many rows of pieces the first `limit` ids depend on: up to the limit-th place that no piece passes over."""
        size = tf.shape(pieces)[0]
        lengths = tf.reduce_max(tf.where(pieces > 0, tf.range(1, self.trie.depth + 1), 1), axis=1)
        passed = tf.zeros([size + self.trie.depth], tf.int32)
        starts = tf.range(size)
        # A piece of n characters from place i passes over i + 1 to i + n - 1.
        passed = tf.scatter_nd(
            tf.concat([starts + 1, starts + lengths], 0)[:, None],
            tf.concat([tf.ones_like(starts), -tf.ones_like(starts)], 0),
            tf.shape(passed),
        )
        free = tf.cast(tf.where(tf.cumsum(passed)[:size] == 0)[:, 0], tf.int32)  # the start is the first of them
        free = tf.concat([free, (size - 1)[None]], 0)
        return tf.gather(free, tf.minimum(limit, tf.size(free) - 1)) + 1

    def _best(self, pieces):
        """Length of the last piece of the best segmentation up to each place, int32 [M + 1]."""
        depth, size = self.trie.depth, tf.shape(pieces)[0]
        blocks = size // BLOCK + 1
        pieces = tf.concat([pieces, tf.zeros([blocks * BLOCK - size, depth], tf.int32)], 0)
        powers = tf.constant([2.0**e for e in range(-FRACTION, 0)])  # exact in half precision, too

        def place(i, start, score, length, block):
            # score, length [K]: of the best segmentations up to here and the K - 1 places after it
            row = tf.gather(pieces, start + i)
            here, step = score[:1], length[:1]
            value = tf.cast(tf.gather(self._mantissa, row), tf.float32) * 2.0 ** -(FRACTION // 2)
            value = value * tf.gather(powers, tf.gather(self._exponent, row) + FRACTION // 2)
            score, length = tf.concat([score[1:], [0.0]], 0), tf.concat([length[1:], [0]], 0)
            better = (row > 0) & ((length == 0) | (here + value > score))
            score = tf.where(better, here + value, score)
            length = tf.where(better, tf.range(1, depth + 1), length)
            return i + 1, start, score, length, tf.where(tf.range(BLOCK) == i, step, block)

        def several(start, score, length, back):
            inner = (tf.constant(0), start, score, length, tf.zeros([BLOCK], tf.int32))
            _, _, score, length, block = tf.while_loop(
                lambda i, start, *_: (i < BLOCK) & (start + i < size), place, inner, parallel_iterations=1
            )
            return start + BLOCK, score, length, tf.concat([back, block], 0)

        outer = (tf.constant(0), tf.zeros([depth]), tf.zeros([depth], tf.int32), tf.zeros([0], tf.int32))
        shapes = (tf.TensorShape([]), tf.TensorShape([depth]), tf.TensorShape([depth]), tf.TensorShape([None]))
        _, _, _, back = tf.while_loop(
            lambda start, *_: start < size, several, outer, shape_invariants=shapes, parallel_iterations=1
        )
        return back[:size]

    def decode(self, ids):
        ids = tf.boolean_mask(ids, (ids >= self.special_ids) & (ids < self.vocabulary_size))
        ids = tf.concat([ids, [self.vocabulary_size]], 0)  # writes END
        owner, nth, _ = spread(tf.gather(self._written_length, ids))
        values = tf.gather(self._written, tf.gather(self._written_first, tf.gather(ids, owner)) + nth)
        points = code_points(values, each_byte=True)[:-1]  # ends with its own END
        return self._unescaped(points)

    def _unescaped(self, points):
        """B A -> A, B B -> B, A -> U+2581, read from left to right; A and B as in `keras_llm.text.sentencepiece`."""
        size = tf.size(points)
        is_b = points == ord(ESCAPE)
        follows = tf.concat([points[1:], [END]], 0)
        opens = is_b & (
            (follows == ord(ESCAPED)) | (follows == ord(ESCAPE))
        )  # if it is not the second of a pair itself
        # The number of Bs in a row before each place decides: pairs are counted from the first of them.
        other = tf.where(is_b, -1, tf.range(size))
        run = tf.range(size) - 1 - _running_maximum(tf.concat([[-1], other[:-1]], 0))
        second = run % 2 == 1
        kept = ~(opens & ~second)
        plain = tf.where((points == ord(ESCAPED)) & ~second, 0x2581, points)
        return tf.boolean_mask(plain, kept)


LITE_TOKENIZERS = {"wordpiece": WordPiece, "sentencepiece": SentencePiece, "characters": Characters}


def lite_tokenizer(tokenizer) -> LiteTokenizer:
    """The form of a tokenizer that runs in TFLite.

    Raises:
        NotPossibleError: there is none.
    """
    return LITE_TOKENIZERS[tokenizer.kind](tokenizer)


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


def _with_bytes(points, ids):
    """Characters and the id of each or 0 -> ids with the bytes of those without, and the place each comes from.

    END gives one id that means nothing.
    """
    length = tf.maximum(utf8_length(points), 1)
    owner, nth, _ = spread(tf.where(ids > 0, 1, length))
    count, point, id_ = tf.gather(length, owner), tf.gather(points, owner), tf.gather(ids, owner)
    bits = point // tf.gather([1, 64, 4096, 262144], tf.maximum(count - 1 - nth, 0))
    byte = tf.where(nth == 0, tf.gather([0, 0, 0xC0, 0xE0, 0xF0], count) + bits, 0x80 + bits % 64)
    return tf.where(id_ > 0, id_, FIRST_BYTE + byte), owner


def _running_maximum(values):
    """The largest value up to each place, int32 [M]."""
    size = tf.size(values)

    def body(step, values):
        moved = tf.concat([tf.fill([tf.minimum(step, size)], -1), values], 0)
        return step * 2, tf.maximum(values, tf.slice(moved, [0], [size]))

    shapes = (tf.TensorShape([]), tf.TensorShape([None]))
    return tf.while_loop(lambda step, _: step < size, body, (tf.constant(1), values), shape_invariants=shapes)[1]

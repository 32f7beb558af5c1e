"""SentencePiece over code points instead of strings, with builtin TFLite ops only; see `tokenizers.py`.

Shapes: M characters of the text, N ids, L ids of an answer, K the longest piece.
"""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from keras_llm.export.lite.tables import CodePoints, Mapping, Trie, mapping_of
from keras_llm.export.lite.text import END, WHOLE, code_points, spread
from keras_llm.export.lite.tokenizers import LiteTokenizer, with_bytes
from keras_llm.text.sentencepiece import ESCAPE, ESCAPED, ESCAPES
from keras_llm.text.unicode import normalise

BLOCK = 128  # places the best segmentation is found for before they are stored
FRACTION = 24  # bits of a float32's mantissa


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
        proto = sentencepiece_model_pb2.ModelProto.FromString(tokenizer._vocabulary)
        kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
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
        ids, _ = with_bytes(points, tf.where(ids == self.unknown_id, 0, ids))
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


def _running_maximum(values):
    """The largest value up to each place, int32 [M]."""
    size = tf.size(values)

    def body(step, values):
        moved = tf.concat([tf.fill([tf.minimum(step, size)], -1), values], 0)
        return step * 2, tf.maximum(values, tf.slice(moved, [0], [size]))

    shapes = (tf.TensorShape([]), tf.TensorShape([None]))
    return tf.while_loop(lambda step, _: step < size, body, (tf.constant(1), values), shape_invariants=shapes)[1]

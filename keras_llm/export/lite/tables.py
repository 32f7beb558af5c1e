"""Tables over code points and a trie over pieces, held in small integer constants.

Shapes: M characters, K the longest piece.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_llm.export.lite.text import END, spread

PAGE = 256


class CodePoints:
    """A function from code points (and END) to integers, as pages of 256 of which equal ones are kept once.

    Args:
        values: code point -> integer.
        default: of all others.
    """

    def __init__(self, values: dict[int, int], default: int = 0):
        dense = np.full((END // PAGE + 1) * PAGE, default, np.int32)
        dense[np.fromiter(values.keys(), np.int64, len(values))] = np.fromiter(values.values(), np.int32, len(values))
        pages, page = np.unique(dense.reshape(-1, PAGE), axis=0, return_inverse=True)
        self._values = pages.reshape(-1)
        self._page = (page.reshape(-1) * PAGE).astype(np.int32)

    def __call__(self, points):
        return tf.gather(self._values, tf.gather(self._page, points // PAGE) + points % PAGE)


class Mapping:
    """Code points to code points, each by itself: to none, one or several.

    Args:
        changed: code point -> those it becomes; all others stay.
    """

    def __init__(self, changed: dict[int, list[int]]):
        sequences = sorted(set(map(tuple, changed.values())))
        number = {sequence: i + 1 for i, sequence in enumerate(sequences)}
        self._number = CodePoints({code: number[tuple(sequence)] for code, sequence in changed.items()})
        self._length = np.array([1, *map(len, sequences)], np.int32)
        self._first = np.cumsum([0, 0, *map(len, sequences)], dtype=np.int32)[: len(self._length)]
        self._flat = np.array([code for sequence in sequences for code in sequence] or [0], np.int32)

    def __call__(self, points):
        """int32 [M], END last -> code points, the place each comes from, and the next place from which any comes."""
        number = self._number(points)
        owner, nth, following = spread(tf.gather(self._length, number))
        number = tf.gather(number, owner)
        place = tf.minimum(tf.gather(self._first, number) + nth, len(self._flat) - 1)
        return tf.where(number == 0, tf.gather(points, owner), tf.gather(self._flat, place)), owner, following


def mapping_of(function) -> dict[int, list[int]]:
    """What a function of strings [n] that reads each character by itself makes of every character it changes."""
    codes = np.concatenate([np.arange(0xD800), np.arange(0xE000, END)]).astype(np.int32)
    texts = tf.strings.unicode_encode(codes[:, None], "UTF-8")
    results = function(texts)
    places = tf.where(results != texts)[:, 0].numpy()
    changed = tf.gather(results, places).numpy()
    return {int(codes[place]): [ord(c) for c in text.decode()] for place, text in zip(places, changed, strict=True)}


class Trie:
    """Pieces by their symbols, as one table in which the children of all nodes are laid into each other's gaps.

    Args:
        pieces: for each root a dict from a piece, a tuple of symbols from 1, to its value from 1.

    Attributes:
        roots: node of each root.
        depth: K.
    """

    def __init__(self, *pieces: dict[tuple[int, ...], int]):
        children, values = [{}], [0]  # node 0 is where nothing more can match
        self.roots = []
        for root in pieces:
            self.roots.append(len(children))
            children.append({})
            values.append(0)
            for piece, value in root.items():
                node = self.roots[-1]
                for symbol in piece:
                    if symbol not in children[node]:
                        children[node][symbol] = len(children)
                        children.append({})
                        values.append(0)
                    node = children[node][symbol]
                values[node] = value
        self.depth = max((len(piece) for root in pieces for piece in root), default=0)
        self._values = np.array(values, np.int32)
        self._base, self._parent, self._child = _interleave(children)

    def step(self, node, symbol):
        """The node after a symbol, 0 if there is none; int32, any shape."""
        place = tf.gather(self._base, node) + symbol
        return tf.where(tf.gather(self._parent, place) == node, tf.gather(self._child, place), 0)

    def longest(self, symbols, node):
        """The longest piece that begins at each place.

        Args:
            symbols: int32 [M].
            node: int32 [M], the root for each place.

        Returns:
            length and value, int32 [M]; 0 where no piece begins.
        """
        size = tf.size(symbols)
        padded = tf.concat([symbols, tf.zeros([self.depth], tf.int32)], 0)

        def body(k, node, length, value):
            node = self.step(node, tf.slice(padded, [k], [size]))
            found = tf.gather(self._values, node)
            return k + 1, node, tf.where(found > 0, k + 1, length), tf.where(found > 0, found, value)

        def alive(k, node, length, value):
            return (k < self.depth) & tf.reduce_any(node > 0)

        shapes = (tf.TensorShape([]), *[tf.TensorShape([None])] * 3)
        none = tf.zeros_like(symbols)
        return tf.while_loop(alive, body, (tf.constant(0), node, none, none), shape_invariants=shapes)[2:]

    def all(self, symbols):
        """The values of the pieces of length 1 to K that begin at each place: int32 [M, K], 0 for none."""
        size = tf.size(symbols)
        padded = tf.concat([symbols, tf.zeros([self.depth], tf.int32)], 0)
        node, columns = tf.fill([size], self.roots[0]), []
        for k in range(self.depth):
            node = self.step(node, tf.slice(padded, [k], [size]))
            columns.append(tf.gather(self._values, node))
        return tf.stack(columns, axis=1)


def _interleave(children):
    """Children of each node -> base of each node; parent and child at base + symbol (Tarjan and Yao 1979)."""
    widest = max((symbol for nodes in children for symbol in nodes), default=0) + 1
    # Empty on both sides, so that no base and symbol leave the table.
    size = sum(map(len, children)) + 2 * widest
    parent, child = np.full(size, -1, np.int32), np.zeros(size, np.int32)
    base = np.zeros(len(children), np.int32)
    # Nodes of several children are laid out first, each behind where the one before it began to fit; those of one child
    # then fill the gaps.
    first = widest
    several = True
    for node in sorted(range(len(children)), key=lambda node: -len(children[node])):
        if not children[node]:
            break
        symbols = np.array(sorted(children[node]), np.int32)
        if several and len(symbols) == 1:
            several, first = False, widest
        while parent[first] >= 0:
            first += 1
        place = first - int(symbols[0])
        while (parent[place + symbols] >= 0).any():
            place += 1
            if place + 2 * widest >= len(parent):
                parent = np.append(parent, np.full(len(parent), -1, np.int32))
                child = np.append(child, np.zeros(len(child), np.int32))
        base[node], first = place, place + int(symbols[0])
        parent[place + symbols] = node
        child[place + symbols] = [children[node][symbol] for symbol in symbols.tolist()]
    used = int(np.flatnonzero(parent >= 0)[-1]) + 1 if (parent >= 0).any() else 0
    parent, child = parent[: used + widest], child[: used + widest]
    return base, parent, child

"""Interpolated modified Kneser-Ney estimation of an n-gram model, in NumPy.

An n-gram of order k is a number: the node of its first k - 1 tokens, times V, plus its last token. Sorting those numbers
counts the n-grams, and the sorted numbers are the model's trie: the children of a node lie side by side.

Reference: Chen and Goodman 1998, https://arxiv.org/abs/cmp-lg/9808002; Heafield et al. 2013 (the estimation of KenLM),
https://aclanthology.org/P13-2121/.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_llm.errors import UserError

PAD, START = 0, 2
# Never predicted. Finite, since softmax and beam search compute with it.
IMPOSSIBLE = -1e30
# Where the counts of counts give no discount between 0 and the count itself; the values of KenLM's --discount_fallback.
FALLBACK = (0.5, 1.0, 1.5)
# Key of each order's last entry, which stands for all n-grams that are not stored: greater than any other.
ABSENT = np.iinfo(np.int64).max


@dataclasses.dataclass
class Level:
    """The n-grams of one order, M of them, sorted by key.

    Attributes:
        keys: int64 [M], node of the prefix * V + last token.
        suffixes: int32 [M], the node, one order below, of the n-gram without its first token.
        counts: int64 [M], how often it occurs.
    """

    keys: np.ndarray
    suffixes: np.ndarray
    counts: np.ndarray


def kneser_ney(
    ids: np.ndarray, splits: np.ndarray, vocabulary_size: int, order: int = 5, min_count: int = 1
) -> dict[str, np.ndarray]:
    """Estimates an n-gram model from documents; no n-gram reaches from one document into the next.

    The highest order, and n-grams that begin a document, are weighed by how often they occur, all others by how many
    different tokens they follow. Every order is interpolated with the one below, the lowest with the uniform distribution
    over all ids but padding and start: the unknown id always has a probability.

    Args:
        ids: int [N], the tokens of all documents, each beginning with the start id (2), with the end id (3) last.
        splits: int64 [documents + 1], document i is `ids[splits[i]:splits[i + 1]]`.
        vocabulary_size: V.
        order: n >= 1, the longest n-gram.
        min_count: n-grams of order 3 and more that occur less often are dropped; their probability goes to the order below.

    Returns:
        What `NGramModel` is made of, natural logarithms: `log_probs_1` float32 [V], and for each order k > 1 of M n-grams
        `keys_k` int64 [M + 1] and `log_probs_k` float32 [M + 1]; below the highest order also `back_offs_k`, of the
        n-gram as a context. The last entry of an order above 1 stands for all n-grams that are not stored.

    Raises:
        UserError: there is nothing to predict, or the ids are not such documents.

    Example:

    >>> arrays = kneser_ney(np.array([2, 4, 5, 4, 5, 3]), np.array([0, 6]), vocabulary_size=6, order=2)
    >>> (arrays["keys_2"][:-1] // 6).tolist(), (arrays["keys_2"][:-1] % 6).tolist()
    ([2, 4, 5, 5], [4, 5, 3, 4])
    """
    _check(ids, splits, vocabulary_size, order, min_count)
    levels = _count(ids, splits, vocabulary_size, order)
    arrays: dict[str, np.ndarray] = {}
    probabilities, renumbered = _unigrams(levels, vocabulary_size)
    arrays["log_probs_1"] = _stored(_log(probabilities), renumbered, absent=None)
    for k in range(2, order + 1):
        level, levels[k - 1] = levels[k - 1], None
        weights = _weights(level, levels[k] if k < order else None)
        kept = level.counts >= (min_count if k > 2 else 1)
        prefixes, tokens = np.divmod(level.keys, vocabulary_size)
        discounts = np.array([0.0, *discounts_of(weights)])[np.minimum(weights, 3)]
        # What the n-grams of a context leave to the order below: their discounts, and all of those that are dropped.
        left = np.bincount(prefixes, np.where(kept, discounts, weights), minlength=len(probabilities))
        totals = np.bincount(prefixes, weights, minlength=len(probabilities))
        back_offs = np.divide(left, totals, out=np.ones(len(totals)), where=totals > 0)
        lower = back_offs[prefixes] * probabilities[level.suffixes]
        probabilities = (weights - discounts) / totals[prefixes] + lower
        arrays[f"back_offs_{k - 1}"] = _stored(_log(back_offs), renumbered, absent=None if k == 2 else 0.0)
        arrays[f"keys_{k}"] = np.append(renumbered[prefixes[kept]] * vocabulary_size + tokens[kept], ABSENT)
        renumbered = np.where(kept, np.cumsum(kept) - 1, -1)
        arrays[f"log_probs_{k}"] = _stored(_log(probabilities), renumbered, absent=0.0)
    return arrays


def discounts_of(counts: np.ndarray) -> tuple[float, float, float]:
    """What is taken off a count of 1, of 2, and of 3 or more: Chen and Goodman's estimate from the counts of counts.

    Example:

    >>> discounts_of(np.repeat([1, 2, 3, 4], [40, 20, 10, 5]))
    (0.5, 1.25, 2.0)
    >>> discounts_of(np.array([1, 1, 2]))  # no 3 and no 4
    (0.5, 1.0, 1.5)
    """
    n1, n2, n3, n4 = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    if not (n1 and n2 and n3 and n4):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if all(0 < discount for discount in found) else FALLBACK


def _check(ids, splits, vocabulary_size, order, min_count):
    for name, value in (("order", order), ("min_count", min_count)):
        if value < 1:
            raise UserError(f"{name} of an n-gram model must be at least 1. Received: {value}. Give a positive number.")
    starts = np.unique(splits[:-1][np.diff(splits) > 0])  # [documents that are not empty]
    if len(ids) <= len(starts):
        raise UserError(
            f"An n-gram model needs at least one token to predict. Received: {len(ids)} ids in {len(splits) - 1} documents. "
            "Give a text that is not empty."
        )
    least, greatest = int(ids.min()), int(ids.max())
    if least <= PAD or greatest >= vocabulary_size:
        raise UserError(
            f"Ids must be from 1 to {vocabulary_size - 1}: 0 is padding. Received: {least} to {greatest}. "
            "Prepare the data with the tokenizer of this vocabulary."
        )
    if not np.array_equal(np.flatnonzero(ids == START), starts):
        raise UserError(
            f"Each document must begin with the start id {START} and have it nowhere else. Received: "
            f"{np.count_nonzero(ids == START)} start ids in {len(starts)} documents. Prepare the data again."
        )


def _count(ids, splits, vocabulary_size, order):
    """One `Level` for each order; that of order 1 has all ids, in place of those that occur."""
    lengths = np.diff(splits)
    places = np.arange(len(ids)) - np.repeat(splits[:-1], lengths)  # [N], of each token in its document
    # The node, one order below, of the n-gram that ends at each token.
    nodes = np.array(ids, np.int32 if len(ids) < 2**31 else np.int64)
    every = np.arange(vocabulary_size)
    levels = [Level(every, np.zeros_like(every), np.bincount(nodes, minlength=vocabulary_size))]
    for k in range(2, order + 1):
        ends = np.flatnonzero(places >= k - 1)
        keys = nodes[ends - 1] * np.int64(vocabulary_size) + ids[ends]
        keys, found, counts = np.unique(keys, return_inverse=True, return_counts=True)
        suffixes = np.empty(len(keys), nodes.dtype)
        suffixes[found] = nodes[ends]
        nodes[ends] = found
        levels.append(Level(keys, suffixes, counts))
    return levels


def _weights(level, above):
    """The counts that Kneser-Ney works with: different tokens before the n-gram, or occurrences where it has none before it."""
    if above is None:
        return level.counts
    different = np.bincount(above.suffixes, minlength=len(level.keys))
    return np.where(different > 0, different, level.counts)


def _unigrams(levels, vocabulary_size):
    weights = _weights(levels[0], levels[1] if len(levels) > 1 else None)
    weights[[PAD, START]] = 0
    discounts = np.array([0.0, *discounts_of(weights)])[np.minimum(weights, 3)]
    probabilities = (weights - discounts + discounts.sum() / (vocabulary_size - 2)) / weights.sum()
    probabilities[[PAD, START]] = 0.0
    return probabilities, np.arange(vocabulary_size)


def uniform(vocabulary_size: int) -> dict[str, np.ndarray]:
    """The arrays of a model of order 1 that has counted nothing.

    Example:

    >>> np.exp(uniform(6)["log_probs_1"]).round(2).tolist()
    [0.0, 0.25, 0.0, 0.25, 0.25, 0.25]
    """
    probabilities = np.full(vocabulary_size, 1 / (vocabulary_size - 2))
    probabilities[[PAD, START]] = 0.0
    return {"log_probs_1": _log(probabilities).astype(np.float32)}


def _log(probabilities):
    """Natural logarithm, float64, with `IMPOSSIBLE` for 0."""
    return np.log(probabilities, out=np.full(len(probabilities), IMPOSSIBLE), where=probabilities > 0)


def _stored(values, renumbered, absent):
    """float32, without the nodes that were dropped; with the last entry for what is not stored, unless that is None."""
    values = values[renumbered >= 0].astype(np.float32)
    return values if absent is None else np.append(values, np.float32(absent))

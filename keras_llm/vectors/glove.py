"""GloVe: word vectors by weighted least squares on the logarithms of co-occurrences. Shapes: V words, D dimension, N cells."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_llm.errors import UserError
from keras_llm.vectors.config import VectorsConfig
from keras_llm.vectors.sentences import Sentences

WORDS_AT_ONCE = 500_000  # of the corpus while counting
BATCHES = 100  # updates an epoch; each takes the same share of the cells, drawn once
CELLS_AT_ONCE = 2_048  # so that the rows gathered for them stay in the processor's cache
EXPONENT = 0.75


def count_cooccurrences(
    sentences: Sentences,
    vocabulary: dict[str, int],
    window: int,
    progress: Callable[[int], None] = lambda words: None,
):
    """How often words stand near each other: 1 / distance for each pair, up to `window` words apart.

    The corpus is streamed; the counts, 8 bytes a pair of words that occur together, must fit into memory. Words outside
    the vocabulary are taken out before distances are counted, as in word2vec and the original GloVe.

    Args:
        sentences: the corpus; windows stay within a sentence.
        vocabulary: the words that count.
        window: largest distance.
        progress: told the number of words counted since it was told last.

    Returns:
        scipy.sparse.csr_array float32 [V, V], symmetric.
    """
    from scipy.sparse import coo_array, csr_array

    shape = (len(vocabulary), len(vocabulary))
    total = csr_array(shape, dtype=np.float32)
    for ids, sentence in sentences.ids(vocabulary, WORDS_AT_ONCE):
        rows, columns, weights = [], [], []
        for distance in range(1, min(window, len(ids) - 1) + 1):
            same = sentence[:-distance] == sentence[distance:]
            before, after = ids[:-distance][same], ids[distance:][same]
            rows.append(np.minimum(before, after))  # one triangle is enough
            columns.append(np.maximum(before, after))
            weights.append(np.full(len(before), 1 / distance, np.float32))
        if rows:
            places = (np.concatenate(rows), np.concatenate(columns))
            total = total + coo_array((np.concatenate(weights), places), shape).tocsr()
        progress(len(ids))
    return csr_array(total + total.T)


def train_glove(
    cooccurrences,
    config: VectorsConfig,
    progress: Callable[[int], None] = lambda batches: None,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, values: None,
) -> np.ndarray:
    """Vectors whose dot products, with two biases, are the logarithms of co-occurrences.

    Minimises the sum over cells of f(x) (w·c + b + b' - log x)^2 / 2 with f(x) = min(1, (x / x_max)^0.75) by AdaGrad. A
    step takes a hundredth of the cells at once: the gradients are products of a sparse matrix with the vectors.

    Args:
        cooccurrences: sparse [V, V], symmetric.
        config: dim, epochs, learning_rate, x_max, threads, seed.
        progress: told after each batch; an epoch has `BATCHES`.
        on_epoch: told the epoch (from 1) and the loss, a mean over cells.

    Returns:
        float32 [V, D], word vectors and context vectors added.

    Raises:
        UserError: no two words occur together, or the loss is no longer finite.

    Reference: Pennington, Socher and Manning 2014, https://aclanthology.org/D14-1162.
    """
    random = np.random.default_rng(config.seed)
    batches = _Batches(cooccurrences, config.x_max, random)
    size = cooccurrences.shape[0]
    # A row is a vector and its bias; sums of squares start at 1, as in the original.
    words, contexts = (
        ((random.random((size, config.dim + 1)) - 0.5) / config.dim).astype(np.float32) for _ in range(2)
    )
    squares = [np.ones_like(words), np.ones_like(contexts)]
    # A loss that is not finite is refused with a message: NumPy need not warn of it.
    with ThreadPoolExecutor(config.threads or os.cpu_count()) as pool, np.errstate(over="ignore", invalid="ignore"):
        for epoch in range(1, config.epochs + 1):
            loss = 0.0
            for batch in random.permutation(BATCHES):
                loss += _step(batches[batch], words, contexts, squares, config.learning_rate, pool)
                progress(1)
            loss /= batches.cells
            if not np.isfinite(loss):
                raise UserError(
                    f"Training needs a finite loss. Received: loss={loss} in epoch {epoch}. "
                    f"Train with a smaller --learning-rate than {config.learning_rate}."
                )
            on_epoch(epoch, {"loss": loss})
    return words[:, :-1] + contexts[:, :-1]


def _step(batch, words, contexts, squares, learning_rate, pool) -> float:
    """One AdaGrad update of both matrices in place; the batch's summed loss before it."""
    from scipy.sparse import csr_array

    rows, columns, log, weight = batch
    if not len(rows):
        return 0.0
    error = _dot(words, contexts, rows, columns, pool) - log  # [N]
    pull = weight * error
    # The derivative by a vector is the other word's vector times `pull`, that by a bias is `pull`.
    by_row = csr_array((pull, (rows, columns)), shape=(len(words), len(contexts)))
    work = [
        pool.submit(_gradient, matrix, other)
        for matrix, other in ((by_row, _with_ones(contexts)), (by_row.T.tocsr(), _with_ones(words)))
    ]
    for own, square, gradient in zip((words, contexts), squares, work, strict=True):
        first, second = gradient.result()
        square += second
        own -= learning_rate * first / np.sqrt(square)
    return 0.5 * float(pull @ error)


def _gradient(matrix, other):
    """The sum over a row's cells of their gradients, and of the gradients' squares, as single updates would add them."""
    with np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is refused with a message
        squared = matrix.copy()
        squared.data **= 2
        return matrix @ other, squared @ np.square(other)


def _dot(words, contexts, rows, columns, pool):
    """Dot product and biases of each cell, float32 [N]."""

    def part(first):
        place = slice(first, first + CELLS_AT_ONCE)
        w, c = words[rows[place]], contexts[columns[place]]  # [n, D + 1]
        with np.errstate(over="ignore", invalid="ignore"):
            return np.einsum("nd,nd->n", w[:, :-1], c[:, :-1]) + w[:, -1] + c[:, -1]

    return np.concatenate(list(pool.map(part, range(0, len(rows), CELLS_AT_ONCE))))


def _with_ones(matrix):
    """The matrix with 1 in place of the biases."""
    copy = matrix.copy()
    copy[:, -1] = 1
    return copy


class _Batches:
    """The cells of a co-occurrence matrix in `BATCHES` parts drawn once, each sorted by row."""

    def __init__(self, cooccurrences, x_max, random):
        cells = cooccurrences.tocoo()
        self.cells = cells.nnz
        if not self.cells:
            raise UserError(
                "GloVe is trained on words that occur together. Received: no two words of the vocabulary in one line. "
                "Give longer lines or a smaller --min-count."
            )
        part = random.integers(0, BATCHES, self.cells, dtype=np.uint8)
        order = np.argsort(part, kind="stable")
        self.bounds = np.concatenate([[0], np.cumsum(np.bincount(part, minlength=BATCHES))])
        self.rows = cells.coords[0][order].astype(np.int32)
        self.columns = cells.coords[1][order].astype(np.int32)
        x = cells.data[order]
        self.log = np.log(x)
        self.weight = np.minimum(1, (x / np.float32(x_max)) ** np.float32(EXPONENT))

    def __getitem__(self, i) -> tuple[np.ndarray, ...]:
        place = slice(self.bounds[i], self.bounds[i + 1])
        return self.rows[place], self.columns[place], self.log[place], self.weight[place]

"""Batches of about as many tokens each, however long the examples are."""

import operator
from collections.abc import Mapping

import numpy as np

from keras_llm.config import TrainingConfig
from keras_llm.data.batches import Batches, Steps
from keras_llm.data.prepared import Prepared
from keras_llm.errors import UserError


def bucketed(
    prepared: Prepared,
    training: TrainingConfig,
    length_feature: str,
    features: tuple[str, ...],
    multiple: int,
    padding: Mapping[str, int] | None = None,
) -> Steps:
    """Batches of padded rows as a config asks for: of `batch_tokens` tokens, or of `batch_size` examples.

    Args:
        prepared: the examples.
        training: uses batch_size, batch_tokens and seed.
        length_feature: by whose length batches of `batch_size` examples are bucketed.
        features: whose tokens count for `batch_tokens`.
        multiple: padded lengths are multiples of it.
        padding: feature -> what fills up its rows; 0 where it is not named.
    """
    if training.batch_tokens:
        return TokenBatches(prepared, training.batch_tokens, training.seed, features, multiple, padding)
    return Batches(prepared, training.batch_size, training.seed, length_feature, multiple, padding=padding)


class TokenBatches(Batches):
    """As `Batches`, with as many rows a batch as have at most `batch_tokens` tokens, padding counted.

    Rows are sorted by their padded lengths and cut into batches: long rows make small batches. In every epoch each example occurs
    exactly once; rows of the same padded lengths find themselves beside others, and the batches come in another order.

    Args:
        prepared: the examples.
        batch_tokens: of a batch, in all features; a longer row is a batch by itself.
        seed: of the order.
        features: the 1-D features that count; the last one's lengths decide first.
        multiple: padded lengths are multiples of it.
        padding: feature -> what fills up its rows; 0 where it is not named.

    Raises:
        UserError: `batch_tokens` is not positive.

    Example:

    >>> from keras_llm.data.prepared import in_memory
    >>> rows = [{"ids": np.arange(1, n + 1, dtype="int32")} for n in (3, 1, 2, 7)]
    >>> batches = TokenBatches(in_memory(rows), batch_tokens=12, features=("ids",), multiple=4)
    >>> sorted(batches[i]["ids"].shape for i in range(batches.steps_per_epoch))
    [(1, 8), (3, 4)]
    """

    def __init__(
        self,
        prepared: Prepared,
        batch_tokens: int,
        seed: int = 0,
        features: tuple[str, ...] = (),
        multiple: int = 8,
        padding: Mapping[str, int] | None = None,
    ):
        if batch_tokens < 1:
            raise UserError(f"batch_tokens must be at least 1. Received: {batch_tokens}. Give a positive number.")
        super().__init__(prepared, 1, seed, multiple=multiple, padding=padding)
        self.batch_tokens = batch_tokens
        widths = [np.maximum(-(-prepared.lengths(name) // multiple), 1) * multiple for name in features]
        self._widths = np.stack(widths, axis=1)  # [N, features]
        self._starts = self._cut(self._widths[np.lexsort(self._widths.T)])
        self.steps_per_epoch = len(self._starts) - 1
        self._order = (-1, np.arange(0), np.arange(0))

    def _cut(self, widths: np.ndarray) -> np.ndarray:
        """Where batches begin and end among the sorted rows: the same in every epoch."""
        starts, widest = [0], widths[0]
        for row, width in enumerate(widths):
            widest = np.maximum(widest, width)
            if row > starts[-1] and (row + 1 - starts[-1]) * widest.sum() > self.batch_tokens:
                starts.append(row)
                widest = width
        return np.array([*starts, len(widths)])

    def _rows(self, step: int) -> np.ndarray:
        step = operator.index(step)
        if step < 0:
            raise IndexError(f"Steps count from 0. Received: {step}.")
        epoch, step = divmod(step, self.steps_per_epoch)
        cached, order, turns = self._order
        if cached != epoch:
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
            order = np.lexsort([random.random(len(self.prepared)), *self._widths.T])
            turns = random.permutation(self.steps_per_epoch)
            self._order = (epoch, order, turns)  # one assignment: another thread sees the old epoch or the new one
        batch = turns[step]
        return order[self._starts[batch] : self._starts[batch + 1]]

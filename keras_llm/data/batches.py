"""Batches: step -> batch, a pure function of the prepared data, the batch size and the seed: training resumes with
exactly the next batch."""

import math
import operator
import queue
import threading
from collections.abc import Iterator, Mapping

import numpy as np

from keras_llm.data.prepared import Prepared
from keras_llm.errors import UserError

POOL = 64  # batches whose rows are sorted by length together: little padding, and order is still chance beyond them
AHEAD = 2  # batches that wait, ready, for the training step


class Steps:
    """What every source of batches shares: `self[step]` is a batch, a pure function of the step.

    Attributes:
        steps_per_epoch: after so many steps all examples have been seen.
    """

    steps_per_epoch: int

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`, counted over all epochs."""
        raise NotImplementedError

    def prefetch(self, start: int, stop: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """`(step, batch)` for `start <= step < stop`, made on a background thread that ends with the iterator."""
        slots, ready, stopped = threading.Semaphore(AHEAD), queue.SimpleQueue(), threading.Event()

        def produce():
            try:
                for step in range(start, stop):
                    slots.acquire()
                    if stopped.is_set():
                        return
                    ready.put((step, self[step]))
            except BaseException as error:  # raised again where the batch is taken
                ready.put(error)

        thread = threading.Thread(target=produce, name="prefetch", daemon=True)
        thread.start()
        try:
            for _ in range(start, stop):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                slots.release()
                yield item
        finally:
            stopped.set()
            slots.release()
            thread.join()


class Batches(Steps):
    """Random access to the batches of an endless training, epoch after epoch.

    In every epoch each example occurs exactly once (except for a remainder that is dropped), in an order that follows
    from `(seed, epoch)` alone. 1-D features are padded to the batch's longest row, rounded up to `multiple`.

    Args:
        prepared: the examples.
        batch_size: rows of a batch, of all workers together.
        seed: of the order.
        length_feature: the 1-D feature by whose length the rows are bucketed: shuffled rows are sorted in pools of 64
            batches and cut into batches, which are shuffled. None: batches of mixed lengths. Without `shuffle` unused.
        multiple: padded lengths are multiples of it, so that few shapes occur.
        shard: `(index, count)`: this worker's part of each batch, `batch[index::count]`, as wide as the others' parts.
        shuffle: False keeps the order of the rows, for evaluation.
        drop_remainder: False ends every epoch with a shorter batch if the examples do not divide evenly.
        padding: feature -> what fills up its rows; 0 where it is not named.

    Raises:
        UserError: there are fewer examples than one batch has, or the workers cannot share a batch evenly.

    Example:

    >>> import tempfile
    >>> rows = [{"ids": np.arange(1, n + 1, dtype="int32")} for n in (3, 1, 2, 2)]
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     prepared = Prepared.write(directory + "/train", rows, fingerprint="v1")
    >>> batches = Batches(prepared, batch_size=2, multiple=4, shuffle=False)
    >>> batches.steps_per_epoch, batches[0]["ids"].tolist()
    (2, [[1, 2, 3, 0], [1, 0, 0, 0]])
    """

    def __init__(
        self,
        prepared: Prepared,
        batch_size: int,
        seed: int = 0,
        length_feature: str | None = None,
        multiple: int = 8,
        shard: tuple[int, int] = (0, 1),
        shuffle: bool = True,
        drop_remainder: bool = True,
        padding: Mapping[str, int] | None = None,
    ):
        worker, workers = shard
        if min(batch_size, multiple) < 1 or seed < 0:
            received = f"batch size {batch_size}, multiple {multiple}, seed {seed}"
            raise UserError(f"Batch size and multiple must be positive, the seed at least 0. Received: {received}.")
        if not 0 <= worker < workers or batch_size % workers:
            received = f"batch size {batch_size}, worker {worker} of {workers}"
            raise UserError(f"Workers must share a batch evenly. Received: {received}. Give a multiple of the workers.")
        if drop_remainder and len(prepared) < batch_size:
            raise UserError(
                f"Training needs at least one full batch. Received: {len(prepared)} examples with a batch size of "
                f"{batch_size}. Give more data or a smaller --batch-size."
            )
        self.prepared = prepared
        self.batch_size = batch_size
        self.seed = seed
        self.multiple = multiple
        self.shard = shard
        self.shuffle = shuffle
        self.steps_per_epoch = (math.floor if drop_remainder else math.ceil)(len(prepared) / batch_size)
        self.padding = padding or {}
        self._lengths = prepared.lengths(length_feature) if length_feature else None
        self._order: tuple[int, np.ndarray] = (-1, np.arange(0))

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """This worker's part of batch `step`, counted over all epochs: 1-D features `[B, T]`, others `[B, ...]`."""
        rows = self._rows(step)
        worker, workers = self.shard
        batch = {}
        for name, values in self.prepared.features.items():
            if name in self.prepared.splits:
                starts, lengths = self._extents(name, rows)
                width = self._padded(lengths)
                fill = self.padding.get(name, 0)
                batch[name] = _pad(values, starts[worker::workers], lengths[worker::workers], width, fill)
            else:
                batch[name] = values[rows[worker::workers]]
        return batch

    def padding_share(self, step: int) -> float:
        """The share of padding in the 1-D features of batch `step`, over all workers: 0.0 is none."""
        rows = self._rows(step)
        used = cells = 0
        for name in self.prepared.splits:
            _, lengths = self._extents(name, rows)
            used += int(lengths.sum())
            cells += len(rows) * self._padded(lengths)
        return 1 - used / cells if cells else 0.0

    def _extents(self, feature: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        splits = self.prepared.splits[feature]
        starts = splits[rows]
        return starts, splits[rows + 1] - starts

    def _padded(self, lengths: np.ndarray) -> int:
        longest = max(1, int(lengths.max()))  # a batch of empty rows still has a column: models need not know width 0
        return -(-longest // self.multiple) * self.multiple

    def _rows(self, step: int) -> np.ndarray:
        """Row numbers of the whole batch, of all workers."""
        step = operator.index(step)
        if step < 0:
            raise IndexError(f"Steps count from 0. Received: {step}.")
        epoch, step = divmod(step, self.steps_per_epoch)
        cached, order = self._order
        if cached != epoch:
            order = self._epoch(epoch)
            self._order = (epoch, order)  # one assignment: another thread sees the old pair or the new one
        return order[step * self.batch_size : (step + 1) * self.batch_size]

    def _epoch(self, epoch: int) -> np.ndarray:
        """All row numbers in the order of the epoch."""
        if not self.shuffle:
            return np.arange(len(self.prepared))
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
        order = random.permutation(len(self.prepared))
        return order if self._lengths is None else in_pools(order, self._lengths, self.batch_size, random)


def in_pools(order: np.ndarray, lengths: np.ndarray, batch_size: int, random: np.random.Generator) -> np.ndarray:
    """Shuffled rows so that batches have rows of like length: sorted in pools of 64 batches, which are shuffled as such.

    Args:
        order: numbers of rows, shuffled.
        lengths: of every row.
        batch_size: rows of a batch.
        random: shuffles the batches.
    """
    # The remainder is cut off before sorting: any example may be in it, not only the longest.
    whole, remainder = np.split(order, [len(order) // batch_size * batch_size])
    for start in range(0, len(whole), POOL * batch_size):
        pool = whole[start : start + POOL * batch_size]
        pool[:] = pool[np.argsort(lengths[pool], kind="stable")]
    return np.concatenate([random.permutation(whole.reshape(-1, batch_size)).ravel(), remainder])


def _pad(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, width: int, fill: int) -> np.ndarray:
    """The rows `values[start : start + length]`, filled up -> `[B, width]`, all rows at once."""
    padded = np.full((len(starts), width), fill, values.dtype)
    before = np.cumsum(lengths) - lengths
    taken = np.repeat(starts - before, lengths) + np.arange(lengths.sum())
    padded[np.arange(width) < lengths[:, None]] = values[taken]
    return padded

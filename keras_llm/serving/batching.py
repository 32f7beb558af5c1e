"""Dynamic batching: requests that come together are computed together.

Requests of one signature of one version wait in a queue of batches. Some threads, common to all models, compute a batch as
soon as it is full or has waited long enough. What TF Serving does differently: requests that cannot be joined, because
their rows have different shapes, wait in different queues; and when a batch fails, its requests are computed one by one,
so that nobody gets another's error.

Source: tensorflow/serving, `batching/batching_session.cc`; tensorflow, `core/kernels/batching_util/shared_batch_scheduler.h`.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_llm.serving import metrics
from keras_llm.serving.batching_config import BatchingParameters
from keras_llm.serving.status import ServingError, invalid

if TYPE_CHECKING:
    from keras_llm.serving.servable import Servable

logger = logging.getLogger(__name__)


class _Task:
    """A request, or a part of a large one."""

    def __init__(self, feeds: Mapping[str, np.ndarray], size: int, deadline: float | None):
        self.feeds = feeds
        self.size = size
        self.deadline = deadline
        self.since = time.monotonic()
        self.taken = False
        self.outcome: list[np.ndarray] | ServingError | None = None
        self._done = threading.Event()

    def finish(self, outcome: list[np.ndarray] | ServingError) -> None:
        self.outcome = outcome
        self._done.set()

    def result(self) -> list[np.ndarray]:
        """Waits for the outcome, but not beyond the deadline."""
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        if not self._done.wait(left):
            raise _too_late() if self.taken else _expired()
        if isinstance(self.outcome, ServingError):
            raise self.outcome
        return self.outcome


class _Batch:
    """Requests that will be computed together."""

    def __init__(self, servable: Servable, fetches: Sequence[str]):
        self.servable = servable
        self.fetches = fetches
        self.tasks: list[_Task] = []
        self.size = 0
        self.since = time.monotonic()
        self.closed = False


class Batching:
    """Joins requests and computes them on threads of its own, until `close`.

    Args:
        parameters: of batching.config.

    Example:

    >>> batching = Batching(BatchingParameters(max_batch_size=32, batch_timeout_micros=2000))
    >>> servables = Servables("exported", batching=batching)
    """

    def __init__(self, parameters: BatchingParameters):
        self.parameters = parameters
        self._changed = threading.Condition()
        # What may be joined -> its batches, the last of which is still open. Nothing is kept for what does not wait.
        self._waiting: dict[tuple, collections.deque[_Batch]] = {}
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=parameters.thread_pool_name, daemon=True)
            for _ in range(parameters.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the threads; what waits is computed first."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def run(
        self, servable: Servable, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], deadline: float | None
    ) -> list[np.ndarray]:
        """As `Servable.compute`, together with other requests.

        Raises:
            ServingError: UNAVAILABLE where too much waits already, RESOURCE_EXHAUSTED where the time ended in the queue,
                INVALID_ARGUMENT or FAILED_PRECONDITION where the request cannot be part of a batch; or as `compute`.
        """
        size = _rows(feeds)
        if size > self.parameters.max_batch_size:
            limit = self.parameters.max_batch_size
            raise invalid(f"Task size {size} is larger than maximum input batch size {limit}")
        starts = range(0, max(size, 1), self.parameters.rows)
        parts = [{name: array[i : i + self.parameters.rows] for name, array in feeds.items()} for i in starts]
        tasks = [_Task(part, _rows(part), deadline) for part in parts]
        self._enqueue(servable, fetches, tasks)
        results = [task.result() for task in tasks]
        return results[0] if len(results) == 1 else [np.concatenate(arrays) for arrays in zip(*results, strict=True)]

    def _enqueue(self, servable: Servable, fetches: Sequence[str], tasks: Sequence[_Task]) -> None:
        shapes = [
            (name, array.dtype.str, array.ndim if self.parameters.pad_variable_length_inputs else array.shape[1:])
            for name, array in sorted(tasks[0].feeds.items())
        ]
        key = (servable, tuple(fetches), tuple(shapes))
        with self._changed:
            batches = self._waiting.get(key) or collections.deque()
            added = []
            for task in tasks:
                last = added[-1] if added else batches[-1] if batches else None
                if last is None or last.closed or last.size + task.size > self.parameters.rows:
                    waiting = len(batches) + len(added)
                    if waiting >= self.parameters.max_enqueued_batches:
                        raise ServingError(
                            "UNAVAILABLE",
                            "The batch scheduling queue to which this task was submitted is full; currently "
                            f"{waiting} batches enqueued and max_enqueued_batches is "
                            f"{self.parameters.max_enqueued_batches}",
                        )
                    if last is not None:
                        last.closed = True
                    last = _Batch(servable, fetches)
                    added.append(last)
                last.tasks.append(task)
                last.size += task.size
                last.closed = last.size >= self.parameters.rows
            batches.extend(added)
            self._waiting[key] = batches
            if added or batches[-1].closed:
                self._changed.notify()
        for array in (array for task in tasks for array in task.feeds.values()):
            metrics.INPUT_BATCH_SIZE.add(len(array))

    def _work(self) -> None:
        """What each thread does."""
        while True:
            with self._changed:
                batch, seconds = self._next()
                while batch is None:
                    if self._closed and seconds is None:
                        return
                    self._changed.wait(seconds)
                    batch, seconds = self._next()
                for task in batch.tasks:
                    task.taken = True
                if self._waiting:  # another thread looks when the next one is due
                    self._changed.notify()
            now = time.monotonic()
            for task in batch.tasks:
                metrics.QUEUING_LATENCY.add((now - task.since) * 1e6, self.parameters.thread_pool_name)
            in_time = [task for task in batch.tasks if task.deadline is None or task.deadline > now]
            for task in batch.tasks:
                if task not in in_time:
                    task.finish(_expired())
            if in_time:
                self._finish(batch.servable, batch.fetches, in_time)
            del batch, in_time, task  # the thread may wait long: what it has done is not kept in memory

    def _next(self) -> tuple[_Batch | None, float | None]:
        """Of the batches that are due the one that has waited longest; else the seconds until one is due."""
        now, timeout = time.monotonic(), 0 if self._closed else self.parameters.batch_timeout_micros / 1e6
        chosen, soonest = None, None
        for key, batches in self._waiting.items():
            batch = batches[0]
            if batch.closed or now >= batch.since + timeout:
                if chosen is None or batch.since < self._waiting[chosen][0].since:
                    chosen = key
            elif soonest is None or batch.since + timeout < soonest:
                soonest = batch.since + timeout
        if chosen is None:
            return None, None if soonest is None else max(0.0, soonest - now)
        batches = self._waiting[chosen]
        batch = batches.popleft()
        batch.closed = True
        if not batches:
            del self._waiting[chosen]
        return batch, None

    def _finish(self, servable: Servable, fetches: Sequence[str], tasks: Sequence[_Task]) -> None:
        """Computes tasks together; where that fails, one by one."""
        try:
            outcomes = self._compute(servable, fetches, tasks)
        except ServingError as error:
            outcomes = [error]
        except Exception as error:  # out of memory, perhaps; the thread goes on
            logger.exception("A batch of %d requests failed", len(tasks))
            outcomes = [ServingError("INTERNAL", f"{type(error).__name__}: {error}")]
        if len(outcomes) == len(tasks):
            for task, outcome in zip(tasks, outcomes, strict=True):
                task.finish(outcome)
        else:
            for task in tasks:
                self._finish(servable, fetches, [task])

    def _compute(self, servable: Servable, fetches: Sequence[str], tasks: Sequence[_Task]) -> list[list[np.ndarray]]:
        size = sum(task.size for task in tasks)
        allowed = (rows for rows in self.parameters.allowed_batch_sizes if rows >= size)
        rows = next(allowed, size) if size else 0
        deadlines = [task.deadline for task in tasks]
        feeds = {name: _joined([task.feeds[name] for task in tasks], rows) for name in tasks[0].feeds}
        metrics.PADDING_SIZE.add(rows - size, str(rows))
        metrics.PROCESSED_BATCH_SIZE.add(rows)
        metrics.WRAPPED_RUN_COUNT.add(1)
        outputs = servable.compute(feeds, fetches, None if None in deadlines else max(deadlines))
        for output in outputs:
            if output.ndim == 0:
                raise ServingError("FAILED_PRECONDITION", "Batched output tensor has 0 dimensions")
            if len(output) != rows:
                raise ServingError(
                    "FAILED_PRECONDITION",
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors",
                )
        ends = np.cumsum([task.size for task in tasks])
        return [[output[end - task.size : end] for output in outputs] for task, end in zip(tasks, ends, strict=True)]


def _rows(feeds: Mapping[str, np.ndarray]) -> int:
    """The size of the first dimension."""
    if not feeds:
        raise invalid("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in feeds.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in feeds.values()}
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _joined(arrays: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Arrays one after another, their other dimensions padded to the largest, and the first row again up to `rows`."""
    shape = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    arrays = [_padded(array, shape) for array in arrays]
    missing = rows - sum(map(len, arrays))
    if missing:
        first = next(array[:1] for array in arrays if len(array))
        arrays += [first] * missing
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _padded(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    if array.shape[1:] == tuple(shape):
        return array
    if not array.size:
        raise invalid("Got empty tensor in batch of non-empty tensors.")
    padded = np.full([len(array), *shape], array.flat[0], array.dtype)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def _too_late() -> ServingError:
    return ServingError("DEADLINE_EXCEEDED", "Timed out waiting for notification")


def _expired() -> ServingError:
    return ServingError("RESOURCE_EXHAUSTED", "Run() timeout exceeded while waiting in batching queue")

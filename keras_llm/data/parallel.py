"""Work on a stream in several processes: results in order, a bounded number of items under way, a clean end."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from keras_llm.errors import UserError

AHEAD = 2  # items under way for each process, beside the one it works on


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(make: str, arguments: tuple, items: Iterable, processes: int) -> Iterator:
    """Applies a function to each item, in several new processes.

    Close the iterator (`contextlib.closing`) if it is not read to its end: that ends the processes. They end, too, if this
    one is killed. Ctrl-C reaches this process only.

    Args:
        make: `module:name` of what, called with `arguments` once in each process, gives the function.
        arguments: can be pickled, as can items and results.
        items: read as far ahead as the processes need, not further.
        processes: how many.

    Returns:
        The results in the order of the items.

    Raises:
        UserError: a process was killed, most likely for memory. What `make` or the function raises comes back as it is.

    Example:

    >>> list(ordered_map("operator:itemgetter", (0,), ["one", "two"], processes=2))
    ['o', 't']
    """
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(make, arguments))
    waiting: deque = deque()
    try:
        for item in items:
            with _interrupts_blocked():  # a new process inherits that
                waiting.append(pool.submit(_work, item))
            if len(waiting) >= processes * (1 + AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            f"All {processes} processes must stay alive. Received: the end of one, killed perhaps for want of memory. Use "
            "fewer. (A script that starts processes guards its own start with if __name__ == '__main__'.)"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_make: Callable | None = None
_function: Callable | None = None


def _begin(make: str, arguments: tuple) -> None:
    global _make
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # one process says what there is to say
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, name = make.split(":")
    _make = lambda: getattr(importlib.import_module(module), name)(*arguments)  # noqa: E731


def _work(item):
    global _function
    if _function is None:
        _function = _make()  # here, so that its exception reaches the caller
    return _function(item)


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@contextmanager
def _interrupts_blocked():
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

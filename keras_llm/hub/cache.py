"""KerasHub's decoding caches in a stock server: its layers write into them by an op of XLA, which such a server refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from keras.src import backend

from keras_llm.layers.cache import slice_update


@contextlib.contextmanager
def core_ops() -> Iterator[None]:
    """While it lasts, what is traced writes into caches by core ops."""
    theirs, backend.core.slice_update = backend.core.slice_update, slice_update
    try:
        yield
    finally:
        backend.core.slice_update = theirs

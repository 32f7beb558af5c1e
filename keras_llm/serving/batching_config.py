"""TF Serving's batching.config: how requests are put together.

Source: tensorflow/serving, `servables/tensorflow/session_bundle_config.proto`, `batching/batching_session.cc`.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from keras_llm.errors import UserError
from keras_llm.serving import text_messages

FLAG = "--batching-parameters-file"


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """TF Serving's names and defaults."""

    max_batch_size: int = 1000
    """Rows of a batch; a request with more is refused."""
    batch_timeout_micros: int = 0
    """How long a request waits for others."""
    max_enqueued_batches: int = 10
    """Batches waiting for each signature of each version; a request for which there is no place is refused."""
    num_batch_threads: int = os.cpu_count() or 1
    """Batches computed at once, of all models."""
    allowed_batch_sizes: tuple[int, ...] = ()
    """A batch is filled up to one of these with rows whose answers are thrown away."""
    pad_variable_length_inputs: bool = False
    """Inputs that differ in other dimensions are filled up with their first value, and joined."""
    thread_pool_name: str = "batch_threads"
    """Label of `queuing_latency`."""
    enable_large_batch_splitting: bool = False
    """A request larger than a batch is divided among several, of at most `max_execution_batch_size` rows."""
    max_execution_batch_size: int = 0
    """Rows computed at once where requests are divided; otherwise `max_batch_size` says it."""

    @property
    def rows(self) -> int:
        """The most rows that are computed at once."""
        return self.max_execution_batch_size if self.enable_large_batch_splitting else self.max_batch_size


def read_parameters(path: str | Path) -> BatchingParameters:
    """Reads batching.config.

    Raises:
        UserError: the file cannot be read, an entry is unknown, or its value is out of range.

    Example:

    >>> read_parameters("exported/batching.config").max_batch_size
    32
    """
    message = text_messages.read(path, text_messages.CLASSES["BatchingParameters"], FLAG)
    given = {}
    for field, value in message.ListFields():
        given[field.name] = value.value if field.message_type else value
    if "allowed_batch_sizes" in given:
        given["allowed_batch_sizes"] = tuple(given["allowed_batch_sizes"])
    parameters = BatchingParameters(**given)
    _check(parameters, path)
    return parameters


def _check(parameters: BatchingParameters, path: str | Path) -> None:
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(parameters, name) < 1:
            raise UserError(f"{name} must be at least 1. Received: {getattr(parameters, name)} in {path}.")
    if parameters.batch_timeout_micros < 0:
        raise UserError(
            f"batch_timeout_micros must be at least 0. Received: {parameters.batch_timeout_micros} in {path}."
        )
    if parameters.enable_large_batch_splitting and not (
        1 <= parameters.max_execution_batch_size <= parameters.max_batch_size
    ):
        raise UserError(
            "max_execution_batch_size must be from 1 to max_batch_size where large batches are split. "
            f"Received: {parameters.max_execution_batch_size} and {parameters.max_batch_size} in {path}."
        )
    sizes = parameters.allowed_batch_sizes
    if sizes and (list(sizes) != sorted({size for size in sizes if size > 0}) or sizes[-1] != parameters.rows):
        name = "max_execution_batch_size" if parameters.enable_large_batch_splitting else "max_batch_size"
        raise UserError(
            f"allowed_batch_sizes must rise and end with {name}, {parameters.rows}. Received: {list(sizes)} in {path}."
        )

"""A run -> one SavedModel from strings to strings, with its proof beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from keras_llm.errors import UserError
from keras_llm.export import gates
from keras_llm.export.verify import compare


def export_task(task, directory: str | Path, records: Sequence[dict]) -> Path:
    """Writes `directory/<next version>/` and proves it.

    The graph is the one `task.ask` runs. The version appears under its number only after the gates and the comparison in
    a clean process: a server that polls `directory` never sees half of one.

    Args:
        task: from `keras_llm.load`.
        directory: where versions of this model live.
        records: questions whose answers are compared; generated difficult ones are added.

    Returns:
        The new version's directory.

    Raises:
        UserError: a gate is shut, or an answer differs from Python's.

    Example:

    >>> export_task(keras_llm.load("runs/reader"), "exported/reader", records).name
    '1'
    """
    directory = Path(directory)
    if directory.is_file():
        raise UserError(f"Exports go into a directory. Received: the file {directory}.")
    directory.mkdir(parents=True, exist_ok=True)
    version = max(versions(directory), default=0) + 1
    beside = directory / f".writing-{os.getpid()}-{version}"  # not a number: servers skip it
    try:
        save(task, beside)
        ops = gates.check(beside)
        report = compare(task, beside, records)
        report["ops"] = ops
        report["size_bytes"] = sum(file.stat().st_size for file in beside.rglob("*") if file.is_file())
        (beside / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        target = directory / str(version)
        os.rename(beside, target)
    except OSError as error:
        raise UserError(
            f"{directory} could not be written ({error.strerror or error}). Nothing half-written is left there."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def save(task, directory: str | Path) -> None:
    """Writes the SavedModel of a task's `answer` graph, signature `serving_default`."""
    module = tf.Module()
    module.tokenizer = task.tokenizer
    module.weights = [variable.value for variable in task.model.variables]
    function = task.trace()
    module.answer = function
    tf.saved_model.save(module, str(directory), signatures={"serving_default": function})


def versions(directory: str | Path) -> list[int]:
    """Version numbers below a model's directory, ascending."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in directory.iterdir()
        if entry.is_dir() and entry.name.isascii() and entry.name.isdigit()
    )

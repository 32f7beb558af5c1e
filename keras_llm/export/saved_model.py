"""A run -> one SavedModel from strings to strings, with its warm-up requests and its proof beside it."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from keras_llm import files
from keras_llm.errors import UserError
from keras_llm.export import gates, warmup
from keras_llm.export.verify import compare


def export_task(task, directory: str | Path, records: Sequence[dict], server: str = gates.DEFAULT_SERVER) -> Path:
    """Writes `directory/<next version>/` and proves it.

    The graph is the one `task.ask` runs. The version appears under its number only after the gates and the comparison with
    every consumer: a server that polls `directory` never sees half of one.

    Args:
        task: from `keras_llm.load`.
        directory: where versions of this model live; its name is the model's.
        records: questions whose answers are compared; generated difficult ones are added.
        server: version of the stock tensorflow_model_server it is for.

    Returns:
        The new version's directory.

    Raises:
        UserError: a gate is shut, or an answer differs from Python's.

    Example:

    >>> export_task(keras_llm.load("runs/reader"), "exported/reader", records).name
    '1'
    """
    directory = Path(directory)
    name = directory.resolve().name
    gates.ops_of(server)  # a wrong version is told before anything is written
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(
            f"The directory's name is the model's name in URLs: letters, digits, '.', '_' and '-'. Received: {name!r}."
        )
    if directory.is_file():
        raise UserError(f"Exports go into a directory. Received: the file {directory}.")
    directory.mkdir(parents=True, exist_ok=True)
    version = max(versions(directory), default=0) + 1
    beside = directory / f".writing-{os.getpid()}-{version}"  # not a number: servers skip it
    try:
        save(task, beside)
        ops = gates.check(beside, server)
        report = {"model": name, "kind": task.kind, "server": server, "signatures": _signatures(task, records)}
        report |= compare(task.ask, task.signatures["serving_default"], beside, records, server)
        report["other_signatures"] = {
            signature: compare(
                functools.partial(task.ask, signature=signature),
                task.signatures[signature],
                beside,
                records,
                server,
                signature,
            )
            for signature in task.signatures
            if signature != "serving_default"
        }
        report["warmup_requests"] = warmup.write(beside, name, task.signatures, records)
        report["ops"] = ops
        report["size_bytes"] = sum(file.stat().st_size for file in beside.rglob("*") if file.is_file())
        files.write_json(beside / "report.json", report)
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
    """Writes the SavedModel of all of a task's signatures; `serving_default` is the graph that `task.ask` runs."""
    module = tf.Module()
    module.tokenizer = task.tokenizer
    module.weights = [variable.value for variable in task.model.variables]
    module.functions = {name: task.trace(s.method, s.inputs) for name, s in task.signatures.items()}
    tf.saved_model.save(module, str(directory), signatures=module.functions)


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


def _signatures(task, records):
    """What the README beside the models shows of each signature: its tensors, and a short request with its answer."""
    short = min(({name: r[name] for name in task.inputs} for r in records), key=lambda r: sum(map(len, r.values())))
    found = {}
    for name, signature in task.signatures.items():
        request = signature.example(short)
        outputs = task.trace(signature.method, signature.inputs).structured_outputs
        found[name] = {
            "inputs": signature.inputs,
            "outputs": {output: outputs[output].dtype.name for output in sorted(outputs)},
            "example": {"request": request, "answer": task.ask([request], signature=name)[0]},
        }
    return found

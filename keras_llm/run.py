"""The run directory: the one artefact, with everything needed to continue, evaluate, ask and export.

```
runs/reader/
  config.json           every setting
  tokenizer/            the tokenizer's own files
  prepared/             training arrays (ids), memory-mapped
  first.weights.h5      of a model that started from another: before the first step
  model.weights.h5      the best weights by the task's own metric
  last.weights.h5       the newest weights
  state/last.npz        exact state for --resume: weights, optimizer, random generators, step
  metrics.json          the evaluation of the best weights
  confusion.png …       of a classifier: confusion matrix, reliability, precision and recall
  manifest.json         format, hashes of data and tokenizer; written with the directory's first files, all at once
  logs/                 TensorBoard events
```
A directory appears under its name only when config, tokenizer, prepared arrays and manifest are whole. Weights carry
the hash of the tokenizer they were trained with, so that neither can be swapped unseen.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_llm import files
from keras_llm.config import Config, from_json
from keras_llm.errors import UserError

if TYPE_CHECKING:
    from keras_llm.tasks.base import Task

FORMAT = 1


class Run:
    """Paths and manifest of a run directory.

    Args:
        path: the directory; it must be a whole run.

    Raises:
        UserError: the directory is missing, half-written, or of another format.

    Example:

    >>> run = Run("runs/reader")
    >>> run.config.training.epochs
    12
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise UserError(f"{self.path} is no run directory: there is no such directory. Train one first.")
        for name in ("manifest.json", "config.json", "tokenizer"):
            if not (self.path / name).exists():
                raise UserError(
                    f"{self.path} is no whole run directory: {name} is missing. "
                    "It was half-written or is something else; train anew under another name."
                )
        self.manifest = _read_json(self.path / "manifest.json")
        if self.manifest.get("format") != FORMAT:
            raise UserError(
                f"{self.path} has run format {self.manifest.get('format')!r}; this version reads {FORMAT}. "
                "Use the version of keras_llm it was trained with."
            )
        self.config = from_json(_read_text(self.path / "config.json"), str(self.path / "config.json"))

    best_weights = property(lambda self: self.path / "model.weights.h5")
    last_weights = property(lambda self: self.path / "last.weights.h5")
    state = property(lambda self: self.path / "state" / "last.npz")
    prepared = property(lambda self: self.path / "prepared")
    metrics = property(lambda self: self.path / "metrics.json")
    logs = property(lambda self: self.path / "logs")

    def tokenizer(self):
        """The run's tokenizer, checked against the manifest's hash."""
        from keras_llm.text import load_tokenizer

        tokenizer = load_tokenizer(self.path / "tokenizer")
        if tokenizer.fingerprint != self.manifest["tokenizer"]:
            raise UserError(
                f"{self.path / 'tokenizer'} is not the tokenizer of this run: its hash is "
                f"{tokenizer.fingerprint[:12]}, the manifest has {self.manifest['tokenizer'][:12]}. "
                "Put the original files back."
            )
        return tokenizer


def write_manifest(directory: Path, config: Config, tokenizer, **facts: Any) -> None:
    """Writes config, tokenizer and manifest into a directory that is being created."""
    from keras_llm import __version__
    from keras_llm.config import to_json

    (directory / "config.json").write_text(to_json(config), encoding="utf-8")
    tokenizer.save(directory / "tokenizer")
    manifest = {
        "format": FORMAT,
        "keras_llm": __version__,
        "kind": config.kind,
        "model": config.model,
        "tokenizer": tokenizer.fingerprint,
        "vocabulary_size": int(tokenizer.vocabulary_size),
        **facts,
    }
    files.write_json(directory / "manifest.json", manifest)


def save_weights(task: Task, path: Path, tokenizer_hash: str) -> None:
    """Writes the model's weights with the task's settings and the tokenizer's hash inside the same file.

    The HDF5 file is made in memory: on a disk that fills up, HDF5 ends the process instead of raising an error.
    """
    import h5py
    import keras

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, value in merged_weights(task.model).items():
            file.create_dataset(name, data=keras.ops.convert_to_numpy(value))
        file.attrs["keras_llm"] = json.dumps({"tokenizer": tokenizer_hash, "settings": task.settings})
    # Not `getbuffer`: where writing fails, its view lives on in the traceback, and Python 3.12 crashes when it collects that.
    with files.replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def read_weights(path: Path) -> tuple[dict, dict]:
    """What `save_weights` wrote: the facts beside the weights (`tokenizer`, `settings`), and the arrays by name.

    Raises:
        UserError: the file is missing, broken or something else.
    """
    import h5py

    if not path.exists():
        raise UserError(
            f"{path} is missing: this run has no evaluated weights yet. Continue its training with --resume first."
        )
    arrays = {}
    try:
        with h5py.File(path, "r") as file:
            facts = json.loads(file.attrs["keras_llm"])
            file.visititems(
                lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a weights file of keras_llm, or is damaged ({error}). Train anew.") from error
    return facts, arrays


def load_weights(task: Task, path: Path, tokenizer_hash: str) -> None:
    """Reads what `save_weights` wrote into a task of the same shape; low-rank additions, which are in what was written, become 0.

    Raises:
        UserError: the file is missing, broken, of another shape or trained with another tokenizer.
    """
    facts, arrays = read_weights(path)
    if facts["tokenizer"] != tokenizer_hash:
        raise UserError(
            f"{path} was trained with another tokenizer than the one beside it "
            f"({facts['tokenizer'][:12]} and {tokenizer_hash[:12]}). Put the original files back."
        )
    if hasattr(task.model, "from_arrays"):  # an n-gram model: what was counted decides its shapes
        task.model = task.model.from_arrays(arrays)
    named = named_weights(task.model)
    for layer in adapted_layers(task.model):
        for weight in layer.adapter:
            del named[below_model(weight)]
    wanted = {name: tuple(weight.shape) for name, weight in named.items()}
    stored = {name: array.shape for name, array in arrays.items()}
    if wanted != stored:
        odd = next(n for n in [*wanted, *stored] if wanted.get(n) != stored.get(n))
        raise UserError(
            f"{path} does not fit the model of config.json: {odd} is {stored.get(odd, 'missing')} in the file, "
            f"{wanted.get(odd, 'nothing')} in the model. Put the original files back."
        )
    for name, weight in named.items():
        weight.assign(arrays[name])
    for layer in adapted_layers(task.model):
        layer.reset_adapter()
    task.settings = facts["settings"]


def load(path: str | Path, weights: str = "best") -> Task:
    """The door for evaluating, asking, exporting and serving: a task with its trained model, in float32.

    Args:
        path: a run directory.
        weights: "best" (by the task's own metric) or "last".

    Raises:
        UserError: the directory is not a whole run, or its parts do not belong together.

    Example:

    >>> task = keras_llm.load("runs/reader")
    >>> task.ask([{"question": "谁提出了注意力机制？", "context": "Bahdanau 等人提出了注意力机制。"}])
    [{'answer': 'Bahdanau', 'score': 0.93, 'start': 0, 'end': 8}]
    """
    from keras_llm.tasks import make_task

    run = Run(path)
    tokenizer = run.tokenizer()
    task = make_task(run.config, tokenizer, precision="float32")
    load_weights(task, run.best_weights if weights == "best" else run.last_weights, tokenizer.fingerprint)
    return task


def merged_weights(model) -> dict:
    """The values of `named_weights`, with the low-rank additions of fine-tuning inside the matrices they belong to."""
    values = {name: weight.value for name, weight in named_weights(model).items()}
    for layer in adapted_layers(model):
        values[below_model(layer.kernel)] = layer.merged_kernel
        for weight in layer.adapter:
            del values[below_model(weight)]
    return values


def adapted_layers(model) -> list:
    """The layers that have low-rank additions."""
    return [layer for layer in model._flatten_layers() if getattr(layer, "adapter", None)]


def named_weights(model) -> dict:
    """Weights by their path below the model, whose own name Keras numbers within a process.

    What a training carries from batch to batch belongs to its state, not to the weights.
    """
    carried = {id(weight) for weight in model.carried.weights} if hasattr(model, "carried") else set()
    return {below_model(weight): weight for weight in model.weights if id(weight) not in carried}


def below_model(weight) -> str:
    """A weight's path below its model."""
    return weight.path.partition("/")[2]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg}). The run is damaged.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is expected. The run is damaged.")
    return value

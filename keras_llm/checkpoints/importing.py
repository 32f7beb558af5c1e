"""A checkpoint as a run directory like any other: to ask, evaluate, export, generate with and fine-tune."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

from keras_llm import files
from keras_llm.checkpoints import FAMILIES
from keras_llm.checkpoints.files import Checkpoint, read_json
from keras_llm.checkpoints.heads import heads_among
from keras_llm.checkpoints.keras_hub_presets import hugging_face_form
from keras_llm.checkpoints.table import to_ours
from keras_llm.config import Config
from keras_llm.errors import UserError
from keras_llm.run import Run, named_weights, save_weights, write_manifest
from keras_llm.validation import validate

LONGEST = 60  # letters of a value in a message
# Settings of a generation_config.json with which `transformers` writes other texts where it always takes the most probable token:
# values that change nothing (null is one, too), and the flag of generate.py that does the same.
SETTINGS = {
    "repetition_penalty": ((1,), "--repetition-penalty"),
    "no_repeat_ngram_size": ((0,), "--no-repeat-ngram-size"),
    "min_length": ((0,), "--min-tokens, which does not count the prompt"),
    "min_new_tokens": ((0,), "--min-tokens"),
    "num_beams": ((1,), "--beams, --length-penalty"),
    "stop_strings": (([], ""), "--stop"),
    **{name: ((1,), None) for name in ("encoder_repetition_penalty", "guidance_scale")},
    **{name: ((0,), None) for name in ("encoder_no_repeat_ngram_size", "penalty_alpha")},
    **{
        name: (([], {}), None)
        for name in (
            *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias", "force_words_ids"),
            *("forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "constraints"),
            *("exponential_decay_length_penalty", "dola_layers", "watermarking_config"),
        )
    },
}


def import_checkpoint(folder: str | Path, run_dir: str | Path, say: Callable[[str], None] = print) -> None:
    """Writes the run directory of a checkpoint; it appears whole or not at all.

    Args:
        folder: in Hugging Face's form: config.json, weights, tokenizer; or a KerasHub preset.
        run_dir: must not exist.
        say: receives what is told to the user.

    Raises:
        UserError: an architecture, a value or a tensor that is not supported, named; files that are missing, damaged or do not
            belong together; `run_dir` exists, or cannot be written.

    Example:

    >>> import_checkpoint("gpt2", "runs/gpt2")
    >>> keras_llm.load("runs/gpt2").ask([{"text": "Hello, my name is"}])[0]["answer"]
    " John and I'm a writer..."
    """
    run_dir = Path(run_dir)
    if run_dir.exists():  # before the work, not after it
        raise UserError(f"{run_dir} exists already. Choose another name or remove it.")
    say(f"Reading {folder}")
    with hugging_face_form(folder) as readable:
        task = open_checkpoint(readable)
        family = read_json(readable / "config.json")["model_type"]
        heads = heads_among(Checkpoint(readable))
        source, dropped = _dropped(readable)
    with files.creating(run_dir) as directory:
        # No data: what --resume would continue does not exist.
        write_manifest(directory, task.config, task.tokenizer, data="", checkpoint=family)
        run = Run(directory)
        save_weights(task, run.best_weights, task.tokenizer.fingerprint)
        save_weights(task, run.last_weights, task.tokenizer.fingerprint)
    say(
        f"{run_dir}: {family} as {task.config.kind}, {task.model.count_params():,} parameters, "
        f"{task.tokenizer.vocabulary_size:,} token ids"
    )
    if heads:
        say(
            f"Left out: {', '.join(heads)}. Of a classifier, tagger or reader the encoder is read, for a head of its own."
        )
    if dropped:
        say(f"Left out of {source}, so that transformers may write other texts: {'; '.join(dropped)}")


def open_checkpoint(folder: str | Path):
    """A checkpoint as a task: its config, its tokenizer and a model with its weights, in float32.

    Args:
        folder: as for `import_checkpoint`.

    Raises:
        UserError: see `import_checkpoint`.
    """
    from keras_llm.tasks import make_task

    with hugging_face_form(folder) as readable:
        checkpoint = Checkpoint(readable)
        family, config, tokenizer = _described(readable)
        task = make_task(validate(config), tokenizer, precision="float32")
        weights = named_weights(task.model)
        entries = family.table(config, tokenizer.vocabulary_size)
        in_table = {name for entry in entries for name in entry.theirs}
        arrays = to_ours(
            entries,
            checkpoint,
            {name: tuple(weight.shape) for name, weight in weights.items()},
            family.CANONICAL,
            {name: other for name, other in family.TIED.items() if name not in in_table},
            family.IGNORED,
        )
        for name, weight in weights.items():
            weight.assign(arrays.pop(name))
    return task


def is_checkpoint(path: str | Path) -> bool:
    """Whether a directory is a checkpoint rather than a run.

    Example:

    >>> is_checkpoint("runs/gpt2")
    False
    """
    return (Path(path) / "config.json").exists() and not (Path(path) / "manifest.json").exists()


def read_config(folder: str | Path) -> Config:
    """The config of the run that a checkpoint becomes; its tokenizer is read for it, which says how text is normalised.

    Raises:
        UserError: see `import_checkpoint`.
    """
    with hugging_face_form(folder) as readable:
        return _described(readable)[1]


def _described(folder: Path):
    """A family, which is a module, the config of the run, and its tokenizer."""
    described = read_json(folder / "config.json")
    family = family_module(described.get("model_type"), folder)
    config = family.read_config(described, folder)
    tokenizer = family.read_tokenizer(folder, config)
    config.text.unicode_policy = tokenizer.unicode_policy
    return family, config, tokenizer


def _dropped(folder: Path) -> tuple[str, list[str]]:
    """The file that says how texts are generated, what it changes about them, and what to give generate.py for it."""
    has_own_file = (folder / "generation_config.json").exists()
    source = "generation_config.json" if has_own_file else "config.json"  # as transformers
    said, found = read_json(folder / source), []
    for name, (inert, flag) in SETTINGS.items():
        value = said.get(name)
        if value is not None and value not in inert:
            text = json.dumps(value, ensure_ascii=False)
            text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
            found.append(f"{name} = {text}" + (f" (generate.py {flag})" if flag else ""))
    return source, found


def family_module(model_type, folder):
    """The module of a family.

    Raises:
        UserError: there is none for it.
    """
    if model_type not in FAMILIES:
        raise UserError(
            f"{folder}: a checkpoint's model_type is one of {', '.join(FAMILIES)}. Received: {model_type!r}. Choose another "
            "checkpoint, or export it with export.py --keras-hub."
        )
    return importlib.import_module(f"keras_llm.checkpoints.{FAMILIES[model_type]}")

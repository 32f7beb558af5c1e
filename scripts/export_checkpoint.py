"""Write a run as a checkpoint in Hugging Face's form, for transformers and what else reads that."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import _path  # noqa: F401
import tyro

from keras_llm.command_line import parse, run_script


@dataclasses.dataclass
class Arguments:
    run: tyro.conf.Positional[Path]
    """Directory of the run."""
    checkpoint: tyro.conf.Positional[Path]
    """Folder to write config.json, model.safetensors and the tokenizer's files into; must not exist."""


def main():
    arguments = parse(Arguments, __doc__)
    from keras_llm.checkpoints.exporting import export_checkpoint

    export_checkpoint(arguments.run, arguments.checkpoint)


if __name__ == "__main__":
    run_script(main)

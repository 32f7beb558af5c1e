"""Make a run of a pretrained checkpoint (Hugging Face's form, or a KerasHub preset): to ask, evaluate, export, fine-tune."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import _path  # noqa: F401
import tyro

from keras_llm.command_line import parse, run_script


@dataclasses.dataclass
class Arguments:
    checkpoint: tyro.conf.Positional[Path]
    """Folder with config.json, weights (safetensors or PyTorch's .bin) and tokenizer files; or what KerasHub's `save_to_preset`
    wrote."""
    run: tyro.conf.Positional[Path]
    """Directory of the run; must not exist."""


def main():
    arguments = parse(Arguments, __doc__)
    from keras_llm.checkpoints.importing import import_checkpoint

    import_checkpoint(arguments.checkpoint, arguments.run)


if __name__ == "__main__":
    run_script(main)

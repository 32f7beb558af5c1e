"""Evaluate a run on labelled data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import _path  # noqa: F401
import tyro

from keras_llm.command_line import parse, run_script
from keras_llm.config import FieldConfig


@dataclasses.dataclass
class Arguments:
    run: tyro.conf.Positional[Path]
    """Directory of the run."""
    data: tuple[Path, ...]
    """Files with questions and true answers, or labelled texts; for language models a corpus."""
    output: Path | None = None
    """JSON file for the metrics; without it they are only printed."""
    predictions: Path | None = None
    """JSON file for the answers, id to answer, label or entities; for questions as the SQuAD and CMRC scripts read it."""
    weights: Literal["best", "last"] = "best"
    """Which weights: best or last."""
    fields: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    """Which column or key holds what, where these files differ from those the run was trained on; empty: as there."""
    num_beams: int | None = None
    """Models that write: beams, 1 for greedy; left out, this and the next two are as in the run."""
    length_penalty: float | None = None
    """Above 0 favours long texts, below 0 short ones."""
    no_repeat_ngram_size: int | None = None
    """No run of so many tokens comes twice in a text; 0: it may."""


def main():
    arguments = parse(Arguments, __doc__)
    from keras_llm.evaluate import evaluate_run
    from keras_llm.generation.bounds import DECODING

    output, predictions, weights = arguments.output, arguments.predictions, arguments.weights
    given = {name: getattr(arguments, name) for name in DECODING}
    decoding = {name: value for name, value in given.items() if value is not None}
    evaluate_run(
        arguments.run, arguments.data, output, predictions, weights, fields=arguments.fields, decoding=decoding
    )


if __name__ == "__main__":
    run_script(main)

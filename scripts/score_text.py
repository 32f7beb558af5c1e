"""Score texts against targets: those of another system, or the first words of each source."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import _path  # noqa: F401

from keras_llm.command_line import parse, read_text, run_script
from keras_llm.errors import UserError


@dataclasses.dataclass
class Arguments:
    data: tuple[Path, ...]
    """Files with sources and targets, as for --task seq2seq."""
    predictions: Path | None = None
    """JSON file {id: text}, as evaluate.py --predictions writes it."""
    lead: int | None = None
    """In its place: so many words of each source, Chinese by character."""
    text_field: str = ""
    """Key or column of the sources."""
    target_field: str = ""
    """Key or column of the targets."""
    target_language: Literal["auto", "en", "zh"] = "auto"
    """How BLEU finds words."""
    output: Path | None = None
    """JSON file for the scores with their signatures."""


def main():
    arguments = parse(Arguments, __doc__)
    if (arguments.predictions is None) == (arguments.lead is None):
        raise UserError("What is scored is given by --predictions or by --lead. Received: neither or both. Give one.")
    if arguments.lead is not None and arguments.lead < 1:
        raise UserError(f"--lead must be at least 1. Received: {arguments.lead}.")
    from keras_llm import files
    from keras_llm.data.parallel_text import read_parallel
    from keras_llm.metrics.text import evaluate_texts, lead

    records, report = read_parallel(arguments.data, arguments.text_field, arguments.target_field)
    for line in report.lines():
        print(line)
    if arguments.predictions:
        texts = predictions_of(arguments.predictions, [record["id"] for record in records])
    else:
        texts = [lead(record["text"], arguments.lead) for record in records]
    targets = [record["targets"] for record in records]
    scores, signatures = evaluate_texts(texts, targets, arguments.target_language)
    for name, value in scores.items():
        print(f"{name:<12}{value:.2f}  {signatures.get(name, '')}".rstrip())
    if arguments.output:
        files.write_json(arguments.output, {"metrics": scores, "notes": signatures, "examples": len(records)})


def predictions_of(path: Path, ids: list[str]) -> list[str]:
    """The texts for ids, from a JSON file."""
    try:
        found = json.loads(read_text(path, "--predictions"))
    except ValueError as error:
        raise UserError(f"{path} must be JSON. Received: {error}. Mend the file.") from None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise UserError(f"{path} must be a JSON object from ids to texts. Received something else. Mend the file.")
    missing = [name for name in ids if name not in found]
    if missing:
        raise UserError(
            f"Every example needs a text. Received: {path} without {len(missing)} of {len(ids)}, the first is {missing[0]!r}. "
            "Predict the same data that is scored."
        )
    return [found[name] for name in ids]


if __name__ == "__main__":
    run_script(main)

"""Find the lines of a file that are most similar to a text, with a sentence encoder."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import _path  # noqa: F401
import tyro

from keras_llm.command_line import parse, run_script
from keras_llm.errors import UserError


@dataclasses.dataclass
class Arguments:
    run: tyro.conf.Positional[Path]
    """Directory of a run of kind embedding: trained by finetune.py, or imported."""
    queries: tyro.conf.Positional[tuple[str, ...]]
    """The texts to look for; without any, each line of the standard input is one."""
    corpus: Path
    """UTF-8 file that is searched, a text a line."""
    top: int = 10
    """How many lines are shown, the most similar first."""
    json: bool = False
    """Print a JSON object a query instead."""
    cache: bool = False
    """Keep the lines' vectors beside the file, for the next time."""


def main():
    arguments = parse(Arguments, __doc__)
    import keras_llm
    from keras_llm.similarity import Lines

    lines = Lines(
        keras_llm.load(arguments.run),
        arguments.corpus,
        arguments.cache,
        say=lambda line: print(line, file=sys.stderr),
    )
    for query in arguments.queries or lines_of(sys.stdin.buffer):
        (found,) = lines.search([query], arguments.top)
        if arguments.json:
            names = ("line", "score", "text")
            answer = {"query": query, "found": [dict(zip(names, row, strict=True)) for row in found]}
            print(json.dumps(answer, ensure_ascii=False), flush=True)
            continue
        print(query)
        for number, score, text in found:
            print(f"  {score:.3f}  {arguments.corpus.name}:{number}  {text}", flush=True)


def lines_of(file):
    """The lines of a binary file that are not empty, as text; whatever the locale, it is UTF-8."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"The standard input must be UTF-8. Received: line {number} with byte 0x{line[error.start]:02x} at position "
                f"{error.start}. Convert it."
            ) from None
        if text.strip():
            yield text


if __name__ == "__main__":
    run_script(main)

"""Compare language models on one text: one table, one chart, TensorBoard's hyper-parameters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import _path  # noqa: F401
import tyro

from keras_llm.command_line import parse, run_script


@dataclasses.dataclass
class Arguments:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of the runs."""
    data: tuple[Path, ...]
    """The test text: files or directories as for pretrain.py. Each run reads them as it read its corpus."""
    output: Path = Path("comparison")
    """Directory for table.md, table.json, chart.png and logs/."""


def main():
    arguments = parse(Arguments, __doc__)
    from keras_llm.compare import compare_runs

    compare_runs(arguments.runs, arguments.data, arguments.output)


if __name__ == "__main__":
    run_script(main)

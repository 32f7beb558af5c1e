"""Export a run as a SavedModel that takes strings and returns strings, proven in another process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import _path  # noqa: F401
import tyro

from keras_llm.command_line import parse, run_script


@dataclasses.dataclass
class Arguments:
    run: tyro.conf.Positional[Path]
    """Directory of the run."""
    directory: tyro.conf.Positional[Path]
    """Directory of the exported model; each export becomes its next version: 1, 2, ..."""
    data: tuple[Path, ...] = ()
    """Questions whose answers are compared with Python's; default: the bundled ones."""
    lite: str = "float32"
    """Also write TFLite files below lite/, in these formats: float32,float16,int8, or some of them; none: no files."""
    server: Literal["2.20", "2.19"] = "2.20"
    """Version of the stock TensorFlow Serving binary it must run on: which ops it links decides what may be exported."""


def main():
    arguments = parse(Arguments, __doc__)
    from keras_llm.export.export import export_run

    lite = () if arguments.lite == "none" else arguments.lite.split(",")
    for line in export_run(arguments.run, arguments.directory, arguments.data, lite, arguments.server):
        print(line, flush=True)


if __name__ == "__main__":
    run_script(main)

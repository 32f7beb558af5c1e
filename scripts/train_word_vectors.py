"""Train word vectors on your own text: skip-gram, CBOW or GloVe."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import _path  # noqa: F401
import tyro

from keras_llm.command_line import parse, run_script
from keras_llm.config import CorpusConfig
from keras_llm.vectors.config import VectorsConfig, recommended, validate


@dataclasses.dataclass
class Arguments:
    data: tuple[Path, ...]
    """Text files, JSON lines, also gzipped."""
    run: Path
    """Directory of the run; must not exist."""
    vectors: Annotated[VectorsConfig, tyro.conf.arg(name="")]
    corpus: Annotated[CorpusConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=CorpusConfig)


def main():
    base = recommended(_method(sys.argv[1:]))
    arguments = parse(Arguments, __doc__, Arguments(data=tyro.MISSING, run=tyro.MISSING, vectors=base))
    config = validate(arguments.vectors)
    from keras_llm.training.word_vectors import train_word_vectors

    return train_word_vectors(config, arguments.corpus, arguments.run, arguments.data)


def _method(arguments: list[str]) -> str:
    """The method the command line names: the other flags' defaults depend on it."""
    for i, argument in enumerate(arguments):
        if argument == "--method" and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith("--method="):
            return argument.partition("=")[2]
    return VectorsConfig.method


if __name__ == "__main__":
    run_script(main)

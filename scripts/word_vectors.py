"""Ask word vectors, measure them, or write them in another form. VECTORS is a run of train_word_vectors.py or a file in
word2vec text, word2vec binary or GloVe form, gzipped or not."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import _path  # noqa: F401
import tyro

from keras_llm.command_line import parse, run_script


@dataclasses.dataclass
class Nearest:
    """Words of greatest cosine similarity to each of some words."""

    vectors: tyro.conf.Positional[Path]
    """Run or file."""
    words: tyro.conf.Positional[tuple[str, ...]]
    """The words asked about."""
    k: int = 10
    """How many words are shown for each."""
    limit: int | None = None
    """Read only so many words, the most frequent ones."""

    def __call__(self, vectors):
        if not self.words:
            _needs("at least one word", "none")
        for word in self.words:
            _show(word, vectors.nearest(word, self.k))


@dataclasses.dataclass
class Analogy:
    """Words that are to C as B is to A: nearest to B - A + C."""

    vectors: tyro.conf.Positional[Path]
    """Run or file."""
    a: tyro.conf.Positional[str]
    """For instance: man"""
    b: tyro.conf.Positional[str]
    """king"""
    c: tyro.conf.Positional[str]
    """woman"""
    k: int = 10
    """How many words are shown."""
    limit: int | None = None
    """Read only so many words, the most frequent ones."""

    def __call__(self, vectors):
        _show(f"{self.a} : {self.b} = {self.c} :", vectors.analogy(self.a, self.b, self.c, self.k))


@dataclasses.dataclass
class Evaluate:
    """Word similarity (Spearman's rank correlation) and analogies (accuracy)."""

    vectors: tyro.conf.Positional[Path]
    """Run or file."""
    similarity: tuple[Path, ...] = ()
    """Files with a line a pair: two words and a score (WordSim-353, SimLex-999, MEN, wordsim-240, wordsim-297)."""
    analogies: tuple[Path, ...] = ()
    """Files with four words a line and sections (questions-words.txt, CA8)."""
    match_case: bool = False
    """Words that differ in case are different words."""
    most_frequent: int | None = None
    """Answers of analogies are sought among so many words."""
    output: Path | None = None
    """JSON file for the results, with the words that have no vector."""
    limit: int | None = None
    """Read only so many words, the most frequent ones."""

    def __call__(self, vectors):
        from keras_llm.vectors.evaluation import report

        if not self.similarity and not self.analogies:
            _needs("--similarity or --analogies", "neither")
        result = report(vectors, self.similarity, self.analogies, not self.match_case, self.most_frequent, print)
        if self.output:
            from keras_llm.files import write_json

            write_json(self.output, result)


@dataclasses.dataclass
class Convert:
    """Writes the vectors in another form."""

    vectors: tyro.conf.Positional[Path]
    """Run or file."""
    output: tyro.conf.Positional[Path]
    """The file to write."""
    form: Literal["text", "binary", "glove"] = "text"
    """word2vec text, word2vec binary, or GloVe."""
    limit: int | None = None
    """Write only so many words, the most frequent ones."""

    def __call__(self, vectors):
        vectors.save(self.output, self.form)
        print(f"{len(vectors):,} words, dimension {vectors.dim}: {self.output}")


def main():
    command = parse(Nearest | Analogy | Evaluate | Convert, __doc__, tyro.MISSING)
    from keras_llm.vectors import WordVectors

    vectors = WordVectors.load(command.vectors, command.limit)
    if vectors.duplicates:
        print(f"{vectors.duplicates:,} words were there again; the first of each is used.", file=sys.stderr)
    command(vectors)


def _show(title, answers):
    print(title)
    for word, similarity in answers:
        print(f"  {similarity:.4f}  {word}")


def _needs(what, received):
    from keras_llm.errors import UserError

    raise UserError(f"The command needs {what}. Received: {received}. See --help.")


if __name__ == "__main__":
    run_script(main)

"""How fast a corpus becomes prepared arrays: reading, duplicates, and tokenizing with each tokenizer, in MB/s a core.

python benchmarks/corpus.py --data english.jsonl chinese.jsonl --output docs/results/corpus_speed.json

Each file is read over and over until `--megabytes` of text have come. A core's speed is bytes of UTF-8 text by seconds of
processor time, of this process and those it starts, with TensorFlow on one thread; wall is what a clock shows. Tokenizing
contains reading, cleaning and writing; with processes also their start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_llm import files
from keras_llm.config import CorpusConfig
from keras_llm.data.corpus import Corpus
from keras_llm.data.corpus_report import Amount
from keras_llm.training.tokenizing import prepare_documents


@dataclasses.dataclass
class Arguments:
    data: tuple[str, ...]
    """Text files or JSONL, one a language."""
    field: str = "text"
    """Key of a record's text in JSONL."""
    megabytes: int = 50
    """Text for each measurement."""
    vocabulary_size: int = 8000
    """Of the tokenizers, which are trained on the first 2 MB."""
    tokenizers: tuple[str, ...] = ("wordpiece", "sentencepiece", "characters", "words")
    """Which ones."""
    processes: tuple[int, ...] = (1,)
    """Numbers of processes to tokenize with."""
    output: str | None = None
    """JSON file for the result."""


class Measurement:
    """Processor and wall seconds between `with` and its end."""

    def __enter__(self):
        self.wall, self.processor = time.perf_counter(), _processor_seconds()
        return self

    def __exit__(self, *_):
        self.wall = time.perf_counter() - self.wall
        self.processor = _processor_seconds() - self.processor

    def speeds(self, size: int) -> dict:
        megabytes = size / 1e6
        return {
            "megabytes": round(megabytes, 1),
            "mb_per_second_a_core": round(megabytes / self.processor, 2),
            "mb_per_second_wall": round(megabytes / self.wall, 2),
        }


def _processor_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def limited(documents, most: int, amount: Amount):
    """The documents over and over until `most` bytes have come; `amount` counts them."""
    while amount.bytes < most:
        for text in documents:
            amount.add(text)
            yield text
            if amount.bytes >= most:
                return


def measure(arguments: Arguments, path: str):
    """A dict for each thing measured."""
    from keras_llm.text import TOKENIZERS

    most = arguments.megabytes * 1_000_000
    corpus = Corpus([path], CorpusConfig(field=arguments.field))
    for deduplicate in ("none", "exact", "near"):
        config = CorpusConfig(field=arguments.field, deduplicate=deduplicate, eval_share=0.05)
        with Measurement() as measurement:
            report = Corpus([path], config).report
        speeds = measurement.speeds(report.read.bytes)
        yield {"step": "reading", "deduplicate": deduplicate, **speeds, "documents": report.read.documents}
    with tempfile.TemporaryDirectory() as directory:
        for kind in arguments.tokenizers:
            texts = limited(corpus, 2_000_000, Amount())
            TOKENIZERS[kind].train(texts, arguments.vocabulary_size).save(Path(directory, kind))
        for kind, processes in itertools.product(arguments.tokenizers, arguments.processes):
            amount = Amount()
            texts = limited(corpus, most, amount)
            with Measurement() as measurement:
                prepared = prepare_documents(
                    texts, Path(directory, kind), Path(directory, "prepared"), "benchmark", processes=processes
                )
            yield {
                "step": "tokenizing",
                "tokenizer": kind,
                "processes": processes,
                **measurement.speeds(amount.bytes),
                "bytes_per_token": round(amount.bytes / len(prepared.features["token_ids"]), 2),
            }


def main():
    arguments = tyro.cli(Arguments, description=__doc__)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    results = []
    for path in arguments.data:
        for result in measure(arguments, path):
            results.append({"data": Path(path).name, **result})
            print(json.dumps(results[-1]), flush=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "tensorflow": tf.__version__}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    settings = {name: value for name, value in dataclasses.asdict(arguments).items() if name not in ("data", "output")}
    if arguments.output:
        with contextlib.suppress(AttributeError):
            machine["load"] = round(os.getloadavg()[0], 1)
        files.write_json(
            arguments.output, {"machine": machine, "settings": settings, "peak_memory_mib": peak, "results": results}
        )


if __name__ == "__main__":
    main()

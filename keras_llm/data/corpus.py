"""A corpus: files -> documents, streamed, so that no corpus has to fit into memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_llm.config import CorpusConfig
from keras_llm.data.documents import existing
from keras_llm.data.records import ReaderReport


class Corpus:
    """The documents of files, one str after the other; each iteration reads the files anew.

    Args:
        paths: text files (`.txt` and others) and JSON lines (`.jsonl`), also gzipped.
        config: what a document is.

    Example:

    >>> corpus = Corpus(["poems.jsonl"], CorpusConfig(field="paragraphs"))
    >>> next(iter(corpus))
    '床前明月光...'
    """

    def __init__(self, paths: Sequence[str | Path], config: CorpusConfig | None = None):
        self.paths = existing(paths)
        self.config = config or CorpusConfig()
        self.report = ReaderReport()

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
                yield from self._documents(path, file)

    def _documents(self, path, file):
        if ".jsonl" in path.suffixes:
            for line in file:
                text = json.loads(line)[self.config.field]
                yield text if isinstance(text, str) else "\n".join(text)
        elif self.config.document == "line":
            yield from (line.strip("\n") for line in file if line.strip())
        elif self.config.document == "file":
            yield file.read()
        else:
            yield from (part.strip("\n") for part in file.read().split("\n\n") if part.strip())

"""A corpus cut into words, once, on disk: what every pass of the training reads."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from keras_llm import files
from keras_llm.errors import UserError
from keras_llm.vectors.config import VectorsConfig
from keras_llm.vectors.segmentation import segmenter

LONGEST = 10_000  # words in a sentence; gensim reads no further


class Sentences:
    """The words of a corpus, sentence by sentence, from a file with a sentence a line and spaces between words.

    A line of a document is a sentence; windows do not reach beyond it. Very long ones are cut, no word is lost.

    Args:
        path: the file, written by `write`.

    Attributes:
        counts: every word's number of occurrences, most frequent first, equal ones by code point.
        number: sentences.
        total: words.
    """

    def __init__(self, path: Path, counts: dict[str, int], number: int):
        self.path, self.counts, self.number = path, counts, number
        self.total = sum(counts.values())

    @classmethod
    def write(cls, path: str | Path, documents: Iterable[str], config: VectorsConfig) -> Sentences:
        """Cuts documents into words as the config says and keeps them at `path`.

        Args:
            path: the file to be written.
            documents: texts, one after the other; never all in memory.
            config: segmentation, lowercase, keep_punctuation.

        Raises:
            UserError: there are no words.
        """
        cut = segmenter(config.segmentation, config.keep_punctuation)
        counts: Counter = Counter()
        number = 0
        with files.replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
            for line in itertools.chain.from_iterable(map(str.splitlines, documents)):
                line = line.encode("utf-8", "replace").decode()  # half a surrogate pair (in JSON) has no UTF-8
                words = cut(line.lower() if config.lowercase else line)
                for first in range(0, len(words), LONGEST):
                    part = words[first : first + LONGEST]
                    counts.update(part)
                    file.write(" ".join(part) + "\n")
                    number += 1
        if not counts:
            raise UserError(
                "Word vectors are trained on text with words. Received: no word at all. "
                "Check the files and the segmentation."
            )
        return cls(Path(path), dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), number)

    def __iter__(self) -> Iterator[list[str]]:
        with open(self.path, encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.split()

    def vocabulary(self, min_count: int) -> dict[str, int]:
        """Words that occur at least so often, with their counts.

        Raises:
            UserError: fewer than two words are left: no word would have another beside it.
        """
        kept = {word: count for word, count in self.counts.items() if count >= min_count}
        if len(kept) < 2:
            most = next(iter(self.counts.values()))
            raise UserError(
                f"Word vectors need at least two words that occur {min_count} times. Received: {len(kept)} such words "
                f"among {len(self.counts):,}; the most frequent one occurs {most} times. "
                "Give more text or a smaller --min-count."
            )
        return kept

    def ids(self, vocabulary: dict[str, int], at_once: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The words as ids, `at_once` or a few more at a time; words outside the vocabulary are left out.

        Returns:
            Pairs of ids int32 [N] and the number of the sentence that each is in, int64 [N].
        """
        index = {word: i for i, word in enumerate(vocabulary)}
        ids: list[int] = []
        lengths: list[int] = []
        for words in self:
            before = len(ids)
            ids.extend(index[word] for word in words if word in index)
            lengths.append(len(ids) - before)
            if len(ids) >= at_once:
                yield np.array(ids, np.int32), np.repeat(np.arange(len(lengths)), lengths)
                ids, lengths = [], []
        if ids:
            yield np.array(ids, np.int32), np.repeat(np.arange(len(lengths)), lengths)

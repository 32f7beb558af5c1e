"""Words and their vectors: look up, nearest words, analogies. Shapes: V words, D dimension."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from keras_llm import files
from keras_llm.errors import UserError
from keras_llm.vectors import formats

RUN_FORMAT = 1
NEAR_WORDS = 50_000  # most frequent words that are searched for a spelling like the one asked for


class WordVectors:
    """Words and a matrix of their vectors, most frequent first where the source knows.

    Args:
        words: V distinct words.
        matrix: [V, D] finite numbers.
        counts: how often each word occurred, if that is known.
        duplicates: how many words a file held again; their first vectors were kept.

    Raises:
        ValueError: words, matrix and counts do not belong together.

    Example:

    >>> vectors = WordVectors(["king", "queen", "cabbage"], [[1.0, 0.1], [0.9, 0.3], [-0.2, 1.0]])
    >>> vectors.nearest("king", 1)[0][0]
    'queen'
    """

    def __init__(
        self,
        words: Sequence[str],
        matrix: np.ndarray,
        counts: Sequence[int] | None = None,
        duplicates: int = 0,
    ):
        self.words = list(words)
        self.matrix = np.asarray(matrix, dtype=np.float32)
        self.counts = None if counts is None else np.asarray(counts, dtype=np.int64)
        self.duplicates = duplicates
        self.index = {word: i for i, word in enumerate(self.words)}
        fits = self.matrix.ndim == 2 and len(self.words) == len(self.index) == len(self.matrix) > 0
        if not fits or (counts is not None and len(counts) != len(self.words)):
            raise ValueError(
                f"V distinct words need a matrix [V, D] and V counts. Received: {len(self.words)} words, "
                f"{len(self.index)} of them distinct, a matrix {self.matrix.shape}."
            )

    # Files

    @classmethod
    def load(cls, path: str | Path, limit: int | None = None) -> WordVectors:
        """Reads a run of `train_word_vectors.py`, or a file in word2vec text, word2vec binary or GloVe form.

        The form is found from the content. Words may contain spaces of any kind: the dimension decides where a word
        ends. Gzip is read directly.

        Args:
            path: run directory or file.
            limit: read only the first words, which in such files are the most frequent.

        Raises:
            UserError: missing, not UTF-8, a wrong number of values, NaN (with file:line), or half-written.
        """
        path = Path(path)
        if not path.is_dir():
            words, matrix, duplicates = formats.read(path, limit)
            return cls(words, matrix, duplicates=duplicates)
        manifest = _manifest(path)
        stored = path / "vectors.bin"
        if not stored.exists() or files.sha256(stored) != manifest["vectors"]:
            raise UserError(
                f"{stored} must be the file that {path / 'manifest.json'} belongs to. Received: another sha256, or none. "
                "Put the original file back or train anew."
            )
        words, matrix, _ = formats.read(stored, limit)
        counts = [int(line.rpartition("\t")[2]) for line in _lines(path / "counts.tsv")]
        return cls(words, matrix, counts[: len(words)])

    def save(self, path: str | Path, form: Literal["text", "binary", "glove"] = "text") -> None:
        """Writes one file, all or nothing: word2vec text (with a header), word2vec binary, or GloVe (no header).

        Text forms keep every float32 exactly.

        Raises:
            UserError: a word cannot be told apart from what follows it in that form; the disk is full.
        """
        formats.write(Path(path), self.words, self.matrix, form)

    # Looking up

    @property
    def dim(self) -> int:
        """D."""
        return self.matrix.shape[1]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.index

    def __getitem__(self, word: str) -> np.ndarray:
        """The word's vector, float32 [D]; UserError if there is none."""
        return self.matrix[self.row(word)]

    def row(self, word: str) -> int:
        """The word's row; UserError, naming words written alike, if there is none."""
        if word not in self.index:
            near = self.near_spellings(word)
            hint = f" Near words: {', '.join(near)}." if near else ""
            raise UserError(f"A word must be among the {len(self):,} that have vectors. Received: {word!r}.{hint}")
        return self.index[word]

    def near_spellings(self, word: str) -> list[str]:
        """Up to five known words written like `word`: other capitals first, then small changes."""
        cases = [w for w in (word.lower(), word.title(), word.upper()) if w in self.index and w != word]
        alike = difflib.get_close_matches(word, self.words[:NEAR_WORDS], n=5)
        return list(dict.fromkeys(cases + alike))[:5]

    @cached_property
    def unit(self) -> np.ndarray:
        """The vectors at length 1, float32 [V, D]; a vector of zeros stays one."""
        norms = np.linalg.norm(self.matrix, axis=1, keepdims=True)
        return self.matrix / np.where(norms > 0, norms, 1)

    # Asking

    def nearest(self, word: str, k: int = 10) -> list[tuple[str, float]]:
        """The k words of greatest cosine similarity, without the word itself.

        Returns:
            (word, similarity), most similar first.

        Raises:
            UserError: the word has no vector.
        """
        row = self.row(word)
        return self._top(self.unit[row], [row], k)

    def analogy(self, a: str, b: str, c: str, k: int = 10) -> list[tuple[str, float]]:
        """Words that are to c as b is to a, by 3CosAdd: nearest to b - a + c; the three themselves are left out.

        Returns:
            (word, similarity), best first.

        Raises:
            UserError: a word has no vector.

        Reference: Mikolov, Yih and Zweig 2013; Levy and Goldberg 2014, https://aclanthology.org/W14-1618.
        """
        rows = [self.row(word) for word in (a, b, c)]
        first, second, third = self.unit[rows]
        target = second - first + third
        return self._top(target / (np.linalg.norm(target) or 1), rows, k)

    def _top(self, target, without, k):
        if k < 1:
            raise UserError(f"The number of words asked for must be at least 1. Received: {k}.")
        similarity = self.unit @ target
        similarity[without] = -np.inf
        k = min(k, len(self) - len(set(without)))
        best = np.argpartition(-similarity, k - 1)[:k] if k else np.array([], int)
        best = best[np.lexsort((best, -similarity[best]))]
        return [(self.words[i], float(similarity[i])) for i in best]


def dimension(path: str | Path) -> int:
    """D of a run or file, without reading all of it.

    Raises:
        UserError: see `WordVectors.load`.
    """
    path = Path(path)
    if path.is_dir():
        _manifest(path)
        path = path / "vectors.bin"
    return formats.read(path, limit=1)[1].shape[1]


def _manifest(path):
    where = path / "manifest.json"
    try:
        manifest = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("kind") != "word_vectors":
        raise UserError(
            f"A directory of word vectors is a run of train_word_vectors.py. Received: {path}. "
            "Name such a run, or a file of vectors."
        )
    if manifest.get("format") != RUN_FORMAT:
        raise UserError(
            f"{path} has format {manifest.get('format')!r}; this version reads {RUN_FORMAT}. "
            "Use the version of keras_llm it was trained with."
        )
    return manifest


def _lines(path):
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}). Train anew.") from error

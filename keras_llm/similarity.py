"""Similarity search: which lines of a file mean the same as a text, by the vectors of a sentence encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_llm import files
from keras_llm.errors import UserError

if TYPE_CHECKING:
    import numpy as np

AT_ONCE = 65536  # lines whose similarities are in memory at once


class Lines:
    """A file's lines with their vectors.

    Args:
        task: of kind embedding.
        path: UTF-8 text, perhaps gzipped; empty lines are left out.
        cache: keep the vectors beside the file, as `<name>.<hash>.vectors.npy`; the hash is that of file and model, so that
            another file or model never meets them.
        say: receives what is told to the user.

    Attributes:
        texts: the lines.
        numbers: of each its number in the file, from 1.
        vectors: float32 [N, W], of length 1.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or the model makes no vectors.

    Example:

    >>> lines = Lines(keras_llm.load("runs/sentences"), "faq.txt")
    >>> lines.search(["怎么退货？"], count=1)
    [[(17, 0.83, '如何申请退货')]]
    """

    def __init__(self, task, path: str | Path, cache: bool = False, say: Callable[[str], None] = lambda line: None):
        import numpy as np

        from keras_llm.data.documents import existing, read_text

        check(task)
        (path,) = existing([path])
        numbered = [(i, line.strip()) for i, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
        self.task = task
        self.numbers, self.texts = (list(part) for part in zip(*numbered, strict=True))
        place = path.with_name(f"{path.name}.{_hash(task, path)[:16]}.vectors.npy") if cache else None
        if place and place.exists():
            self.vectors = self._stored(place)
            return
        say(f"Making vectors of {len(self.texts):,} lines")
        self.vectors = unit_vectors(task, self.texts)
        if place:
            with files.replacing(place) as temporary, open(temporary, "wb") as file:
                np.save(file, self.vectors)

    def search(self, queries: Sequence[str], count: int = 10) -> list[list[tuple[int, float, str]]]:
        """The nearest lines of each query, the nearest first: (number of the line, cosine, line). Of equals the first.

        Args:
            queries: texts.
            count: how many lines, at least 1.
        """
        import numpy as np

        if count < 1:
            raise UserError(f"The number of lines to find must be at least 1. Received: {count}.")
        wanted = unit_vectors(self.task, list(queries))
        best = np.zeros((len(queries), 0), "int64")
        scores = np.zeros((len(queries), 0), "float32")
        for first in range(0, len(self.texts), AT_ONCE):
            found = wanted @ self.vectors[first : first + AT_ONCE].T
            scores = np.concatenate([scores, found], axis=1)
            best = np.concatenate([best, np.broadcast_to(np.arange(found.shape[1]) + first, found.shape)], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            scores, best = np.take_along_axis(scores, order, 1), np.take_along_axis(best, order, 1)
        return [
            [(self.numbers[i], float(score), self.texts[i]) for i, score in zip(*row, strict=True)]
            for row in zip(best, scores, strict=True)
        ]

    def _stored(self, place: Path) -> np.ndarray:
        import numpy as np

        shape = (len(self.texts), self.task.model.encoder.width)
        try:
            vectors = np.load(place)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{place} is damaged ({error}). Remove it; it is made again.") from None
        if vectors.shape != shape or vectors.dtype != "float32":
            raise UserError(
                f"{place} must hold {shape} numbers. Received: {vectors.shape}. Remove it; it is made again."
            )
        return vectors


def check(task) -> None:
    """Refuses a task that makes no vectors."""
    if task.kind != "embedding":
        raise UserError(
            f"Texts are compared by a run of kind embedding. Received: a {task.kind} run. Import or train a sentence encoder."
        )


def unit_vectors(task, texts: list[str]) -> np.ndarray:
    """Vectors of length 1, float32 [N, W]."""
    import numpy as np

    vectors = task.vectors(texts)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _hash(task, path: Path) -> str:
    """Of the file and of all that decides its vectors."""
    import hashlib

    import numpy as np

    from keras_llm.config import to_json
    from keras_llm.run import named_weights

    digest = hashlib.sha256(files.sha256(path).encode() + task.tokenizer.fingerprint.encode())
    digest.update(to_json(task.config).encode())
    for name, weight in sorted(named_weights(task.model).items()):
        digest.update(name.encode() + np.ascontiguousarray(weight.value).tobytes())
    return digest.hexdigest()

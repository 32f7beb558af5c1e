"""Batches of language models: windows and lanes cut out of the stream that the documents are, one after the other.

The stream of an epoch is all documents in an order that follows from `(seed, epoch)`, begun at a random token and closed to a
ring, so that windows are cut elsewhere in every epoch and each token is predicted about once.
"""

import operator

import numpy as np

from keras_llm.data.batches import Steps
from keras_llm.data.prepared import Prepared
from keras_llm.errors import UserError


class Stream:
    """The documents of prepared data in the order of an epoch.

    Args:
        prepared: rows with the 1-D feature `feature`, one a document.
        seed: of the orders.
        feature: its name.

    Attributes:
        length: N, tokens in all documents.
    """

    def __init__(self, prepared: Prepared, seed: int, feature: str = "token_ids"):
        self.values = prepared.features[feature]
        self.splits = prepared.splits[feature]
        self.seed = seed
        self.length = len(self.values)
        self._epoch: tuple = (-1, None, None, 0)

    def take(self, epoch: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens at places of an epoch's ring.

        Args:
            epoch: counts from 0.
            places: int64, any shape, 0 <= place < 2 N; counted from the epoch's first token.

        Returns:
            int32 tokens, and int64 numbers that differ where two neighbouring tokens belong to different documents.
        """
        order, ends, first = self._arranged(epoch)
        turns, places = np.divmod(places + first, self.length)
        document = np.searchsorted(ends, places, side="right")
        start = self.splits[order[document]]
        behind = ends[document] - places  # tokens from here to the document's end
        size = self.splits[order[document] + 1] - start
        return self.values[start + size - behind].astype("int32"), document + turns * len(order)

    def _arranged(self, epoch):
        cached, order, ends, first = self._epoch
        if cached != epoch:
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
            order = random.permutation(len(self.splits) - 1)
            ends = np.cumsum(np.diff(self.splits)[order])
            first = int(random.integers(self.length))
            self._epoch = (epoch, order, ends, first)  # one assignment: another thread sees the old or the new
        return order, ends, first


class Windows(Steps):
    """Windows of T tokens in random order: a batch's rows have nothing to do with each other.

    Documents are packed: a window may hold the end of one and the beginning of the next, told apart by `segment_ids`.

    Args:
        prepared: documents as the feature `token_ids`, each with its start and end id.
        batch_size: B.
        length: T.
        seed: of the order.

    A batch: `token_ids` int32 [B, T + 1], each token's label is the next one; `segment_ids` int32 [B, T + 1], the row's
    documents counted from 0; `positions` int32 [B, T + 1], each token's place in its document as far as the window shows it.

    Raises:
        UserError: the documents do not fill one batch.

    Example:

    >>> rows = [{"token_ids": np.array([2, *ids, 3], "int32")} for ids in ([5, 6], [7, 8, 9])]
    >>> windows = Windows(Prepared.write(directory, rows, "v1"), batch_size=1, length=4)
    >>> windows.steps_per_epoch, windows[0]["token_ids"].tolist()
    (2, [[6, 3, 2, 7, 8]])
    """

    def __init__(self, prepared: Prepared, batch_size: int, length: int, seed: int = 0):
        self.stream, self.batch_size, self.length = Stream(prepared, seed), batch_size, length
        self.rows = self.stream.length // length
        self.steps_per_epoch = self.rows // batch_size
        if not self.steps_per_epoch:
            refuse(self.stream.length, batch_size, length)
        self._order: tuple[int, np.ndarray] = (-1, np.arange(0))

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, step = divmod(operator.index(step), self.steps_per_epoch)
        cached, order = self._order
        if cached != epoch:
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.stream.seed, epoch, 1])))
            order = random.permutation(self.rows)
            self._order = (epoch, order)  # one assignment: another thread sees the old pair or the new one
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        tokens, documents = self.stream.take(epoch, rows[:, None] * self.length + np.arange(self.length + 1))
        return {"token_ids": tokens, **segments(documents)}


class Lanes(Steps):
    """B lanes through the stream, T tokens of each a step: row b of a batch goes on where row b of the batch before ended.

    For models that carry a state from batch to batch (truncated back-propagation through time).

    Args:
        prepared, batch_size, length, seed: as for `Windows`.

    A batch: `token_ids` int32 [B, T + 1], the last token is the first of the next batch; `segment_ids` and `positions` as
    `Windows` gives them; `keep` float32 [B], 0 where the lane begins (the first batch of an epoch), else 1.

    Raises:
        UserError: the documents do not fill one batch.

    Reference: Mikolov et al. 2010, "Recurrent neural network based language model".
    """

    def __init__(self, prepared: Prepared, batch_size: int, length: int, seed: int = 0):
        self.stream, self.batch_size, self.length = Stream(prepared, seed), batch_size, length
        self.lane = self.stream.length // batch_size
        self.steps_per_epoch = self.lane // length
        if not self.steps_per_epoch:
            refuse(self.stream.length, batch_size, length)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, step = divmod(operator.index(step), self.steps_per_epoch)
        starts = np.arange(self.batch_size) * self.lane + step * self.length
        tokens, documents = self.stream.take(epoch, starts[:, None] + np.arange(self.length + 1))
        keep = np.full(self.batch_size, step > 0, "float32")
        return {"token_ids": tokens, **segments(documents), "keep": keep}


def segments(documents: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of documents [B, T] -> `segment_ids`, counted from 0 in each row, and `positions`, from 0 in each segment.

    Example:

    >>> {name: ids.tolist() for name, ids in segments(np.array([[7, 7, 9, 9]])).items()}
    {'segment_ids': [[0, 0, 1, 1]], 'positions': [[0, 1, 0, 1]]}
    """
    places = np.arange(documents.shape[1])
    begins = np.diff(documents, axis=1, prepend=documents[:, :1]) != 0
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return {
        "segment_ids": np.cumsum(begins, axis=1).astype("int32"),
        "positions": (places - first).astype("int32"),
    }


def refuse(tokens: int, batch_size: int, length: int):
    raise UserError(
        f"Training needs at least one full batch: --batch-size {batch_size} rows of --context-length {length} tokens. "
        f"Received: a corpus of {tokens} tokens. Give more text, or a smaller batch size or context length."
    )

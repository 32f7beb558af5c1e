"""What masked language models are measured against: guesses that read no more than one token."""

import numpy as np


class CountingGuess:
    """The most frequent token of a text, and the most frequent one behind each other one.

    Args:
        ids: [N], the documents' tokens, one document after the other.
        splits: [D + 1], where documents begin and end.

    Attributes:
        unigram: the most frequent token.
        bigram: token -> the most frequent one behind it, in the documents.

    Example:

    >>> guess = CountingGuess(np.array([5, 6, 5, 6, 5, 7, 6]), np.array([0, 7]))
    >>> guess.unigram, guess.bigram
    (5, {5: 6, 6: 5, 7: 6})
    """

    def __init__(self, ids: np.ndarray, splits: np.ndarray):
        ids = np.asarray(ids, "int64")
        self.unigram = int(np.bincount(ids).argmax())
        inner = np.ones(len(ids), bool)
        inner[splits[:-1][splits[:-1] < len(ids)]] = False  # the first token of a document has none before it
        size = int(ids.max()) + 1
        pairs, counts = np.unique(ids[:-1][inner[1:]] * size + ids[1:][inner[1:]], return_counts=True)
        order = np.lexsort((pairs % size, -counts, pairs // size))
        before, first = np.unique((pairs // size)[order], return_index=True)
        self.bigram = dict(zip(before.tolist(), (pairs % size)[order][first].tolist(), strict=True))

    def accuracy(self, batches) -> dict[str, float]:
        """Shares of hidden tokens that are guessed right.

        Args:
            batches: dicts with `token_ids` [B, T] as the model reads them, `mask_positions` and `labels` [B, P], `label_weights`
                [B, P].

        Returns:
            `unigram_accuracy`, and `bigram_accuracy`: from the token to the left as it is shown; where that says nothing (the
            mask, a token never seen before another) the most frequent one.
        """
        right, total = np.zeros(2), 0.0
        for batch in batches:
            real = batch["label_weights"] > 0
            left = np.take_along_axis(batch["token_ids"], np.maximum(batch["mask_positions"] - 1, 0), 1)[real]
            labels = batch["labels"][real]
            guesses = np.array([self.bigram.get(int(token), self.unigram) for token in left])
            right += [(labels == self.unigram).sum(), (labels == guesses).sum()]
            total += len(labels)
        return dict(zip(("unigram_accuracy", "bigram_accuracy"), (right / total).tolist(), strict=True))

"""Masked language modelling as BERT does it: which tokens are hidden, and what stands in their place.

Shapes: B batch, T row length, P predictions of a row.
"""

import dataclasses

import numpy as np

MASKED, EXCHANGED = 0.8, 0.1  # shares of the hidden tokens; the rest is shown as it is


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids that are no text; the defaults are those of the tokenizers that are trained here, with padding 0 and unknown 1.

    Attributes:
        start, end, mask: what frames a row and hides a token.
        others: all others.
        pad: what fills up rows; one of the others.
    """

    start: int = 2
    end: int = 3
    mask: int = 4
    others: frozenset[int] = frozenset({0, 1})
    pad: int = 0

    def ordinary(self, vocabulary_size: int) -> np.ndarray:
        """All other ids of the vocabulary, ascending.

        Example:

        >>> SpecialIds().ordinary(8).tolist()
        [5, 6, 7]
        """
        return np.delete(np.arange(vocabulary_size), [self.start, self.end, self.mask, *self.others])


SPECIAL_IDS = SpecialIds()


def predictions_of(length: int, share: float) -> int:
    """P: the most tokens that are predicted in a row of T = `length`.

    Example:

    >>> predictions_of(128, 0.15)
    19
    """
    return max(1, round(share * length))


def mask_tokens(
    ids: np.ndarray,
    starts_word: np.ndarray,
    ordinary: np.ndarray,
    share: float,
    most: int,
    vocabulary_size: int,
    random: np.random.Generator,
    special: SpecialIds = SPECIAL_IDS,
) -> dict[str, np.ndarray]:
    """Hides whole words, drawn at random until `share` of a row's ordinary tokens are hidden (at least one).

    Of the hidden tokens 80 % become the mask, 10 % another token of the vocabulary, 10 % stay; all of them are predicted.
    A word longer than what is left of the share is passed over.

    Args:
        ids: int32 [B, T].
        starts_word: bool [B, T], true at the first token of a word.
        ordinary: bool [B, T], true at tokens that may be hidden: no special tokens, no padding.
        share: of the ordinary tokens.
        most: P.
        vocabulary_size: random tokens are drawn from the ids below this that are not special.
        random: decides everything.
        special: which ids are.

    Returns:
        `token_ids` int32 [B, T] with masks; `mask_positions` int32 [B, P], ascending, then 0; `labels` int32 [B, P], the ids
        that stood there; `label_weights` float32 [B, P], 1 where there is a prediction, else 0.

    Reference: Devlin et al. 2018, https://arxiv.org/abs/1810.04805; whole words: Cui et al. 2019, https://arxiv.org/abs/1906.08101.
    """
    rows, length = ids.shape
    budget = np.minimum(np.maximum(np.round(share * ordinary.sum(1)), 1), most).astype("int64")
    hidden = _choose_words(starts_word, ordinary, budget, random)
    dice = random.random(ids.shape)
    shown = np.where(hidden & (dice < MASKED), special.mask, ids)
    exchanged = hidden & (dice >= MASKED) & (dice < MASKED + EXCHANGED)
    others = special.ordinary(vocabulary_size)
    shown[exchanged] = others[random.integers(0, len(others), exchanged.sum())]
    positions = np.argsort(~hidden, axis=1, kind="stable")[:, :most]  # the hidden ones first
    if length < most:
        positions = np.pad(positions, ((0, 0), (0, most - length)))
    real = np.arange(most) < hidden.sum(1)[:, None]
    positions = np.where(real, positions, 0)
    return {
        "token_ids": shown.astype("int32"),
        "mask_positions": positions.astype("int32"),
        "labels": np.where(real, np.take_along_axis(ids, positions, 1), 0).astype("int32"),
        "label_weights": real.astype("float32"),
    }


def _choose_words(starts_word, ordinary, budget, random):
    """bool [B, T], true at the tokens of the drawn words: at most budget [B] of them in each row."""
    rows = ordinary.shape[0]
    # What goes on behind a special token, or begins a row, is a word of its own here.
    starts = ordinary & (starts_word | ~np.pad(ordinary, ((0, 0), (1, 0)))[:, :-1])
    word = np.cumsum(starts.ravel()) - 1  # of each ordinary token, counted over the batch
    lengths = np.bincount(word[ordinary.ravel()], minlength=max(int(starts.sum()), 1))
    if not starts.any():
        return np.zeros_like(ordinary)
    row = np.nonzero(starts)[0]
    order = np.lexsort((random.random(len(row)), row))  # shuffled in each row
    row, lengths = row[order], lengths[order]
    chosen, left = np.zeros(len(row), bool), budget.copy()
    while True:
        fits = ~chosen & (lengths <= left[row])
        if not fits.any():
            break
        running = np.cumsum(np.where(fits, lengths, 0))
        before = np.concatenate([[0], running])[np.searchsorted(row, np.arange(rows))]  # of the rows above
        taken = fits & (running - before[row] <= left[row])
        chosen |= taken
        left -= np.bincount(row, weights=np.where(taken, lengths, 0), minlength=rows).astype("int64")
    by_word = np.empty(len(row), bool)
    by_word[order] = chosen
    return ordinary & by_word[np.maximum(word, 0)].reshape(ordinary.shape)

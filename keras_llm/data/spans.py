"""Batches for encoder-decoders: texts with hidden spans, and the spans, hidden differently in every epoch (T5-like)."""

import operator

import numpy as np

from keras_llm.config import MaskingConfig
from keras_llm.data.batches import Steps, in_pools
from keras_llm.data.prepared import Prepared
from keras_llm.errors import UserError

START_ID, END_ID = 2, 3


def corrupt_spans(
    ids: np.ndarray, share: float, span_length: float, first_sentinel: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hides spans of a text, each behind a sentinel of its own.

    Args:
        ids: [n], n at least 1, a text's tokens.
        share: of the tokens are hidden, at least one.
        span_length: their mean length.
        first_sentinel: id of the first sentinel; the next ones count on.
        random: decides where, and how long each span is.

    Returns:
        source: the text, a sentinel in the place of each span, end id.
        target: start id, each sentinel with its span, end id.

    Example:

    >>> source, target = corrupt_spans(np.arange(10, 30), 0.15, 3, 100, np.random.default_rng(0))
    >>> source.tolist(), target.tolist()
    ([10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 100, 24, 25, 26, 27, 28, 29, 3], [2, 100, 21, 22, 23, 3])

    Reference: Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.1.4; here a text may also begin or end with a span.
    """
    count = len(ids)
    hidden = min(max(round(share * count), 1), count)
    spans = min(max(round(hidden / span_length), 1), hidden, count - hidden + 1)
    sizes = _parts(hidden, spans, random)
    # What is left visible lies before, between and behind the spans; only between them there must be something.
    gaps = _parts(count - hidden + 2, spans + 1, random)
    gaps[0] -= 1
    begins = np.cumsum(gaps[:-1]) + np.cumsum(sizes) - sizes
    source, target, at = [], [[START_ID]], 0
    for number, (begin, size) in enumerate(zip(begins, sizes, strict=True)):
        sentinel = [first_sentinel + number]
        source += [ids[at:begin], sentinel]
        target += [sentinel, ids[begin : begin + size]]
        at = begin + size
    return (
        np.concatenate([*source, ids[at:], [END_ID]]).astype("int32"),
        np.concatenate([*target, [END_ID]]).astype("int32"),
    )


def _parts(total, count, random):
    """A whole number as a sum of `count` positive ones, each such sum equally probable."""
    cuts = np.sort(random.permutation(total - 1)[: count - 1]) + 1
    return np.diff(cuts, prepend=0, append=total)


class CorruptedSpans(Steps):
    """Texts of up to C tokens with hidden spans.

    Documents longer than C are cut into as few texts as possible, at other places in every epoch. What is cut and hidden
    follows from (seed, epoch) and (seed, step). Batches have texts of like length.

    Args:
        prepared: documents as the feature `token_ids`, each with its start and end id.
        batch_size: B.
        length: C.
        vocabulary_size: the tokenizer's V: id of the first sentinel.
        masking: share and length of the spans.
        seed: of everything.
        multiple: S and T are rounded up to one of it.

    A batch: `source_ids` int32 [B, S], `target_ids` int32 [B, T], padded with 0; see `corrupt_spans`.

    Raises:
        UserError (from `checked`): less text than a batch.
    """

    def __init__(
        self,
        prepared: Prepared,
        batch_size: int,
        length: int,
        vocabulary_size: int,
        masking: MaskingConfig,
        seed: int = 0,
        multiple: int = 8,
    ):
        self.ids = prepared.features["token_ids"]
        self.begins = prepared.splits["token_ids"][:-1] + 1
        self.sizes = prepared.lengths("token_ids") - 2
        self.batch_size, self.length, self.vocabulary_size = batch_size, length, vocabulary_size
        self.masking, self.seed, self.multiple = masking, seed, multiple
        self.rows = int((-(-self.sizes // length)).sum())
        self.steps_per_epoch = self.rows // batch_size
        self._epoch: tuple = (-1, None, None)

    def checked(self):
        """Itself, if there is enough to train on."""
        if not self.steps_per_epoch:
            raise UserError(
                f"Training needs at least one full batch: --batch-size {self.batch_size} texts of up to --context-length "
                f"{self.length} tokens. Received: {self.rows} texts ({self.sizes.sum()} tokens). Give more text, or a smaller "
                "batch size or context length."
            )
        return self

    def __getitem__(self, step):
        step = operator.index(step)
        epoch, place = divmod(step, self.steps_per_epoch)
        texts, order = self._arranged(epoch)
        return self._batch(texts[order[place * self.batch_size : (place + 1) * self.batch_size]], step)

    def whole(self, batch_size: int):
        """Each text of epoch 0 once, for evaluation: batches of texts of like length, the last one smaller."""
        texts, _ = self._arranged(0)
        texts = texts[np.argsort(texts[:, 1] - texts[:, 0], kind="stable")]
        for step, first in enumerate(range(0, len(texts), batch_size)):
            yield self._batch(texts[first : first + batch_size], step)

    def _arranged(self, epoch):
        """The texts of an epoch as (first token, token behind the last), int64 [N, 2], and the order in which they come."""
        cached = self._epoch
        if cached[0] != epoch:
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
            counts = -(-self.sizes // self.length)
            # All cuts of a document move to the left by as much as its texts have room.
            shift = random.integers(counts * self.length - self.sizes + 1)
            document = np.repeat(np.arange(len(counts)), counts)
            number = np.arange(len(document)) - (np.cumsum(counts) - counts)[document]
            cut = number * self.length - shift[document]
            begin, end = np.maximum(cut, 0), np.minimum(cut + self.length, self.sizes[document])
            texts = np.stack([begin, end], 1) + self.begins[document][:, None]
            order = in_pools(random.permutation(self.rows), end - begin, self.batch_size, random)
            cached = self._epoch = (epoch, texts, order)  # one assignment: another thread sees the old or the new
        return cached[1:]

    def _batch(self, texts, step):
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, step, 1])))
        pairs = [
            corrupt_spans(
                self.ids[begin:end], self.masking.mask_share, self.masking.span_length, self.vocabulary_size, random
            )
            for begin, end in texts
        ]
        sources, targets = zip(*pairs, strict=True)
        return {"source_ids": self._padded(sources), "target_ids": self._padded(targets)}

    def _padded(self, rows):
        width = -(-max(map(len, rows)) // self.multiple) * self.multiple
        return np.stack([np.pad(row, (0, width - len(row))) for row in rows])

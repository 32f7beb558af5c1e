"""Batches for encoders: rows of consecutive sentences, alone or as pairs, hidden in part, differently in every epoch."""

import operator
import random
from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np

from keras_llm.config import MaskingConfig
from keras_llm.data.batches import Steps, in_pools
from keras_llm.data.masking import SPECIAL_IDS, SpecialIds, mask_tokens, predictions_of
from keras_llm.data.prepared import Prepared
from keras_llm.errors import UserError

TRIES = 8  # places looked at for a wrong continuation


@dataclass
class Rows:
    """What the rows of an epoch are made of.

    Attributes:
        parts: of each row its stretches of the corpus, (first token, token behind the last).
        is_next: whether a pair's second text follows the first.
        counted: whether that is a question at all.
    """

    parts: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    is_next: list[bool] = field(default_factory=list)
    counted: list[bool] = field(default_factory=list)

    def add(self, *parts, is_next=False, counted=False):
        self.parts.append(parts)
        self.is_next.append(is_next)
        self.counted.append(counted)


class MaskedSentences(Steps):
    """Rows of consecutive sentences with hidden words.

    With `masking.next_sentence` a row is [CLS] A [SEP] B [SEP]: A is a stretch of consecutive sentences, B in half of the rows
    the sentences that follow it, else sentences of another document, of about the length of those. What A does not take of
    its document then begins the next row. A document of one sentence is shown with sentences of another one, which asks
    nothing about their order.

    Without it a row is [CLS] sentences [SEP], as many as it holds; where a document ends, the next one follows behind the [SEP].

    Rows, pairs and what is hidden follow from (seed, epoch) and (seed, step). Batches have rows of like length.

    Args:
        prepared: documents as the features `token_ids` (without special ids), `starts_word` bool (one a token) and
            `sentence_lengths` int32 (tokens of each sentence).
        batch_size: B.
        length: the longest row T.
        vocabulary_size: V.
        masking: shares, and whether there are pairs.
        seed: of everything.
        multiple: T of a batch is rounded up to one of it, at most `length`.
        special: the ids of [CLS], [SEP], [MASK], padding and others that are no text.

    A batch: `token_ids`, `segment_ids` int32 [B, T] (1 in B and its [SEP]), `mask_positions`, `labels` int32 [B, P],
    `label_weights` float32 [B, P]; with pairs `next_labels` int32 [B] (1: B follows A), `next_weights` float32 [B].

    Reference: Devlin et al. 2018, https://arxiv.org/abs/1810.04805 (pairs); Liu et al. 2019, https://arxiv.org/abs/1907.11692
    (dynamic masking, full sentences).

    Example:

    >>> rows = [{"token_ids": np.arange(5, 25), "starts_word": np.ones(20, bool), "sentence_lengths": np.array([9, 11])}] * 4
    >>> batches = MaskedSentences(Prepared.write(directory, rows, "v1"), 2, 32, 100, MaskingConfig(), seed=0)
    >>> batches[0]["token_ids"].shape, batches[0]["labels"].shape
    ((2, 24), (2, 5))
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
        special: SpecialIds = SPECIAL_IDS,
    ):
        self.special = special
        self.ids, self.starts_word = prepared.features["token_ids"], prepared.features["starts_word"]
        self.batch_size, self.length, self.vocabulary_size = batch_size, length, vocabulary_size
        self.masking, self.seed, self.multiple = masking, seed, multiple
        self.most = predictions_of(length, masking.mask_share)
        # Two sentences always fit into a pair.
        longest = (length - 3) // 2 if masking.next_sentence else length - 2
        bounds, documents = _bounds(prepared, longest)
        self.bounds, self.documents = bounds.tolist(), documents.tolist()
        self._epoch: tuple = (-1, None, None)
        self.rows = len(self._arranged(0)[0].parts)
        self.steps_per_epoch = self.rows // batch_size

    def checked(self):
        """Itself, if there is enough to train on.

        Raises:
            UserError: fewer rows than a batch has, or no pair that has both continuations.
        """
        if self.masking.next_sentence and not any(self._arranged(0)[0].counted):
            raise UserError(
                "Next-sentence pairs need two documents, one of them with two sentences. Received: "
                f"{len(self.documents) - 1} documents of {len(self.bounds) - 1} sentences in all. Give more text, say what a "
                "document is (--document), or train without pairs (--objective mlm)."
            )
        if not self.steps_per_epoch:
            raise UserError(
                f"Training needs at least one full batch: --batch-size {self.batch_size} rows of up to --context-length "
                f"{self.length} tokens. Received: text for {self.rows} rows ({len(self.ids)} tokens). Give more text, or a "
                "smaller batch size or context length."
            )
        return self

    def __getitem__(self, step):
        step = operator.index(step)
        epoch, place = divmod(step, self.steps_per_epoch)
        rows, order, _ = self._arranged(epoch)
        return self._batch(rows, order[place * self.batch_size : (place + 1) * self.batch_size], step)

    def whole(self, batch_size: int):
        """Each row of epoch 0 once, for evaluation: batches of rows of like length, the last one smaller."""
        rows, _, lengths = self._arranged(0)
        order = np.argsort(lengths, kind="stable")
        for step, first in enumerate(range(0, len(order), batch_size)):
            yield self._batch(rows, order[first : first + batch_size], step)

    def _arranged(self, epoch):
        """Rows of an epoch, the order in which they come, their lengths."""
        cached = self._epoch
        if cached[0] != epoch:
            dice = random.Random(f"{self.seed} {epoch}")
            if self.masking.next_sentence:
                rows = _pairs(self.bounds, self.documents, self.length - 3, dice)
            else:
                rows = _windows(self.bounds, self.documents, self.length - 1, dice)
            lengths = np.array([sum(end - begin for begin, end in parts) for parts in rows.parts], "int64")
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
            # Epochs are of equal length: those with fewer rows than the first one begin again.
            count = len(lengths) if epoch == 0 else self.rows
            order = np.resize(generator.permutation(len(lengths)), count)
            order = in_pools(order, lengths, self.batch_size, generator)
            cached = self._epoch = (
                epoch,
                rows,
                order,
                lengths,
            )  # one assignment: another thread sees the old or the new
        return cached[1:]

    def _batch(self, rows, chosen, step):
        counts = [sum(end - begin + 1 for begin, end in rows.parts[row]) + 1 for row in chosen]
        width = min(-(-max(counts) // self.multiple) * self.multiple, self.length)
        shape = (len(chosen), width)
        ids, segments = np.full(shape, self.special.pad, "int32"), np.zeros(shape, "int32")
        starts, ordinary = np.zeros(shape, bool), np.zeros(shape, bool)
        ids[:, 0] = self.special.start
        for place, row in enumerate(chosen):
            at = 1
            for number, (begin, end) in enumerate(rows.parts[row]):
                text = slice(at, at + end - begin)
                ids[place, text] = self.ids[begin:end]
                starts[place, text] = self.starts_word[begin:end] if self.masking.whole_words else True
                ordinary[place, text] = True
                ids[place, text.stop] = self.special.end
                if self.masking.next_sentence:
                    segments[place, at : text.stop + 1] = number
                at = text.stop + 1
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, step, 1])))
        batch = mask_tokens(
            ids, starts, ordinary, self.masking.mask_share, self.most, self.vocabulary_size, generator, self.special
        )
        batch["segment_ids"] = segments
        if self.masking.next_sentence:
            batch["next_labels"] = np.array([rows.is_next[row] for row in chosen], "int32")
            batch["next_weights"] = np.array([rows.counted[row] for row in chosen], "float32")
        return batch


def _bounds(prepared, longest):
    """Where sentences begin (and the last ends) in the flat tokens, those longer than `longest` in even parts; and which
    sentences each document begins with: int64 [U + 1], [D + 1]."""
    lengths = np.asarray(prepared.features["sentence_lengths"], "int64")
    parts = np.maximum(-(-lengths // longest), 1)
    sentence = np.repeat(np.arange(len(lengths)), parts)
    first = np.cumsum(parts) - parts
    begins = (np.cumsum(lengths) - lengths)[sentence] + (np.arange(len(sentence)) - first[sentence]) * lengths[
        sentence
    ] // parts[sentence]
    total = int(lengths.sum())
    documents = np.append(first, len(sentence))[prepared.splits["sentence_lengths"]]
    return np.append(begins, total), documents


def _pairs(bounds, documents, room, dice):
    rows, several = Rows(), len(documents) > 2

    def stretch(first, stop):
        return bounds[first], bounds[stop]

    def another(first, last, wanted, room):
        """Consecutive sentences outside of [first, last) of nearly `wanted` tokens, at most `room`."""
        # The lengths of right and wrong continuations must not tell them apart.
        best, distance = None, None
        for _ in range(TRIES):
            start = dice.randrange(len(bounds) - 1 - (last - first))
            start += (last - first) if start >= first else 0
            begin, document_end = bounds[start], documents[bisect_right(documents, start)]
            stop = max(min(bisect_right(bounds, begin + wanted) - 1, document_end), start + 1)
            if stop < document_end and bounds[stop + 1] - begin - wanted < begin + wanted - bounds[stop]:
                stop += 1  # nearer to what is wanted
            if bounds[stop] - begin > room and stop - start > 1:
                stop -= 1
            off = abs(bounds[stop] - begin - wanted)
            if bounds[stop] - begin > room:
                off = wanted + room  # it would be cut
            if best is None or off < distance:
                best, distance = (begin, min(bounds[stop], begin + room)), off
        return best

    for first, last in zip(documents[:-1], documents[1:], strict=True):
        at = first
        while at < last:
            stop = min(bisect_right(bounds, bounds[at] + room) - 1, last)
            if last - first == 1:
                alone = stretch(first, last)
                size = alone[1] - alone[0]
                rows.add(alone, *([another(first, last, size, room - size)] if several else []))
                break
            again = stop - at == 1  # the last sentence of a document, with the one before it once more
            at -= again
            middle = dice.randrange(at + 1, stop)
            begin, end = stretch(at, middle)
            is_next = not several or dice.random() < 0.5
            if is_next:
                rows.add((begin, end), stretch(middle, stop), is_next=True, counted=several)
                at = stop
            else:
                wanted = bounds[stop] - end
                rows.add((begin, end), another(first, last, wanted, room - (end - begin)), counted=True)
                at = last if again else middle
    return rows


def _windows(bounds, documents, room, dice):
    """Rows of up to `room` tokens, where each stretch of a document counts one more for the [SEP] behind it."""
    rows, parts, left = Rows(), [], room
    order = list(zip(documents[:-1], documents[1:], strict=True))
    dice.shuffle(order)
    for at, last in order:
        while at < last:
            stop = min(bisect_right(bounds, bounds[at] + left - 1) - 1, last)
            if stop > at:
                parts.append((bounds[at], bounds[stop]))
                left -= bounds[stop] - bounds[at] + 1
                at = stop
            if at < last:
                rows.add(*parts)
                parts, left = [], room
    if parts:
        rows.add(*parts)
    return rows

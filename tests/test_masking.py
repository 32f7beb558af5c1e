"""Masks and sentence pairs: shares, whole words, pairs that really follow each other, another draw in the next epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.config import MaskingConfig
from keras_llm.data.masking import SpecialIds, mask_tokens
from keras_llm.data.prepared import in_memory
from keras_llm.data.sentences import MaskedSentences
from keras_llm.errors import UserError

V = 50_000
MASK_ID, FIRST_ID = 4, 5
NSP, MLM = MaskingConfig(), MaskingConfig(next_sentence=False)


def corpus(documents, words=False):
    """Documents as lists of sentence lengths; every token of the corpus has an id of its own, in order.

    With `words` each third token begins a word.
    """
    first, rows = FIRST_ID, []
    for lengths in documents:
        ids = np.arange(first, first + sum(lengths))
        first += len(ids)
        starts = ids % 3 == 0 if words else np.ones(len(ids), bool)
        rows.append(
            {"token_ids": ids.astype("int32"), "starts_word": starts, "sentence_lengths": np.array(lengths, "int32")}
        )
    return in_memory(rows)


def source(documents, masking=NSP, batch_size=4, length=32, seed=0, words=False):
    return MaskedSentences(corpus(documents, words), batch_size, length, V, masking, seed)


def original(batch):
    """The ids before masking."""
    ids = batch["token_ids"].copy()
    rows, places = np.nonzero(batch["label_weights"])
    ids[rows, batch["mask_positions"][rows, places]] = batch["labels"][rows, places]
    return ids


def texts(row):
    """A row of original ids -> its texts, without the special tokens."""
    assert row[0] == 2
    ends = np.nonzero(row == 3)[0]
    assert (row[ends[-1] + 1 :] == 0).all()
    return [row[begin + 1 : end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


BOOK = [[5, 7, 3, 9, 4, 6, 8, 2]] * 30 + [[4, 6]] * 10 + [[60, 3, 5]] * 3
BOOK_BOUNDS = np.cumsum([0, *(n for document in BOOK for n in document)]) + FIRST_ID
BOOK_DOCUMENTS = np.cumsum([0, *map(sum, BOOK)]) + FIRST_ID


@pytest.mark.parametrize("words", [False, True])
def test_eight_in_ten_are_masked_one_is_exchanged_one_stays(words):
    random = np.random.default_rng(0)
    ids = random.integers(FIRST_ID, V, (400, 128))
    ordinary = np.ones(ids.shape, bool)
    ordinary[:, [0, 60, 127]] = False
    starts = random.random(ids.shape) < 0.6 if words else np.ones(ids.shape, bool)
    found = mask_tokens(ids, starts, ordinary, 0.15, 19, V, random)
    rows, places = np.nonzero(found["label_weights"])
    positions = found["mask_positions"][rows, places]
    assert ordinary[rows, positions].all() and (found["labels"][rows, places] == ids[rows, positions]).all()
    shown, labels = found["token_ids"][rows, positions], ids[rows, positions]
    count = len(labels)
    assert count == pytest.approx(0.15 * ordinary.sum(), rel=0.02)
    # Five standard deviations of a share over so many draws.
    bound = 5 * np.sqrt(0.25 / count)
    assert (shown == MASK_ID).mean() == pytest.approx(0.8, abs=bound)
    assert (shown == labels).mean() == pytest.approx(0.1, abs=bound)
    exchanged = shown[(shown != MASK_ID) & (shown != labels)]
    assert len(exchanged) / count == pytest.approx(0.1, abs=bound)
    assert exchanged.min() >= FIRST_ID and exchanged.mean() == pytest.approx(V / 2, rel=0.05)
    # All places are hidden equally often, and nothing else changes.
    hidden = np.zeros(ids.shape, bool)
    hidden[rows, positions] = True
    assert (found["token_ids"] == ids)[~hidden].all()
    if not words:
        assert hidden.mean(0)[ordinary[0]].std() < 0.03


@given(seed=st.integers(0, 1000), share=st.floats(0.05, 0.6), length=st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_words_are_hidden_whole_and_never_more_than_the_share(seed, share, length):
    random = np.random.default_rng(seed)
    ids = random.integers(FIRST_ID, V, (3, length))
    starts, ordinary = random.random(ids.shape) < 0.5, random.random(ids.shape) < 0.8
    most = max(1, round(share * length))
    found = mask_tokens(ids, starts, ordinary, share, most, V, random)
    for row in range(3):
        hidden = np.zeros(length, bool)
        count = int(found["label_weights"][row].sum())
        hidden[found["mask_positions"][row, :count]] = True
        assert hidden.sum() == count <= min(most, max(1, round(share * ordinary[row].sum())))
        for place in range(1, length):
            if ordinary[row, place - 1] and ordinary[row, place] and not starts[row, place]:
                assert hidden[place - 1] == hidden[place]
    # A word that fits into what is left of the share is taken: with words of one token nothing is left.
    single = mask_tokens(ids, np.ones_like(starts), ordinary, share, most, V, random)["label_weights"].sum(1)
    wanted = np.minimum(np.maximum(np.round(share * ordinary.sum(1)), 1), np.minimum(most, ordinary.sum(1)))
    assert (single == wanted).all()


@pytest.mark.parametrize("masking", [NSP, MLM])
def test_a_batch_follows_from_its_step(masking):
    one, other = source(BOOK, masking, seed=3), source(BOOK, masking, seed=3)
    per_epoch = one.steps_per_epoch
    assert per_epoch > 5
    for step in (2 * per_epoch + 1, 0, per_epoch - 1):
        first, second = one[step], other[step]
        assert first.keys() == second.keys()
        assert all((first[name] == second[name]).all() for name in first)
    for step, batch in one.prefetch(1, 4):
        assert all((batch[name] == other[step][name]).all() for name in batch)
    assert any(
        (one[0][name].shape != two.shape or (one[0][name] != two).any())
        for name, two in source(BOOK, masking, seed=4)[0].items()
    )


def masks_of(batches, epoch):
    """(token, is hidden) of all rows of an epoch."""
    per_epoch = batches.steps_per_epoch
    hidden = set()
    for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
        batch = batches[step]
        hidden |= set(batch["labels"][batch["label_weights"] > 0].tolist())
    return hidden


def test_the_next_epoch_hides_other_tokens():
    batches = source(BOOK, MLM)
    first, second = masks_of(batches, 0), masks_of(batches, 1)
    shared = len(first & second) / len(first)
    assert 0.05 < shared < 0.35  # by chance 0.15


def test_pairs_are_consecutive_or_from_another_document():
    batches = source(BOOK, length=32)
    labels = []
    for step in range(3 * batches.steps_per_epoch):
        batch = batches[step]
        assert batch["token_ids"].shape[1] <= 32 and batch["label_weights"].sum(1).min() > 0
        for row, segment, is_next in zip(original(batch), batch["segment_ids"], batch["next_labels"], strict=True):
            first, second = texts(row)
            assert (np.diff(first) == 1).all() and (np.diff(second) == 1).all()  # each is a stretch of one text
            assert segment.sum() == len(second) + 1 and (segment[len(first) + 2 :][: len(second) + 1] == 1).all()
            assert (second[0] == first[-1] + 1) or not is_next
            one, two = (np.searchsorted(BOOK_DOCUMENTS, ids[0], side="right") for ids in (first, second))
            assert (one == two) == bool(is_next)
            labels.append(is_next)
        assert (batch["next_weights"] == 1).all()
    assert np.mean(labels) == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / len(labels)))


def test_texts_of_pairs_begin_and_end_with_sentences():
    """But for long sentences, which are cut, and wrong continuations without a short enough one."""
    whole = 0
    batches = source(BOOK[:40], length=40)
    for step in range(batches.steps_per_epoch):
        for row in original(batches[step]):
            whole += all(text[0] in BOOK_BOUNDS and text[-1] + 1 in BOOK_BOUNDS for text in texts(row))
    assert whole == batches.steps_per_epoch * 4


def test_right_and_wrong_continuations_are_of_like_length():
    batches = source(BOOK, length=48)
    lengths = {0: [], 1: []}
    for step in range(4 * batches.steps_per_epoch):
        batch = batches[step]
        for segment, is_next in zip(batch["segment_ids"], batch["next_labels"], strict=True):
            lengths[int(is_next)].append(segment.sum())
    assert np.mean(lengths[0]) == pytest.approx(np.mean(lengths[1]), rel=0.15)


def test_a_document_of_one_sentence_asks_nothing_about_order():
    batches = source([[6], [5, 7, 4], [9]], batch_size=1)
    seen = set()
    for step in range(20 * batches.steps_per_epoch):
        batch = batches[step]
        first, second = texts(original(batch)[0])
        alone = len(first) in (6, 9)
        assert batch["next_weights"].tolist() == [0.0 if alone else 1.0]
        seen.add((alone, int(batch["next_labels"][0])))
    assert seen == {(True, 0), (False, 0), (False, 1)}


def test_without_pairs_rows_are_full_of_sentences():
    batches = source(BOOK, MLM, length=32)
    seen, rows = [], 0
    for batch in batches.whole(5):
        assert not batch["segment_ids"].any() and "next_labels" not in batch
        for row in original(batch):
            parts = texts(row)
            seen += [token for part in parts for token in part]
            rows += 1
            for part, after in zip(parts[:-1], parts[1:], strict=True):  # another document follows
                assert part[-1] + 1 in BOOK_DOCUMENTS and after[0] in BOOK_DOCUMENTS
    assert sorted(seen) == list(range(FIRST_ID, FIRST_ID + sum(map(sum, BOOK))))
    assert rows == batches.rows and len(seen) / rows > 20


@given(
    documents=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=5),
    pairs=st.booleans(),
    length=st.integers(8, 40),
)
@settings(max_examples=80, deadline=None)
def test_any_documents_give_rows_that_fit(documents, pairs, length):
    batches = source(documents, NSP if pairs else MLM, 1, length)
    seen = set()
    for batch in batches.whole(3):
        assert batch["token_ids"].shape[1] <= length
        for row in original(batch):
            parts = texts(row)
            assert all((np.diff(part) == 1).all() and len(part) for part in parts)
            seen |= {int(token) for part in parts for token in part}
    if not pairs:
        assert seen == set(range(FIRST_ID, FIRST_ID + sum(map(sum, documents))))


def test_too_little_is_refused():
    with pytest.raises(UserError, match="two documents.*1 documents of 3 sentences"):
        source([[3, 4, 5]], batch_size=1).checked()
    with pytest.raises(UserError, match="one of them with two sentences"):
        source([[3], [4]], batch_size=1).checked()
    with pytest.raises(UserError, match="text for 1 rows"):
        source([[3, 4, 5]], MLM, batch_size=4).checked()
    assert source([[3, 4], [5]], batch_size=1).checked().steps_per_epoch == 2


def test_ids_of_another_vocabulary():
    """A checkpoint has its special tokens elsewhere: they frame rows, hide tokens, and are never shown instead of one."""
    special = SpecialIds(start=101, end=102, mask=103, others=frozenset({0, 100}))
    assert special.ordinary(106).tolist() == [*range(1, 100), 104, 105]
    document = {"token_ids": np.arange(1, 90), "starts_word": np.ones(89, bool), "sentence_lengths": np.array([40, 49])}
    batches = MaskedSentences(in_memory([document] * 9), 4, 64, 160, MLM, seed=0, special=special)
    shown = set()
    for step in range(20):
        batch = batches[step]
        assert (batch["token_ids"][:, 0] == 101).all() and (batch["token_ids"] == 102).any(1).all()
        at = np.take_along_axis(batch["token_ids"], batch["mask_positions"], 1)[batch["label_weights"] > 0]
        shown |= set(at.tolist())
    assert 103 in shown and not shown & {0, 100, 101, 102} and max(shown) > 103

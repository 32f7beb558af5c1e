"""Windows and lanes: every token once an epoch, repeatable, never across documents unseen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.data.prepared import Prepared
from keras_llm.data.streams import Lanes, Stream, Windows, segments
from keras_llm.errors import UserError


def prepare(directory, lengths, dtype="uint16"):
    first = 4
    rows = []
    for n in lengths:
        rows.append({"token_ids": np.array([2, *range(first, first + n), 3], dtype)})
        first += n
    return Prepared.write(directory, rows, "x")


@pytest.fixture
def prepared(tmp_path):
    return prepare(tmp_path / "p", [5, 0, 9, 3, 17])


def follows(token, after, document_changes):
    """Ids rise by one inside a document: the only way from one token to the next, except at its ends."""
    return document_changes if token == 3 else token == 2 or after in (token + 1, 3)


@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6), seed=st.integers(0, 5), epoch=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_an_epoch_is_a_ring_of_all_documents(tmp_path_factory, lengths, seed, epoch):
    prepared = prepare(tmp_path_factory.mktemp("ring") / "p", lengths)
    stream = Stream(prepared, seed)
    tokens, documents = stream.take(epoch, np.arange(stream.length + 1))
    assert sorted(tokens[:-1]) == sorted(prepared.features["token_ids"])
    assert tokens[-1] == tokens[0]
    changes = np.diff(documents) != 0
    assert all(follows(*found) for found in zip(tokens[:-1], tokens[1:], changes, strict=True))
    # Where a document begins the number changes, and nowhere else, also where the ring closes over a single document.
    assert (changes == (tokens[1:] == 2)).all()


def test_windows_cover_the_stream_once_and_say_what_belongs_together(prepared):
    windows = Windows(prepared, batch_size=2, length=4, seed=3)
    total = len(prepared.features["token_ids"])
    assert windows.steps_per_epoch == total // 4 // 2
    batches = [windows[step] for step in range(windows.steps_per_epoch)]
    inputs = np.concatenate([batch["token_ids"][:, :-1].ravel() for batch in batches])
    ordinary = inputs[inputs > 3]
    assert len(set(ordinary)) == len(ordinary)
    for batch in batches:
        for ids, segment, position in zip(batch["token_ids"], batch["segment_ids"], batch["positions"], strict=True):
            starts = ids == 2
            assert segment[0] == 0 and (np.diff(segment) == starts[1:]).all()
            assert (position[starts] == 0).all()
            assert all(b == a + 1 or c for a, b, c in zip(position[:-1], position[1:], starts[1:], strict=True))


def test_windows_are_cut_elsewhere_in_the_next_epoch_and_repeatable(prepared):
    windows = Windows(prepared, 2, 4, seed=1)
    again = Windows(prepared, 2, 4, seed=1)
    per_epoch = windows.steps_per_epoch
    for step in (5 * per_epoch + 1, 0, per_epoch - 1):
        assert all((windows[step][name] == again[step][name]).all() for name in ("token_ids", "segment_ids"))
    firsts = [
        tuple(sorted(windows[e * per_epoch + s]["token_ids"][:, 0].tolist() for s in range(per_epoch)))
        for e in range(4)
    ]
    assert len({str(first) for first in firsts}) > 1
    other = Windows(prepared, 2, 4, seed=2)
    assert any((windows[s]["token_ids"] != other[s]["token_ids"]).any() for s in range(per_epoch))


def test_lanes_go_on_where_they_ended(prepared):
    lanes = Lanes(prepared, batch_size=3, length=4, seed=0)
    assert lanes.steps_per_epoch == len(prepared.features["token_ids"]) // 3 // 4
    for epoch in range(2):
        first = epoch * lanes.steps_per_epoch
        batches = [lanes[first + s] for s in range(lanes.steps_per_epoch)]
        assert batches[0]["keep"].tolist() == [0, 0, 0]
        for before, after in zip(batches[:-1], batches[1:], strict=True):
            assert (before["token_ids"][:, -1] == after["token_ids"][:, 0]).all()
            assert after["keep"].tolist() == [1, 1, 1]


def test_one_document_is_cut_at_another_place_in_each_epoch(tmp_path):
    prepared = prepare(tmp_path / "p", [40])
    lanes = Lanes(prepared, 1, 7, seed=0)
    starts = {int(lanes[epoch * lanes.steps_per_epoch]["token_ids"][0, 0]) for epoch in range(8)}
    assert len(starts) > 3


def test_prefetch_gives_the_same_batches(prepared):
    windows = Windows(prepared, 2, 4)
    for step, batch in windows.prefetch(3, 9):
        assert all((batch[name] == windows[step][name]).all() for name in batch)


@pytest.mark.parametrize("kind", [Windows, Lanes])
def test_a_corpus_shorter_than_one_batch_is_refused(tmp_path, kind):
    prepared = prepare(tmp_path / "p", [5])
    with pytest.raises(UserError, match="a corpus of 7 tokens"):
        kind(prepared, batch_size=2, length=4)


def test_segments_of_a_row():
    found = segments(np.array([[4, 4, 4], [1, 2, 3]]))
    assert found["segment_ids"].tolist() == [[0, 0, 0], [0, 1, 2]]
    assert found["positions"].tolist() == [[0, 1, 2], [0, 0, 0]]

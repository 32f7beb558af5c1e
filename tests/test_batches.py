"""Batches: exactly once an epoch, the same at every start, disjoint over workers, padded and no further."""

import itertools
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.data.batches import POOL, Batches
from keras_llm.data.prepared import Prepared
from keras_llm.errors import UserError


def prepare(directory, lengths):
    """Example i: `ids` of the given length, all i + 1; `other` is one longer; `index` is i; `box` a fixed matrix."""
    rows = (
        {
            "ids": np.full(length, i + 1, "int32"),
            "other": np.full(length + 1, i + 1, "uint16"),
            "index": np.int32(i),
            "box": np.full((2, 2), i, "float32"),
        }
        for i, length in enumerate(lengths)
    )
    return Prepared.write(Path(directory) / "data", rows, "x")


@pytest.fixture
def mixed(tmp_path):
    return prepare(tmp_path, np.random.default_rng(0).integers(1, 100, 1000))


settings_of_batches = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**40),
        "length_feature": st.sampled_from([None, "ids"]),
        "multiple": st.integers(1, 9),
        "shuffle": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=40),
    batch_size=st.integers(1, 8),
    drop_remainder=st.booleans(),
    options=settings_of_batches,
    epoch=st.integers(0, 3),
)
def test_batches_of_an_epoch(lengths, batch_size, drop_remainder, options, epoch):
    with tempfile.TemporaryDirectory() as directory:
        prepared = prepare(directory, lengths)
        if drop_remainder and batch_size > len(lengths):
            with pytest.raises(UserError, match="at least one full batch"):
                Batches(prepared, batch_size)
            return
        batches = Batches(prepared, batch_size, drop_remainder=drop_remainder, **options)
        seen = []
        for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
            batch = batches[step]
            seen += batch["index"].tolist()
            rows = [prepared.row(i) for i in batch["index"]]
            for name in ("ids", "other"):
                longest = max(1, *(len(row[name]) for row in rows))
                assert longest <= batch[name].shape[1] < longest + options["multiple"]
                assert batch[name].shape[1] % options["multiple"] == 0
                assert batch[name].dtype == prepared.features[name].dtype
                for row, padded in zip(rows, batch[name], strict=True):
                    assert padded.tolist() == row[name].tolist() + [0] * (len(padded) - len(row[name]))
            np.testing.assert_array_equal(batch["box"], [row["box"] for row in rows])
            cells = batch["ids"].size + batch["other"].size
            used = np.count_nonzero(batch["ids"]) + np.count_nonzero(batch["other"])
            assert batches.padding_share(step) == pytest.approx(1 - used / cells)
        dropped = len(lengths) % batch_size if drop_remainder else 0
        assert len(seen) == len(set(seen)) == len(lengths) - dropped
        if not options["shuffle"]:
            assert seen == sorted(seen)


@settings(max_examples=40, deadline=None)
@given(options=settings_of_batches, steps=st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_a_batch_depends_on_nothing_but_its_step(options, steps):
    """What was drawn before, in whatever order, makes no difference: this is what resuming rests on."""
    with tempfile.TemporaryDirectory() as directory:
        prepared = prepare(directory, range(1, 38))
        used = Batches(prepared, 4, **options)
        for step in steps:
            fresh = Batches(Prepared.open(Path(directory) / "data"), 4, **options)[step]
            batch = used[step]
            assert fresh.keys() == batch.keys()
            for name in fresh:
                np.testing.assert_array_equal(fresh[name], batch[name])


@settings(max_examples=40, deadline=None)
@given(
    options=settings_of_batches,
    workers=st.sampled_from([1, 2, 3, 6]),
    step=st.integers(0, 20),
    drop_remainder=st.booleans(),
)
def test_shards_partition_each_batch(options, workers, step, drop_remainder):
    options = options | {"drop_remainder": drop_remainder}
    with tempfile.TemporaryDirectory() as directory:
        prepared = prepare(directory, range(1, 24))
        whole = Batches(prepared, 6, **options)[step]
        parts = [Batches(prepared, 6, shard=(worker, workers), **options)[step] for worker in range(workers)]
        assert sorted(i for part in parts for i in part["index"]) == sorted(whole["index"])
        for worker, part in enumerate(parts):
            for name in whole:
                np.testing.assert_array_equal(part[name], whole[name][worker::workers])  # widths are equal too


def test_epochs_and_seeds_have_their_own_order(mixed):
    def order(seed, epoch):
        batches = Batches(mixed, 50, seed=seed, length_feature="ids")
        return [i for step in range(20) for i in batches[epoch * 20 + step]["index"].tolist()]

    orders = [order(seed, epoch) for seed, epoch in itertools.product((0, 1), (0, 1))]
    assert all(first != second for first, second in itertools.combinations(orders, 2))
    assert order(1, 1) == orders[3]


def test_order_is_fixed_for_ever(tmp_path):
    """Philox and SeedSequence give the same numbers everywhere; a run stays resumable on another machine."""
    batches = Batches(prepare(tmp_path, [1] * 8), 4, seed=7)
    expected = np.random.Generator(np.random.Philox(np.random.SeedSequence([7, 3]))).permutation(8)
    assert [i for step in (6, 7) for i in batches[step]["index"].tolist()] == expected.tolist()


def test_bucketing_saves_padding_and_keeps_chance(tmp_path):
    prepared = prepare(tmp_path, np.random.default_rng(0).integers(1, 100, 8 * POOL * 3))
    shares = {}
    for feature in (None, "ids"):
        batches = Batches(prepared, 8, length_feature=feature, multiple=1)
        shares[feature] = np.mean([batches.padding_share(step) for step in range(batches.steps_per_epoch)])
    assert shares["ids"] < 0.03 < 0.3 < shares[None]
    widths = [batches[step]["ids"].shape[1] for step in range(POOL)]
    ordered = sum(first <= second for first, second in itertools.pairwise(widths))
    assert POOL / 4 < ordered < POOL * 3 / 4  # the batches themselves do not come sorted


def test_the_dropped_remainder_is_a_random_one(tmp_path):
    """Otherwise the longest examples would never be trained on."""
    batches = Batches(prepare(tmp_path, range(1, 12)), 4, length_feature="ids")
    dropped = [set(range(11)) - {int(i) for step in (0, 1) for i in batches[2 * e + step]["index"]} for e in range(30)]
    assert set.union(*dropped) == set(range(11))


def test_only_one_epochs_order_is_kept(mixed, monkeypatch):
    batches = Batches(mixed, 100)
    made = []
    monkeypatch.setattr(batches, "_epoch", lambda epoch: made.append(epoch) or np.arange(1000))
    for step in (0, 5, 9, 10, 19, 3):
        batches[step]
    assert made == [0, 1, 0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 4, "multiple": 0}, "multiple 0"),
        ({"batch_size": 4, "seed": -1}, "seed -1"),
        ({"batch_size": 4, "shard": (0, 3)}, "batch size 4, worker 0 of 3"),
        ({"batch_size": 4, "shard": (2, 2)}, "worker 2 of 2"),
        ({"batch_size": 1001}, "1000 examples with a batch size of 1001"),
    ],
)
def test_settings_that_cannot_be(mixed, options, message):
    with pytest.raises(UserError, match=message):
        Batches(mixed, **options)


def test_steps_count_from_zero(mixed):
    with pytest.raises(IndexError, match="Received: -1"):
        Batches(mixed, 4)[-1]
    with pytest.raises(TypeError):
        Batches(mixed, 4)[1.5]
    assert Batches(mixed, 4)[np.int64(3)]["index"].shape == (4,)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_gives_the_same_batches_in_order(mixed):
    batches = Batches(mixed, 100, length_feature="ids")
    steps = []
    for step, batch in batches.prefetch(7, 25):
        steps.append(step)
        for name, values in Batches(mixed, 100, length_feature="ids")[step].items():
            np.testing.assert_array_equal(batch[name], values)
    assert steps == list(range(7, 25))
    assert list(batches.prefetch(5, 5)) == []
    assert not prefetch_threads()


def test_prefetch_works_ahead_but_not_far(mixed, monkeypatch):
    batches, made, ready = Batches(mixed, 100), [], threading.Event()
    get = Batches.__getitem__

    def counted(self, step):
        made.append(step)
        if step == 2:
            ready.set()
        return get(self, step)

    monkeypatch.setattr(Batches, "__getitem__", counted)
    iterator = batches.prefetch(0, 10**9)
    assert next(iterator)[0] == 0
    assert ready.wait(10)  # step 2 is made while nobody has asked for step 1
    iterator.close()
    assert made == [0, 1, 2]
    assert not prefetch_threads()


def test_prefetch_passes_errors_on_and_ends_its_thread(mixed, monkeypatch):
    batches, get = Batches(mixed, 100), Batches.__getitem__

    def failing(self, step):
        if step == 3:
            raise OSError("the disk went away")
        return get(self, step)

    monkeypatch.setattr(Batches, "__getitem__", failing)
    steps = []
    with pytest.raises(OSError, match="the disk went away"):
        for step, _ in batches.prefetch(0, 10):
            steps.append(step)
    assert steps == [0, 1, 2]
    assert not prefetch_threads()


def test_prefetch_stops_when_the_loop_is_left(mixed):
    for step, _ in Batches(mixed, 100).prefetch(0, 10**9):
        if step == 5:
            break
    assert not prefetch_threads()

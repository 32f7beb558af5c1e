"""Batches by tokens: every row once an epoch, never more tokens than allowed, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.config import TrainingConfig
from keras_llm.data.batches import Batches
from keras_llm.data.prepared import in_memory
from keras_llm.data.token_batches import TokenBatches, bucketed
from keras_llm.errors import UserError

LENGTHS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=60)


def prepared(lengths):
    """Row i: `a` and `b` of the given lengths, filled with i + 1; `b` is never empty."""
    return in_memory(
        {"a": np.full(a, i + 1, "int32"), "b": np.full(b, i + 1, "int32")} for i, (a, b) in enumerate(lengths)
    )


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(1, 300), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch(lengths, batch_tokens, multiple, epoch):
    batches = TokenBatches(prepared(lengths), batch_tokens, seed=5, features=("a", "b"), multiple=multiple)
    rows, steps = [], batches.steps_per_epoch
    for step in range(epoch * steps, (epoch + 1) * steps):
        batch = batches[step]
        size = sum(values.size for values in batch.values())
        assert size <= batch_tokens or len(batch["b"]) == 1
        assert all(values.shape[1] % multiple == 0 for values in batch.values())
        rows += (batch["b"][:, 0] - 1).tolist()
        for i, a, b in zip(batch["b"][:, 0] - 1, batch["a"], batch["b"], strict=True):
            assert (np.count_nonzero(a), np.count_nonzero(b)) == lengths[i]
    assert sorted(rows) == list(range(len(lengths)))


def test_batches_are_nearly_full_and_epochs_differ():
    random = np.random.default_rng(0)
    data = prepared(random.integers(4, 40, (2000, 2)).tolist())
    batches = TokenBatches(data, 1024, features=("a", "b"))
    sizes = [sum(values.size for values in batches[i].values()) for i in range(batches.steps_per_epoch)]
    assert np.mean(sizes) > 0.85 * 1024
    first, second = ([sorted(batches[e * len(sizes) + i]["b"][:, 0]) for i in range(len(sizes))] for e in (0, 1))
    assert first != second and first == [
        sorted(TokenBatches(data, 1024, features=("a", "b"))[i]["b"][:, 0]) for i in range(len(sizes))
    ]
    # Neighbours differ, not only the order of the batches.
    assert not {tuple(rows) for rows in first} & {tuple(rows) for rows in second}
    other = TokenBatches(data, 1024, seed=1, features=("a", "b"))
    assert sorted(other[0]["b"][:, 0]) != first[0]


def test_the_config_chooses():
    data = prepared([(1, 2)] * 8)
    by_rows = bucketed(data, TrainingConfig(batch_size=4), "b", ("a", "b"), 2)
    by_tokens = bucketed(data, TrainingConfig(batch_tokens=8), "b", ("a", "b"), 2)
    assert type(by_rows) is Batches and by_rows[0]["a"].shape == (4, 2)
    assert type(by_tokens) is TokenBatches and by_tokens[0]["a"].shape == (2, 2) and by_tokens.steps_per_epoch == 4
    with pytest.raises(UserError, match="batch_tokens must be at least 1. Received: -3"):
        TokenBatches(data, -3, features=("a",))

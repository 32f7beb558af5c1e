"""Span corruption's batches: source and target together are the text; shares, lengths, repeatability, whole documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.config import MaskingConfig
from keras_llm.data.prepared import in_memory
from keras_llm.data.spans import CorruptedSpans, corrupt_spans
from keras_llm.errors import UserError

V = 1000  # sentinels from here on


def spans_of(target):
    """Target ids -> {sentinel: its span}."""
    assert target[0] == 2
    target = target[: np.nonzero(target)[0][-1] + 1]
    assert target[-1] == 3
    places = np.nonzero(target >= V)[0]
    ends = [*places[1:], len(target) - 1]
    assert places[0] == 1
    return {int(target[begin]): target[begin + 1 : end].tolist() for begin, end in zip(places, ends, strict=True)}


def restored(source, target):
    """The text that a source and its target were made from."""
    spans = spans_of(target)
    source = source[: np.nonzero(source)[0][-1] + 1]
    assert source[-1] == 3
    assert [id_ for id_ in source if id_ >= V] == list(spans) == list(range(V, V + len(spans)))
    return [token for id_ in source[:-1] for token in spans.get(int(id_), [int(id_)])]


@given(count=st.integers(1, 80), share=st.floats(0.01, 0.5), span=st.floats(1, 8), seed=st.integers(0, 999))
@settings(max_examples=150, deadline=None)
def test_source_and_target_together_are_the_text(count, share, span, seed):
    ids = np.arange(10, 10 + count)
    source, target = corrupt_spans(ids, share, span, V, np.random.default_rng(seed))
    assert restored(source, target) == ids.tolist()
    spans = spans_of(target)
    hidden = max(round(share * count), 1)
    assert sum(map(len, spans.values())) == hidden and all(spans.values())
    assert len(spans) == min(max(round(hidden / span), 1), hidden, count - hidden + 1)
    # Two sentinels never stand side by side: they would be one span.
    places = np.nonzero(source >= V)[0]
    assert (np.diff(places) > 1).all()


def test_every_place_is_hidden_equally_often_and_lengths_vary():
    random, ids = np.random.default_rng(0), np.arange(40)
    hidden, lengths = np.zeros(40), []
    for _ in range(4000):
        spans = list(spans_of(corrupt_spans(ids + 10, 0.15, 3, V, random)[1]).values())
        lengths += [len(span) for span in spans]
        for span in spans:
            hidden[np.array(span) - 10] += 1
    assert hidden.sum() == 4000 * 6
    assert np.mean(lengths) == 3 and set(lengths) == {1, 2, 3, 4, 5}
    inner = hidden[5:-5] / 4000
    assert inner.mean() == pytest.approx(0.16, abs=0.02) and inner.std() < 0.02
    assert hidden[0] > 0 and hidden[-1] > 0


def source(sizes, batch_size=2, length=16, seed=0):
    first, rows = 10, []
    for size in sizes:
        rows.append({"token_ids": np.array([2, *range(first, first + size), 3], "uint16")})
        first += size
    return CorruptedSpans(in_memory(rows), batch_size, length, V, MaskingConfig(), seed, multiple=4)


SIZES = [5, 0, 40, 16, 33, 1, 7]


def texts(batches):
    for batch in batches:
        assert batch["source_ids"].dtype == batch["target_ids"].dtype == np.int32
        assert batch["source_ids"].shape[1] % 4 == batch["target_ids"].shape[1] % 4 == 0
        yield from map(restored, batch["source_ids"], batch["target_ids"])


def test_an_epoch_is_every_document_once_in_texts_that_fit():
    for epoch_source in (source(SIZES).whole(3), (source(SIZES, 1)[step] for step in range(10, 20))):
        found = list(texts(epoch_source))
        assert len(found) == 1 + 3 + 1 + 3 + 1 + 1
        assert sorted(token for text in found for token in text) == list(range(10, 10 + sum(SIZES)))
        starts = np.cumsum([0, *SIZES]) + 10
        for text in found:
            assert len(text) <= 16 and (np.diff(text) == 1).all()
            assert not any(text[0] < start < text[-1] + 1 for start in starts)  # of one document


def test_another_epoch_cuts_and_hides_elsewhere_and_steps_repeat():
    one, other = source(SIZES, 1, seed=4), source(SIZES, 1, seed=4)
    cuts = {tuple(sorted(text[0] for text in texts(one[10 * e + s] for s in range(10)))) for e in range(6)}
    assert len(cuts) > 3
    for step in (21, 0, 9):
        assert all((one[step][name] == other[step][name]).all() for name in ("source_ids", "target_ids"))
    targets = [str(batch["target_ids"].tolist()) for batch in (source([30], 1, 32)[step] for step in range(5))]
    assert len(set(targets)) == 5


def test_too_little_is_refused():
    with pytest.raises(UserError, match=r"Received: 1 texts \(3 tokens\)"):
        source([3], batch_size=2).checked()

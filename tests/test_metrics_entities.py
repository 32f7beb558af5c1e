"""Entity scores against seqeval, over tag sequences of all schemes, possible and impossible."""

import itertools
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import metrics, scheme

from keras_llm.data.tags import parse_tag, read_tags
from keras_llm.metrics.entities import evaluate_entities

LETTERS = {"bio": "BI", "iob1": "BI", "bioes": "BIES"}
ORACLES = {"bio": scheme.IOB2, "iob1": scheme.IOB1, "bioes": scheme.IOBES}


def sentences(name):
    tags = st.sampled_from(
        ["O", *(f"{letter}-{label}" for letter in LETTERS[name] for label in ("PER", "地名", "a-b"))]
    )
    pair = st.integers(1, 9).flatmap(lambda n: st.tuples(*[st.lists(tags, min_size=n, max_size=n)] * 2))
    return st.lists(pair, min_size=1, max_size=4)


def spans(tags, name, strict):
    found = read_tags([parse_tag(tag) for tag in tags], name)
    return [(span.start, span.end, span.label) for span in found if not (strict and span.mended)]


# In its strict mode seqeval takes the I- behind an impossible B- of IOB1 for an entity: nothing to be equal to.
@pytest.mark.parametrize(("name", "strict"), [("iob1", False), *itertools.product(("bio", "bioes"), (False, True))])
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_scores_are_those_of_seqeval(name, strict, data):
    true, predicted = zip(*data.draw(sentences(name)), strict=True)
    own = evaluate_entities(*([spans(tags, name, strict) for tags in side] for side in (true, predicted)))
    arguments = {"mode": "strict", "scheme": ORACLES[name]} if strict else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what has nothing to count is told, and 0
        for average, prefix in (("micro", ""), ("macro", "macro_")):
            for score in ("precision", "recall", "f1"):
                oracle = getattr(metrics, f"{score}_score")(list(true), list(predicted), average=average, **arguments)
                oracle = 0.0 if oracle != oracle else oracle  # the macro mean of no label
                assert own[prefix + score] == pytest.approx(float(oracle)), (prefix + score, true, predicted)


def test_an_entity_is_right_as_a_whole_or_not_at_all():
    true = [[(0, 2, "PER"), (3, 5, "ORG")], [(0, 1, "LOC")]]
    predicted = [[(0, 2, "PER"), (3, 4, "ORG")], [(0, 1, "ORG"), (2, 3, "LOC")]]
    found = evaluate_entities(true, predicted)
    assert (found["precision"], found["recall"]) == (1 / 4, 1 / 3)
    assert found["f1"] == pytest.approx(2 / 7)
    assert found["f1/PER"] == 1 and found["f1/ORG"] == found["f1/LOC"] == 0
    assert found["macro_f1"] == pytest.approx(1 / 3) and found["entities"] == 3


def test_no_entity_at_all_is_zero_not_an_error():
    assert evaluate_entities([[]], [[]]) == {
        **dict.fromkeys(("precision", "recall", "f1", "macro_precision", "macro_recall", "macro_f1"), 0.0),
        "entities": 0,
    }

"""Tags of every scheme to spans and back, and which tag may follow which."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_llm.data.tags import Span, Tag, parse_tag, read_tags, scheme_of, tag_names, transitions, write_tags


def tags(*written):
    return [parse_tag(tag) for tag in written]


@st.composite
def sentence(draw):
    """Spans that do not overlap, and how many tokens there are."""
    spans, end = [], 0
    for gap, length, label in draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(["PER", "creative-work", "地名"])),
            max_size=5,
        )
    ):
        spans.append((end + gap, end + gap + length, label))
        end += gap + length
    return spans, end + draw(st.integers(0, 2))


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
@given(sentence())
def test_spans_come_back_from_their_tags(scheme, sentence):
    spans, count = sentence
    written = write_tags(spans, count, scheme)
    assert len(written) == count
    assert read_tags(tags(*written), scheme) == [Span(*span) for span in spans]


@given(sentence())
def test_iob1_and_bio_say_the_same(sentence):
    spans, count = sentence
    written, iob1 = write_tags(spans, count, "bio"), []
    ends = {end: label for _, end, label in spans}
    for place, tag in enumerate(written):
        touches = tag != "O" and ends.get(place) == tag[2:]
        iob1.append(tag if touches or tag == "O" else f"I{tag[1:]}")
    assert read_tags(tags(*iob1), "iob1") == [Span(*span) for span in spans]


@pytest.mark.parametrize(
    "written", ["B-PER M-PER E-PER O S-LOC", "B-PER I-PER L-PER O U-LOC", "B-PER M-PER E-PER O W-LOC"]
)
def test_every_spelling_of_bioes(written):
    written = written.split()
    sentence = tags(*written)
    assert scheme_of([sentence], {tag[0] for tag in written}) == "bioes"
    assert read_tags(sentence, "bioes") == [Span(0, 3, "PER"), Span(4, 5, "LOC")]


@pytest.mark.parametrize(
    ("written", "scheme"),
    [
        ("O I-PER I-PER O I-LOC B-LOC", "iob1"),
        ("I-PER I-LOC", "iob1"),
        ("B-PER I-PER O B-LOC B-LOC", "bio"),
        ("O O", "bio"),
        ("B-PER O B-PER O I-LOC", "bio"),  # one mistake
        ("I-PER O I-PER O B-LOC", "iob1"),  # one mistake
        ("O S-PER", "bioes"),
    ],
)
def test_schemes_are_recognised(written, scheme):
    assert scheme_of([tags(*written.split())]) == scheme


@pytest.mark.parametrize(
    ("written", "scheme", "spans"),
    [
        ("O I-PER I-PER", "bio", [Span(1, 3, "PER", "I-PER follows O")]),
        ("I-PER", "bio", [Span(0, 1, "PER", "I-PER comes first")]),
        ("B-PER I-LOC", "bio", [Span(0, 1, "PER"), Span(1, 2, "LOC", "I-LOC follows B-PER")]),
        ("O B-PER I-PER", "iob1", [Span(1, 3, "PER", "B-PER follows O")]),
        ("B-PER I-PER O", "bioes", [Span(0, 2, "PER", "nothing ends what I-PER leaves open")]),
        ("E-PER S-PER", "bioes", [Span(0, 1, "PER", "E-PER comes first"), Span(1, 2, "PER")]),
        ("B-PER", "bioes", [Span(0, 1, "PER", "nothing ends what B-PER leaves open")]),
        ("E-PER I-PER", "bioes", [Span(0, 1, "PER", "E-PER comes first"), Span(1, 2, "PER", "I-PER follows E-PER")]),
    ],
)
def test_what_cannot_be_is_mended_and_told(written, scheme, spans):
    assert read_tags(tags(*written.split()), scheme) == spans


def test_parsing():
    assert parse_tag("B-creative-work") == Tag("B", "creative-work") and parse_tag("I_PER.NOM") == Tag("I", "PER.NOM")
    assert parse_tag("M") == Tag("I", "_")  # of word segmentation
    for wrong in ("", "PER", "B-", "O-PER", "X-PER", "b-PER", "NNP", "OO"):
        assert parse_tag(wrong) is None


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
def test_transitions_allow_exactly_what_needs_no_mending(scheme):
    names = tag_names(["A", "B"], scheme)
    allowed, last = transitions(names, scheme), len(names)
    for length in (1, 2, 3):
        for path in itertools.product(range(last), repeat=length):
            steps = itertools.pairwise([last, *path, last])
            spans = read_tags(tags(*(names[tag] for tag in path)), scheme)
            assert all(allowed[step] for step in steps) == (not any(span.mended for span in spans))

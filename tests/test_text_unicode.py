"""Unicode policy: sanitise and normalise against Python's own codec and unicodedata, offsets worked by hand."""

import unicodedata

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.text.unicode import POLICIES, check_policy, normalise, normalise_with_offsets, sanitise

# Characters of Unicode 14 and earlier: the tables of ICU and of Python's unicodedata may differ in later ones.
ASSIGNED = st.characters(codec="utf-8", exclude_categories=["Cn", "Co"])
TRICKY = "e\u0301ḍ\u0307가각ﬁ㎏①Ａ！，　\u0344\u1e9b\u0323İßΣς\u200d\ufeff\0\n\t😀語"
texts = st.lists(st.text(st.one_of(ASSIGNED, st.sampled_from(TRICKY)), max_size=12), min_size=1, max_size=6)


def python_normalise(text, policy):
    return text if policy == "identity" else unicodedata.normalize(policy.upper(), text)


def test_unknown_policy_is_refused():
    with pytest.raises(
        UserError, match="unicode_policy must be one of identity, nfc, nfkc, lowercase. Received: 'nfd'"
    ):
        check_policy("nfd")
    with pytest.raises(UserError):
        normalise(["a"], "nfd")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=12), min_size=1, max_size=8))
def test_sanitise_is_pythons_replace(values):
    assert list(sanitise(values).numpy()) == [value.decode(errors="replace").encode() for value in values]


def test_sanitise_leaves_every_character_alone():
    characters = [chr(code).encode() for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert list(sanitise(characters).numpy()) == characters
    assert sanitise(["\ufeffa", ""]).numpy().tolist() == ["\ufeffa".encode(), b""]
    assert sanitise(tf.constant([], tf.string)).shape == (0,)


@pytest.mark.parametrize("policy", ["identity", "nfc", "nfkc"])
@settings(max_examples=60, deadline=None)
@given(texts=texts)
def test_normalise_is_unicodedata(policy, texts):
    got = [value.decode() for value in normalise(texts, policy).numpy()]
    assert got == [python_normalise(text, policy) for text in texts]
    assert list(normalise_with_offsets(texts, policy)[0].numpy()) == [text.encode() for text in got]


def test_lowercase_is_the_rule_of_uncased_bert():
    got = normalise(["Ａ！É", "Straße İ", "ﬁ ①", "你好，世界", "a\tb\nc", "Ångström ΣΑΣ"], "lowercase").numpy()
    assert [g.decode() for g in got] == ["a!e", "strasse i", "fi 1", "你好,世界", "a b c", "angstrom σασ"]


@pytest.mark.parametrize(
    ("policy", "source", "spans"),
    [
        ("identity", "é中", [((0, 2), "é"), ((2, 5), "中")]),
        ("nfc", "e\u0301x", [((0, 2), "e\u0301"), ((2, 3), "x")]),
        ("nfkc", "㎏x", [((0, 1), "㎏"), ((1, 2), "㎏"), ((0, 2), "㎏"), ((1, 3), "㎏x"), ((2, 3), "x")]),
        ("nfkc", "，Ａ", [((0, 1), "，"), ((1, 2), "Ａ"), ((0, 2), "，Ａ")]),
        ("lowercase", "ﬁé", [((0, 1), "ﬁ"), ((1, 2), "ﬁ"), ((2, 3), "é"), ((1, 3), "ﬁé")]),
        ("lowercase", "\u0301Ａ", [((0, 1), "Ａ")]),
    ],
)
def test_offsets_by_hand(policy, source, spans):
    # Another row before it, so that a mistake in the row's place shows.
    normalised, to_source = normalise_with_offsets(["ﬁrst Éç", source], policy)
    starts, ends = (tf.ragged.constant([[k], [span[k] for span, _ in spans]], tf.int32) for k in (0, 1))
    starts, ends = to_source(starts, ends)
    assert starts.dtype == ends.dtype == tf.int32
    slices = [source.encode()[a:b].decode() for a, b in zip(starts[1].numpy(), ends[1].numpy(), strict=True)]
    assert slices == [want for _, want in spans]


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60, deadline=None)
@given(texts=texts)
def test_every_normalised_character_comes_from_whole_characters(policy, texts):
    normalised, to_source = normalise_with_offsets(texts, policy)
    rows = [value.decode() for value in normalised.numpy()]
    begins = [[len(row[:i].encode()) for i in range(len(row))] for row in rows]
    limits = [[len(row[: i + 1].encode()) for i in range(len(row))] for row in rows]
    starts, ends = to_source(
        tf.ragged.constant(begins, tf.int32, ragged_rank=1), tf.ragged.constant(limits, tf.int32, ragged_rank=1)
    )
    for text, row, a, b in zip(texts, rows, starts.to_list(), ends.to_list(), strict=True):
        source = text.encode()
        assert a == sorted(a) and b == sorted(b)
        for character, start, end in zip(row, a, b, strict=True):
            assert 0 <= start < end <= len(source)
            part = source[start:end].decode()
            assert character in normalise([part], policy).numpy()[0].decode()


def test_many_rows_and_none():
    for policy in POLICIES:
        normalised, to_source = normalise_with_offsets(tf.constant([], tf.string), policy)
        empty = tf.RaggedTensor.from_row_lengths(tf.constant([], tf.int32), tf.constant([], tf.int64))
        starts, ends = to_source(empty, empty)
        assert normalised.shape == (0,) and starts.nrows() == ends.nrows() == 0
        normalised, to_source = normalise_with_offsets(["", "a", ""], policy)
        starts, ends = to_source(
            tf.ragged.constant([[], [0], []], tf.int32), tf.ragged.constant([[], [1], []], tf.int32)
        )
        assert (starts.to_list(), ends.to_list()) == ([[], [0], []], [[], [1], []])

"""Streaming: the ids of the loop one by one, and text that never splits a character or passes a stop string."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_llm.errors import UserError
from keras_llm.generation.decode import greedy, greedy_chooser, sample, sampling_chooser
from keras_llm.generation.logits import Rules
from keras_llm.generation.stream import TextPieces, first_stop, stream, stream_text

PAD, END = 0, 1
TABLE = np.random.default_rng(8).normal(size=(6, 6)).astype("float32")
TABLE[:, PAD] = -9.0


def by_table(ids, state):
    return ops.take(ops.array(TABLE), ids, axis=0), state


def bytes_to_text(ids):
    return bytes(ids).decode("utf-8", "replace")


def one_mark_a_byte(ids):
    """As SentencePiece: each byte that is not part of a whole character is a U+FFFD of its own."""
    return "".join(c if c != "\ufffd" else "\ufffd" * count for c, count in _marks(bytes(ids)))


def _marks(data):
    while data:
        for size in (1, 2, 3, 4):
            try:
                yield data[:size].decode("utf-8"), 1
                data = data[size:]
                break
            except UnicodeDecodeError:
                pass
        else:
            yield "\ufffd", 1
            data = data[1:]


@pytest.mark.parametrize("rules", [None, Rules(no_repeat_ngram_size=2, max_length=ops.array([7, 2, 5]))])
def test_the_ids_of_the_graph_one_by_one(rules):
    starts, seeds = ops.array([2, 3, 4]), ops.array([3, 4, 5])
    greedily = greedy(by_table, starts, (), END, PAD, 7, rules)[0]
    sampled = sample(by_table, starts, (), END, PAD, 7, seeds, 1.5, rules=rules)[0]
    choosers = greedy_chooser(END, PAD, rules), sampling_chooser(END, PAD, 7, seeds, 1.5, rules=rules)
    for choose, expected in zip(choosers, (greedily, sampled), strict=True):
        expected = ops.convert_to_numpy(expected)
        found = list(stream(choose, by_table, starts, (), END, PAD, 7, rules))
        assert all(ids.dtype == np.int32 for ids in found)
        length = int((expected != PAD).sum(1).max())
        assert len(found) == length
        np.testing.assert_array_equal(np.stack(found, 1), expected[:, :length])


def test_nothing_is_computed_that_is_not_asked_for():
    turns = []

    def step(ids, state):
        turns.append(1)
        return by_table(ids, state)

    ids = stream(greedy_chooser(-1, PAD), step, ops.array([2]), (), -1, PAD, 100)
    assert not turns
    next(ids)
    next(ids)
    assert len(turns) == 2


TEXT = "Café 中文，𠮷野家 👩‍👩‍👧 ok"


@pytest.mark.parametrize("decode", [bytes_to_text, one_mark_a_byte])
def test_characters_are_never_split(decode):
    pieces = list(stream_text(TEXT.encode(), decode))
    assert "".join(pieces) == TEXT
    assert all("\ufffd" not in piece for piece in pieces)
    assert len(pieces) == len(TEXT)  # each character as soon as it is whole


@pytest.mark.parametrize("decode", [bytes_to_text, one_mark_a_byte])
def test_bytes_that_never_become_a_character_are_written(decode):
    broken = "好".encode() + b"\xff\xff\xff\xff\xff\xff" + "好".encode()
    pieces = TextPieces(decode)
    early = "".join(pieces.push(byte) for byte in broken[:-3])
    assert early == "好" + "\ufffd" * 3  # at most three may still be part of a character
    assert early + "".join(pieces.push(byte) for byte in broken[-3:]) + pieces.finish() == decode(list(broken))
    cut = TextPieces(decode)
    assert [cut.push(byte) for byte in "a中".encode()[:-1]] == ["a", "", ""]
    assert cut.finish() == decode(list("a中".encode()[:-1]))[1:]


@given(st.binary(max_size=30), st.lists(st.text("ab中", min_size=1, max_size=3), max_size=3))
@settings(max_examples=200, deadline=None)
def test_pieces_joined_are_the_text_up_to_the_first_stop(data, stop):
    data = data + "ab中a".encode()
    for decode in (bytes_to_text, one_mark_a_byte):
        text = decode(list(data))
        cut = first_stop(text, stop)
        assert "".join(stream_text(data, decode, stop)) == (text if cut is None else text[:cut])


def test_a_stop_string_over_several_tokens_is_not_written_and_ends_the_stream():
    asked = []

    def tokens():
        for byte in "问：甲\n\n答：乙".encode():
            asked.append(byte)
            yield byte

    assert "".join(stream_text(tokens(), bytes_to_text, ("\n\n", "。"))) == "问：甲"
    assert len(asked) == len("问：甲\n\n".encode())
    # Half a stop string at the end is text.
    assert "".join(stream_text(b"one\n", bytes_to_text, "\n\n")) == "one\n"


def test_the_first_stop_string_in_the_text_counts():
    assert first_stop("一二三", ("三", "二")) == 1
    assert first_stop("abc", ()) is None and first_stop("abc", ("d",)) is None
    pieces = TextPieces(bytes_to_text, ("b",))
    assert [pieces.push(byte) for byte in b"abc"] == ["a", "", ""] and pieces.stopped and pieces.finish() == ""
    with pytest.raises(UserError, match="Received"):
        TextPieces(bytes_to_text, ("",))


def test_a_decoder_that_changes_its_mind_loses_nothing_at_the_end():
    texts = ["Hello ", "Hello , ", "Hello, world"]
    pieces = TextPieces(lambda ids: texts[len(ids) - 1])
    assert [pieces.push(0), pieces.push(0), pieces.push(0)] == ["Hello ", ", ", ""]
    assert pieces.finish() == ", world"

"""Characters: ids and offsets against a plain Python twin, and the vocabulary by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.text.characters import CharacterTokenizer

KNOWN = "e的 a\n▁😀é"
characters = st.one_of(st.sampled_from(KNOWN), st.characters(codec="utf-8"))
texts = st.lists(st.text(characters, max_size=20), min_size=1, max_size=5)


def twin(text):
    """The same rule in plain Python: [(id, start, end)]."""
    entries, start = [], 0
    for character in text:
        raw = character.encode()
        ids = [260 + KNOWN.index(character)] if character in KNOWN else [4 + byte for byte in raw]
        entries += [(id_, start, start + len(raw)) for id_ in ids]
        start += len(raw)
    return entries


@settings(max_examples=200, deadline=None)
@given(texts=texts)
def test_ids_and_offsets_are_those_of_the_twin(texts):
    parts = CharacterTokenizer(KNOWN).encode_with_offsets(texts)
    got = [list(zip(*rows, strict=True)) for rows in zip(*(part.to_list() for part in parts), strict=True)]
    assert got == [twin(text) for text in texts]


def test_bytes_of_every_length():
    tokenizer = CharacterTokenizer("")
    for character in ("\0", "\x7f", "\x80", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff"):
        assert tokenizer.encode([character]).to_list()[0] == [4 + byte for byte in character.encode()]


def test_the_most_frequent_characters_have_ids_and_ties_go_by_code_point():
    tokenizer = CharacterTokenizer.train(["的的的 bb", "ab的"], 263)
    assert tokenizer.vocabulary_size == 263
    assert tokenizer.tokens()[260:] == ["的", "b", "▁"]
    assert tokenizer.encode(["ba的"]).to_list() == [[261, 4 + ord("a"), 260]]


def test_a_small_text_gives_a_small_vocabulary():
    assert CharacterTokenizer.train(["aab"], 5000).tokens()[260:] == ["a", "b"]
    with pytest.raises(UserError, match="at least 261"):
        CharacterTokenizer.train(["aab"], 260)


def test_half_a_character_decodes_to_a_replacement():
    tokenizer = CharacterTokenizer("a")
    decoded = tokenizer.decode([[4 + 0xE4, 4 + 0xB8, 260, 0], [4 + 0xE4, 4 + 0xB8, 4 + 0xAD, 260]]).numpy()
    assert [value.decode() for value in decoded] == ["\ufffda", "中a"]


def test_tokens_are_printable():
    tokens = CharacterTokenizer(KNOWN).tokens()
    assert tokens[4] == "<0x00>" and tokens[259] == "<0xFF>"
    assert tokens[260:] == ["e", "的", "▁", "a", "\\n", "\\u2581", "😀", "é"]

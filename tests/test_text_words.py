"""Words: ids and offsets against a plain Python twin, and the vocabulary by hand."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.text import words
from keras_llm.text.words import WordsTokenizer

KNOWN = ["the", "的", "<unk>", "😀", "\\n", "</s>", "a\0b", "▁", "naïve"]
# Unicode's White_Space: Python also counts four control characters.
WHITE = {c for c in map(chr, range(sys.maxunicode + 1)) if c.isspace()} - set("\x1c\x1d\x1e\x1f")
pieces = st.one_of(
    st.sampled_from([*KNOWN, *sorted(WHITE), "\n", " ", "\r\n", "\u200b", "\x1c", "ab"]), st.text(max_size=4)
)
texts = st.lists(st.lists(pieces, max_size=12).map("".join), min_size=1, max_size=5)


def twin(text):
    """The same rule in plain Python: [(id, start, end)]."""
    entries, word, at = [], "", 0
    for character in [*text, " "]:
        if character not in WHITE:
            word += character
        elif word:
            id_ = 5 + KNOWN.index(word) if word in KNOWN else 1
            entries.append((id_, at - len(word.encode()), at))
            word = ""
        if character == "\n":
            entries.append((4, at, at + 1))
        at += len(character.encode())
    return entries


@settings(max_examples=100, deadline=None)
@given(texts=texts.map(lambda texts: [text.encode("utf-8", "replace").decode() for text in texts]))
def test_ids_and_offsets_are_those_of_the_twin(texts):
    parts = WordsTokenizer(KNOWN).encode_with_offsets(texts)
    got = [list(zip(*rows, strict=True)) for rows in zip(*(part.to_list() for part in parts), strict=True)]
    assert got == [twin(text) for text in texts]


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(st.lists(st.sampled_from(KNOWN), max_size=5), min_size=1, max_size=5))
def test_known_words_come_back_with_single_spaces(lines):
    tokenizer = WordsTokenizer(KNOWN)
    text = "\n".join(" ".join(line) for line in lines)
    for spelling in (text, text.replace(" ", " \u3000\t").replace("\n", " \r\n ")):
        assert tokenizer.decode(tokenizer.encode([spelling])).numpy()[0].decode() == text


def test_every_white_space_separates():
    text = "".join(f"the{white}" for white in sorted(WHITE))
    ids = WordsTokenizer(KNOWN).encode([text]).to_list()[0]
    assert len(WHITE) == 25 and sorted(ids) == [4, *[5] * 25]


def test_lines_read_as_one_document_have_the_published_ends_of_lines():
    text = " aer banknote <unk> \n the <unk> of N years \n"
    tokenizer = WordsTokenizer.train([text], 100)
    ids = tokenizer.encode([text]).to_list()[0]
    assert len(ids) == len(text.replace("\n", "<eos>").split()) == 10
    assert tokenizer.unknown_id not in ids and ids.count(tokenizer.tokens().index("\\n")) == 2
    assert tokenizer.decode([ids]).numpy()[0].decode() == "aer banknote <unk>\nthe <unk> of N years\n"


def test_the_most_frequent_words_have_ids_and_ties_go_by_code_point():
    tokenizer = WordsTokenizer.train(["词 词 词 b b\n", "b a z 的"], 8)
    assert tokenizer.vocabulary_size == 8
    assert tokenizer.tokens()[4:] == ["\\n", "b", "词", "a"]
    assert WordsTokenizer.train(["b a"], 5000).tokens()[5:] == ["a", "b"]
    with pytest.raises(UserError, match="at least 6 .4 special ids, the line feed, one word.. Received: 5"):
        WordsTokenizer.train(["b a"], 5)


def test_tokens_are_different_and_printable():
    tokens = WordsTokenizer(KNOWN).tokens()
    assert tokens[:5] == ["<pad>", "<unk>", "<s>", "</s>", "\\n"]
    assert tokens[5:] == ["the", "的", "\\x3cunk>", "😀", "\\\\n", "\\x3c/s>", "a\\x00b", "\\u2581", "naïve"]


@pytest.mark.parametrize("vocabulary", [["a", "b", "a"], ["a b"], ["a", ""], ["a", "\n"], ["\u3000"], []])
def test_what_is_no_vocabulary(vocabulary):
    with pytest.raises(UserError, match="A vocabulary holds"):
        WordsTokenizer(vocabulary)


def test_fingerprints_decide_nothing_alone(monkeypatch):
    """With few fingerprints unknown words meet those of known ones; known ones that meet are refused."""
    monkeypatch.setattr(words, "FINGERPRINTS", 7)
    assert WordsTokenizer(["the"]).encode([" ".join(map(str, range(40)))]).to_list() == [[1] * 40]
    with pytest.raises(UserError, match="fingerprints must differ"):
        WordsTokenizer([str(i) for i in range(8)])


def test_a_text_without_words_is_refused():
    with pytest.raises(UserError, match="made of words"):
        WordsTokenizer.train(["\u0300"], 100, "lowercase")  # an accent alone, which the policy drops

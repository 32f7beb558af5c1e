"""Byte-pair encoding in the graph: equal to Hugging Face's tokenizers, whatever the text."""

import json

import pytest
import tensorflow as tf
from hub_presets import TEXTS, train_byte_pair
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.text.byte_pair import BytePairEncoder, byte_letters
from keras_llm.text.splitting import SPLITTINGS

SPECIAL = "<|endoftext|>"
PIECES = [
    *("", " ", "  ", "\n", "\r\n", "\n\n ", "\t", "\u3000", "\u00a0", "\u2028", "\x85", "\x1c", "\x0b", "\0", "\x7f"),
    *(
        "'s",
        "'S",
        "'ſ",
        "'ll",
        "’t",
        " '",
        "the",
        " model",
        "12345",
        "²",
        "४",
        "६",
        "Ĵ",
        "Ġ",
        SPECIAL,
        "<s>",
        "!!!",
        "...\n",
    ),
    *(
        "什么是",
        "语言模型",
        "，",
        "！",
        "🙂",
        "👩‍👩‍👧",
        "e\u0301",
        "Å",
        "ﬁ",
        "\ufeff",
        "\U0002ebf0",
        "\U00010d4a",
        "\U00010d40",
    ),
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map("".join)


@pytest.fixture(scope="module", params=list(SPLITTINGS))
def pair(request):
    """Ours, traced as it is exported, and theirs."""
    theirs = train_byte_pair(request.param, special=[SPECIAL])
    theirs.encode_special_tokens = True  # user text
    model = json.loads(theirs.to_str())["model"]
    encoder = BytePairEncoder(model["vocab"], model["merges"], SPLITTINGS[request.param], special_ids=[0])
    encode = tf.function(encoder.encode, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    return encoder, encode, theirs


@settings(max_examples=40, deadline=None)
@given(st.lists(texts, min_size=1, max_size=8))
@example(PIECES)
@example(
    [
        f"a{white}{what}"
        for white in (" ", "  ", " \n", "\n ", "\t\t", "\u3000 ")
        for what in ("b", "1", "!", "'s", "语", "")
    ]
)
def test_ids_are_those_of_hugging_face(pair, batch):
    _, encode, theirs = pair
    batch = [text.encode("utf-8", "replace").decode() for text in batch]
    wanted = [encoding.ids for encoding in theirs.encode_batch(batch, add_special_tokens=False)]
    assert encode(batch).to_list() == wanted


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 419), max_size=20))
def test_text_is_that_of_hugging_face(pair, ids):
    encoder, _, theirs = pair
    assert encoder.decode(tf.constant([ids], tf.int32)).numpy()[0].decode() == theirs.decode(
        ids, skip_special_tokens=False
    )


def test_round_trip_but_for_what_is_no_text(pair):
    encoder, encode, _ = pair
    for text in TEXTS[:5]:
        assert encoder.decode(encode([text])).numpy()[0].decode() == text
    size = encoder.vocabulary_size
    assert encoder.decode(tf.constant([[0, -1, size, size + 9]])).numpy()[0] == b""
    assert encode([b"\xff\xfe a \xe4\xbd"]).to_list() == encode(["\ufffd\ufffd a \ufffd"]).to_list()
    assert encode(tf.constant([], tf.string)).shape[0] == 0


def test_very_long_words(pair):
    """As long as in the export's proof, where every merge is in one word."""
    _, encode, theirs = pair
    for word in ("a" * 100_000, "什么是语言模型" * 3_000):
        assert encode([word]).to_list() == [theirs.encode(word, add_special_tokens=False).ids]


def test_a_run_waits_for_what_may_shift_it():
    """`x` takes the first a of the run, far from where most of the run is: which pairs of it merge depends on that."""
    letters = {letter: i for i, letter in enumerate(byte_letters())}
    encoder = BytePairEncoder({**letters, "xa": 256, "aa": 257}, ["x a", "a a"], SPLITTINGS["gpt2"])
    assert encoder.encode(["x" + "a" * 21]).to_list() == [[256] + [257] * 10]
    assert encoder.encode(["a" * 21 + "xa"]).to_list() == [[257] * 10 + [letters["a"], 256]]


def test_a_space_before_the_first_word():
    letters = {letter: i for i, letter in enumerate(byte_letters())}
    encoder = BytePairEncoder({**letters, "Ġa": 256}, ["Ġ a"], SPLITTINGS["gpt2"], prefix_space=True)
    space = letters["Ġ"]
    assert encoder.encode(["a", " a", "", "\na"]).to_list() == [[256], [256], [], [space, letters["Ċ"], letters["a"]]]


def test_what_does_not_belong_together_is_refused():
    letters = {letter: i for i, letter in enumerate(byte_letters())}
    with pytest.raises(UserError, match="256 bytes.*1 missing.*'Ġ'"):
        BytePairEncoder({k: v for k, v in letters.items() if k != "Ġ"}, [], SPLITTINGS["gpt2"])
    with pytest.raises(UserError, match="the rule 'a' 'b' without the token 'ab'"):
        BytePairEncoder(letters, ["a b"], SPLITTINGS["gpt2"])
    assert BytePairEncoder(letters, [], SPLITTINGS["gpt2"]).encode(["ab"]).to_list() == [[letters["a"], letters["b"]]]

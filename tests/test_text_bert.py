"""BERT's tokenizer in the graph: equal to Hugging Face's, as far as its Unicode goes."""

import unicodedata

import pytest
import tensorflow as tf
import tokenizers
from hub_presets import word_pieces
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.text.bert import BertEncoder

VOCABULARY = word_pieces() + ["é", "café", "caf", "##é", "A", "猫", "σ", "##σ", "ς", "-", "'", "[", "]"]
PIECES = [
    "什么",
    "language",
    " ",
    "\t",
    "\n",
    "\u3000",
    "\xa0",
    "\0",
    "\ufeff",
    "\u200b",
    "！",
    "，",
    "Ａ",
    "café",
    "e\u0301",
]
PIECES += [
    "[CLS]",
    "##ing",
    "playing",
    "models",
    "ΣΑΣ",
    "İ",
    "ﬁ",
    "㎏",
    "🙂",
    "猫",
    "\ufffd",
    "\ue000",
    "don't",
    "a-b",
    "x" * 100,
    "a" * 101,
]
# Its tables are of an old Unicode; what was a punctuation mark then and is none now is left out.
known = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\u166d").filter(
    lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn"
)
texts = st.lists(st.sampled_from(PIECES) | st.text(known, max_size=4), max_size=10).map("".join)


@pytest.fixture(scope="module", params=[(True, None), (False, None), (True, False), (False, True)], ids=str)
def pair(request):
    lowercase, strip = request.param
    vocabulary = {piece: i for i, piece in enumerate(VOCABULARY)}
    theirs = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    theirs.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    encoder = BertEncoder(VOCABULARY, lowercase, strip, special_ids=range(5))
    return (
        encoder,
        tf.function(encoder.encode, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False),
        theirs,
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(texts, min_size=1, max_size=8))
@example(PIECES)
def test_ids_are_those_of_hugging_face(pair, batch):
    _, encode, theirs = pair
    assert encode(batch).to_list() == [encoding.ids for encoding in theirs.encode_batch(batch)]


def test_decoding_joins_pieces_and_drops_what_is_no_text(pair):
    encoder, encode, _ = pair
    assert (
        encoder.decode(encode(["playing language models 猫！"])).numpy()[0].decode() == "playing language models 猫 ！"
    )
    assert encoder.decode(tf.constant([[2, 5, 3, -1, len(VOCABULARY)], [0, 0, 0, 0, 0]])).numpy().tolist() == [
        b"what",
        b"",
    ]
    assert encode([b"a\xff\xfeb"]).to_list() == encode(["a\ufffd\ufffdb"]).to_list()
    assert encode(tf.constant([], tf.string)).shape[0] == 0


def test_a_broken_vocabulary_is_refused():
    with pytest.raises(UserError, match="none called '\\[UNK\\]'"):
        BertEncoder(["a"], lowercase=True)
    with pytest.raises(UserError, match="once.*'a'"):
        BertEncoder(["[UNK]", "a", "b", "a"], lowercase=True)

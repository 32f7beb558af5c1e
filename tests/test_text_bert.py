"""BERT's tokenizer in the graph: equal to Hugging Face's, as far as its Unicode goes."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from generated_texts import generated_texts
from hub_presets import word_pieces
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.text import load_tokenizer
from keras_llm.text.bert import BertEncoder
from keras_llm.text.bert_tokenizer import BertTokenizer

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


def hugging_face(vocabulary, lowercase, strip=None):
    theirs = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    theirs.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return theirs


def in_bytes(text, offsets):
    """Offsets in characters, each (start, end), as starts and ends in UTF-8 bytes."""
    places = np.cumsum([0, *(len(character.encode()) for character in text)]).tolist()
    return [places[start] for start, _ in offsets], [places[end] for _, end in offsets]


@pytest.fixture(scope="module", params=[(True, None), (False, None), (True, False), (False, True)], ids=str)
def pair(request):
    lowercase, strip = request.param
    vocabulary = {piece: i for i, piece in enumerate(VOCABULARY)}
    theirs = hugging_face(vocabulary, lowercase, strip)
    encoder = BertEncoder(VOCABULARY, lowercase, strip, special_ids=range(5))
    traced = (
        tf.function(method, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        for method in (encoder.encode, encoder.encode_with_offsets)
    )
    return (encoder, *traced, theirs)


@settings(max_examples=30, deadline=None)
@given(st.lists(texts, min_size=1, max_size=8))
@example(PIECES)
def test_ids_and_offsets_are_those_of_hugging_face(pair, batch):
    _, encode, encode_with_offsets, theirs = pair
    wanted = theirs.encode_batch(batch)
    assert encode(batch).to_list() == [encoding.ids for encoding in wanted]
    ids, starts, ends = (found.to_list() for found in encode_with_offsets(batch))
    assert ids == [encoding.ids for encoding in wanted]
    for text, encoding, *found in zip(batch, wanted, starts, ends, strict=True):
        assert tuple(found) == in_bytes(text, encoding.offsets)


def test_decoding_joins_pieces_and_drops_what_is_no_text(pair):
    encoder, encode, *_ = pair
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


# the tokenizer of a run

TOKENS = {"unknown": "<unk>", "pad": "<pad>"}


def cased():
    pieces = ["<pad>", "x", "<unk>", "[CLS]", "[SEP]", "[MASK]", "<e1>", "Play", "##ing", "语", "言", "！", "言语"]
    return BertTokenizer(pieces, lowercase=False, tokens=TOKENS, others=["<e1>"])


def test_a_run_keeps_it(tmp_path):
    tokenizer = cased()
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.settings == tokenizer.settings and loaded.tokens() == tokenizer.tokens()
    assert (loaded.pad_id, loaded.unknown_id, loaded.start_id, loaded.end_id, loaded.mask_id) == (0, 2, 3, 4, 5)
    assert loaded.all_special_ids == {0, 2, 3, 4, 5, 6}
    ids, starts, ends = loaded.encode_with_offsets(["Playing 语言！", "[MASK]<e1>", b"a\xffx"])
    assert ids.to_list() == [[7, 8, 9, 10, 11], [2] * 3 + [2] * 3, [2]]
    assert starts.to_list()[0] == [0, 4, 8, 11, 14] and ends.to_list()[0] == [4, 7, 11, 14, 17]
    assert starts.to_list()[2] == [0] and ends.to_list()[2] == [5]  # U+FFFD has three bytes
    assert loaded.decode([[3, 7, 8, 9, 10, 11, 2, 4, 0, 99]]).numpy()[0].decode() == "Playing语言！"
    pieces, continues = loaded.pieces([7, 8])
    assert pieces.numpy().tolist() == [b"Play", b"ing"] and continues.numpy().tolist() == [False, True]


def test_it_is_not_trained_and_not_broken(tmp_path):
    with pytest.raises(UserError, match="comes with a checkpoint"):
        BertTokenizer.train(["a"], 100)
    with pytest.raises(UserError, match=r"Missing: \[MASK\]"):
        BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])
    with pytest.raises(UserError, match="must hold a BERT vocabulary"):
        BertTokenizer._from_bytes(b"{}", "identity")


def vocabularies():
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizers"
    return Path(os.environ.get("KERAS_LLM_VOCABULARIES", default))


@pytest.mark.parametrize("name, lowercase", [("uncased", True), ("chinese", False), ("cased", False)])
def test_real_vocabularies(name, lowercase):
    path = vocabularies() / f"bert-base-{name}-vocab.txt"
    if not path.exists():
        pytest.skip("needs the vocabularies of BERT: KERAS_LLM_VOCABULARIES=FOLDER")
    pieces = path.read_text(encoding="utf-8").split("\n")[:-1]  # one of them is a line separator
    theirs = hugging_face({piece: i for i, piece in enumerate(pieces)}, lowercase)
    ours = BertTokenizer(pieces, lowercase)
    texts = generated_texts(1000)
    wanted = theirs.encode_batch(texts)
    ids, starts, ends = (found.to_list() for found in ours.encode_with_offsets(texts))
    assert ours.encode(texts).to_list() == ids == [encoding.ids for encoding in wanted]
    for text, encoding, *found in zip(texts, wanted, starts, ends, strict=True):
        assert tuple(found) == in_bytes(text, encoding.offsets)

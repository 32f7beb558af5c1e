"""WordPiece: ids against Hugging Face's and tensorflow-text's BERT tokenizers, offsets and decoding by hand."""

import pathlib

import pytest
import tensorflow as tf
import tensorflow_text as tf_text
from tokenizers import BertWordPieceTokenizer

from keras_llm.errors import UserError
from keras_llm.text import TOKENIZERS
from keras_llm.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer

REAL = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizers"
VOCABULARY = [
    *SPECIAL_TOKENS,
    *"abcdefghijklmnopqrstuvwxyz0123456789.,!?-[]()'，。！？“”（）语言模型是什么的给句子打分",
]
VOCABULARY += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
VOCABULARY += ["the", "language", "model", "token", "##ization", "##s", "Café", "什", "é"]
VOCABULARY = list(dict.fromkeys(VOCABULARY))
SENTENCES = [
    "What is tokenization? It's the model's first step.",
    "the U.S. isn't 3.14% (approx.) e-mail: a_b@c.d #1 $5 x^2 <b>",
    "Émile Café naïve Ångström İstanbul straße ΣΟΦΟΣ",
    "语言模型是什么？GPT-4的模型（model）给句子打分！",
    "２０２４年，ＡＢＣ“引号”——破折号……　全角空格",
    "中English混排text的token数",
    "한국어 형태소 日本語のひらがなとカタカナ 𠮷野家 😀👍🏽",
    "   spaces \t tabs \n newlines   ",
    "[CLS] [SEP] [MASK] [UNK] [PAD] ##s ## #",
    "a" * 100 + " " + "b" * 101 + " é" * 50,
    "",
]


@pytest.fixture(scope="module", params=["own", "bert-base-chinese", "bert-base-uncased", "bert-base-cased"])
def vocabulary(request):
    """A vocabulary that begins with our five special tokens: hand-made, or a published one in that order."""
    if request.param == "own":
        return VOCABULARY
    path = REAL / f"{request.param}-vocab.txt"
    if not path.exists():
        pytest.skip("the published vocabulary is not here")
    pieces = path.read_text(encoding="utf-8").split("\n")
    return [*SPECIAL_TOKENS, *(piece for piece in pieces if piece and piece not in SPECIAL_TOKENS)]


def test_identity_is_hugging_face_bert(vocabulary):
    ids = {piece: id_ for id_, piece in enumerate(vocabulary)}
    oracle = BertWordPieceTokenizer(ids, lowercase=False, strip_accents=False, clean_text=False)
    oracle._tokenizer.encode_special_tokens = True  # "[SEP]" in text is text
    oracle.enable_truncation(10_000)
    tokenizer = WordPieceTokenizer(vocabulary)
    got, starts, ends = tokenizer.encode_with_offsets(SENTENCES)
    for sentence, row, a, b in zip(SENTENCES, got.to_list(), starts.to_list(), ends.to_list(), strict=True):
        want = oracle.encode(sentence, add_special_tokens=False)
        assert [vocabulary[id_] for id_ in row] == want.tokens
        source = sentence.encode()
        parts = [source[start:end].decode() for start, end in zip(a, b, strict=True)]
        assert parts == [sentence[start:end] for start, end in want.offsets]


def test_lowercase_is_tensorflow_texts_uncased_bert(vocabulary):
    size = len(vocabulary)
    table = tf.lookup.StaticVocabularyTable(
        tf.lookup.KeyValueTensorInitializer(vocabulary, tf.range(size, dtype=tf.int64)), num_oov_buckets=1
    )
    oracle = tf_text.BertTokenizer(table, lower_case=True, token_out_type=tf.int32, unknown_token="[UNK]")
    want = oracle.tokenize(SENTENCES).merge_dims(-2, -1)
    assert WordPieceTokenizer(vocabulary, "lowercase").encode(SENTENCES).to_list() == want.to_list()


@pytest.mark.parametrize("policy", ["identity", "nfc", "nfkc", "lowercase"])
def test_offsets_by_hand(policy):
    text = "Cafe\u0301，㎏x 什么！"
    vocabulary = [*VOCABULARY, "kg", "kgx", "㎏x", "Cafe\u0301", "cafe", "x", "㎏"]
    vocabulary = list(dict.fromkeys(vocabulary))
    _, starts, ends = WordPieceTokenizer(vocabulary, policy).encode_with_offsets([text])
    parts = [text.encode()[a:b].decode() for a, b in zip(starts.values.numpy(), ends.values.numpy(), strict=True)]
    assert parts == ["Cafe\u0301", "，", "㎏x", "什", "么", "！"]


def test_a_piece_within_one_source_character_covers_it():
    tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS, "k", "##gx", "##g", "##x"], "nfkc")
    ids, starts, ends = tokenizer.encode_with_offsets(["㎏x", "㎏"])
    assert ids.to_list() == [[5, 6], [5, 7]]
    assert starts.to_list() == [[0, 0], [0, 0]] and ends.to_list() == [[3, 4], [3, 3]]


def test_unknown_words_keep_their_place():
    ids, starts, ends = WordPieceTokenizer(VOCABULARY).encode_with_offsets(["the 😀 龘 Zebra"])
    assert ids.to_list()[0][1:] == [1, 1, 1]
    assert (starts.to_list()[0][1:], ends.to_list()[0][1:]) == ([4, 9, 13], [8, 12, 18])


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("what is the language model?", "what is the language model?"),
        ("语言模型 是什么？", "语言模型是什么？"),
        ("the model的模型（a b）！", "the model的模型（a b）！"),
        ("a (b) , c .", "a (b), c."),
        ("“a” 'b'", "“a”' b'"),
        ("", ""),
    ],
)
def test_decode_is_readable(text, want):
    tokenizer = WordPieceTokenizer(VOCABULARY)
    # Beside other rows: where a row begins there is no space, whatever the row before ends with.
    decoded = tokenizer.decode(tokenizer.encode(["a", text, "", text])).numpy()
    assert [value.decode() for value in decoded] == ["a", want, "", want]


def test_trained_vocabulary():
    texts = ["low lower lowest newer newest wide wider widest"] * 20 + ["低 语言语言 模型"] * 5 + ["[SEP] zq"]
    tokenizer = TOKENIZERS["wordpiece"].train(texts, 60)
    tokens = tokenizer.tokens()
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] and tokenizer.mask_id == 4
    assert tokens[5:9] == ["e", "##e", "w", "##w"]  # the most frequent letters first
    assert {"低", "语", "言", "模", "型", "low", "wide"} <= set(tokens)
    assert "##语" not in tokens and "语言" not in tokens  # Chinese characters are words
    assert "[" in tokens and "SEP" not in tokens[5:]
    assert 1 not in tokenizer.encode(texts).values.numpy()
    assert tokenizer.encode(["lowest"]).row_lengths().numpy()[0] <= 2


def test_small_vocabulary_keeps_the_most_frequent_letters():
    tokenizer = WordPieceTokenizer.train(["aaaa aaa bb b 的的的的的的的的的 罕"], 9)
    assert tokenizer.tokens()[5:] == ["的", "a", "##a"] + tokenizer.tokens()[8:]
    assert tokenizer.vocabulary_size <= 9
    assert WordPieceTokenizer.train(["x" * 500], 7).tokens()[5:] == ["x", "##x"]


def test_text_without_words_is_refused():
    with pytest.raises(UserError, match="WordPiece is trained on words"):
        WordPieceTokenizer.train(["\0\u200b\u200d"], 100)


def test_a_foreign_vocabulary_is_refused():
    with pytest.raises(UserError, match="begins with"):
        WordPieceTokenizer(["[PAD]", "[unused1]", "a"])

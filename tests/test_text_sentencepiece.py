"""SentencePiece: the graph against the sentencepiece library, the escape of U+2581, and what training makes."""

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from keras_llm.errors import UserError
from keras_llm.text.sentencepiece import SentencePieceTokenizer

TEXTS = [
    "A language model assigns a probability to each sentence; the next token is sampled from it.",
    "语言模型给每个句子一个概率；下一个词元由此抽样。",
    "The token, the next token, and the next language model.",
    "语言模型的词元，词元的语言模型。",
] * 5
HARD = ["the next token", "语言模型 language", "▁", "▁▁ ▁", "\ue000", "\ue001\ue000 ▁\ue001", " ", "", "\t\n "]
HARD += ["<s></s><0x41>", "龘😀"]


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(TEXTS, 360)


def model_of(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    return (tmp_path / "sentencepiece.model").read_bytes()


def test_graph_is_the_library(tokenizer, tmp_path):
    library = sentencepiece.SentencePieceProcessor(model_proto=model_of(tokenizer, tmp_path))
    ids = tokenizer.encode(TEXTS + HARD).to_list()
    assert ids == [library.encode(text) for text in TEXTS + HARD]
    assert [library.decode(row) for row in ids] == TEXTS + HARD


def test_pieces(tokenizer):
    tokens = tokenizer.tokens()
    assert tokens[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert tokens[4:260] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert {"▁", "语言模型"} <= set(tokens)
    assert any(token.startswith("▁") and len(token) > 3 for token in tokens)  # a word with the space before it
    assert [tokens[id_] for id_ in tokenizer.encode(["龘"]).to_list()[0]] == ["<0xE9>", "<0xBE>", "<0x98>"]


def test_the_users_own_meta_symbol_has_a_piece_when_it_is_frequent():
    tokenizer = SentencePieceTokenizer.train(["a▁b ▁ c"] * 20, 300)
    ids = tokenizer.encode(["▁", " "]).to_list()
    assert [[tokenizer.tokens()[id_] for id_ in row] for row in ids] == [["\\u2581"], ["▁"]]
    assert [value.decode() for value in tokenizer.decode([[ids[0][0], ids[1][0]]]).numpy()] == ["▁ "]


def test_a_text_without_spaces_still_brings_spaces_back():
    tokenizer = SentencePieceTokenizer.train(["语言模型"] * 3, 300)
    text = "语言 模型  a "
    assert tokenizer.decode(tokenizer.encode([text])).numpy()[0].decode() == text


def test_decoding_ids_no_text_gives_is_valid_utf8(tokenizer):
    lone = [[4 + 0xE4, 4 + 0x41], [4 + 0xFF], list(range(4, 260))]
    for value in tokenizer.decode([row + [0] * (256 - len(row)) for row in lone]).numpy():
        value.decode()


def test_the_model_holds_no_path_and_the_settings_it_needs(tokenizer, tmp_path):
    proto = sentencepiece_model_pb2.ModelProto.FromString(model_of(tokenizer, tmp_path))
    assert b"/" not in proto.normalizer_spec.SerializeToString(deterministic=True).replace(
        proto.normalizer_spec.precompiled_charsmap, b""
    )
    assert not proto.normalizer_spec.add_dummy_prefix and not proto.normalizer_spec.remove_extra_whitespaces
    assert not proto.trainer_spec.input and not proto.trainer_spec.model_prefix
    assert proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM


def test_vocabulary_size_is_an_upper_limit():
    assert 261 < SentencePieceTokenizer.train(TEXTS, 320).vocabulary_size <= 320
    assert 261 < SentencePieceTokenizer.train(TEXTS, 30_000).vocabulary_size < 700
    assert SentencePieceTokenizer.train(TEXTS, 261).vocabulary_size == 261  # bytes and the space alone
    with pytest.raises(UserError, match="at least 261"):
        SentencePieceTokenizer.train(TEXTS, 260)


def test_more_characters_than_pieces_keeps_the_frequent_ones():
    texts = ["".join(chr(0x4E00 + i) for i in range(2000)) + "的" * 50 + "是" * 40]
    tokenizer = SentencePieceTokenizer.train(texts, 300)
    assert tokenizer.vocabulary_size <= 300
    assert {"的", "是"} <= set(tokenizer.tokens())
    assert tokenizer.decode(tokenizer.encode(texts)).numpy()[0].decode() == texts[0]


def test_one_very_long_text_trains():
    text = "语言模型预测下一个词元，" * 20_000
    tokenizer = SentencePieceTokenizer.train([text], 300)
    assert len(tokenizer.encode([text[:1200]]).to_list()[0]) < 600

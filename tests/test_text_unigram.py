"""T5's tokenizer in the graph: ids and texts against `transformers` and `sentencepiece`."""

import json

import pytest
import sentencepiece
import tensorflow as tf

transformers = pytest.importorskip("transformers")

from generated_texts import generated_texts  # noqa: E402
from micro_t5 import train_unigram  # noqa: E402

from keras_llm.checkpoints.unigrams import read_unigram, write_unigram  # noqa: E402
from keras_llm.config import Config, TokenizerConfig  # noqa: E402
from keras_llm.errors import UserError  # noqa: E402
from keras_llm.text import TOKENIZERS, load_tokenizer  # noqa: E402
from keras_llm.text.unigram import extended, original, read_model  # noqa: E402

TEXTS = generated_texts(1000, seed=5) + ["444 9444 ！！！ 哈哈哈", " ", "", "a\n\n b　c ", "▁ a▁b"]
MODELS = {"t5": (100, False), "mt5": (0, True)}


class Case:
    def __init__(self, name, folder):
        self.extra_ids, byte_fallback = MODELS[name]
        self.model, self.folder = train_unigram(byte_fallback), folder
        (folder / "spiece.model").write_bytes(self.model)
        (folder / "tokenizer_config.json").write_text(json.dumps({"extra_ids": self.extra_ids}))
        self.own = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        self.size = self.own.get_piece_size() + self.extra_ids + 12
        self.config = Config(text=TokenizerConfig("unigram", self.size))
        self.tokenizer = read_unigram(folder, self.config, extra_ids=100)
        self.fast = transformers.T5Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return {name: Case(name, tmp_path_factory.mktemp(name)) for name in MODELS}


def test_ids_are_those_of_transformers_and_sentencepiece(cases):
    case = cases["t5"]
    encode = tf.function(case.tokenizer.encode, [tf.TensorSpec([None], tf.string)], autograph=False)
    ours = encode(TEXTS).to_list()
    fast = case.fast(TEXTS, add_special_tokens=False).input_ids
    own = [case.own.encode(text) for text in TEXTS]
    assert sum(2 in ids for ids in own) > 500  # characters without a piece
    # Hugging Face's normaliser forgets some combining marks, and takes U+0085 for a space: there it is SentencePiece's.
    assert all(ids in pair for ids, pair in zip(ours, zip(fast, own, strict=True), strict=True))
    assert sum(ids == other for ids, other in zip(ours, fast, strict=True)) >= 990
    digits = [f"{number * 1111} {number}44444 99{number}999" for number in range(300)]  # many equal sums
    assert encode(digits).to_list() == case.fast(digits, add_special_tokens=False).input_ids


def test_characters_without_a_piece_become_bytes_where_the_model_has_them(cases):
    """As SentencePiece does; Hugging Face's fast tokenizer has no bytes and makes them unknown."""
    case = cases["mt5"]
    ours, own = case.tokenizer.encode(TEXTS).to_list(), [case.own.encode(text) for text in TEXTS]
    assert not any(2 in ids for ids in ours)
    assert sum(ids != other for ids, other in zip(ours, own, strict=True)) <= 10  # equal sums
    assert all(sorted(ids) == sorted(other) for ids, other in zip(ours, own, strict=True))
    decoded = case.tokenizer.decode(tf.ragged.constant(ours)).numpy()
    assert [text.decode() for text in decoded] == [case.own.decode(ids) for ids in own]


def test_texts_are_those_of_sentencepiece_and_special_ids_vanish(cases):
    case = cases["t5"]
    own = [case.own.encode(text) for text in TEXTS]
    wanted = [case.own.decode([id_ for id_ in ids if id_ != 2]) for ids in own]
    special = sorted(case.tokenizer.all_special_ids)
    assert special == [0, 1, 2, *range(case.size - 112, case.size)]
    padded = [[0, *ids, 1, 0, case.size - 1, case.size + 5, -1, case.size - 13] for ids in own]
    assert [text.decode() for text in case.tokenizer.decode(tf.ragged.constant(padded)).numpy()] == wanted


def test_special_tokens_in_a_text_are_text(cases):
    case = cases["t5"]
    texts = ["</s>", "a <pad> b", "<unk>", "<extra_id_0>", f"<unused_{case.size - 1}>"]
    ids = case.tokenizer.encode(texts).to_list()
    assert not case.tokenizer.all_special_ids - {2} & {id_ for row in ids for id_ in row}
    assert ids == [case.own.encode(text) for text in texts]
    assert [getattr(case.tokenizer, f"{role}_id") for role in ("pad", "start", "end", "unknown")] == [0, 0, 1, 2]
    names = case.tokenizer.tokens()
    assert len(names) == case.size == len(set(names))
    assert names[case.size - 13] == "<extra_id_0>" and names[case.size - 112] == "<extra_id_99>"
    assert case.fast.convert_tokens_to_ids("<extra_id_0>") == case.size - 13


def test_it_is_saved_and_written_as_it_came(cases, tmp_path):
    for name, case in cases.items():
        case.tokenizer.save(tmp_path / name)
        loaded = load_tokenizer(tmp_path / name)
        assert loaded.fingerprint == case.tokenizer.fingerprint
        assert loaded.encode(TEXTS[:50]).to_list() == case.tokenizer.encode(TEXTS[:50]).to_list()
        assert original(loaded.model) == (case.model, case.extra_ids)
        written = tmp_path / f"{name} again"
        written.mkdir()
        write_unigram(written, loaded, length=512)
        again = transformers.T5Tokenizer.from_pretrained(written)
        assert again(TEXTS[:50]).input_ids == case.fast(TEXTS[:50]).input_ids
        assert read_unigram(written, case.config, extra_ids=7).fingerprint == case.tokenizer.fingerprint
    with pytest.raises(UserError, match="comes with a checkpoint"):
        TOKENIZERS["unigram"].train(["a"], 300)


def test_tokenizer_json_gives_the_same(cases, tmp_path):
    """transformers 5 saves no spiece.model; older files normalise in other steps, to the same effect."""
    case = cases["t5"]
    case.fast.save_pretrained(tmp_path)
    assert not (tmp_path / "spiece.model").exists()
    wanted = case.tokenizer.encode(TEXTS).to_list()
    found = read_unigram(tmp_path, case.config, extra_ids=0)
    assert found.encode(TEXTS).to_list() == wanted and found.pieces == case.tokenizer.pieces
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    steps = [
        described["normalizer"],
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    ]
    mark = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    older = {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": mark}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**described, **older}))
    assert read_unigram(tmp_path, case.config, extra_ids=0).fingerprint == found.fingerprint
    bad = {
        "Unigram model. Received: BPE": {"model": {"type": "BPE"}},
        "another normalizer": {"normalizer": {"type": "Lowercase"}},
        "another Metaspace": {"pre_tokenizer": {**mark, "replacement": "_"}, "normalizer": older["normalizer"]},
        "must have the id 2": {"model": {**described["model"], "unk_id": 0}},
    }
    for message, change in bad.items():
        (tmp_path / "tokenizer.json").write_text(json.dumps({**described, **change}))
        with pytest.raises(UserError, match=message):
            read_unigram(tmp_path, case.config, extra_ids=0)


def test_what_does_not_fit_is_refused(cases, tmp_path):
    case = cases["t5"]
    model = tmp_path / "spiece.model"

    def settings(**values):
        model.write_bytes(case.model)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))

    def refused(message, config=case.config):
        with pytest.raises(UserError, match=message):
            read_unigram(tmp_path, config, extra_ids=100)

    refused("must have its spiece.model or tokenizer.json")
    settings(extra_ids=200)
    refused(f"{case.size + 88} token ids, 200 of them extra_ids, and an embedding of {case.size} rows")
    settings(added_tokens_decoder={"1100": {"content": "\n", "special": False}})
    refused("which may be a part of a text")
    settings(added_tokens_decoder={"1000": {"content": "<extra_id_0>", "special": True}})
    refused("<extra_id_0> with the ids 1099 and 1000")
    model.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    refused("must be a SentencePiece model|must hold a unigram model")
    proto = read_model(case.model, "it")
    proto.pieces[0].piece, proto.pieces[2].piece = "<s>", "<b>"
    proto.pieces[0].type, proto.pieces[2].type = proto.pieces[2].type, proto.pieces[0].type
    model.write_bytes(extended(proto, 0, 0))
    refused("padding, end and unknown as pieces 0, 1 and 2.*Received: <s>, </s>, <b>")

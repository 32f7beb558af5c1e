"""The contract that all tokenizers keep: round trip, offsets, special tokens, files, and the same ids when exported."""

import hashlib
import json
import subprocess
import sys

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.text import TOKENIZERS, load_tokenizer, normalise, sanitise
from keras_llm.text.unicode import POLICIES

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<0x41>"]
TRAINING = [
    "A language model assigns a probability to each sentence. It predicts the next token.",
    "语言模型给每个句子一个概率。它预测下一个词元，例如“你好，世界！”",
    "Attention was proposed in 2014; the Transformer followed in 2017. Café, naïve, e\u0301tude, ﬁne, ㎏, ①.",
    "注意力机制于２０１４年提出，Transformer 于２０１７年提出。😀😀",
    "Special tokens are text: " + " ".join(SPECIAL * 3),
    "▁ is a character\tof its own\n\n  and so is \ue000; 　全角空格。",
]
# Every character, and often those that have gone wrong somewhere.
TRICKY = SPECIAL + [
    "\u2581",
    "\u2585",
    "\ue000",
    "\ue001",
    "\0",
    "\n",
    "\t",
    "\r",
    " ",
    "  ",
    "\u3000",
    "\u2028",
    "\u200d",
]
TRICKY += [
    "\ufeff",
    "\ufffd",
    "\x85",
    "e\u0301",
    "\u0344",
    "\ufb01",
    "㎏",
    "①",
    "İ",
    "ß",
    "Ａ！，",
    "👨\u200d👩\u200d👧",
    "𠮷",
]
TRICKY += ["##a", "语言", "token"]
texts = st.lists(
    st.lists(st.one_of(st.text(st.characters(codec="utf-8"), max_size=8), st.sampled_from(TRICKY)), max_size=8).map(
        "".join
    ),
    min_size=1,
    max_size=6,
)
HARD = ["", " ", "  lead and trail  ", "\n\r\n\t", "a\0b", "▁", "▁ ▁▁", "\ue001\ue000▁", "".join(TRICKY), "a" * 300]
HARD += ["语言模型是什么？", "What is a language model?", "ｆｕｌｌ　ｗｉｄｔｈ！", "𠮷野家😀", "x\ufeff"]
KINDS = sorted(kind for kind, cls in TOKENIZERS.items() if cls.trained)  # of bert: see test_text_bert.py
REVERSIBLE = sorted(kind for kind in KINDS if TOKENIZERS[kind].reversible)
WITH_OFFSETS = sorted(kind for kind in KINDS if TOKENIZERS[kind].has_offsets)
_trained = {}


def trained(kind, policy="identity"):
    if (kind, policy) not in _trained:
        _trained[kind, policy] = tokenizer = TOKENIZERS[kind].train(TRAINING, 420, policy)
        # As in an export; outside of a graph many small steps take their time.
        for name in ("encode", "encode_with_offsets") if tokenizer.has_offsets else ("encode",):
            strings = tf.TensorSpec([None], tf.string)
            setattr(tokenizer, name, tf.function(getattr(tokenizer, name), [strings], autograph=False))
    return _trained[kind, policy]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_tokenizer_says_of_itself(kind):
    tokenizer = trained(kind)
    assert (tokenizer.kind, tokenizer.unicode_policy) == (kind, "identity")
    assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id) == (0, 1, 2, 3)
    assert (tokenizer.reversible, tokenizer.has_offsets) == {
        "wordpiece": (False, True),
        "sentencepiece": (True, False),
        "characters": (True, True),
        "byte_pair": (True, True),
        "words": (False, True),
    }[kind]
    assert tokenizer.vocabulary_size <= 420
    tokens = tokenizer.tokens()
    assert len(tokens) == len(set(tokens)) == tokenizer.vocabulary_size
    assert all(token and token.isprintable() and " " not in token for token in tokens)
    specials = (
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if kind == "wordpiece" else ["<pad>", "<unk>", "<s>", "</s>"]
    )
    assert tokens[: len(specials)] == specials == tokens[: tokenizer.special_ids]


@pytest.mark.parametrize("kind", REVERSIBLE)
@settings(max_examples=60, deadline=None)
@given(texts=texts)
def test_round_trip(kind, texts):
    tokenizer = trained(kind)
    assert list(tokenizer.decode(tokenizer.encode(texts)).numpy()) == [text.encode() for text in texts]


@pytest.mark.parametrize("policy", ["nfc", "nfkc", "lowercase"])
@pytest.mark.parametrize("kind", REVERSIBLE)
@settings(max_examples=30, deadline=None)
@given(texts=texts)
def test_round_trip_gives_the_normalised_text(kind, policy, texts):
    tokenizer = trained(kind, policy)
    assert list(tokenizer.decode(tokenizer.encode(texts)).numpy()) == list(normalise(texts, policy).numpy())


@pytest.mark.parametrize("kind", REVERSIBLE)
def test_round_trip_of_every_character(kind):
    tokenizer = trained(kind)
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    lines = ["".join(characters[i : i + 64]).encode() for i in range(0, len(characters), 64)]
    assert list(tokenizer.decode(tokenizer.encode(lines)).numpy()) == lines


@pytest.mark.parametrize("kind", KINDS)
def test_long_text(kind):
    tokenizer = trained(kind)
    rows = ["语言模型 language model，" * 5000, "a" * 100_000, "𠮷" * 100_000, " " * 100_000]
    ids = tokenizer.encode(rows)
    if tokenizer.reversible:
        assert list(tokenizer.decode(ids).numpy()) == [row.encode() for row in rows]
    else:
        # An unknown word; unknown characters, each a word to WordPiece; nothing.
        assert ids.row_lengths().numpy().tolist()[1:] == [1, {"wordpiece": 100_000, "words": 1}[kind], 0]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", WITH_OFFSETS)
@settings(max_examples=30, deadline=None)
@given(texts=texts)
def test_offsets_slice_the_source(kind, policy, texts):
    tokenizer = trained(kind, policy)
    ids, starts, ends = tokenizer.encode_with_offsets(texts)
    assert ids.dtype == starts.dtype == ends.dtype == tf.int32
    assert ids.to_list() == tokenizer.encode(texts).to_list()
    parts = []
    for text, a, b in zip(texts, starts.to_list(), ends.to_list(), strict=True):
        assert a == sorted(a) and b == sorted(b)
        for start, end in zip(a, b, strict=True):
            assert 0 <= start < end <= len(text.encode())
            parts.append(text.encode()[start:end].decode())  # never half a character
    pieces = tokenizer.decode(ids.values[:, None]).numpy()
    for id_, part, norm, piece in zip(ids.values.numpy(), parts, normalise(parts, policy).numpy(), pieces, strict=True):
        if kind == "byte_pair":  # the space before a word is in its token, but not in its place
            piece = piece[len(piece) > 1 and piece.startswith(b" ") :]
            if "\ufffd" in piece.decode():  # a part of a character
                continue
        if id_ != tokenizer.unknown_id and not (kind == "characters" and id_ < 260):
            assert piece in norm and (policy != "identity" or piece.decode() == part)


@pytest.mark.parametrize("kind", WITH_OFFSETS)
def test_offsets_point_into_sanitised_text(kind):
    tokenizer = trained(kind)
    broken = b"a\xff\xe4\xb8 token"
    _, starts, ends = tokenizer.encode_with_offsets([broken])
    source = sanitise([broken]).numpy()[0]
    assert source == "a\ufffd\ufffd token".encode()
    assert source[starts.values[-1].numpy() : ends.values[-1].numpy()] in (b"token", b"n", b"en", b"ken")


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_utf8_is_read_as_replacement_characters(kind):
    tokenizer = trained(kind)
    broken = [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98 b", b"\xc0\x80"]
    ids = tokenizer.encode(broken)
    assert ids.to_list() == tokenizer.encode([value.decode(errors="replace") for value in broken]).to_list()
    if tokenizer.reversible:
        assert list(tokenizer.decode(ids).numpy()) == [value.decode(errors="replace").encode() for value in broken]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_text_are_text(kind):
    tokenizer = trained(kind)
    lines = [*SPECIAL, "".join(SPECIAL), " ".join(SPECIAL), "<s>a</s>", "[CLS] x [SEP]"]
    ids = tokenizer.encode(lines)
    used = set(ids.values.numpy().tolist())
    assert not used & (set(range(tokenizer.special_ids)) - {1})
    if kind == "words":
        # Each has an id when it stands alone; stuck to others it is part of an unknown word.
        assert list(tokenizer.decode(ids).numpy()[: len(SPECIAL)]) == [token.encode() for token in SPECIAL]
        assert ids.row_lengths().numpy().tolist() == [*[1] * len(SPECIAL), 1, len(SPECIAL), 1, 3]
        return
    assert all(len(row) > 1 for row in ids.to_list())
    if kind == "wordpiece":
        assert tokenizer.decode(tokenizer.encode(["[SEP]", "[UNK]"])).numpy().tolist() == [b"[SEP]", b"[UNK]"]
    else:
        assert 1 not in used
        assert list(tokenizer.decode(ids).numpy()) == [line.encode() for line in lines]


@pytest.mark.parametrize("kind", KINDS)
def test_decode_drops_special_and_foreign_ids(kind):
    tokenizer = trained(kind)
    text = "Transformer token." if kind == "words" else "语言 token"  # words the vocabulary has
    row = tokenizer.encode([text]).to_list()[0]
    size = tokenizer.vocabulary_size
    padded = [[2, *row, 3, 0, 0], [0] * (len(row) + 4), [-5, size, size + 7, 1, *row]]
    text = text.replace(" ", "") if kind == "wordpiece" else text
    assert [value.decode() for value in tokenizer.decode(padded).numpy()] == [text, "", text]
    assert tokenizer.decode(tf.zeros([2, 0], tf.int32)).numpy().tolist() == [b"", b""]
    assert tokenizer.decode(tf.zeros([0, 3], tf.int64)).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch_and_python_lists(kind):
    tokenizer = trained(kind)
    assert tokenizer.encode(tf.constant([], tf.string)).shape.as_list() == [0, None]
    assert tokenizer.encode([""]).to_list() == [[]]
    assert tokenizer.encode(["ab"]).to_list() == tokenizer.encode(tf.constant([b"ab"])).to_list()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_traced_is_eager(kind, policy):
    tokenizer = trained(kind, policy)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def traced(text):
        ids = tokenizer.encode(text)
        offsets = tokenizer.encode_with_offsets(text) if tokenizer.has_offsets else ()
        return ids, offsets, tokenizer.decode(ids)

    for batch in (HARD, HARD[:1], []):
        ids, offsets, text = traced(tf.constant(batch, tf.string))
        assert ids.to_list() == tokenizer.encode(tf.constant(batch, tf.string)).to_list()
        assert text.numpy().tolist() == tokenizer.decode(ids).numpy().tolist()
        if offsets:
            eager = tokenizer.encode_with_offsets(tf.constant(batch, tf.string))
            assert [part.to_list() for part in offsets] == [part.to_list() for part in eager]


CLIENT = """
import json, sys
import tensorflow as tf, tensorflow_text
texts = json.load(open(sys.argv[1] + "/texts.json"))
result = {}
for name in json.load(open(sys.argv[1] + "/names.json")):
    model = tf.saved_model.load(f"{sys.argv[1]}/{name}")
    answer = model.signatures["serving_default"](text=tf.constant(texts, tf.string))
    result[name] = {key: value.numpy().tolist() for key, value in answer.items() if key != "decoded"}
    result[name]["decoded"] = [value.decode() for value in answer["decoded"].numpy()]
assert "keras_llm" not in sys.modules
json.dump(result, open(sys.argv[1] + "/result.json", "w"))
"""
# Of tensorflow-text; all are in TF Serving since 2.12.
SERVED = {"NormalizeUTF8", "NormalizeUTF8WithOffsetsMap", "FindSourceOffsets", "TFText>FastBertNormalize"}
SERVED |= {"SentencepieceOp", "SentencepieceTokenizeOp", "SentencepieceDetokenizeOp"}
SERVED |= {"FastWordpieceTokenizeWithOffsets"}
NEVER = ("PyFunc", "EagerPyFunc", "NumpyFunction", "MutableHashTable", "LookupTable", "Xla")


def test_exported_is_eager(tmp_path):
    cases = [(kind, "identity") for kind in KINDS]
    cases += [("wordpiece", "lowercase"), ("wordpiece", "nfkc"), ("characters", "lowercase"), ("sentencepiece", "nfc")]
    names = {f"{kind}-{policy}": (kind, policy) for kind, policy in cases}
    want = {}
    for name, (kind, policy) in names.items():
        tokenizer = trained(kind, policy)
        module = tf.Module()
        module.tokenizer = tokenizer

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def serve(text, tokenizer=tokenizer):
            if tokenizer.has_offsets:
                ids, starts, ends = tokenizer.encode_with_offsets(text)
                parts = {"ids": ids, "starts": starts, "ends": ends}
            else:
                parts = {"ids": tokenizer.encode(text)}
            dense = {key: part.to_tensor(0) for key, part in parts.items()}
            return {**dense, "decoded": tokenizer.decode(dense["ids"])}

        tf.saved_model.save(module, str(tmp_path / name), signatures=serve)
        want[name] = {key: value.numpy().tolist() for key, value in serve(tf.constant(HARD)).items()}
        want[name]["decoded"] = [value.decode() for value in want[name]["decoded"]]
        ops = ops_of(tmp_path / name)
        core = {op for op in ops if op not in SERVED}
        assert not [op for op in core if op.startswith(NEVER) or ">" in op or "UTF8" in op or "piece" in op], core
    (tmp_path / "texts.json").write_text(json.dumps(HARD))
    (tmp_path / "names.json").write_text(json.dumps(list(names)))
    done = subprocess.run([sys.executable, "-c", CLIENT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "result.json").read_text()) == want


def ops_of(directory):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    graph = SavedModel.FromString((directory / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    functions = [node.op for function in graph.library.function for node in function.node_def]
    return set(functions) | {node.op for node in graph.node}


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind, tmp_path):
    tokenizer = trained(kind, "nfc")
    tokenizer.save(tmp_path / "tokenizer")
    files = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    assert set(files) == {"tokenizer.json", tokenizer.vocabulary_file}
    description = json.loads(files["tokenizer.json"])
    assert description == {
        "kind": kind,
        "unicode_policy": "nfc",
        "vocabulary_size": tokenizer.vocabulary_size,
        "sha256": hashlib.sha256(files[tokenizer.vocabulary_file]).hexdigest(),
    }
    for loaded in (load_tokenizer(tmp_path / "tokenizer"), TOKENIZERS[kind].load(str(tmp_path / "tokenizer"))):
        assert type(loaded) is TOKENIZERS[kind] and loaded.unicode_policy == "nfc"
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.tokens() == tokenizer.tokens()
        assert loaded.encode(HARD).to_list() == tokenizer.encode(HARD).to_list()
    tokenizer.save(tmp_path / "tokenizer")  # over itself
    assert {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()} == files
    assert tokenizer.fingerprint != trained(kind).fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_broken_directories(kind, tmp_path):
    with pytest.raises(UserError, match="tokenizer.json"):
        load_tokenizer(tmp_path)
    tokenizer = trained(kind)
    tokenizer.save(tmp_path)
    description = tmp_path / "tokenizer.json"
    good = description.read_text()
    other = next(name for name in KINDS if name != kind)
    with pytest.raises(UserError, match=f"must describe a {other} tokenizer. Received: '{kind}'"):
        TOKENIZERS[other].load(tmp_path)
    for bad, message in [
        ("{", "must be JSON"),
        ("[]", "must hold exactly"),
        (good.replace('"sha256"', '"sha"'), "must hold exactly"),
        (good.replace(f'"kind": "{kind}"', '"kind": "bpe"'), "kind must be one of"),
        (good.replace(f'"kind": "{kind}"', '"kind": ["bpe"]'), "kind must be one of"),
        (good.replace('"identity"', '"nfx"'), "unicode_policy must be one of"),
        (good.replace(f": {tokenizer.vocabulary_size}", ": 7"), "vocabulary_size must be that of"),
    ]:
        description.write_text(bad)
        with pytest.raises(UserError, match=message):
            load_tokenizer(tmp_path)
    description.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="must be JSON"):
        load_tokenizer(tmp_path)
    description.write_text(good)
    vocabulary = tmp_path / tokenizer.vocabulary_file
    content = vocabulary.read_bytes()
    vocabulary.write_bytes(content[:-1])
    with pytest.raises(UserError, match="another sha256"):
        load_tokenizer(tmp_path)
    junk = b"not a vocabulary \xff\n"
    vocabulary.write_bytes(junk)
    description.write_text(json.dumps({**json.loads(good), "sha256": hashlib.sha256(junk).hexdigest()}))
    with pytest.raises(UserError, match="Train anew"):
        load_tokenizer(tmp_path)
    vocabulary.unlink()
    with pytest.raises(UserError, match=f"needs its vocabulary. Received: .*{vocabulary.name}: No such file"):
        load_tokenizer(tmp_path)


def test_training_is_repeatable_in_another_process(tmp_path):
    script = (
        "import json, sys\nfrom keras_llm.text import TOKENIZERS\ntexts = json.load(open(sys.argv[1]))\n"
        "print(json.dumps({kind: cls.train(texts, 420).fingerprint for kind, cls in TOKENIZERS.items() if cls.trained}))\n"
    )
    (tmp_path / "texts.json").write_text(json.dumps(TRAINING))
    command = [sys.executable, "-c", script, str(tmp_path / "texts.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {kind: trained(kind).fingerprint for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_training_refuses_what_it_cannot_use(kind):
    cls = TOKENIZERS[kind]
    for nothing in ([], [""], ["  \n", ""], iter([])):
        with pytest.raises(UserError, match="A tokenizer is trained on text"):
            cls.train(nothing, 1000)
    with pytest.raises(UserError, match="vocabulary_size must be at least .* Received: 5"):
        cls.train(["a text"], 5)
    with pytest.raises(UserError, match="unicode_policy must be one of"):
        cls.train(["a text"], 1000, "NFC")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(texts=texts, vocabulary_size=st.sampled_from([261, 262, 264, 300, 2000]), policy=st.sampled_from(POLICIES))
def test_training_on_any_text(kind, texts, vocabulary_size, policy):
    texts = [*texts, "a word 词"]
    tokenizer = TOKENIZERS[kind].train(texts, vocabulary_size, policy)
    assert tokenizer.vocabulary_size <= vocabulary_size
    ids = tokenizer.encode(texts)
    if tokenizer.reversible:
        assert list(tokenizer.decode(ids).numpy()) == list(normalise(texts, policy).numpy())


def test_training_takes_a_generator_and_lone_surrogates():
    for cls in map(TOKENIZERS.get, KINDS):
        tokenizer = cls.train((text for text in ["a lone \ud800 surrogate", "and text"]), 300)
        same = cls.train(["a lone \ufffd\ufffd\ufffd surrogate", "and text"], 300)
        assert tokenizer.fingerprint == same.fingerprint


def test_no_offsets_is_a_clear_message():
    with pytest.raises(UserError, match="Received: sentencepiece. Use wordpiece, characters or words"):
        trained("sentencepiece").encode_with_offsets(["a"])

"""`.tflite` files: text to integers as our tokenizers do it, strings to strings, ids to ids, the note, and what is refused."""

import dataclasses
import json
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.export import lite
from keras_llm.export.lite import text as lite_text
from keras_llm.export.lite.functions import LITE_TOKENIZERS, lite_tokenizer, string_function
from keras_llm.export.lite.tables import Trie
from keras_llm.export.lite.tokenizers import NotPossibleError
from keras_llm.export.requests import DIFFICULT, INVALID, PIECES
from keras_llm.presets import make_config
from keras_llm.tasks import make_task
from keras_llm.text import TOKENIZERS
from keras_llm.text.sentencepiece import ESCAPE, ESCAPED
from keras_llm.text.unicode import sanitise

TEXTS = ["谁提出了注意力机制？Bahdanau 等人。", "The LSTM has gates; it was introduced in 1997. 🙂"] * 3
RECORDS = [
    {"question": q, "context": c}
    for q, c in [("谁提出了注意力？", TEXTS[0]), ("When was the LSTM introduced?", TEXTS[1] * 9)] * 2
]
STRANGE = f"{ESCAPE}{ESCAPED}▁ {ESCAPED}x{ESCAPE}{ESCAPE}{ESCAPE}▁▁ ▁a".encode()
WORDS = ("a" * 100 + " " + "b" * 101 + " " + "é" * 50 + " " + "é" * 51).encode()
BYTES = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=2)), max_size=25).map(b"".join)


@pytest.fixture(
    scope="module", params=[(kind, p) for kind in LITE_TOKENIZERS for p in ("identity", "lowercase")], ids="-".join
)
def tokenizers(request):
    """A tokenizer, and its functions over code points: string [1] -> ids and places, ids -> string [1]."""
    kind, policy = request.param
    tokenizer = TOKENIZERS[kind].train([*TEXTS, "the thought that thaws"], 400, policy)
    form = lite_tokenizer(tokenizer)

    def encode(text):
        points = lite_text.code_points(lite_text.bytes_of(text))
        return form.encode_with_places(points) if tokenizer.has_offsets else (form.encode(points, 12),)

    def decode(ids):
        return lite_text.string_of(lite_text.utf8(form.decode(ids)))

    return (
        tokenizer,
        tf.function(encode, input_signature=[tf.TensorSpec([1], tf.string)], autograph=False),
        tf.function(decode, input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False),
    )


def same_ids(tokenizer, encode, raw):
    found = [values.numpy().tolist() for values in encode([raw])]
    if not tokenizer.has_offsets:
        return found[0][:12] == tokenizer.encode([raw]).to_list()[0][:12]
    text = sanitise([raw]).numpy()[0]
    ids, starts, ends = (values.to_list()[0] for values in tokenizer.encode_with_offsets([raw]))
    return found == [ids, *([len(text[:place].decode()) for place in places] for places in (starts, ends))]


def test_ids_and_places_are_our_tokenizers(tokenizers):
    tokenizer, encode, _ = tokenizers
    cases = [
        *(text.encode() for text in (*DIFFICULT, *TEXTS[:2])),
        *INVALID,
        STRANGE,
        WORDS,
        b"a" * 3000,
        b"the thaw thxx",
    ]
    assert [raw for raw in cases if not same_ids(tokenizer, encode, raw)] == []


@settings(max_examples=12, deadline=None)
@given(raw=BYTES)
def test_ids_and_places_of_any_bytes(tokenizers, raw):
    tokenizer, encode, _ = tokenizers
    assert same_ids(tokenizer, encode, raw)


def test_text_of_any_ids_is_our_tokenizers(tokenizers):
    tokenizer, _, decode = tokenizers
    if not tokenizer.reversible:
        with pytest.raises(NotImplementedError):
            decode([5])
        return
    chosen = random.Random(0)
    for limit in (264, tokenizer.vocabulary_size + 3) * 12:  # bytes, mostly malformed; and everything
        ids = [chosen.randrange(limit) for _ in range(20)]
        assert decode(ids).numpy()[0] == tokenizer.decode([ids]).numpy()[0]
    for _ in range(12):  # escapes in every order
        text = "".join(chosen.choices([ESCAPE, ESCAPED, "▁", " ", "a"], k=9))
        ids = tokenizer.encode([text]).to_list()[0]
        chosen.shuffle(ids)
        assert decode(ids).numpy()[0] == tokenizer.decode([ids]).numpy()[0]
    assert decode(np.zeros([0], np.int32)).numpy()[0] == b""


@settings(max_examples=30, deadline=None)
@given(raw=BYTES)
def test_malformed_utf8_is_read_as_python_reads_it(raw):
    points = lite_text.code_points(tf.constant(list(raw), tf.int32))
    assert points.numpy().tolist() == [*map(ord, raw.decode("utf-8", "replace")), lite_text.END]
    assert lite_text.string_of(lite_text.utf8(points)).numpy()[0] == raw.decode("utf-8", "replace").encode()


def test_a_trie_finds_what_a_dict_does():
    chosen = random.Random(0)
    pieces = {tuple(chosen.choices(range(1, 7), k=chosen.randint(1, 5))): i + 1 for i in range(200)}
    trie = Trie(pieces, {(1,): 9})
    symbols = chosen.choices(range(8), k=300)
    every = trie.all(tf.constant(symbols)).numpy()
    length, value = trie.longest(tf.constant(symbols), tf.fill([300], trie.roots[0]))
    for i in range(300):
        row = [pieces.get(tuple(symbols[i : i + k]), 0) if i + k <= 300 else 0 for k in range(1, trie.depth + 1)]
        assert every[i].tolist() == row
        longest = max((k for k in range(1, trie.depth + 1) if row[k - 1]), default=0)
        assert (length[i], value[i]) == (longest, row[longest - 1] if longest else 0)


def micro_task(kind, model, copy=False, **text):
    config = make_config(kind, model, "tiny")
    config.network.copy = copy
    config.network.embedding_dim, config.network.hidden_dim, config.network.feedforward_dim = 8, 8, 16
    config.network.num_layers, config.network.num_heads = 1, 2
    config.lengths.window_length, config.lengths.window_stride = 48, 8
    config.lengths.max_answer_length, config.lengths.max_question_length = 5, 8
    config.text = dataclasses.replace(config.text, **text)
    tokenizer = TOKENIZERS[config.text.tokenizer].train(TEXTS, 400, config.text.unicode_policy)
    return make_task(config, tokenizer)


# The LSTM that writes is exported by the command line in test_export.py.
CASES = {
    "reading-lstm": ("reading", "lstm", {}, ("float32",)),
    # Its note says that its code leaves a policy out: with the identity there is none.
    "reading-transformer": (
        "reading",
        "transformer",
        {"tokenizer": "characters", "unicode_policy": "identity"},
        ("float32",),
    ),
    "closed_book-transformer": ("closed_book", "transformer", {}, ("float32", "float16", "int8")),
    "closed_book-transformer-copying": ("closed_book", "transformer", {"copy": True}, ("float32",)),
}


@pytest.fixture(scope="module", params=CASES)
def exported(request, tmp_path_factory):
    kind, model, text, formats = CASES[request.param]
    task, directory = micro_task(kind, model, **text), tmp_path_factory.mktemp("lite")
    with pytest.MonkeyPatch.context() as patch:
        # Random weights do not stay on one side of a tie when they are rounded; very long texts take their time.
        patch.setattr(lite, "FLOOR", 0.0)
        patch.setattr(lite, "VERY_LONG", 2000)
        return task, directory, formats, dict(lite.export_lite(task, directory, RECORDS, formats))


def test_files_answer_as_python_does(exported):
    task, directory, formats, done = exported
    report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    assert report["files"] == json.loads(json.dumps(done))
    assert sorted(report["files"]) == sorted(f"{form}_{f}.tflite" for form in ("text", "ids") for f in formats)
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]
    for name, facts in report["files"].items():
        assert facts["size_bytes"] == (directory / name).stat().st_size
        assert set(facts["milliseconds"]) == {"1", "2"} and min(facts["milliseconds"].values()) > 0
        assert set(facts["custom_ops"]) == (lite.TEXT_OPS if name.startswith("text") else set())
        dtype, suffix = ("string [1]", "") if name.startswith("text") else ("int32 [1, None]", "_ids")
        assert facts["inputs"] == {f"{key}{suffix}": dtype for key in task.inputs}
        if "float32" in name:
            assert facts["compared"] > 50 and facts["agreement"] == 1 and facts["largest_score_difference"] < 1e-3
    for form in ("text", "ids"):
        # Not of int8: so small a model has more scales than weights.
        sizes = [report["files"][f"{form}_{f}.tflite"]["size_bytes"] for f in formats if f != "int8"]
        assert sizes == sorted(sizes, reverse=True)
    assert (directory / "tokenizer" / "tokenizer.json").exists()


def test_the_notes_python_runs_as_written(exported):
    task, directory, _, _ = exported
    note = (directory / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", note, re.DOTALL)
    assert len(code) == 2 and "$" not in note
    for part in code:
        done = subprocess.run([sys.executable, "-c", part], capture_output=True, text=True, cwd=directory)
        assert done.returncode == 0, done.stderr
        assert_answers_as(task, done.stdout)


def assert_answers_as(task, printed):
    """What the note's code printed is what the task answers to the note's question."""
    question, context = "谁发明了 LSTM？", "LSTM 由 Hochreiter 和 Schmidhuber 在 1997 年发明。"
    strings = {"question": question, "context": context}
    want = task.ask_one({name: strings[name] for name in task.inputs})
    answer, _, numbers = printed.removesuffix("\n").rpartition(f"{want['answer']} ")
    assert answer == "" and float(numbers.split()[0]) == pytest.approx(want["score"], abs=1e-3)


@pytest.mark.parametrize("kind, tokenizer", [("reading", "words"), ("closed_book", "byte_pair")])
def test_a_tokenizer_without_a_form_in_tflite_has_ids_files(kind, tokenizer, tmp_path, monkeypatch, capsys):
    task = micro_task(kind, "lstm", tokenizer=tokenizer)
    monkeypatch.setattr(lite, "VERY_LONG", 200)
    few = [{name: record[name].encode() for name in task.inputs} for record in RECORDS[:2]]
    monkeypatch.setattr(lite, "proof_requests", lambda inputs, records: few)
    assert [name for name, _ in lite.export_lite(task, tmp_path, RECORDS, ("float32",))] == ["ids_float32.tflite"]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert f"the tokenizer {tokenizer} has no form in TFLite" in report["text_not_possible"]
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert_answers_as(task, capsys.readouterr().out)


def test_a_different_answer_or_a_useless_file_is_refused(exported, tmp_path, monkeypatch):
    task, directory, formats, _ = exported
    if "int8" not in formats:
        pytest.skip("one shows it")
    function = string_function(task)
    requests = [{"question": record["question"].encode()} for record in RECORDS]
    expected = [{**answer, "answer": answer["answer"] + "?"} for answer in task.ask(RECORDS)]
    with pytest.raises(UserError, match="answer as Python does"):
        lite._compare(directory / "text_float32.tflite", function, "float32", requests, expected)
    with pytest.raises(UserError, match="at least 50%.*Received: 0%"):
        lite._compare(directory / "text_int8.tflite", function, "int8", requests, expected)
    with pytest.raises(UserError, match="one of float32, float16, int8, or none. Received: 'int4'"):
        next(lite.export_lite(task, tmp_path / "lite", RECORDS, ("int4",)))


def test_flex_and_unknown_custom_ops_are_refused():
    function = tf.function(lambda x: {"y": tf.strings.lower(x)}, autograph=False)
    concrete = function.get_concrete_function(x=tf.TensorSpec([1], tf.string, name="x"))
    for custom in (False, True):
        with pytest.raises(UserError, match="builtin ops and tensorflow-text's only.*StringLower.*--lite none"):
            lite.convert(concrete, tf.Module(), custom=custom)


def test_a_policy_that_composes_has_no_text_file():
    with pytest.raises(NotPossibleError, match="nfc"):
        lite_tokenizer(TOKENIZERS["characters"].train(TEXTS, 400, "nfc"))


def test_whole_words_have_no_text_file():
    with pytest.raises(NotPossibleError, match="the tokenizer words .*; wordpiece, sentencepiece, characters have"):
        lite_tokenizer(TOKENIZERS["words"].train(TEXTS, 400))

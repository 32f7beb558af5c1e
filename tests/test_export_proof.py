"""The export's proof: consumers give back every byte and number, C++ refuses what servers refuse, differences are found."""

import json
import os
import random

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text as tf_text
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.export import consumers, verify
from keras_llm.export.consumers import CONSUMERS, Answers, NotRunError
from keras_llm.export.requests import DIFFICULT, INVALID, LONG, PIECES, VERY_LONG, batched, proof_requests
from keras_llm.tasks.base import Signature
from keras_llm.text.unicode import sanitise

TEXTS = [b"", b"\x00", b"a\x00", b"a\nb\r\n", "谁？🙂".encode(), b"\xff\xfe\xc3", b"\xe4\xbd", *LONG]


def saved(directory, function, *specs, **options):
    module = tf.Module()
    module.function = tf.function(function, input_signature=list(specs), **options)
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.function})
    return directory


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """Strings, floats and both integers in and out, and one more output that is made of text."""

    def function(text, number, small, large, flag):
        clean = sanitise(text)
        return {"text": text, "clean": clean, "number": number, "small": small, "large": large, "flag": flag}

    kinds = {"text": tf.string, "number": tf.float32, "small": tf.int32, "large": tf.int64, "flag": tf.bool}
    specs = [tf.TensorSpec([None], kind, name=name) for name, kind in kinds.items()]
    return saved(tmp_path_factory.mktemp("echo") / "m", function, *specs)


@pytest.mark.parametrize("name", CONSUMERS)
def test_every_byte_and_number_comes_back(echo, name):
    """No skip where there is no g++: a machine that checks this project must have it."""
    numbers = np.array([0.0, -0.0, 1 / 3, 1e-45, 3.4e38, np.inf, -np.inf, np.nan, 7.0], "float32")
    batch = {
        "text": TEXTS,
        "number": numbers,
        "small": np.array([-(2**31), 2**31 - 1, *range(7)], "int32"),
        "large": np.array([-(2**63), 2**63 - 1, *range(7)], "int64"),
        "flag": np.arange(9) % 2 == 0,
    }
    batches = [
        batch,
        {key: values[:1] for key, values in batch.items()},
        {key: values[5:8] for key, values in batch.items()},
    ]
    answers = CONSUMERS[name](echo, batches, "2.20")
    assert (
        answers.facts["seconds"] > answers.facts["load_seconds"] > 0 and answers.facts["tensorflow"] == tf.__version__
    )
    for sent, got in zip(batches, answers.batches, strict=True):
        assert got["text"].tolist() == list(sent["text"])
        assert got["clean"].tolist() == [text.decode("utf-8", "replace").encode() for text in sent["text"]]
        assert got["number"].tobytes() == sent["number"].tobytes()
        for key in ("small", "large", "flag"):
            assert got[key].dtype == sent[key].dtype and np.array_equal(got[key], sent[key])


@pytest.mark.parametrize("name", CONSUMERS)
def test_an_unknown_signature_is_an_error(echo, name):
    with pytest.raises(UserError, match="(?s)failed.*other"):
        CONSUMERS[name](echo, [{"text": [b"a"]}], "2.20", "other")


def test_cpp_refuses_xla_which_python_runs(tmp_path):
    inner = tf.function(lambda x: x * 2, jit_compile=True)
    directory = saved(tmp_path / "m", lambda x: {"y": inner(x)}, tf.TensorSpec([None], name="x"))
    with pytest.raises(UserError, match="(?s)as TF Serving would run it.*XLA compilation disabled"):
        consumers.cpp(directory, [{"x": np.array([1.0], "float32")}], "2.20")


def test_cpp_has_only_the_text_ops_of_the_chosen_server(tmp_path):
    directory = saved(
        tmp_path / "m", lambda x: {"y": tf_text.utf8_binarize(x)}, tf.TensorSpec([None], tf.string, name="x")
    )
    batches = [{"x": ["é".encode()]}]
    newer = consumers.cpp(directory, batches, "2.20")
    assert newer.batches[0]["y"].tolist() == tf_text.utf8_binarize(["é"]).numpy().tolist()
    assert newer.facts["op_libraries"] == 23
    with pytest.raises(UserError, match="Op type not registered 'TFText>Utf8Binarize'"):
        consumers.cpp(directory, batches, "2.19")


def test_the_program_is_compiled_once():
    program, compiler = consumers.build()
    before = program.stat().st_mtime_ns
    assert consumers.build()[0] == program and program.stat().st_mtime_ns == before
    assert os.access(program, os.X_OK) and compiler.startswith("g++")


def test_a_program_that_does_not_compile_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "broken.cc").write_text("int main( {")
    monkeypatch.setattr(consumers, "SOURCE", tmp_path / "broken.cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(NotRunError, match="could not compile broken.cc: .*error"):
        consumers.build()
    assert list((tmp_path / "cache" / "keras_llm").iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NotRunError, match="the program could not be written"):
        consumers.build()


# What `compare` makes of answers, without a process.


RECORDS = [{"question": f"谁提出了 {i}？", "id": str(i)} for i in range(30)]


def ask(requests):
    return [
        {"answer": r["question"][:9], "score": len(r["question"]) / VERY_LONG, "size": len(r["question"])}
        for r in requests
    ]


def answering(change=lambda columns: columns):
    def consumer(directory, batches, server, signature="serving_default"):
        found = []
        for batch in batches:
            rows = ask([{"question": value.decode("utf-8", "replace")} for value in batch["question"]])
            columns = {name: np.array([row[name] for row in rows]) for name in ("score", "size")}
            columns["answer"] = np.array([row["answer"].encode() for row in rows], object)
            found.append(change(columns))
        return Answers(found, {"seconds": 0.0})

    return consumer


def compared(monkeypatch, **made):
    monkeypatch.setattr(verify, "CONSUMERS", made)
    return verify.compare(ask, Signature(ask, ("question",)), "nowhere", RECORDS)


def test_the_report_says_what_was_compared_by_whom(monkeypatch):
    report = compared(monkeypatch, one=answering(), two=answering(lambda c: {**c, "score": c["score"] + 5e-4}))
    assert (
        report["compared"] >= verify.LEAST
        and report["real_requests"] == 30
        and report["invalid_utf8_requests"] > len(INVALID)
    )
    assert (
        report["longest_request_bytes"] >= VERY_LONG
        and report["batch_sizes"][0] == 1
        and report["batch_sizes"][-1] == 24
    )
    assert report["consumers"]["one"]["largest_score_difference"] == 0
    assert report["largest_score_difference"] == pytest.approx(5e-4)
    json.dumps(report)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {**c, "answer": np.array([value + b" " for value in c["answer"]], object)},
        lambda c: {**c, "answer": np.array([value[:-1] + b"\xff" for value in c["answer"]], object)},
        lambda c: {**c, "size": c["size"] + 1},
        lambda c: {**c, "score": c["score"] + 2e-3},
        lambda c: {**c, "score": c["score"] * np.nan},
        lambda c: {name: value for name, value in c.items() if name != "size"},
    ],
    ids=["string", "bytes", "integer", "float", "nan", "missing"],
)
def test_any_difference_fails(monkeypatch, change):
    with pytest.raises(UserError, match="as Python does. Received from the two consumer"):
        compared(monkeypatch, one=answering(), two=answering(change))


VECTORS = {"vector": [0.5, -1.0, 2.0], "names": ["语言", "a\0"], "scores": [1.0, 0.25]}


@pytest.mark.parametrize(
    "changed, same",
    [
        ({}, True),
        ({"vector": [0.5, -1.0, 2.0005]}, True),
        ({"vector": [0.5, -1.002, 2.0]}, False),
        ({"vector": [0.5, -1.0, 2.0025]}, False),
        ({"vector": [0.5, float("nan"), 2.0]}, False),
        ({"vector": [0.5, -1.0]}, False),
        ({"vector": [[0.5, -1.0, 2.0]]}, False),
        ({"names": ["语言", "a"]}, False),
        ({"names": ["语言", "a\0", ""]}, False),
    ],
)
def test_vectors_and_lists_of_strings_are_compared(monkeypatch, changed, same):
    def consumer(directory, batches, server, signature="serving_default"):
        row = {**VECTORS, **changed}
        texts = np.array([name.encode() for name in row["names"]], object)
        columns = {"vector": np.array(row["vector"], "float32"), "names": texts, "scores": np.array(row["scores"])}
        stacked = [{k: np.stack([v] * len(b["question"])) for k, v in columns.items()} for b in batches]
        return Answers(stacked, {"seconds": 0.0})

    monkeypatch.setattr(verify, "CONSUMERS", {"one": consumer})

    def compare():
        return verify.compare(lambda rows: [VECTORS] * len(rows), Signature(ask, ("question",)), "nowhere", RECORDS)

    if same:
        # Of a number above 1 it is a share.
        difference = abs(changed.get("vector", [2.0])[-1] - 2.0) / 2.0
        assert compare()["largest_score_difference"] == pytest.approx(difference, abs=1e-6)
    else:
        with pytest.raises(UserError, match="as Python does"):
            compare()


def test_without_a_compiler_the_report_says_so(monkeypatch, echo):
    monkeypatch.setattr(consumers.shutil, "which", lambda name: None)
    report = compared(monkeypatch, **{"python": answering(), "c++": consumers.cpp})
    assert report["consumers"]["c++"] == "not run: g++ was not found"
    assert report["consumers"]["python"]["compared"] == report["compared"] >= verify.LEAST


def test_too_few_answers_prove_nothing(monkeypatch):
    monkeypatch.setattr(verify, "CONSUMERS", {"one": answering()})
    monkeypatch.setattr(verify, "batched", lambda requests, real, all_alone: [[0], [1]])
    with pytest.raises(UserError, match="At least 64"):
        verify.compare(ask, Signature(ask, ("question",)), "nowhere", RECORDS)


# The requests


def test_requests_hold_every_difficulty_in_every_input():
    real = [{"question": f"q{i}", "context": f"c{i}", "id": i} for i in range(40)]
    requests = proof_requests(("question", "context"), real)
    assert requests == proof_requests(("question", "context"), real)
    assert [r["question"] for r in requests[:40]] == [f"q{i}".encode() for i in range(40)]
    for name, other in (("question", "context"), ("context", "question")):
        alone = {r[name] for r in requests if r[other] == real[0][other].encode()}
        assert alone >= {text.encode() for text in DIFFICULT} | set(INVALID) | set(LONG)
    batches = batched(requests, 40)
    assert {i for batch in batches for i in batch} == set(range(len(requests)))
    assert {batch[0] for batch in batches if len(batch) == 1} >= set(range(40, len(requests)))
    fewer = batched(requests, 40, all_alone=False)
    assert [batch for batch in fewer if len(batch) > 1] == [batch for batch in batches if len(batch) > 1]
    assert len(fewer) == len(batches) - (len(requests) - 40)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(st.binary(max_size=9), st.lists(st.sampled_from(PIECES), max_size=9).map(b"".join)), min_size=1)
)
def test_invalid_bytes_become_what_python_makes_of_them(texts):
    assert sanitise(tf.constant(np.array(texts, object))).numpy().tolist() == [
        text.decode("utf-8", "replace").encode() for text in texts
    ]


def test_all_short_sequences_of_telling_bytes_become_what_python_makes_of_them():
    """Every kind of lead, continuation and forbidden byte, in every order, up to four of them."""
    telling = bytes.fromhex("00417f808f909fa0bfc0c1c2dfe0e1edeeeff0f1f3f4f5ff")
    texts = [bytes([a]) for a in telling] + [bytes([a, b]) for a in telling for b in telling]
    texts += [bytes([a, b, c]) for a in telling for b in telling for c in telling]
    texts += [bytes(random.Random(i).choices(telling, k=4)) for i in range(20_000)]
    expected = [text.decode("utf-8", "replace").encode() for text in texts]
    assert sanitise(tf.constant(np.array(texts, object))).numpy().tolist() == expected

"""Export: both kinds of QA from a run on disk to every consumer, LiteRT, the warm-up and the command line."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_llm.errors import UserError
from keras_llm.export import consumers, gates, verify, warmup
from keras_llm.export.saved_model import export_task, save, versions
from keras_llm.presets import make_config
from keras_llm.run import load, save_weights, write_manifest
from keras_llm.serving.client import ask
from keras_llm.serving.server import Server
from keras_llm.tasks import make_task
from keras_llm.text import TOKENIZERS

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["谁提出了注意力机制？Bahdanau 等人。", "The LSTM has gates; it was introduced in 1997. 🙂"] * 3
RECORDS = [
    {"id": str(i), "question": q, "context": c, "answers": [], "impossible": True}
    for i, (q, c) in enumerate([("谁提出了注意力？", TEXTS[0]), ("When was the LSTM introduced?", TEXTS[1] * 9)] * 12)
]


def micro_task(kind, model, precision="float32", copy=False):
    config = make_config(kind, model, "tiny")
    config.network.embedding_dim, config.network.hidden_dim, config.network.feedforward_dim = 8, 8, 16
    config.network.num_layers, config.network.num_heads = 1, 2
    config.network.copy = copy
    config.lengths.window_length, config.lengths.window_stride = 48, 8
    config.lengths.max_answer_length, config.lengths.max_question_length = 5, 8
    config.training.precision = precision
    return make_task(config, TOKENIZERS[config.text.tokenizer].train(TEXTS, 400))


@pytest.fixture(
    scope="module",
    # Transformers that write: test_task_seq2seq.py, test_task_causal_lm.py and test_export_lite.py.
    params=[("reading", "lstm"), ("reading", "transformer"), ("closed_book", "lstm")],
    ids="-".join,
)
def exported(request, tmp_path_factory):
    """A run on disk trained in half precision, loaded again on a machine where Keras compiles with XLA, and exported."""
    directory = tmp_path_factory.mktemp("-".join(request.param))
    task = micro_task(*request.param, precision="mixed_bfloat16")
    run = directory / "run"
    run.mkdir()
    write_manifest(run, task.config, task.tokenizer)
    save_weights(task, run / "model.weights.h5", task.tokenizer.fingerprint)
    task = load(run)
    task.model.compile(jit_compile=True)
    return task, run, export_task(task, directory / "exported", RECORDS)


def test_each_signature_is_asked_through_a_server(exported):
    task, _, version = exported
    strings = {name: RECORDS[0][name] for name in task.inputs}
    settings = {"seed": "4", "temperature": "0.5", "min_length": "2", "stop": "的"}
    with Server(version.parent.parent, port=0) as server:
        url = f"{server.url}/v1/models/{version.parent.name}"
        for name, signature in task.signatures.items():
            given = {key: value for key, value in settings.items() if key in signature.settings}
            found, expected = ask(url, strings, signature=name, settings=given), task.ask_one(strings, name, given)
            assert found["score"] == pytest.approx(expected.pop("score"), abs=1e-4)
            assert expected.items() <= found.items()
        with pytest.raises(UserError, match="Received: heat"):
            ask(url, strings, signature="serving_default", settings={"heat": "1"})
        with pytest.raises(UserError, match="best"):
            ask(url, strings, signature="best")


def test_report_says_what_was_compared(exported):
    task, _, version = exported
    report = json.loads((version / "report.json").read_text())
    assert version.name == "1" and report["compared"] >= 64 and report["differences"] == 0
    assert report["batch_sizes"][0] == 1 and report["batch_sizes"][-1] > 1
    assert report["invalid_utf8_requests"] >= 10 and report["longest_request_bytes"] >= 100_000
    # No way around C++ here: where this project is tested there is a g++.
    assert list(report["consumers"]) == ["python", "c++"]
    assert all(facts["compared"] == report["compared"] for facts in report["consumers"].values())
    names = {"reading": {"answer", "score", "start", "end"}, "closed_book": {"answer", "score"}}[task.config.kind]
    assert set(report["signatures"]) == set(task.signatures)
    for facts in report["signatures"].values():
        assert set(facts["outputs"]) == names and set(facts["inputs"]) >= set(task.inputs)
    if task.config.kind == "closed_book":
        assert set(report["other_signatures"]) == {"sample", "beam"}
    for other in report["other_signatures"].values():
        assert set(other["consumers"]) == {"python", "c++"} and other["differences"] == 0 and other["compared"] >= 64


def test_graph_is_float32_without_xla(exported):
    _, _, version = exported
    assert json.loads((version / "report.json").read_text())["ops"] == gates.check(version)
    loaded = tf.saved_model.load(str(version))
    variables = loaded.signatures["serving_default"].variables
    assert variables and all(value.dtype == tf.float32 for value in variables)


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_a_model_that_copies_answers_as_python_does(model, tmp_path):
    task = micro_task("closed_book", model, copy=True)
    save(task, tmp_path / "m")
    gates.check(tmp_path / "m")
    loaded = tf.saved_model.load(str(tmp_path / "m"))  # kept: its signatures do not keep it
    questions = [record["question"] for record in RECORDS[:2]]
    found = loaded.signatures["serving_default"](question=tf.constant(questions))
    expected = task.ask([{"question": question} for question in questions])
    assert [answer.decode() for answer in found["answer"].numpy()] == [answer["answer"] for answer in expected]
    assert found["score"].numpy() == pytest.approx([answer["score"] for answer in expected], abs=1e-5)


def test_a_model_still_in_half_precision_is_refused(tmp_path):
    save(micro_task("closed_book", "lstm", precision="mixed_bfloat16"), tmp_path / "m")
    with pytest.raises(UserError, match="DT_BFLOAT16"):
        gates.check(tmp_path / "m")


def test_the_written_warm_up_is_answered_as_python_answers(exported):
    task, _, version = exported
    loaded = tf.saved_model.load(str(version))  # kept: its signatures do not keep it
    signatures = loaded.signatures
    records = tf.data.TFRecordDataset(str(version / warmup.WHERE))
    requests = [PredictionLog.FromString(record.numpy()).predict_log.request for record in records]
    assert [request.model_spec.name for request in requests] == ["exported"] * len(warmup.BATCH_SIZES) * len(
        task.signatures
    )
    for start, (signature, asked) in zip(
        range(0, len(requests), len(warmup.BATCH_SIZES)), task.signatures.items(), strict=True
    ):
        first = 0
        for request, size in zip(requests[start:], warmup.BATCH_SIZES, strict=False):
            assert request.model_spec.signature_name == signature
            inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
            rows = [asked.example(RECORDS[i % len(RECORDS)], i) for i in range(first, first + size)]
            expected = task.ask(rows, signature=signature)
            first += size
            for name, value in signatures[signature](**inputs).items():
                got = [v.decode() if isinstance(v, bytes) else v for v in value.numpy().tolist()]
                assert got == (pytest.approx if name == "score" else list)([answer[name] for answer in expected])


def test_next_export_is_the_next_version_and_the_command_line_works(exported):
    task, run, version = exported
    if (task.config.kind, task.config.model) != ("closed_book", "lstm"):
        pytest.skip("one kind shows it")
    command = [sys.executable, str(ROOT / "scripts" / "export.py"), str(run), str(version.parent), "--server", "2.19"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert versions(version.parent) == [1, 2]
    assert sorted(json.loads((version.parent / "lite" / "report.json").read_text())["files"]) == [
        "ids_float32.tflite",
        "text_float32.tflite",
    ]
    assert "c++: equal to Python's" in done.stdout and "models.config" in done.stdout
    assert "image: tensorflow/serving:2.19.1" in (version.parent.parent / "docker-compose.yml").read_text()
    page = (version.parent.parent / "README.md").read_text(encoding="utf-8")
    row, column, sample, beam = (
        json.loads(shlex.split(line)[-1]) for line in page.splitlines() if line.startswith("curl http")
    )
    assert (sample["signature_name"], beam["signature_name"]) == ("sample", "beam")
    assert set(sample["instances"][0]) == set(task.signatures["sample"].inputs)
    answer = task.ask_one(row["instances"][0])
    assert {name: [value] for name, value in row["instances"][0].items()} == column["inputs"]
    assert json.dumps(answer["answer"], ensure_ascii=False) in page


def test_a_different_answer_fails_the_export(exported, tmp_path, monkeypatch):
    task, _, version = exported
    if (task.config.kind, task.config.model) != ("closed_book", "lstm"):
        pytest.skip("one kind shows it")
    ask = task.ask
    monkeypatch.setattr(
        task, "ask", lambda *a, **k: [{**answer, "answer": answer["answer"] + "?"} for answer in ask(*a, **k)]
    )
    monkeypatch.setattr(verify, "CONSUMERS", {"c++": consumers.cpp})  # one shows it
    with pytest.raises(UserError, match="as Python does"):
        export_task(task, tmp_path / "new", RECORDS)
    assert versions(tmp_path / "new") == [] and list((tmp_path / "new").iterdir()) == []


def test_invalid_utf8_is_read_as_replacement_characters(exported):
    task, _, version = exported
    loaded = tf.saved_model.load(str(version))
    function = loaded.signatures["serving_default"]
    for raw in (b"\xff\xfe LSTM \xc3", b"\xe4\xbd"):
        inputs = {name: tf.constant([raw]) for name in task.inputs}
        clean = {name: tf.constant([raw.decode("utf-8", "replace")]) for name in task.inputs}
        for name, value in function(**inputs).items():
            assert np.array_equal(value.numpy(), function(**clean)[name].numpy())


def test_verify_reports_a_crash(tmp_path):
    task = micro_task("closed_book", "lstm")
    save(task, tmp_path / "m")
    (tmp_path / "m" / "variables" / "variables.index").unlink()
    with pytest.raises(UserError, match="failed in a Python process of its own"):
        verify.compare(task.ask, task.signatures["serving_default"], tmp_path / "m", RECORDS)


def test_a_name_that_urls_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match="model's name in URLs.*'a:b'"):
        export_task(None, tmp_path / "a:b", RECORDS)
    with pytest.raises(UserError, match="2.20, 2.19"):
        export_task(None, tmp_path / "a", RECORDS, server="2.18")
    assert not list(tmp_path.iterdir())

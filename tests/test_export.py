"""Export: gates that close, and both kinds of QA from a run on disk to the clean process, LiteRT and the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_llm.config import make_config
from keras_llm.errors import UserError
from keras_llm.export import gates, verify
from keras_llm.export.lite import export_lite
from keras_llm.export.saved_model import export_task, save, versions
from keras_llm.run import load, save_weights, write_manifest
from keras_llm.tasks import make_task
from keras_llm.text import TOKENIZERS

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["谁提出了注意力机制？Bahdanau 等人。", "The LSTM has gates; it was introduced in 1997. 🙂"] * 3
RECORDS = [
    {"id": str(i), "question": q, "context": c, "answers": [], "impossible": True}
    for i, (q, c) in enumerate([("谁提出了注意力？", TEXTS[0]), ("When was the LSTM introduced?", TEXTS[1] * 9)] * 12)
]


def micro_task(kind, model, precision="float32"):
    config = make_config(kind, model, "tiny")
    config.network.embedding_dim, config.network.hidden_dim, config.network.feedforward_dim = 8, 8, 16
    config.network.num_layers, config.network.num_heads = 1, 2
    config.lengths.window_length, config.lengths.window_stride = 24, 8
    config.lengths.max_answer_length, config.lengths.max_question_length = 5, 8
    config.training.precision = precision
    return make_task(config, TOKENIZERS[config.text.tokenizer].train(TEXTS, 400))


@pytest.fixture(
    scope="module",
    params=[("reading", "lstm"), ("reading", "transformer"), ("closed_book", "lstm"), ("closed_book", "transformer")],
    ids="-".join,
)
def exported(request, tmp_path_factory):
    """A run on disk trained in half precision, loaded again and exported."""
    directory = tmp_path_factory.mktemp("-".join(request.param))
    task = micro_task(*request.param, precision="mixed_bfloat16")
    run = directory / "run"
    run.mkdir()
    write_manifest(run, task.config, task.tokenizer)
    save_weights(task, run / "model.weights.h5", task.tokenizer.fingerprint)
    task = load(run)
    return task, run, export_task(task, directory / "exported", RECORDS)


def test_report_says_what_was_compared(exported):
    task, _, version = exported
    report = json.loads((version / "report.json").read_text())
    assert version.name == "1" and report["compared"] >= 64 and report["differences"] == 0
    assert report["batch_sizes"][0] == 1 and report["batch_sizes"][-1] > 1
    loaded = tf.saved_model.load(str(version))
    function = loaded.signatures["serving_default"]
    names = {"reading": {"answer", "score", "start", "end"}, "closed_book": {"answer", "score"}}[task.config.kind]
    assert set(function.structured_outputs) == names
    assert all(value.dtype == tf.float32 for value in function.variables)


def test_graph_has_no_half_precision_left(exported):
    _, _, version = exported
    assert b"DT_BFLOAT16" not in (version / "saved_model.pb").read_bytes()
    assert not any(op.startswith("Xla") or "PyFunc" in op for op in gates.check(version))


def test_lite_computes_what_tensorflow_does(exported, tmp_path):
    report = export_lite(exported[0], tmp_path / "lite", RECORDS)
    assert report["compared"] > 0 and report["largest_difference"] < 1e-3
    assert not any(op.startswith("Flex") for op in report["ops"])
    assert (tmp_path / "lite" / "tokenizer" / "tokenizer.json").exists()


def test_next_export_is_the_next_version_and_the_command_line_works(exported):
    task, run, version = exported
    if (task.config.kind, task.config.model) != ("reading", "lstm"):
        pytest.skip("one kind shows it")
    command = [sys.executable, str(ROOT / "scripts" / "export.py"), str(run), str(version.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert versions(version.parent) == [1, 2]
    assert json.loads((version.parent / "lite" / "report.json").read_text())["compared"] > 0


def test_a_different_answer_fails_the_export(exported, tmp_path, monkeypatch):
    task, _, version = exported
    if task.config.kind == "reading":
        pytest.skip("one kind shows it")
    ask = task.ask
    monkeypatch.setattr(
        task, "ask", lambda *a, **k: [{**answer, "answer": answer["answer"] + "?"} for answer in ask(*a, **k)]
    )
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


def refused(module, tmp_path, match, **signatures):
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=signatures)
    with pytest.raises(UserError, match=match):
        gates.check(tmp_path / "m")


def test_gate_refuses_python(tmp_path):
    module = tf.Module()
    module.f = tf.function(
        lambda x: {"y": tf.ensure_shape(tf.py_function(lambda v: v, [x], tf.float32), [None])},
        input_signature=[tf.TensorSpec([None])],
    )
    refused(module, tmp_path, "EagerPyFunc", serving_default=module.f)


def test_gate_refuses_xla(tmp_path):
    module = tf.Module()
    inner = tf.function(lambda x: x * 2, jit_compile=True)
    module.f = tf.function(lambda x: {"y": inner(x)}, input_signature=[tf.TensorSpec([None])])
    refused(module, tmp_path, "XLA", serving_default=module.f)


def test_gate_refuses_tables_that_grow(tmp_path):
    module = tf.Module()
    module.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)

    def f(x):
        module.table.insert(x, tf.zeros_like(x, tf.int64))
        return {"y": module.table.lookup(x)}

    module.f = tf.function(f, input_signature=[tf.TensorSpec([None], tf.string)])
    refused(module, tmp_path, "grows", serving_default=module.f)


def test_gate_refuses_ops_that_servers_do_not_link(tmp_path):
    import tensorflow_text as tf_text

    module = tf.Module()
    module.f = tf.function(
        lambda x: {"y": tf_text.utf8_binarize(x)}, input_signature=[tf.TensorSpec([None], tf.string)]
    )
    refused(module, tmp_path, "does not link", serving_default=module.f)


def test_gate_refuses_a_fixed_batch(tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x * 2}, input_signature=[tf.TensorSpec([3])])
    refused(module, tmp_path, "batch dimension", serving_default=module.f)


def test_lite_refuses_flex(tmp_path):
    from keras_llm.export.lite import convert

    with pytest.raises(UserError, match="builtin ops only"):
        convert(tf.function(lambda x: tf.strings.lower(x), input_signature=[tf.TensorSpec([1], tf.string)]))


def test_verify_reports_a_crash(tmp_path):
    task = micro_task("closed_book", "lstm")
    save(task, tmp_path / "m")
    (tmp_path / "m" / "variables" / "variables.index").unlink()
    with pytest.raises(UserError, match="failed in a process of its own"):
        verify.compare(task, tmp_path / "m", RECORDS)

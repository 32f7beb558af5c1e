"""Training from files to a run: exact resuming after any stop, precision, early stop, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from programs import run as run_script

from keras_llm.run import Run
from keras_llm.training.train import check_run_dir

ROOT = Path(__file__).resolve().parent.parent
PAIRS = [
    ("什么是词元？", "文本的最小单位"),
    ("谁提出了注意力机制？", "Bahdanau"),
    ("LSTM 有几个门？", "三个 🙂"),
    ("What is BERT?", "an encoder"),
    ("What is a token?", "a piece of text"),
    ("Who wrote GloVe?", "Pennington et al."),
]
TINY = (
    "--kind closed_book --model lstm --preset tiny --tokenizer characters --vocabulary-size 400 --embedding-dim 8 "
    "--hidden-dim 8 --batch-size 2 --dropout 0.1 --max-answer-length 6 --max-question-length 8"
).split()


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in PAIRS), encoding="utf-8")
    return path


def command(*arguments):
    return [sys.executable, str(ROOT / "scripts" / "train_qa.py"), *map(str, arguments)]


def train(*arguments, expect=0):
    done = run_script("train_qa", *TINY, *arguments)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def weights(path):
    arrays = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


def same(a, b):
    assert a.keys() == b.keys() and a
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_killed_and_resumed_equals_uninterrupted(data, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    # The state is saved after every step, so that there is something to go on from in the middle of an epoch.
    common = ("--data", data, "--epochs", 60, "--save-every", "0s", "--evaluate-every", 60, "--ema", 0.9)
    train(*common, "--run", straight)
    for kill in (signal.SIGKILL, signal.SIGTERM):
        resume = ["--resume"] if stopped.exists() else []
        process = subprocess.Popen(command(*TINY, *common, "--run", stopped, *resume))
        state, before = stopped / "state" / "last.npz", None
        deadline = time.time() + 120
        while time.time() < deadline and process.poll() is None:
            now = state.stat().st_mtime_ns if state.exists() else None
            before = before or now if resume else 0
            if now and now != before:
                break
            time.sleep(0.005)
        process.send_signal(kill)
        code = process.wait(timeout=60)
        assert code == (-signal.SIGKILL if kill == signal.SIGKILL else 128 + signal.SIGTERM)
        with np.load(state) as stored:
            assert 0 < json.loads(str(stored["facts"]))["step"] < 180
    train(*common, "--run", stopped, "--resume")
    assert same(weights(straight / "model.weights.h5"), weights(stopped / "model.weights.h5"))


def test_precisions_train_and_keep_float32_weights(data, tmp_path):
    for precision in ("mixed_bfloat16", "mixed_float16"):
        run = tmp_path / precision
        train("--data", data, "--epochs", 2, "--run", run, "--precision", precision)
        assert {array.dtype.name for array in weights(run / "model.weights.h5").values()} == {"float32"}


def test_reports_scores_and_finishes(data, tmp_path):
    run = tmp_path / "run"
    out = train("--data", data, "--eval-data", data, "--epochs", 2, "--run", run).stdout
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 6 and metrics["evaluation"]["total"] == 6
    # The learning curve: one row an evaluation, the best of them what the kept weights score.
    assert [row["step"] for row in metrics["history"]] == [3, 6]
    assert max(row["cmrc_f1"] for row in metrics["history"]) == metrics["evaluation"]["cmrc_f1"]
    assert all(row["loss"] > 0 and row["seconds"] > 0 for row in metrics["history"])
    assert "cmrc_f1" in out and '"hidden_dim": 8' in out
    # Resuming a finished run has nothing left to do and says so.
    again = train("--data", data, "--eval-data", data, "--epochs", 2, "--run", run, "--resume").stdout
    assert "after 6 steps" in again
    assert json.loads((run / "metrics.json").read_text())["history"] == metrics["history"]
    # Values of a metric and losses are not compared with each other.
    done = train("--data", data, "--epochs", 2, "--run", run, "--resume", expect=2)
    assert "as it began, with --eval-data" in done.stderr and "Received: none. Give the same" in done.stderr
    part = ("--eval-data", data, "--max-eval-examples", 2)
    done = train("--data", data, *part, "--epochs", 2, "--run", run, "--resume", expect=2)
    assert "Received: other files, other contents or another --max-eval-examples. Give the same" in done.stderr


def test_early_stop_and_time_budget(data, tmp_path):
    run = tmp_path / "early"
    # A learning rate of practically nothing: the metric cannot improve after the first evaluation.
    quiet = ("--learning-rate", 1e-12, "--patience", 2, "--epochs", 50)
    train("--data", data, "--eval-data", data, "--run", run, *quiet)
    assert json.loads((run / "metrics.json").read_text())["steps"] == 9
    # An evaluation because time is up, after step 2, is none to be patient with; those after 3 and 6 are.
    sitting = ("--data", data, "--eval-data", data, "--run", tmp_path / "sittings", *quiet)
    train(*sitting, "--time-budget", 0)
    train(*sitting, "--time-budget", 0, "--resume")
    train(*sitting, "--resume")
    assert json.loads((tmp_path / "sittings" / "metrics.json").read_text())["steps"] == 6
    run = tmp_path / "short"
    out = train("--data", data, "--run", run, "--epochs", 5000, "--time-budget", "1s").stdout
    assert "Training ended (time)" in out
    assert (run / "model.weights.h5").exists()


def test_nan_stops_with_step_and_learning_rate(data, tmp_path):
    done = train("--data", data, "--run", tmp_path / "nan", "--learning-rate", 1e38, "--clip-norm", 0, expect=2)
    assert "finite loss" in done.stderr and "step" in done.stderr and "learning rate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "missing.jsonl", "--run", "new"], "missing.jsonl"),
        (["--data", "empty.jsonl", "--run", "new"], "empty"),
        (["--data", "latin.jsonl", "--run", "new"], "UTF-8"),
        (["--data", "broken.jsonl", "--run", "new"], "broken.jsonl:2"),
        (["--data", "duplicate.jsonl", "--run", "new"], "unique"),
        (["--data", "pairs.jsonl", "--run", "taken"], "exists already"),
        (["--data", "pairs.jsonl", "--run", "half", "--resume"], "half-written"),
        (["--data", "pairs.jsonl", "--run", "nowhere", "--resume"], "no such directory"),
        (["--data", "pairs.jsonl", "--run", "new", "--batch-size", "100"], "batch"),
        (["--data", "pairs.jsonl", "--run", "new", "--epochs", "0"], "epochs"),
        (["--data", "pairs.jsonl", "--run", "new", "--config", "odd.json"], "hidden_dim"),
        (
            ["--data", "pairs.jsonl", "--run", "new", "--config", "started.json"],
            "start from scratch. Received: runs/bert",
        ),
        (["--data", "pairs.jsonl", "--run", "new", "--tokenizer", "wordpiece"], "reversible"),
        (["--data", "pairs.jsonl", "--run", "new", "--time-budget", "soon"], "soon"),
        (["--data", "pairs.jsonl", "--run", "new", "--dropout", "1.5"], "dropout"),
    ],
    ids=lambda value: "-".join(map(str, value))[-40:] if isinstance(value, list) else None,
)
def test_bad_input_is_refused(data, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9", "answer": "a"}\n')
    (tmp_path / "broken.jsonl").write_text('{"question": "q", "answer": "a"}\n{"question": \n')
    (tmp_path / "duplicate.jsonl").write_text('{"id": 1, "question": "q", "answer": "a"}\n' * 2)
    (tmp_path / "odd.json").write_text('{"network": {"hiden_dim": 3}}')
    (tmp_path / "started.json").write_text('{"start": "runs/bert"}')
    (tmp_path / "taken").mkdir()
    (tmp_path / "half").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    done = run_script("train_qa", *TINY, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_resume_refuses_other_data_and_config(data, tmp_path):
    run = tmp_path / "run"
    train("--data", data, "--epochs", 1, "--run", run)
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text(encoding="utf-8") + '{"question": "new", "answer": "new"}\n', encoding="utf-8")
    assert "data it began with" in train("--data", other, "--epochs", 1, "--run", run, "--resume", expect=2).stderr
    done = train("--data", data, "--epochs", 2, "--run", run, "--resume", expect=2)
    assert "training.epochs: 1 → 2" in done.stderr
    done = train("--data", data, "--eval-data", data, "--epochs", 1, "--run", run, "--resume", expect=2)
    assert "as it began, without --eval-data" in done.stderr
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest.pop("evaluation") == ""
    (run / "manifest.json").write_text(json.dumps(manifest))  # as earlier versions wrote it
    check_run_dir(run, Run(run).config, manifest["data"], "of any data", True)


def test_unknown_flag_names_the_nearest(tmp_path):
    done = run_script("train_qa", *TINY, "--data", "x", "--run", "y", "--epoch", "3")
    assert done.returncode == 2 and "--epochs" in done.stdout + done.stderr


def test_disk_full_leaves_nothing_half_written(data, tmp_path):
    run = tmp_path / "run"
    train("--data", data, "--epochs", 1, "--run", run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code = (
        "import resource, signal, runpy, sys;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
        f"sys.argv = {[str(a) for a in ['train_qa.py', *TINY, '--data', data, '--epochs', 1, '--run', tmp_path / 'full']]!r};"
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r});"
        f"runpy.run_path({str(ROOT / 'scripts' / 'train_qa.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2, done.stdout + done.stderr
    assert "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob(".writing*"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

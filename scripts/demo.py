"""The whole story on the bundled data: train both kinds of question answering, evaluate, export, serve, ask."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import _path  # noqa: F401

from keras_llm.command_line import parse, run_script
from keras_llm.data.bundled import bundled
from keras_llm.errors import UserError
from keras_llm.export import NAMES

SCRIPTS = Path(__file__).resolve().parent
# name -> (kind, architecture)
MODELS = {"reader": ("reading", "lstm"), "memory": ("closed_book", "lstm")}


@dataclasses.dataclass
class Arguments:
    runs: Path = Path("runs/demo")
    """Directory for the runs; an earlier demo's are replaced, and nothing else may be in it."""
    exported: Path = Path("exported/demo")
    """Directory for the exported models; an earlier demo's are replaced, and nothing else may be in it."""


def main():
    arguments = parse(Arguments, __doc__)
    start = time.perf_counter()
    remove_earlier(arguments.runs, arguments.exported)
    rows = [train_and_export(name, *MODELS[name], arguments) for name in MODELS]
    answers = serve_and_ask(arguments.exported)
    report(rows, answers, arguments, time.perf_counter() - start)


def remove_earlier(runs, exported):
    """Removes an earlier demo's runs and exports; what export writes beside these is written anew."""
    try:
        for directory, beside in ((runs, ()), (exported, NAMES)):
            names = [path.name for path in directory.iterdir()] if directory.exists() else []
            others = sorted(name for name in names if name not in (*MODELS, *beside) and not name.startswith("."))
            if others:
                raise UserError(
                    f"The demo replaces {' and '.join(MODELS)} in directories that hold nothing else. "
                    f"Received: {directory} with {', '.join(others[:5])}. Name a directory of its own."
                )
        for path in (directory / name for directory in (runs, exported) for name in MODELS):
            if path.exists():
                shutil.rmtree(path)
    except OSError as error:
        raise UserError(f"{error.filename} could not be removed ({error.strerror}). Name another directory.") from None


def train_and_export(name, kind, model, arguments):
    """One row of the table: scores on the training questions and on those asked in other words."""
    run, data, dev = arguments.runs / name, bundled("train"), bundled("dev")
    train = ["--kind", kind, "--model", model, "--preset", "tiny", "--run", run]
    call("train_qa.py", *train, "--data", *data, "--eval-data", *dev, "--evaluate-every", 10)
    scores = {}
    for split, files in (("train", data), ("dev", dev)):
        output = run / f"evaluation.{split}.json"
        call("evaluate.py", run, "--data", *files, "--output", output)
        scores[split] = json.loads(output.read_text(encoding="utf-8"))["metrics"]
    call("export.py", run, arguments.exported / name)
    return name, f"{kind}, {model}", scores


def serve_and_ask(exported):
    """Starts the server on the exports and asks both models in both languages over REST."""
    from keras_llm.serving.client import ask

    paragraph = {
        "zh": first_context("zh"),
        "en": first_context("en"),
    }
    requests = [
        (name, {"question": question, **({"context": context} if name == "reader" else {})})
        for question, context in paragraph.values()
        for name in MODELS
    ]
    port = free_port()
    command = [sys.executable, str(SCRIPTS / "serve.py"), str(exported), "--rest-port", str(port)]
    print(f"\n$ {' '.join(['python', 'scripts/serve.py', *command[2:]])}", flush=True)
    server = subprocess.Popen(command)
    try:
        wait_until_up(server, port)
        return [
            (name, strings["question"], ask(f"http://127.0.0.1:{port}/v1/models/{name}", strings))
            for name, strings in requests
        ]
    finally:
        server.terminate()
        server.wait(timeout=30)


def first_context(language):
    """A training question of the bundled data in one language, with its context."""
    path = next(path for path in bundled("train") if f".{language}." in path.name)
    paragraph = json.loads(path.read_text(encoding="utf-8"))["data"][0]["paragraphs"][0]
    return paragraph["qas"][0]["question"], paragraph["context"]


def report(rows, answers, arguments, seconds):
    print(f"\n{'model':<8} {'kind':<20} {'train EM':>9} {'train F1':>9} {'dev EM':>8} {'dev F1':>8}")
    for name, what, scores in rows:
        values = [scores[s][f"cmrc_{m}"] for s in ("train", "dev") for m in ("exact_match", "f1")]
        print(f"{name:<8} {what:<20} {values[0]:>9.1f} {values[1]:>9.1f} {values[2]:>8.1f} {values[3]:>8.1f}")
    print("(dev asks about the same paragraphs in other words; per cent; Chinese by character, English by word)\n")
    for name, question, answer in answers:
        print(f"{name:<8} {question}\n{'':<8} → {answer['answer'] or '(no answer)'}   score {answer['score']:.3f}")
    print(f"\nRuns: {arguments.runs}   Exports: {arguments.exported}   {seconds / 60:.1f} minutes")
    print(f"Next: tensorboard --logdir {arguments.runs}")


def call(script, *arguments):
    """Runs one of the scripts as a user would, showing the command."""
    arguments = [str(argument) for argument in arguments]
    print(f"\n$ python scripts/{script} {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, str(SCRIPTS / script), *arguments], check=False)
    if done.returncode:
        raise UserError(f"scripts/{script} ended with exit code {done.returncode}. Its message stands above.")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_up(server, port, seconds=120):
    for _ in range(seconds * 10):
        if server.poll() is not None:
            raise UserError(f"scripts/serve.py ended with exit code {server.returncode}. Its message stands above.")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise UserError(f"The server did not answer within {seconds} seconds. See its output above.")


if __name__ == "__main__":
    run_script(main)

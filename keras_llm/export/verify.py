"""Proof that an export answers as Python does: the same questions, in another process, example by example."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from keras_llm.errors import UserError

LEAST = 64  # answers compared
TOLERANCE = 1e-3  # of scores: sums in another batch shape come in another order
CLEAN_PROCESS = Path(__file__).with_name("clean_process.py")

# Texts that break careless graphs; zipped with real ones they become requests of their own.
DIFFICULT = (
    "",
    " ",
    "\n\t ",
    "？",
    "！！！，。；：“”‘’（）《》",
    "𠮷野家の龘靐齉爩，𪚥。",
    "🙂👩‍👩‍👧‍👦🇨🇳 emoji 😀",
    "naïve café Å Ａ１ ﬁ",
    "\x00\x01\x1f control \x7f\u200b\u202e",
    "[CLS] [SEP] <s> </s> <pad> <0x41> ▁",
    "ＦＵＬＬ　ＷＩＤＴＨ　ｔｅｘｔ",
    "المعنى עברית हिन्दी ไทย",
    "a" * 3000,
    "语言模型" * 1500,
    "What is a language model? " * 300,
)


def compare(task, directory: str | Path, records: Sequence[dict]) -> dict:
    """Compares a SavedModel's answers with `task.ask`.

    Args:
        task: the task in this process.
        directory: the SavedModel.
        records: real requests; the difficult ones above are added.

    Returns:
        The report: what was compared, in which batches, largest score difference, seconds.

    Raises:
        UserError: strings or integers differ, or a score by more than the tolerance; or the clean process failed.
    """
    requests = [{name: record[name] for name in task.inputs} for record in records]
    requests += _difficult(task.inputs, requests)
    expected = task.ask(requests)
    # One by one and in batches of unequal lengths: the batch must not change an answer.
    singles = min(16, len(requests))
    batches = [[i] for i in range(singles)] + [
        list(range(first, min(first + 24, len(requests)))) for first in range(0, len(requests), 24)
    ]
    start = time.perf_counter()
    answers = _clean_process(directory, [[requests[i] for i in batch] for batch in batches], task.inputs)
    seconds = time.perf_counter() - start
    largest, compared = 0.0, 0
    for batch, columns in zip(batches, answers, strict=True):
        for place, i in enumerate(batch):
            compared += 1
            for name, want in expected[i].items():
                got = columns[name][place]
                if isinstance(want, str):
                    got = base64.b64decode(got).decode("utf-8")
                if isinstance(want, float):
                    largest = max(largest, abs(got - want))
                    same = abs(got - want) <= TOLERANCE
                else:
                    same = got == want
                if not same:
                    raise UserError(
                        f"An export must answer as Python does. Received: {name}={got!r} instead of {want!r} for "
                        f"{ {key: value[:80] for key, value in requests[i].items()} } in a batch of {len(batch)}."
                    )
    if compared < LEAST:
        raise UserError(f"At least {LEAST} answers are compared. Received: {compared}. Give more --data.")
    return {
        "compared": compared,
        "requests": len(requests),
        "batch_sizes": sorted({len(batch) for batch in batches}),
        "process": "python with tensorflow and tensorflow_text only",
        "tensorflow": _version("tensorflow"),
        "differences": 0,
        "largest_score_difference": largest,
        "seconds": round(seconds, 1),
    }


def _difficult(inputs, requests):
    real = requests[0] if requests else dict.fromkeys(inputs, "language model")
    made = [dict.fromkeys(inputs, text) for text in DIFFICULT]
    for name in inputs:
        made += [{**real, name: text} for text in DIFFICULT]
    return made


def _clean_process(directory, batches, inputs):
    with tempfile.TemporaryDirectory() as folder:
        requests, answers = Path(folder) / "requests.json", Path(folder) / "answers.json"
        encoded = [
            {name: [base64.b64encode(request[name].encode()).decode() for request in batch] for name in inputs}
            for batch in batches
        ]
        requests.write_text(json.dumps(encoded), encoding="utf-8")
        # -I: neither the current directory nor PYTHONPATH can lend the process our package.
        command = [sys.executable, "-I", str(CLEAN_PROCESS), str(directory), str(requests), str(answers)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(
                f"The exported model failed in a process of its own (exit code {done.returncode}):\n{done.stderr[-2000:]}"
            )
        return json.loads(answers.read_text(encoding="utf-8"))


def _version(package):
    from importlib.metadata import version

    return version(package)

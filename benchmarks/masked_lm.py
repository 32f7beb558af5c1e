"""A masked language model's accuracy beside guesses from counts, on the same hidden tokens; prints JSON.

python benchmarks/masked_lm.py runs/encoder --data held_out.txt
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_llm.command_line import parse, run_script
from keras_llm.errors import UserError


@dataclasses.dataclass
class Arguments:
    run: tyro.conf.Positional[Path]
    """Directory of a run of kind masked_lm; its training data is what is counted."""
    data: tuple[Path, ...]
    """Held-out documents."""
    weights: str = "best"
    """"best" or "last"."""


def main():
    arguments = parse(Arguments, __doc__)
    from keras_llm.data.prepared import Prepared
    from keras_llm.metrics.masked import CountingGuess
    from keras_llm.run import Run, load

    run = Run(arguments.run)
    if run.config.kind != "masked_lm":
        raise UserError(f"Masks are what masked_lm models fill. Received: a run of kind {run.config.kind}.")
    task = load(arguments.run, arguments.weights)
    records, _ = task.read(arguments.data)
    prepared = Prepared.open(run.prepared)
    guess = CountingGuess(prepared.features["token_ids"], prepared.splits["token_ids"])
    found = guess.accuracy(task.evaluation_batches(records))
    start = time.perf_counter()
    found |= task.evaluate(records)
    found["seconds"] = round(time.perf_counter() - start, 1)
    metrics = json.loads(run.metrics.read_text(encoding="utf-8")) if run.metrics.exists() else {}
    print(
        json.dumps({**found, "parameters": task.model.count_params(), "history": metrics.get("history", [])}, indent=1)
    )


if __name__ == "__main__":
    run_script(main)

"""Greedy decoding speed and peak memory of our loop beside KerasHub's generate and a cached PyTorch loop.

python benchmarks/decoding_speed.py --output docs/results/decoding_speed.json
python benchmarks/decoding_speed.py --quick

A GPT of 13.8 million weights continues a prompt of 32 tokens by 128. Ours and KerasHub's run as TensorFlow graphs without XLA, as
the stock TensorFlow Serving does; PyTorch runs eagerly. "ratio" is a peer's time to ours: above 1.0 we are faster.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import interleaved, peers

SHAPE = {"vocabulary": 8000, "width": 384, "layers": 6, "heads": 6, "length": 256, "prompt": 32, "new": 128}
ENGINES = ("keras_llm", "keras_hub", "torch")
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass
class Arguments:
    batches: tuple[int, ...] = (1, 8)
    """Rows decoded together."""
    threads: tuple[int, ...] = (0, 1)
    """Threads that share one product; 0 takes all cores. Servers set it by --tensorflow_intra_op_parallelism."""
    precisions: tuple[str, ...] = PRECISIONS
    """Which of float32, bfloat16 (weights too)."""
    rounds: int = 9
    """Rounds in which each engine has its turn."""
    steps: int = 3
    """Texts a turn."""
    quick: bool = False
    """Three rounds of one text: a look, not a result."""
    output: Path | None = None
    """JSON file for the raw times."""
    worker: str | None = None
    """For the script's own use."""


def main():
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.worker:
        settings = json.loads(arguments.worker)
        interleaved.serve(lambda: peers.DECODING[settings["engine"]](settings))
        return
    rounds, steps = (3, 1) if arguments.quick else (arguments.rounds, arguments.steps)
    result = {"environment": interleaved.environment(), "shape": SHAPE, "results": []}
    print(
        f"{'precision':11}{'batch':>5}{'threads':>9}  {'engine':11}{'tokens/s':>10}{'ratio':>7}{'peak MB':>9}{'weights':>12}"
    )
    for precision, batch, threads in itertools.product(arguments.precisions, arguments.batches, arguments.threads):
        setting = {"precision": precision, "batch": batch, "threads": threads}
        candidates = {engine: {"engine": engine, **setting, **SHAPE} for engine in ENGINES}
        for engine, values in interleaved.measure(__file__, candidates, rounds, steps).items():
            tokens = batch * SHAPE["new"] / values["median_seconds"]
            result["results"].append({**setting, "engine": engine, "tokens_per_second": tokens, **values})
            print(
                f"{precision:11}{batch:5}{threads:9}  {engine:11}{tokens:10,.0f}{values['ratio']:7.2f}"
                f"{values['peak_megabytes']:9,.0f}{values['weights']:12,}",
                flush=True,
            )
    interleaved.write(arguments.output, result)


if __name__ == "__main__":
    main()

"""Greedy decoding speed and peak memory of our loop beside KerasHub's generate and a cached PyTorch loop.

python benchmarks/decoding_speed.py --output docs/results/decoding_speed.json
python benchmarks/decoding_speed.py --quick

A GPT of 13.8 million weights continues a prompt of 32 tokens by 128. Ours and KerasHub's run as TensorFlow graphs without XLA, as
the stock TensorFlow Serving does; PyTorch runs eagerly. bfloat16 means the weights, too. "ratio" is a peer's time to ours: above
1.0 we are faster.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import interleaved
from benchmarks.decoding_peers import DECODING

SHAPE = {"vocabulary": 8000, "width": 384, "layers": 6, "heads": 6, "length": 256, "prompt": 32, "new": 128}


@dataclasses.dataclass
class Arguments(interleaved.Arguments):
    batches: tuple[int, ...] = (1, 8)
    """Rows decoded together."""
    threads: tuple[int, ...] = (0, 1)
    """Threads that share one product; 0 takes all cores. Servers set it by --tensorflow_intra_op_parallelism."""
    steps: int = 2
    """Texts a turn."""


def main():
    arguments = tyro.cli(Arguments, description=__doc__)
    settings = [
        {"precision": precision, "batch": batch, "threads": threads}
        for precision, batch, threads in itertools.product(arguments.precisions, arguments.batches, arguments.threads)
    ]
    shapes = [{**SHAPE, "tokens": setting["batch"] * SHAPE["new"]} for setting in settings]
    interleaved.compare(__file__, arguments, DECODING, settings, shapes)


if __name__ == "__main__":
    main()

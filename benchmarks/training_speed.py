"""Training speed and peak memory of our layers beside the same models from KerasHub's layers and in PyTorch.

python benchmarks/training_speed.py --output docs/results/training_speed.json
python benchmarks/training_speed.py --quick

Whole steps (forward, loss, backward, AdamW) on one fixed batch, without XLA and torch.compile; bfloat16 is mixed. The same
sizes, number of weights and exact GELU everywhere; no dropout. "ratio" is a peer's time to ours: above 1.0 we are faster.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import interleaved
from benchmarks.training_peers import TRAINING

SHAPES = {
    # 13.8 million weights; tied head, learned positions, normalisation first.
    "gpt": {"batch": 8, "length": 256, "vocabulary": 8000, "width": 384, "layers": 6, "heads": 6},
    "encoder": {"batch": 16, "length": 128, "vocabulary": 8000, "width": 384, "layers": 6, "heads": 6},
    "lstm": {"batch": 32, "length": 100, "vocabulary": 8000, "embedding": 128, "units": 256},
}


@dataclasses.dataclass
class Arguments(interleaved.Arguments):
    shapes: tuple[str, ...] = tuple(SHAPES)
    """Which of gpt, encoder, lstm."""


def main():
    arguments = tyro.cli(Arguments, description=__doc__)
    settings = [
        {"shape": shape, "precision": precision}
        for shape, precision in itertools.product(arguments.shapes, arguments.precisions)
    ]
    shapes = [SHAPES[setting["shape"]] for setting in settings]
    shapes = [{**shape, "tokens": shape["batch"] * shape["length"]} for shape in shapes]
    interleaved.compare(__file__, arguments, TRAINING, settings, shapes)


if __name__ == "__main__":
    main()

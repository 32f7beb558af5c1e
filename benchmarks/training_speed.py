"""Training speed and peak memory of our layers beside the same models from KerasHub's layers and in PyTorch.

python benchmarks/training_speed.py --output docs/results/training_speed.json
python benchmarks/training_speed.py --quick

Whole steps (forward, loss, backward, AdamW) on one fixed batch, without XLA and without torch.compile. The same sizes, number of
weights and exact GELU everywhere; no dropout. "ratio" is a peer's time to ours: above 1.0 we are faster.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import interleaved, peers

SHAPES = {
    # 13.8 million weights; tied head, learned positions, normalisation first.
    "gpt": {"batch": 8, "length": 256, "vocabulary": 8000, "width": 384, "layers": 6, "heads": 6},
    "encoder": {"batch": 16, "length": 128, "vocabulary": 8000, "width": 384, "layers": 6, "heads": 6},
    "lstm": {"batch": 32, "length": 100, "vocabulary": 8000, "embedding": 128, "units": 256},
}
ENGINES = ("keras_llm", "keras_hub", "torch")
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass
class Arguments:
    shapes: tuple[str, ...] = tuple(SHAPES)
    """Which of gpt, encoder, lstm."""
    precisions: tuple[str, ...] = PRECISIONS
    """Which of float32, bfloat16 (mixed)."""
    rounds: int = 7
    """Rounds in which each engine has its turn."""
    steps: int = 5
    """Training steps a turn."""
    quick: bool = False
    """Three rounds of two steps: a look, not a result."""
    output: Path | None = None
    """JSON file for the raw times."""
    worker: str | None = None
    """For the script's own use."""


def main():
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.worker:
        settings = json.loads(arguments.worker)
        interleaved.serve(lambda: peers.TRAINING[settings["engine"]](settings))
        return
    rounds, steps = (3, 2) if arguments.quick else (arguments.rounds, arguments.steps)
    result = {"environment": interleaved.environment(), "shapes": SHAPES, "results": []}
    print(f"{'shape':9}{'precision':11}{'engine':11}{'tokens/s':>10}{'ratio':>7}{'peak MB':>9}{'weights':>12}")
    for shape in arguments.shapes:
        for precision in arguments.precisions:
            candidates = {
                engine: {"engine": engine, "shape": shape, "precision": precision, **SHAPES[shape]}
                for engine in ENGINES
            }
            found = interleaved.measure(__file__, candidates, rounds, steps)
            for engine, values in found.items():
                tokens = SHAPES[shape]["batch"] * SHAPES[shape]["length"] / values["median_seconds"]
                row = {"shape": shape, "precision": precision, "engine": engine, "tokens_per_second": tokens, **values}
                result["results"].append(row)
                print(
                    f"{shape:9}{precision:11}{engine:11}{tokens:10,.0f}{values['ratio']:7.2f}"
                    f"{values['peak_megabytes']:9,.0f}{values['weights']:12,}",
                    flush=True,
                )
    interleaved.write(arguments.output, result)


if __name__ == "__main__":
    main()

"""The same training with several seeds: what of a result is chance."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from keras_llm import files
from keras_llm.config import Config
from keras_llm.errors import UserError
from keras_llm.run import Run
from keras_llm.training.train import refuse_existing, train_run


def train_seeds(
    config: Config,
    directory: str | Path,
    seeds: int,
    data: Sequence[Path],
    eval_data: Sequence[Path] = (),
    resume: bool = False,
    say: Callable[[str], None] = print,
    **others,
) -> int:
    """Trains one run a seed, `seed-0`, `seed-1` …, and leaves mean and standard deviation of their metrics in `seeds.json`.

    Args:
        config: every setting; its seed is the first.
        directory: gets the runs; must not exist, unless `resume`.
        seeds: how many, at least 2.
        data, eval_data, say, others: as for `train_run`.
        resume: go on where it stopped, as `train_run` does: runs that are finished are evaluated again, not trained;
            those that `time_budget` ended train further.

    Returns:
        Exit code: 0, or 128 + n when a signal n stopped it.

    Raises:
        UserError: as `train_run`; to resume, there is no such directory.
    """
    directory = Path(directory)
    if seeds < 2:
        raise UserError(f"seeds must be at least 2, to compare. Received: {seeds}. Leave it out for one run.")
    refuse_existing(directory, resume)
    if resume and not directory.is_dir():
        raise UserError(
            f"--resume continues runs that were begun. Received: {directory}: no such directory. Check --run."
        )
    found = {}
    for seed in range(config.training.seed, config.training.seed + seeds):
        run = directory / f"seed-{seed}"
        one = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=seed))
        code = train_run(one, run, data, eval_data, resume=run.exists(), say=say, **others)
        if code:
            return code
        metrics = json.loads(Run(run).metrics.read_text(encoding="utf-8"))
        found[seed] = metrics.get("evaluation", metrics["train"])
    summary = summarise(found)
    files.write_json(directory / "seeds.json", summary)
    for name, value in summary["mean"].items():
        say(f"{name}: {value:.4g} ± {summary['deviation'][name]:.2g}")
    say(f"The runs and seeds.json are in {directory}")
    return 0


def summarise(found: dict[int, dict[str, float]]) -> dict:
    """Metrics by seed -> `seeds`, `mean`, `deviation` (of a sample: n - 1) and `each`.

    Example:

    >>> summarise({0: {"f1": 0.5}, 1: {"f1": 0.7}})["mean"]
    {'f1': 0.6}
    """
    rows = list(found.values())
    names = [name for name in rows[0] if all(isinstance(row.get(name), int | float) for row in rows)]
    return {
        "seeds": list(found),
        "mean": {name: statistics.fmean(row[name] for row in rows) for name in names},
        "deviation": {name: statistics.stdev(row[name] for row in rows) for name in names},
        "each": rows,
    }

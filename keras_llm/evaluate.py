"""Evaluating a run: its metrics over labelled data, with what is needed to repeat them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from keras_llm import files
from keras_llm.config import FieldConfig
from keras_llm.data.prepared import fingerprint
from keras_llm.errors import UserError
from keras_llm.run import Run, load
from keras_llm.tasks.documents import DocumentTask
from keras_llm.tasks.writing import Writing


def evaluate_run(
    run_dir: str | Path,
    data: Sequence[Path],
    output: Path | None = None,
    predictions: Path | None = None,
    weights: str = "best",
    say: Callable[[str], None] = print,
    fields: FieldConfig | None = None,
    decoding: Mapping[str, float] | None = None,
) -> dict:
    """Metrics of a run over files.

    Args:
        run_dir: a run directory.
        data: files that the task's reader understands.
        output: where to write the metrics as JSON, with the data's hash, the config and the time.
        predictions: where to write {id: answer, label or entities}, for questions the form the SQuAD and CMRC scripts read.
        weights: "best" or "last".
        say: receives what is told to the user.
        fields: which columns or keys hold what, where these files differ from those of the training.
        decoding: for models that write, other settings of the beams than the run's: `num_beams`, `length_penalty`,
            `no_repeat_ngram_size`.

    Returns:
        What `output` gets.

    Raises:
        UserError: `output` and `predictions` are one file, or the model has no predictions; see also `load` and the readers.
    """
    if output and predictions and Path(output).resolve() == Path(predictions).resolve():
        raise UserError(f"--output and --predictions are two files. Received: {output} for both. Name another one.")
    task = load(run_dir, weights)
    if predictions and isinstance(task, DocumentTask):
        raise UserError(f"--predictions belong to labelled data. Received: a {task.kind} run. Leave it out.")
    if decoding:
        _choose_decoding(task, decoding)
    task.config.writing.max_judged = 0  # the rest is left out while training alone
    records, report = task.read(data, fields)
    for line in report.lines():
        say(line)
    start = time.perf_counter()
    metrics = task.evaluate(records)
    seconds = time.perf_counter() - start
    run = Run(run_dir)
    result = {
        "metrics": metrics,
        "notes": task.metric_notes,
        "settings": task.settings,
        "run": Path(run_dir).name,
        "weights": weights,
        "data": [Path(path).name for path in data],
        **({"fields": vars(fields.over(task.config.fields))} if fields and any(vars(fields).values()) else {}),
        **({"decoding": dict(decoding)} if decoding else {}),
        "data_hash": fingerprint(*map(Path, data)),
        "examples": len(records),
        **report.facts(),
        "seconds": round(seconds, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "training": json.loads(run.metrics.read_text(encoding="utf-8")) if run.metrics.exists() else None,
        "config": json.loads((run.path / "config.json").read_text(encoding="utf-8")),
    }
    width = max(map(len, metrics))
    for name, value in metrics.items():
        say(f"{name:<{width}}  {value:.4g}")
    say(f"{len(records)} records in {seconds:.1f} s ({len(records) / seconds:.1f} a second)")
    if output:
        files.write_json(output, result)
        say(f"Written: {output}")
    for name, note in task.metric_notes.items():
        say(f"{name}: {note}")
    if predictions:
        files.write_json(predictions, task.predictions(records))
        say(f"Written: {predictions}")
    return result


def _choose_decoding(task, decoding):
    if not isinstance(task, Writing):
        raise UserError(
            f"{' and '.join(decoding)} choose what models of kind seq2seq and generation write. Received: a {task.kind} run. "
            "Leave it out."
        )
    task.decode_by(**decoding)

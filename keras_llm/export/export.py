"""From a run or a preset to what is deployed: the SavedModel with its proof, TFLite files, and what starts a server on them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_llm.config import FieldConfig
from keras_llm.data.bundled import bundled
from keras_llm.data.documents import existing, read_text
from keras_llm.data.readers import read_squad
from keras_llm.errors import UserError
from keras_llm.export import deployment, gates
from keras_llm.export.lite import check_formats, export_lite, has_lite
from keras_llm.export.saved_model import export_task
from keras_llm.run import load

COMPARED = 96  # real requests in the proof; evaluating all of a large set would only repeat them


def export_run(
    run_dir: str | Path,
    directory: str | Path,
    data: Sequence[Path] = (),
    lite: Sequence[str] | None = None,
    server: str = gates.DEFAULT_SERVER,
    fields: FieldConfig | None = None,
) -> Iterator[str]:
    """Exports a run; yields lines to print as it goes.

    Args:
        run_dir: a run directory.
        directory: where versions of the exported model live; what deploys all models beside it is written to its parent.
        data: files with requests for the proof; default: the bundled questions.
        lite: formats of the files in `directory/lite/`, of `lite.FORMATS`; empty: no such files. None: float32 where such a
            run has such files.
        server: version of the stock tensorflow_model_server it is for, a key of `gates.SERVERS["servers"]`.
        fields: which columns or keys of `data` hold what, where they differ from those of the training.

    Raises:
        UserError: the run is not whole, fields are given without files, a gate is shut, or an answer differs.
    """
    if fields and any(vars(fields).values()) and not data:
        raise UserError("Fields belong to files. Received: --text-field or another one without --data. Name the files.")
    task = load(run_dir)
    lite = (("float32",) if has_lite(task) else ()) if lite is None else lite
    check_formats(lite, task)
    records = task.read(data, fields)[0] if data else task.bundled()
    records = task.requests(_spread(records, COMPARED))
    target = export_task(task, directory, records, server)
    yield from _proven(target, server)
    if lite:
        for name, facts in export_lite(task, Path(directory) / "lite", records, lite):
            yield (
                f"{Path(directory) / 'lite' / name}: {facts['size_bytes'] / 1e6:.1f} MB, {facts['agreement']:.0%} of "
                f"{facts['compared']} answers equal to Python's, {facts['milliseconds']['1']} ms each"
            )
    yield from _deployable(target.parent.parent)


def export_hub(
    folder: str | Path,
    directory: str | Path,
    data: Sequence[Path] = (),
    server: str = gates.DEFAULT_SERVER,
    kind: str | None = None,
    max_length: int | None = None,
    max_answer_length: int | None = None,
) -> Iterator[str]:
    """Exports a KerasHub preset or a Hugging Face checkpoint as `export_run` exports a run; yields lines to print.

    Args:
        folder: the preset's or checkpoint's directory.
        directory, server: as for `export_run`.
        data: UTF-8 files with texts for the proof, one a line; default: the bundled questions and paragraphs.
        kind, max_length, max_answer_length: see `keras_llm.hub.preset.open_preset`.

    Raises:
        UserError: the folder holds nothing that can be exported, a gate is shut, or an answer differs.
    """
    from keras_llm.hub.preset import open_preset  # KerasHub takes seconds to import

    texts = list(_lines(data)) if data else _bundled_texts()
    task = open_preset(folder, kind, max_length, max_answer_length)
    longest = f", answers of at most {task.longest}" if hasattr(task, "longest") else ""
    yield f"{folder}: {type(task.model).__name__} as {task.kind}, texts of at most {task.limit} ids{longest}"
    records = [{"text": task.example(text)} for text in _spread(texts, COMPARED // 3)]
    target = export_task(task, directory, records, server)
    yield from _proven(target, server)
    yield from _deployable(target.parent.parent)


def _spread(records: list, count: int) -> list:
    """So many of them, from all parts of the list."""
    return records[:: max(len(records) // count, 1)][:count]


def _lines(paths):
    for path in existing(paths):
        yield from (line for line in read_text(path).splitlines() if line.strip())


def _bundled_texts():
    records, _ = read_squad(bundled("dev"))
    return list(dict.fromkeys(record[name] for record in records for name in ("question", "context")))


def _proven(target, server):
    report = json.loads((target / "report.json").read_text(encoding="utf-8"))
    yield (
        f"{target}: {report['size_bytes'] / 1e6:.1f} MB for server {server}, {report['compared']} answers of "
        f"{report['requests']} requests compared (largest score difference {report['largest_score_difference']:.1e})"
    )
    for name, facts in report["consumers"].items():
        done = facts if isinstance(facts, str) else f"equal to Python's here, {facts['seconds']} s"
        yield f"  {name}: {done}"


def _deployable(directory):
    written, kept = deployment.write(directory)
    yield f"{directory}: {', '.join(written)}"
    if kept:
        yield f"  left as they are, since they are not ours: {', '.join(kept)}"

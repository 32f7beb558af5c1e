"""From a run to what is deployed: the SavedModel with its proof, TFLite files, and what starts a server on them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_llm.data.bundled import bundled
from keras_llm.export import deployment, gates
from keras_llm.export.lite import check_formats, export_lite
from keras_llm.export.saved_model import export_task
from keras_llm.run import load

COMPARED = 96  # real requests in the proof; evaluating all of a large set would only repeat them


def export_run(
    run_dir: str | Path,
    directory: str | Path,
    data: Sequence[Path] = (),
    lite: Sequence[str] = ("float32",),
    server: str = gates.DEFAULT_SERVER,
) -> Iterator[str]:
    """Exports a run; yields lines to print as it goes.

    Args:
        run_dir: a run directory.
        directory: where versions of the exported model live; what deploys all models beside it is written to its parent.
        data: files with requests for the proof; default: the bundled questions.
        lite: formats of the files in `directory/lite/`, of `lite.FORMATS`; none: no such files.
        server: version of the stock tensorflow_model_server it is for, a key of `gates.SERVERS["servers"]`.

    Raises:
        UserError: the run is not whole, a gate is shut, or an answer differs.
    """
    check_formats(lite)
    task = load(run_dir)
    records, _ = task.read(list(data) or bundled("dev"))
    step = max(len(records) // COMPARED, 1)
    records = records[::step][:COMPARED]
    target = export_task(task, directory, records, server)
    report = json.loads((target / "report.json").read_text(encoding="utf-8"))
    yield (
        f"{target}: {report['size_bytes'] / 1e6:.1f} MB for server {server}, {report['compared']} answers of "
        f"{report['requests']} requests compared (largest score difference {report['largest_score_difference']:.1e})"
    )
    for name, facts in report["consumers"].items():
        done = facts if isinstance(facts, str) else f"equal to Python's here, {facts['seconds']} s"
        yield f"  {name}: {done}"
    if lite:
        for name, facts in export_lite(task, Path(directory) / "lite", records, lite):
            yield (
                f"{Path(directory) / 'lite' / name}: {facts['size_bytes'] / 1e6:.1f} MB, {facts['agreement']:.0%} of "
                f"{facts['compared']} answers equal to Python's, {facts['milliseconds']['1']} ms each"
            )
    written, kept = deployment.write(target.parent.parent)
    yield f"{target.parent.parent}: {', '.join(written)}"
    if kept:
        yield f"  left as they are, since they are not ours: {', '.join(kept)}"

"""What starts a server on all exported models of a directory: TF Serving's configs, Docker, Kubernetes, and the commands.

The files are templates of the package, filled in for the models that lie there, and rewritten at each export. A file of the
same name that we did not write, or whose first line was removed, is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from string import Template
from urllib.parse import quote

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from keras_llm import files
from keras_llm.errors import UserError
from keras_llm.export import NAMES, gates
from keras_llm.export.saved_model import versions

TEMPLATES = Path(__file__).with_name("templates")
WRITTEN = "Written anew at each export by scripts/export.py; take this line away to keep changes of your own."
# MiB: the server itself, and each model once more while a new version of it is being loaded.
SERVER_MEMORY, MEMORY_STEP = 1024, 256
MOST_SHOWN = 8  # numbers of a vector in README.md


class _Template(Template):
    delimiter = "@"  # shell commands are full of dollars


def write(directory: str | Path) -> tuple[list[str], list[str]]:
    """Writes the files of `NAMES` for every model in a directory, each all or nothing.

    Args:
        directory: holds `NAME/VERSION/saved_model.pb` for each model.

    Returns:
        Names of the files written, and of those left as they were because they are not ours.

    Raises:
        UserError: the directory holds no exported model, or cannot be written.

    Example:

    >>> write("exported")[0][0]
    'models.config'
    """
    directory = Path(directory)
    written, kept = [], []
    with _locked(directory):
        contents = _contents(_models(directory))
        for name in NAMES:
            path = directory / name
            if path.exists() and WRITTEN not in path.read_bytes().partition(b"\n")[0].decode("utf-8", "replace"):
                kept.append(name)
                continue
            with files.replacing(path) as temporary:
                temporary.write_text(contents[name], encoding="utf-8")
            written.append(name)
    return written, kept


def _models(directory) -> dict[str, dict]:
    """The report of each model's newest version, by name."""
    models = {}
    for model in sorted(path for path in directory.iterdir() if path.is_dir()):
        whole = [version for version in versions(model) if (model / str(version) / "saved_model.pb").exists()]
        if whole:
            facts = {"version": whole[-1], "lite": (model / "lite" / "report.json").exists()}
            models[model.name] = {"size_bytes": 0, **_report(model / str(whole[-1])), **facts}
    if not models:
        raise UserError(
            f"{directory} must hold exported models, NAME/1/saved_model.pb. Received: none. Export one first."
        )
    return models


def _report(version) -> dict:
    """Empty for a version that another program put there."""
    try:
        return json.loads((version / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _contents(models) -> dict[str, str]:
    # A newer server links all that an older one does: the newest that any model was made for runs them all.
    server = max(
        (m.get("server", gates.DEFAULT_SERVER) for m in models.values()), key=lambda s: tuple(map(int, s.split(".")))
    )
    tag = hashlib.sha256(json.dumps(models, sort_keys=True).encode()).hexdigest()[:12]
    memory = SERVER_MEMORY + 2 * sum(m["size_bytes"] for m in models.values()) // 2**20
    values = {
        "image": gates.SERVERS["servers"][server]["image"],
        "tagged": f"tensorflow-serving-models:{tag}",
        "status_path": f"/v1/models/{quote(next(iter(models)))}",
        "memory": -(-memory // MEMORY_STEP) * MEMORY_STEP,
        "table": _table(models),
        "lite": _lite([name for name, m in models.items() if m["lite"]]),
        "examples": "".join(_examples(name, m) for name, m in models.items()),
    }
    contents = {"models.config": f"# {WRITTEN}\n{_models_config(models)}"}
    for name in NAMES[1:]:
        text = _Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values)
        first = f"<!-- {WRITTEN} -->" if name.endswith(".md") else f"# {WRITTEN}"
        contents[name] = f"{first}\n{text}"
    return contents


def _models_config(models):
    config = ModelServerConfig()
    for name in models:
        config.model_config_list.config.add(name=name, base_path=f"/models/{name}", model_platform="tensorflow")
    return text_format.MessageToString(config, as_utf8=True)


def _table(models):
    rows = ["| model | version | signature | asked with | answers |", "|---|---|---|---|---|"]
    for name, m in models.items():
        for signature, facts in m.get("signatures", {"": {"inputs": {}, "outputs": {}}}).items():
            sides = (", ".join(f"`{k}` {v}" for k, v in facts[side].items()) for side in ("inputs", "outputs"))
            rows.append(f"| {name} | {m['version']} | {signature} | {' | '.join(sides)} |")
    return "\n".join(rows)


def _examples(name, model):
    """One request of each signature as a shell command, of the default one in both JSON forms, and what it answers."""
    url, parts = f"http://localhost:8501/v1/models/{quote(name)}:predict", []
    for signature, facts in model.get("signatures", {}).items():
        request, head = facts["example"]["request"], {}
        if signature != "serving_default":
            head = {"signature_name": signature}
        forms = [{**head, "instances": [request]}]
        if not head:
            forms.append({"inputs": {key: [value] for key, value in request.items()}})
        commands = "\n".join(f"curl {url} -d {shlex.quote(json.dumps(form, ensure_ascii=False))}" for form in forms)
        answer = json.dumps({"predictions": [_shown(facts["example"]["answer"])]}, ensure_ascii=False)
        what = f"signature `{signature}`" if head else "a list of requests, then columns"
        parts.append(f"\n`{name}`, {what}:\n\n```\n{commands}\n```\n\nThe first one answers `{answer}`.\n")
    return "".join(parts)


def _shown(answer):
    """An answer as TF Serving writes it, a single output without its name; of a vector only where it begins."""
    if len(answer) == 1:
        (answer,) = answer.values()
        return _short(answer)
    return {name: _short(value) for name, value in answer.items()}


def _short(value):
    return [*value[:MOST_SHOWN], "..."] if isinstance(value, list) and len(value) > MOST_SHOWN else value


def _lite(names):
    """How to run the `.tflite` files, where there are some."""
    return (TEMPLATES / "lite.md").read_text(encoding="utf-8").replace("NAME", names[0]) if names else ""


@contextlib.contextmanager
def _locked(directory) -> Iterator[None]:
    """One export at a time looks which models there are and writes: the last to write has seen them all."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

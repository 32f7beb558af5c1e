"""The import arrows of docs/architecture.md, read from the source, and what importing a package may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "keras_llm"
EVERYWHERE = {"errors", "files", "config", "validation", "settings_of_kinds", "presets"}
LEAVES = {"text", "data", "metrics", "layers", "generation"}
# part -> what it may import besides EVERYWHERE and itself
ARROWS = {
    **{leaf: set() for leaf in LEAVES},
    "errors": set(),
    "files": set(),
    "config": set(),
    "validation": {"generation"},
    "settings_of_kinds": set(),
    "presets": set(),
    "vectors": set(),
    "models": {"layers"},
    "tasks": LEAVES | {"models"},
    "run": LEAVES | {"models", "tasks"},
    "hub": LEAVES | {"models", "tasks", "checkpoints"},
    "evaluate": LEAVES | {"models", "tasks", "run"},
    "augmentation": LEAVES | {"models", "tasks", "run"},
    "similarity": LEAVES | {"models", "tasks", "run"},
    "generate": LEAVES | {"models", "tasks", "run"},
    "compare": LEAVES | {"models", "tasks", "run", "training"},
    "training": LEAVES | {"models", "tasks", "run", "vectors", "checkpoints"},
    "export": LEAVES | {"models", "tasks", "run", "hub"},
    "serving": LEAVES | {"models", "tasks", "run"},
    "checkpoints": LEAVES | {"models", "tasks", "run"},
    "command_line": set(),
    "__init__": {"run"},
}
# Need ops that Keras has no name for, where Keras runs on TensorFlow, and import it only there.
IN_A_TENSORFLOW_BRANCH = {"layers/cache.py", "models/ngram.py", "training/optimizers.py"}
WITHOUT_TENSORFLOW = ["layers", "models", "generation", "training", "vectors", "data/prepared.py", "data/batches.py"]


def imports(path):
    """Dotted names a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path):
    part = part_of(path)
    parts = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()}
    used = {name.split(".")[1] for name in imports(path) if name.startswith("keras_llm.")} & parts
    assert used - EVERYWHERE - {part} <= ARROWS[part]


@pytest.mark.parametrize("where", WITHOUT_TENSORFLOW)
def test_numeric_parts_do_not_import_tensorflow(where):
    start = PACKAGE / where
    for path in [start] if start.is_file() else start.rglob("*.py"):
        if str(path.relative_to(PACKAGE)) in IN_A_TENSORFLOW_BRANCH:
            continue
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"tensorflow", "tensorflow_text", "keras_hub"}, path


@pytest.mark.parametrize("module", ["keras_llm", "keras_llm.config", "keras_llm.command_line", "keras_llm.run"])
def test_light_modules_load_no_framework(module):
    code = f"import sys, {module}; sys.exit(bool({{'tensorflow', 'keras', 'jax', 'numpy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False).returncode == 0


def test_training_on_jax_never_loads_tensorflow():
    pytest.importorskip("jax")
    code = (
        "import sys, keras_llm.tasks, keras_llm.models, keras_llm.training.trainer, keras_llm.training.observers;"
        "sys.exit('tensorflow' in sys.modules)"
    )
    environment = {"KERAS_BACKEND": "jax", "PATH": "", "HOME": str(Path.home())}
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, env=environment).returncode == 0

"""Scripts in the tests' own process, which has TensorFlow loaded already."""

import contextlib
import io
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def run(name, *arguments):
    """`python scripts/name.py arguments…`.

    Returns:
        A `subprocess.CompletedProcess` with returncode, stdout and stderr.
    """
    path = str(SCRIPTS / f"{name}.py")
    arguments = [path, *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", arguments), mock.patch.object(sys, "path", [str(SCRIPTS), *sys.path]):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(path, run_name="__main__")
                code = 0
            except SystemExit as end:
                code = end.code or 0
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

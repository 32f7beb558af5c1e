"""Writing files so that a stop, a crash or a full disk never leaves half of one behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_llm.errors import UserError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; what was written there takes its place when the block ends well.

    The temporary name keeps the last two suffixes, since writers look at them (`model.weights.h5`).

    Raises:
        UserError: the disk is full or not writable. What stood at `path` is untouched.

    Example:

    >>> with replacing("metrics.json") as temporary:
    ...     temporary.write_text("{}")
    """
    path = Path(path)
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}). "
            "Nothing that was there before is lost. Free some space or choose another place."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the parent may be a file
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def creating(path: str | Path) -> Iterator[Path]:
    """Gives a temporary directory beside `path` that becomes `path` when the block ends well, else vanishes.

    Raises:
        UserError: `path` exists, or the disk is full or not writable.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists already. Choose another name or remove it.")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".writing-{path.name}-", dir=path.parent))
        temporary.chmod(
            0o755
        )  # mkdtemp gives 0700: a server running as another user must be able to read what we write
        yield temporary
        os.rename(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}). Nothing half-written is left there. "
            "Free some space or choose another place."
        ) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as readable UTF-8 JSON, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

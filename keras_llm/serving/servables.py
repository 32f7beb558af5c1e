"""The models below a directory, `NAME/VERSION/saved_model.pb`: of each, the newest version that loads is served.

New versions are found by polling. One is put in the old one's place only after it has loaded, by one assignment;
requests under way keep the version they began with. A version that does not load is reported, and tried again when
its files change; the old one goes on serving.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keras_llm.errors import UserError
from keras_llm.serving.status import ServingError, invalid

if TYPE_CHECKING:
    from keras_llm.serving.servable import Servable

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """How one version of a model stands."""

    version: int
    state: str
    """LOADING, AVAILABLE, UNLOADING or END."""
    code: str = "OK"
    message: str = ""


class Servables:
    """The loaded models.

    Args:
        root: a directory of models.

    Raises:
        UserError: no model lies there, or none of them loads.

    Example:

    >>> servables = Servables("exported")
    >>> with servables.watched(seconds=1.0):
    ...     answer = servables.find("reader").run("serving_default", inputs)
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._serving: dict[str, Servable] = {}
        self._statuses: dict[str, dict[int, VersionStatus]] = {}
        self._broken: dict[Path, tuple] = {}  # version directory -> the state of its files when it did not load
        self._refreshing = threading.Lock()
        if not self.root.is_dir() or not versions_on_disk(self.root):
            raise _nothing_there(self.root)
        self.refresh()
        if not self._serving:
            reasons = "; ".join(
                f"{name} version {status.version}: {status.message}"
                for name in sorted(self._statuses)
                for status in self.statuses(name)
            )
            raise UserError(f"At least one model must load. Received: {self.root} ({reasons}). Export again.")

    def names(self) -> list[str]:
        """The models that are being served."""
        return sorted(self._serving)

    def find(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The servable a request asks for.

        Args:
            name: of the model.
            version: a certain one; otherwise the one being served.
            label: names a version too. There are none unless a configuration gives them.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for a label.
        """
        if label is not None:
            raise invalid(f"Unrecognized servable version label: {label}")
        servable = self._serving.get(name)
        if servable is None or version not in (None, servable.version):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServingError("NOT_FOUND", f"Servable not found for request: {wanted}")
        return servable

    def statuses(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Every version of a model met since the start, newest first, or a certain one.

        Raises:
            ServingError: NOT_FOUND.
        """
        statuses = self._statuses.get(name, {})
        if version is not None and version not in statuses:
            raise ServingError("NOT_FOUND", f"Could not find version {version} of model {name}")
        if not statuses:
            raise ServingError("NOT_FOUND", f"Could not find any versions of model {name}")
        return [statuses[key] for key in sorted(statuses, reverse=True) if version in (None, key)]

    @contextlib.contextmanager
    def watched(self, seconds: float) -> Iterator[Servables]:
        """Looks for new versions in the background, as long as the `with` block runs."""
        stopped = threading.Event()

        def watch():
            told = ""
            while not stopped.wait(seconds):
                try:
                    self.refresh()
                    told = ""
                except Exception as error:  # a network disk may come back: go on, and tell it once
                    if str(error) != told:
                        logger.error("Looking for new versions below %s failed: %s", self.root, error)
                    told = str(error)

        thread = threading.Thread(target=watch, name="servables", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stopped.set()
            thread.join()

    def refresh(self) -> None:
        """Looks once: loads new versions, drops models whose directory is gone.

        Raises:
            OSError: the directory cannot be read; what is loaded stays.
        """
        with self._refreshing:
            found = versions_on_disk(self.root)
            for name in sorted(found.keys() | self._serving.keys()):
                if found.get(name):
                    self._load_newest(name, found[name])
                else:
                    self._unload(name)

    def _load_newest(self, name: str, found: dict[int, Path]) -> None:
        old = self._serving.get(name)
        for version in sorted(found, reverse=True):
            if old is not None and version == old.version:
                return
            if servable := self._load(name, version, found[version]):
                if old is not None:
                    self._note(name, VersionStatus(old.version, "UNLOADING"))
                self._serving[name] = servable
                self._note(name, VersionStatus(version, "AVAILABLE"))
                logger.info("%s: version %d is served.", name, version)
                if old is not None:
                    self._note(name, VersionStatus(old.version, "END"))
                    del old
                    gc.collect()  # a loaded graph refers to itself
                return

    def _load(self, name: str, version: int, directory: Path) -> Servable | None:
        files = _state_of_files(directory)
        if self._broken.get(directory) == files:
            return None
        from keras_llm.serving.servable import Servable  # TensorFlow: not before something is found

        self._note(name, VersionStatus(version, "LOADING"))
        try:
            servable = Servable(name, version, directory)
        except ServingError as error:
            self._broken[directory] = files
            self._note(name, VersionStatus(version, "END", error.code, error.message))
            serving = self._serving.get(name)
            kept = f" Version {serving.version} goes on serving." if serving else ""
            logger.error("%s: version %d does not load: %s%s", name, version, error.message, kept)
            return None
        self._broken.pop(directory, None)
        return servable

    def _unload(self, name: str) -> None:
        servable = self._serving.pop(name)
        self._note(name, VersionStatus(servable.version, "END"))
        logger.info("%s: version %d is gone from the disk and no longer served.", name, servable.version)
        del servable
        gc.collect()

    def _note(self, name: str, status: VersionStatus) -> None:
        self._statuses[name] = {**self._statuses.get(name, {}), status.version: status}  # readers see old or new


def versions_on_disk(root: Path) -> dict[str, dict[int, Path]]:
    """model name -> version number -> directory, for every directory that has versions."""
    found = {}
    for model in sorted(root.iterdir()):
        if model.is_dir() and not model.name.startswith("."):
            versions = {
                int(entry.name): entry
                for entry in model.iterdir()
                if entry.name.isascii() and entry.name.isdigit() and (entry / "saved_model.pb").is_file()
            }
            if versions:
                found[model.name] = versions
    return found


def _state_of_files(directory: Path) -> tuple:
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return tuple((str(file), status.st_size, status.st_mtime_ns) for file in files for status in [file.stat()])


def _nothing_there(root: Path) -> UserError:
    if not root.is_dir():
        return UserError(
            f"Models are served from a directory with NAME/VERSION/saved_model.pb below it. Received: {root}, which is "
            f"{'not a directory' if root.exists() else 'not there'}. Give the directory exports were written to."
        )
    hint = "Export a model first: python scripts/export.py RUN " + str(root / "NAME")
    if (root / "saved_model.pb").is_file():
        hint = f"This is one version of a model: give {root.parent.parent}"
    elif any(root.glob("*/saved_model.pb")):
        hint = f"This is one model: give {root.parent}"
    return UserError(
        f"NAME/VERSION/saved_model.pb must lie below the directory. Received: {root}, without one. {hint}."
    )

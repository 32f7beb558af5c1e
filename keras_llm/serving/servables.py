"""The models in memory: which versions are served, how each stands, and their change while requests are answered.

New versions are found by polling. One is served as soon as it has loaded, by one assignment; only then the versions it
takes the place of go, and requests under way keep the version they began with. A version that does not load is reported,
and tried again when its files change; what was served before goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from keras_llm.errors import UserError
from keras_llm.serving import model_config
from keras_llm.serving.batching import Batching
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
        config: which of them, which versions, and labels; without it the newest version of every model in `root`.
        allow_labels_for_unavailable: as in TF Serving, labels may name versions that are not served yet.
        batching: joins requests that come together.

    Raises:
        UserError: no model lies there, or none of them loads; or one that `config` names does not.

    Example:

    >>> servables = Servables("exported")
    >>> with servables.watched(seconds=1.0):
    ...     servable = servables.find("reader")
    """

    def __init__(
        self,
        root: str | Path,
        config: ModelServerConfig | None = None,
        allow_labels_for_unavailable: bool = False,
        batching: Batching | None = None,
    ):
        self.root = Path(root)
        self._batching = batching
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._models: Callable[[], Sequence[ModelConfig]] = lambda: model_config.folder(self.root)
        self._labels: dict[str, dict[str, int]] = {}
        self._serving: dict[str, dict[int, Servable]] = {}
        self._statuses: dict[str, dict[int, VersionStatus]] = {}
        self._broken: dict[Path, tuple] = {}  # version directory -> the state of its files when it did not load
        self._missing: set[str] = set()  # base paths that were told to be gone
        self._changing = threading.Lock()
        if config is not None:
            try:
                self.reload(config)
            except ServingError as error:
                hint = ""
                if error.code == "FAILED_PRECONDITION":
                    hint = " Give --allow-version-labels-for-unavailable-models, to TF Serving, too."
                raise UserError(f"The models listed must load. Received: {error.message}.{hint}") from None
            return
        if not self.root.is_dir() or not self._models():
            raise model_config.nothing_there(self.root)
        self.refresh()
        if not self._serving:
            raise UserError(f"At least one model must load. Received: {self.root} ({self._reasons()}). Export again.")

    def names(self) -> list[str]:
        """The models that are being served."""
        return sorted(self._serving)

    def known(self, name: str) -> str:
        """A model's name, or "" for one that was never served: clients' inventions are not kept in memory."""
        return name if name in self._statuses else ""

    def find(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The servable a request asks for.

        Args:
            name: of the model.
            version: a certain one; otherwise the newest that is served.
            label: names a version too.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for a label that is none.
        """
        if label is not None:
            version = self._labels.get(name, {}).get(label)
            if version is None:
                raise invalid(f"Unrecognized servable version label: {label}")
        versions = self._serving.get(name, {})
        found = versions.get(max(versions, default=0) if version is None else version)
        if found is None:
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServingError("NOT_FOUND", f"Servable not found for request: {wanted}")
        return found

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
        """Looks once: loads new versions, drops those that are no longer wanted.

        Raises:
            OSError: a directory cannot be read; what is loaded stays.
        """
        with self._changing:
            self._follow(self._models())

    def reload(self, config: ModelServerConfig) -> None:
        """Takes another configuration in the place of the present one: models that it does not list are dropped.

        New models are loaded first. Where that fails, nothing changes.

        Raises:
            ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION for a configuration that cannot be, UNKNOWN for a model
                that does not load.
        """
        with self._changing:
            before = self._models() if self._serving else ()
            models = model_config.checked(config, self.root, before)
            labels = model_config.labels_of(models, self._serving, self._labels, self._allow_labels_for_unavailable)
            new = [model for model in models if model.name not in self._serving]
            for model in new:
                self._update(model)
            failed = [model.name for model in new if not self._serving.get(model.name)]
            if failed:
                for model in new:
                    self._retire(model.name, self._serving.get(model.name, ()))
                raise ServingError("UNKNOWN", self._unavailable(failed))
            self._models, self._labels = lambda: models, labels
            self._follow(models)

    def _follow(self, models: Sequence[ModelConfig]) -> None:
        for model in models:
            self._update(model)
        for name in self._serving.keys() - {model.name for model in models}:
            self._retire(name, self._serving[name])

    def _update(self, model: ModelConfig) -> None:
        """Loads and drops versions of one model."""
        base = Path(model.base_path)
        if not base.is_dir():  # perhaps only for a moment: what is served stays
            if model.base_path not in self._missing:
                logger.error("Could not find base path %s for servable %s", base, model.name)
            self._missing.add(model.base_path)
            return
        self._missing.discard(model.base_path)
        found = model_config.versions_on_disk(base)
        wanted, how_many = model_config.aspired(model, found)
        before, available = set(self._serving.get(model.name, ())), set()
        for version in wanted:
            if len(available) < how_many and (version in before or self._load(model.name, version, found[version])):
                available.add(version)
        if available or not wanted:
            self._retire(model.name, before - available)

    def _load(self, name: str, version: int, directory: Path) -> bool:
        """Loads and serves one version."""
        files = _state_of_files(directory)
        if self._broken.get(directory) == files:
            return False
        from keras_llm.serving.servable import Servable  # TensorFlow: not before something is found
        from keras_llm.serving.warmup import warm_up

        self._note(name, VersionStatus(version, "LOADING"))
        try:
            servable = Servable(name, version, directory, self._batching)
            warm_up(servable, directory)
        except ServingError as error:
            self._broken[directory] = files
            self._note(name, VersionStatus(version, "END", error.code, error.message))
            kept = ", ".join(map(str, sorted(self._serving.get(name, {}))))
            kept = f" Version {kept} goes on serving." if kept else ""
            logger.error("%s: version %d does not load: %s%s", name, version, error.message, kept)
            return False
        self._broken.pop(directory, None)
        self._serving = {**self._serving, name: {**self._serving.get(name, {}), version: servable}}
        self._note(name, VersionStatus(version, "AVAILABLE"))
        logger.info("%s: version %d is served.", name, version)
        return True

    def _retire(self, name: str, versions: Collection[int]) -> None:
        """Serves these versions no longer."""
        versions = sorted(versions)
        if not versions:
            return
        for version in versions:
            self._note(name, VersionStatus(version, "UNLOADING"))
        kept = {version: servable for version, servable in self._serving[name].items() if version not in versions}
        serving = {**self._serving, name: kept}
        if not kept:
            del serving[name]
        self._serving = serving
        gc.collect()  # a loaded graph refers to itself
        for version in versions:
            self._note(name, VersionStatus(version, "END"))
            logger.info("%s: version %d is no longer served.", name, version)

    def _note(self, name: str, status: VersionStatus) -> None:
        self._statuses[name] = {**self._statuses.get(name, {}), status.version: status}  # readers see old or new

    def _reasons(self) -> str:
        return "; ".join(
            f"{name} version {status.version}: {status.message}"
            for name in sorted(self._statuses)
            for status in self.statuses(name)
        )

    def _unavailable(self, names: Sequence[str]) -> str:
        """TF Serving's words for models that do not load."""
        entries = [
            f"{{{{name: {name} version: {status.version}}} due to error: {status.code}: {status.message}}}, "
            for name in names
            for status in self._statuses.get(name, {}).values()
            if status.code != "OK"
        ] or [f"{{{{name: {name}}} due to error: NOT_FOUND: it has no version on the disk}}, " for name in names]
        return f"{len(entries)} model(s) did not become available: {{{''.join(entries)}}}"


def _state_of_files(directory: Path) -> tuple:
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return tuple((str(file), status.st_size, status.st_mtime_ns) for file in files for status in [file.stat()])

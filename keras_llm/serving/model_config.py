"""Which models are served and which of their versions: TF Serving's ModelServerConfig, or every model of a directory.

Source: tensorflow/serving, `model_servers/server_core.cc`, `sources/storage_path/file_system_storage_path_source.cc`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from tensorflow_serving.config.model_server_config_pb2 import TENSORFLOW, ModelConfig, ModelServerConfig

from keras_llm.errors import UserError
from keras_llm.serving.status import ServingError, invalid

MOUNTED = Path("/models")
"""Where docker-compose.yml and kubernetes.yaml put the directory of exports, and their models.config names it."""


def folder(root: Path) -> list[ModelConfig]:
    """Every directory of `root` with versions in it, newest version served."""
    return [
        ModelConfig(name=model.name, base_path=str(model), model_platform="tensorflow")
        for model in sorted(root.iterdir())
        if model.is_dir() and not model.name.startswith(".") and versions_on_disk(model)
    ]


def checked(config: ModelServerConfig, root: Path, before: Iterable[ModelConfig] = ()) -> list[ModelConfig]:
    """The models of a configuration.

    Args:
        config: of TF Serving.
        root: relative base paths are below it; and so are those below /models where that directory is not there, so
            that the models.config of an export serves outside of a container, too.
        before: what was served until now.

    Raises:
        ServingError: INVALID_ARGUMENT for a configuration that is none.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
        )
    models, platforms = {}, {model.name: _platform(model) for model in before}
    for given in config.model_config_list.config:
        if given.name in models:
            raise invalid(f"Illegal to list model {given.name} multiple times in config list")
        model = ModelConfig()
        model.CopyFrom(given)
        model.base_path = str(_located(Path(given.base_path), root))
        platform = _platform(given)
        if platforms.get(given.name, platform) != platform:
            raise invalid(
                f"Illegal to change a model's platform. For model {given.name} platform was "
                f"{platforms[given.name]} and new platform requested is {platform}"
            )
        if platform != "tensorflow":
            raise invalid(f"Model {given.name} requests unsupported platform {platform}")
        if not Path(model.base_path).is_dir():
            raise invalid(f"Could not find base path {model.base_path} for servable {given.name}")
        models[given.name] = model
    return list(models.values())


def aspired(model: ModelConfig, found: Mapping[int, Path]) -> tuple[list[int], int]:
    """The versions that a model's policy asks for.

    Args:
        model: its configuration.
        found: version -> directory, as they lie on the disk.

    Returns:
        Versions, newest first, and how many of them are to be served.
    """
    policy = model.model_version_policy
    newest_first = sorted(found, reverse=True)
    kind = policy.WhichOneof("policy_choice")
    if kind == "specific":
        versions = [version for version in newest_first if version in policy.specific.versions]
        return versions, len(versions)
    if kind == "all":
        return newest_first, len(newest_first)
    return newest_first, max(policy.latest.num_versions, 1)


def labels_of(
    models: Iterable[ModelConfig],
    available: Mapping[str, Collection[int]],
    before: Mapping[str, Mapping[str, int]],
    allow_unavailable: bool,
) -> dict[str, dict[str, int]]:
    """model -> label -> version, for all models that have labels.

    Args:
        models: the configuration.
        available: model -> versions that are served now.
        before: the labels until now.
        allow_unavailable: a label may be given to a version that is not served yet, unless it names another one.

    Raises:
        ServingError: FAILED_PRECONDITION for a label of a version that is not available.
    """
    labels = {}
    for model in models:
        for label, version in model.version_labels.items():
            moved = before.get(model.name, {}).get(label, version) != version
            if version not in available.get(model.name, ()) and (moved or not allow_unavailable):
                raise ServingError(
                    "FAILED_PRECONDITION",
                    f"Request to assign label to version {version} of model {model.name}, "
                    "which is not currently available for inference",
                )
        if model.version_labels:
            labels[model.name] = dict(model.version_labels)
    return labels


def versions_on_disk(model: Path) -> dict[int, Path]:
    """version number -> directory."""
    return {
        int(entry.name): entry
        for entry in sorted(model.iterdir())
        if entry.name.isascii() and entry.name.isdigit() and (entry / "saved_model.pb").is_file()
    }


def nothing_there(root: Path) -> UserError:
    """What is wrong with a directory without models."""
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


def _located(path: Path, root: Path) -> Path:
    if not path.is_absolute():
        return root.absolute() / path
    if path.is_relative_to(MOUNTED) and not MOUNTED.exists():
        return root.absolute() / path.relative_to(MOUNTED)
    return path


def _platform(model: ModelConfig) -> str:
    if model.model_type and model.model_platform:
        raise invalid(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform, "
            f"model name is {model.name}"
        )
    if model.model_type not in (0, TENSORFLOW):
        raise invalid(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    if not model.model_type and not model.model_platform:
        raise invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, "
            f"model name is {model.name}"
        )
    return "tensorflow" if model.model_type else model.model_platform

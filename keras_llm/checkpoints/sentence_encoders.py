"""How a sentence encoder makes one vector of a text, as the files of sentence-transformers say it, read and written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from keras_llm import files
from keras_llm.checkpoints.files import read_json
from keras_llm.config import Config
from keras_llm.errors import UserError

POOLING = {"mean_tokens": "mean", "cls_token": "first", "max_tokens": "max"}
MODULES = "sentence_transformers.models."


def pooling_of(folder: Path) -> tuple[str, bool]:
    """What the files beside a checkpoint say; without them, the mean, and length 1.

    Returns:
        "mean", "first" or "max", and whether vectors are made to have length 1.

    Raises:
        UserError: another pooling, or a model with more layers.
    """
    modules = _list(folder / "modules.json")
    path = folder / "1_Pooling" / "config.json"
    settings = read_json(path) if path.exists() else {}
    on = [
        name.removeprefix("pooling_mode_") for name, on in settings.items() if name.startswith("pooling_mode_") and on
    ]
    if len(on or [0]) != 1 or any(name not in POOLING for name in on):
        raise UserError(f"{path} must choose one of {', '.join(POOLING)}. Received: {', '.join(on)}.")
    kinds = [str(module.get("type", "")) for module in modules]
    strange = [kind for kind in kinds if not kind.endswith(("Transformer", "Pooling", "Normalize"))]
    if strange:
        raise UserError(
            f"{folder / 'modules.json'} must consist of Transformer, Pooling and Normalize. Received: {', '.join(strange)}. "
            "Choose a model without such a layer."
        )
    return POOLING[(on or ["mean_tokens"])[0]], not modules or any(kind.endswith("Normalize") for kind in kinds)


def read_pooling(folder: Path, config: Config) -> Config:
    """A config with a checkpoint's pooling and its longest text.

    Raises:
        UserError: see `pooling_of`; or texts are changed before they are tokenized.
    """
    pooling, normalise = pooling_of(folder)
    path = folder / "sentence_bert_config.json"
    settings = read_json(path) if path.exists() else {}
    longest, context = settings.get("max_seq_length") or 0, config.network.context_length
    path = folder / "config_sentence_transformers.json"
    prompt = (read_json(path) if path.exists() else {}).get("default_prompt_name")
    if prompt:
        raise UserError(
            f"{path}: default_prompt_name must be null: it puts words before every text. Received: {prompt!r}. "
            "Set it to null and put them into the texts."
        )
    return dataclasses.replace(
        config,
        network=dataclasses.replace(config.network, pooling=pooling),
        lengths=dataclasses.replace(config.lengths, max_text_length=longest if longest < context else 0),
        embedding=dataclasses.replace(config.embedding, normalise=normalise),
    )


def write_pooling(folder: Path, config: Config) -> None:
    """The way back of `read_pooling`."""
    network = config.network
    modes = {f"pooling_mode_{theirs}": ours == network.pooling for theirs, ours in POOLING.items()}
    (folder / "1_Pooling").mkdir()
    files.write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": network.embedding_dim, **modes})
    names = ["Transformer", "Pooling", *["Normalize"] * config.embedding.normalise]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": MODULES + name}
        for i, name in enumerate(names)
    ]
    files.write_json(folder / "modules.json", modules)
    longest = config.lengths.max_text_length or network.context_length
    files.write_json(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})


def _list(path: Path) -> list[dict]:
    """The modules; none where there is no such file."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} must be JSON. Received: {error}. Fetch the checkpoint again.") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError(f"{path} must be a list of objects. Fetch the checkpoint again.")
    return modules

"""A run in Hugging Face's form, to be read by `transformers` and whatever else reads that."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from keras_llm import files
from keras_llm.checkpoints.files import write_tensors
from keras_llm.checkpoints.table import to_theirs
from keras_llm.config import Config
from keras_llm.errors import UserError
from keras_llm.run import load, named_weights


def export_checkpoint(run_dir: str | Path, folder: str | Path, say: Callable[[str], None] = print) -> None:
    """Writes config.json, model.safetensors and the tokenizer's files of a run; the folder appears whole or not at all.

    Args:
        run_dir: an imported run, fine-tuned or not, or one trained here whose network has the form of a family.
        folder: must not exist.
        say: receives what is told to the user.

    Raises:
        UserError: the run has no Hugging Face form, and why; the folder exists or cannot be written.

    Example:

    >>> export_checkpoint("runs/gpt2", "gpt2-again")
    >>> transformers.AutoModelForCausalLM.from_pretrained("gpt2-again")
    """
    import keras

    if Path(folder).exists():
        raise UserError(f"{folder} exists already. Choose another name or remove it.")
    task = load(run_dir)
    family = family_of(task.config)
    weights = {name: keras.ops.convert_to_numpy(weight.value) for name, weight in named_weights(task.model).items()}
    config, weights = with_a_head(task.config, weights)
    described = family.write_config(config, task.tokenizer)
    tensors = to_theirs(family.table(config, task.tokenizer.vocabulary_size), weights)
    with files.creating(folder) as directory:
        family.write_tokenizer(directory, task.tokenizer, config)
        files.write_json(directory / "config.json", described)
        write_tensors(directory, tensors)
    say(f"{folder}: {described['model_type']}, {sum(array.size for array in tensors.values()):,} numbers")


def family_of(config: Config):
    """The module of the family that a run's network may have the form of."""
    kinds = {"masked_lm": "bert", "embedding": "bert", "seq2seq": "t5"}
    kinds["causal_lm"] = "gpt2" if config.network.positions == "learned" else "llama"
    if config.kind not in kinds or config.model != "transformer":
        raise UserError(
            f"Transformers of kind {', '.join(kinds)} have a Hugging Face form. Received: kind={config.kind}, "
            f"model={config.model}."
        )
    name = kinds[config.kind]
    if name == "bert" and config.text.tokenizer == "byte_pair":
        name = "roberta"
    return importlib.import_module(f"keras_llm.checkpoints.{name}")


def with_a_head(config: Config, weights: Mapping[str, np.ndarray]) -> tuple[Config, dict[str, np.ndarray]]:
    """The same model with a matrix of its own as head, where no family has a model in which one matrix serves both: language
    models that scale their embedding, and encoder-decoders that do not scale what enters the head.
    """
    network, weights = config.network, dict(weights)
    scaled = config.kind == "causal_lm" and network.scale_embedding
    apart = config.kind == "seq2seq" and network.tied and not network.scale_head
    if not (scaled or apart):
        return config, weights
    embeddings = weights["embedding/embeddings"]
    if network.tied:
        size, width = embeddings.shape
        weights["head/kernel"] = embeddings if width > size else embeddings.T  # as `Linear` keeps it
    if scaled:
        weights["embedding/embeddings"] = embeddings * np.float32(math.sqrt(network.embedding_dim))
        network = dataclasses.replace(network, scale_embedding=False)
    return dataclasses.replace(config, network=dataclasses.replace(network, tied=False)), weights

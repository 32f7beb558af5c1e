"""Where fine-tuning starts: tokenizer, shape and weights of a run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from keras_llm.config import SENTINELS, Config
from keras_llm.errors import UserError

# What belongs to the weights and cannot be chosen anew.
SHAPE = (
    "embedding_dim hidden_dim num_layers num_heads num_kv_heads feedforward_dim positions norm norm_first activation attention "
    "context_length order direct_connections tied segments"
).split()


@dataclasses.dataclass
class Start:
    """A trained model to go on from.

    Attributes:
        name: what the user named.
        config: its config.
        tokenizer: function that opens its tokenizer.
        arrays: its weights by their path below the model.
    """

    name: str
    config: Config
    tokenizer: object
    arrays: dict


def started(path: str | Path) -> Config:
    """The config of the model that a run directory holds; see `open_start`."""
    from keras_llm.run import Run

    config = Run(path).config
    if config.model == "ngram":
        raise UserError(f"An n-gram model has no weights to start from. Received: {path}. Choose another run.")
    return config


def open_start(path: str | Path) -> Start:
    """A run directory to start from; its best weights are read.

    Raises:
        UserError: it is not a whole run.
    """
    from keras_llm.run import Run, read_weights

    config, run = started(path), Run(path)
    arrays = read_weights(run.best_weights)[1]
    if config.kind == "span_corruption":  # its sentinels are ids above the tokenizer's, which no other kind has
        arrays["embedding/embeddings"] = arrays["embedding/embeddings"][:-SENTINELS]
    return Start(str(path), config, run.tokenizer, arrays)


def adopt(config: Config, start: Config) -> Config:
    """A config with the tokenizer and the shape of the model it starts from; dropout, lengths and training stay its own.

    Raises:
        UserError: the models are built differently.
    """
    if config.model != start.model:
        raise UserError(
            f"Weights go from a model to one of the same kind. Received: --model {config.model} from a run with {start.model}. "
            f"Give --model {start.model}."
        )
    shape = {name: getattr(start.network, name) for name in SHAPE}
    # Sentence pairs were told apart by segments, whatever the config said of them.
    shape["segments"] |= start.kind == "masked_lm" and start.masking.next_sentence or start.labels.pair
    return dataclasses.replace(config, text=start.text, network=dataclasses.replace(config.network, **shape))


def start_weights(task, start: Start) -> list[str]:
    """Gives a model's weights the values of those with the same path; what the task adds, its heads, stays as it is.

    Args:
        task: its model is changed.
        start: from `open_start`.

    Returns:
        Lines that tell what was taken and what is new.

    Raises:
        UserError: a weight that is none of a head is missing there, or has another shape.
    """
    from keras_llm.run import named_weights

    heads = getattr(task.model, "heads", ())
    named, fresh = named_weights(task.model), []
    for name, weight in named.items():
        stored = start.arrays.get(name)
        if stored is not None and stored.shape == tuple(weight.shape):
            weight.assign(stored)
        elif name.partition("/")[0] in heads:
            fresh.append(name)
        else:
            raise UserError(
                f"A {task.kind} model starts from a model with the same body. Received: {start.name}, where {name} is "
                f"{'missing' if stored is None else stored.shape}, here {tuple(weight.shape)}. Start from another run."
            )
    taken = sum(math.prod(weight.shape) for name, weight in named.items() if name not in fresh)
    lines = [f"{len(named) - len(fresh)} of {len(named)} weights from {start.name}: {taken:,} parameters"]
    return lines + ([f"new: {', '.join(fresh)}"] if fresh else [])

"""Where a training starts that is not from scratch: tokenizer, shape and weights of a run, or of a checkpoint in Hugging Face's
form."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from keras_llm.config import SENTINELS, Config, differences, has_segments
from keras_llm.errors import UserError

# What is chosen anew; all else in the network's shape belongs to the weights.
CHOSEN = ("dropout", "recurrent_dropout", "token_dropout", "vectors", "freeze_embeddings", "pooling")

PRETRAINED = ("causal_lm", "masked_lm", "span_corruption")  # kinds that learn from documents
ROW = 1024  # tokens; Llamas and Qwens read far more at once than rows of a training usually have

ENCODING = ("masked_lm", "embedding", "classification", "tagging")  # kinds whose Transformers are encoders


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
    """The config of the model that a run directory or a checkpoint holds; see `open_start`."""
    from keras_llm.checkpoints.importing import is_checkpoint, read_config
    from keras_llm.run import Run

    if is_checkpoint(path):
        return read_config(path)
    config = Run(path).config
    if config.model == "ngram":
        raise UserError(f"An n-gram model has no weights to start from. Received: {path}. Choose another run.")
    return config


def open_start(path: str | Path) -> Start:
    """A run directory to start from, of which the best weights are read, or a checkpoint's folder.

    Raises:
        UserError: it is not a whole run, or a checkpoint that is not supported.
    """
    from keras_llm.checkpoints.importing import is_checkpoint, open_checkpoint
    from keras_llm.run import Run, named_weights, read_weights

    if is_checkpoint(path):
        task = open_checkpoint(path)
        arrays = {name: np.asarray(weight.value) for name, weight in named_weights(task.model).items()}
        tokenizer = task.tokenizer
        return Start(str(path), task.config, lambda: tokenizer, arrays)
    config, run = started(path), Run(path)
    return Start(str(path), config, run.tokenizer, read_weights(run.best_weights)[1])


def architecture(kind: str, start: Config) -> str:
    """The architecture in which a kind of model goes on from another: its own, but a reader of its own knows what an encoder
    does as one that reads question and context as one text."""
    encodes = start.model == "transformer" and start.kind in ENCODING
    return "transformer_encoder" if kind == "reading" and encodes else start.model


def adopt(config: Config, start: Config) -> Config:
    """A config with the tokenizer and the shape of the model it starts from; dropout, lengths and training stay its own.

    Raises:
        UserError: the models are built differently.
    """
    fits = architecture(config.kind, start)
    if config.model != fits:
        raise UserError(
            f"Weights go from a model to one of the same kind. Received: --model {config.model} from a run with {start.model}. "
            f"Give --model {fits}."
        )
    shape = {name: value for name, value in vars(start.network).items() if name not in CHOSEN}
    shape["segments"] = has_segments(start)
    text = dataclasses.replace(start.text, prompt_start=config.text.prompt_start)  # documents begin so here
    return dataclasses.replace(config, text=text, network=dataclasses.replace(config.network, **shape))


def refuse_changes(config: Config, start: Config) -> None:
    """Refuses what the user gives another value than the model to start from has, where that one's weights or ids decide.

    Raises:
        UserError: a changed tokenizer or shape. A text may be cut at another `context_length`, but learned positions end.
    """
    kept = adopt(config, start)
    length = config.network.context_length
    if length <= start.network.context_length or start.network.positions != "learned":
        kept.network.context_length = length
    if changed := differences(kept, config):
        raise UserError(
            "What starts from a model has its tokenizer and its shape; only context_length may be another, and not a greater one "
            f"where positions are learned. Received, the model's value first: {'; '.join(changed)}. Leave that out, or train "
            "from scratch."
        )


def go_on(config: Config, start: Config) -> Config:
    """What a model that learns more of the same keeps where the user says nothing else: a sentence encoder its pooling and its
    longest text, a classifier its pooling, a tagger its scheme and its chain, which their heads were trained with; what writes
    its prompt; a pretrained model how texts are hidden from it, how its prompts begin and how long its texts are."""
    change = dataclasses.replace
    if config.kind != start.kind:
        return config
    if config.kind in PRETRAINED:
        context = start.network.context_length
        if start.network.positions != "learned":  # nothing is lost: there are no vectors for what is cut off
            context = min(context, ROW)
        return change(
            config,
            text=start.text,
            network=change(config.network, context_length=context),
            lengths=change(start.lengths, max_text_length=config.lengths.max_text_length),  # of another kind
            masking=start.masking,
        )
    if config.kind in ("classification", "embedding"):
        config = change(config, network=change(config.network, pooling=start.network.pooling))
    if config.kind == "tagging":
        config = change(config, labels=change(config.labels, scheme=start.labels.scheme, crf=start.labels.crf))
    if config.kind in ("seq2seq", "generation"):
        config = change(config, writing=change(config.writing, prompt=start.writing.prompt))
    if config.kind == "embedding":
        config = change(
            config,
            lengths=change(config.lengths, max_text_length=start.lengths.max_text_length),
            embedding=change(config.embedding, normalise=start.embedding.normalise),
        )
    return config


def start_weights(task, start: Start) -> list[str]:
    """Gives a model's weights the values of those with the same path; a head that scored something else stays as it is.

    Args:
        task: its model is changed.
        start: from `open_start`.

    Returns:
        Lines that tell what was taken and what is new.

    Raises:
        UserError: a weight that is none of a head, nor pools, nor tells texts of a pair apart, is missing there, or has another
            shape.
    """
    from keras_llm.run import named_weights

    if start.config.kind == "span_corruption" != task.kind:
        start = _without_sentinels(start)
    heads, same = getattr(task.model, "heads", ()), _scored(task.config) == _scored(start.config)
    named, fresh = named_weights(task.model), []
    for name, weight in named.items():
        stored, layer = start.arrays.get(name), name.partition("/")[0]
        if stored is not None and name.endswith("positions/vectors"):  # of a longer context its first ones
            stored = stored[: weight.shape[0]]
        fits = stored is not None and stored.shape == tuple(weight.shape)
        if fits and (same or layer not in heads):  # heads of other labels may have the same shape
            weight.assign(stored)
        elif layer in (*heads, "pool"):
            fresh.append(name)
        elif stored is None and name.endswith("segments/embeddings"):
            # Learned without pairs: that a text is the first or the second one says nothing yet.
            weight.assign(np.zeros(weight.shape))
            fresh.append(name)
        else:
            raise UserError(
                f"A {task.kind} model starts from a model with the same body. Received: {start.name}, where {name} is "
                f"{'missing' if stored is None else stored.shape}, here {tuple(weight.shape)}. Start from another run."
            )
    taken = sum(math.prod(weight.shape) for name, weight in named.items() if name not in fresh)
    lines = [f"{len(named) - len(fresh)} of {len(named)} weights from {start.name}: {taken:,} parameters"]
    return lines + ([f"new: {', '.join(fresh)}"] if fresh else [])


def _without_sentinels(start: Start) -> Start:
    """A start of kind span_corruption without the ids above its tokenizer's, which no other kind has."""
    arrays = dict(start.arrays)
    embeddings = arrays["embedding/embeddings"]
    arrays["embedding/embeddings"] = embeddings[:-SENTINELS]
    if "head/kernel" in arrays:  # as `Linear` keeps it, here and there
        size, width = embeddings.shape
        rows = arrays["head/kernel"] if width > size else arrays["head/kernel"].T
        rows = rows[:-SENTINELS]
        arrays["head/kernel"] = rows if width > len(rows) else rows.T
    return dataclasses.replace(start, arrays=arrays)


def _scored(config: Config) -> tuple:
    """What the heads of a model of this config score, and what they are given to score it from."""
    labels = config.labels
    read = {"classification": config.network.pooling, "tagging": (labels.scheme, labels.crf)}.get(config.kind)
    return config.kind, labels.labels, labels.multi_label, read

"""The heads of BERT and RoBERTa that score labels, tags and spans: which of our runs they can hold, and their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from keras_llm.checkpoints.table import Entry, dense, same
from keras_llm.config import Config
from keras_llm.data.tags import tag_names
from keras_llm.errors import UserError

# kind -> what a family's class is called behind its own name.
CLASSES = {
    "classification": "ForSequenceClassification",
    "tagging": "ForTokenClassification",
    "reading": "ForQuestionAnswering",
}
# Tensors of these classes, as regular expressions: of such a checkpoint the encoder is read, and the head is not.
HEADS = (r"classifier\.((dense|out_proj)\.)?(weight|bias)", r"qa_outputs\.(weight|bias)")


def affine(ours: str, theirs: str) -> list[Entry]:
    """A `keras.layers.Dense`."""
    return [dense(f"{ours}/kernel", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def head_table(config: Config, pool: str, labels: str) -> list[Entry]:
    """Which tensor is which weight of a head; of a kind without such a head, none.

    Args:
        config: of the run.
        pool, labels: what the family calls the layers of its classifier: tanh of the first token's vector, and the scores.
    """
    layers = {
        "classification": {"pool": pool, "head": labels},
        "tagging": {"score": "classifier"},
        "reading": {"head": "qa_outputs"},
    }
    return [entry for ours, theirs in layers.get(config.kind, {}).items() for entry in affine(ours, theirs)]


def heads_among(names: Iterable[str]) -> list[str]:
    """The tensors of a checkpoint that belong to such a head.

    Example:

    >>> heads_among(["classifier.bias", "bert.embeddings.word_embeddings.weight"])
    ['classifier.bias']
    """
    return [name for name in names if any(re.fullmatch(part, name) for part in HEADS)]


def write_head(config: Config) -> dict[str, Any]:
    """What config.json says of a run's head.

    Raises:
        UserError: the families have none that computes the same.

    Example:

    >>> write_head(config)
    {'id2label': {'0': 'negative', '1': 'positive'}, 'label2id': {'negative': 0, 'positive': 1}, 'problem_type': ...}
    """
    labels = config.labels
    if config.kind == "classification":
        if config.network.pooling != "first":
            raise UserError(
                "A classifier in Hugging Face's form scores the first token's vector, through a tanh layer. Received: "
                f"pooling={config.network.pooling}. Train with --pooling first."
            )
        several = "multi" if labels.multi_label else "single"
        return {**_names(labels.labels), "problem_type": f"{several}_label_classification"}
    if config.kind == "tagging":
        if labels.crf:
            raise UserError(
                "A tagger in Hugging Face's form scores each token's tags, and not how well they follow each other. "
                "Received: crf=True. Train with --no-crf."
            )
        return _names(tag_names(labels.labels, labels.scheme))
    return {}


def _names(labels: list[str]) -> dict[str, Any]:
    return {
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
    }

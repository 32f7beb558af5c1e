"""Settings of training word vectors."""

from __future__ import annotations

import dataclasses
from typing import Literal

from keras_llm.errors import UserError

# What a method is usually trained with; --help shows the values of the method that is named.
METHODS = {
    "skipgram": {"window": 5, "epochs": 5, "learning_rate": 0.025},
    "cbow": {"window": 5, "epochs": 5, "learning_rate": 0.025},
    "glove": {"window": 10, "epochs": 25, "learning_rate": 0.05},
}


@dataclasses.dataclass
class VectorsConfig:
    """How text becomes words, and words become vectors."""

    method: Literal["skipgram", "cbow", "glove"] = "skipgram"
    """skipgram and cbow: word2vec with negative sampling (gensim trains them). glove: least squares on co-occurrences."""
    segmentation: Literal["spaces", "words", "characters", "jieba"] = "words"
    """spaces: as the text is written, for text that is cut already. words: at white space and punctuation; Chinese and
    Japanese characters are words. jieba: Chinese words by jieba. characters: every character is a word."""
    lowercase: bool = False
    """Words in lower case."""
    keep_punctuation: bool = False
    """words and jieba: each punctuation mark is a word too, rather than left out."""
    dim: int = 100
    """Dimension D of the vectors."""
    window: int = 5
    """Words to each side that count as context."""
    min_count: int = 5
    """Words that occur less often get no vector."""
    epochs: int = 5
    """Passes over the words; for glove over the co-occurrences."""
    learning_rate: float = 0.025
    """skipgram and cbow: falls linearly to near 0. glove: AdaGrad's."""
    negative: int = 5
    """skipgram and cbow: words drawn as wrong answers for each right one."""
    subsampling: float = 1e-3
    """skipgram and cbow: words of a larger share of the text than this are skipped at random; 0 keeps all."""
    x_max: float = 100.0
    """glove: co-occurrences from this number on weigh 1, rarer ones (x / x_max) ^ 0.75. Small corpora: 10."""
    threads: int = 0
    """0: as many as there are cores. skipgram and cbow give the same vectors again with one thread only."""
    seed: int = 0
    """Of initial vectors and what is drawn at random."""


def recommended(method: str) -> VectorsConfig:
    """The defaults with what the method is usually trained with.

    Raises:
        UserError: no such method.
    """
    if method not in METHODS:
        raise UserError(f"A method is one of {', '.join(METHODS)}. Received: {method!r}. Choose one of them.")
    return VectorsConfig(method=method, **METHODS[method])


def validate(config: VectorsConfig) -> VectorsConfig:
    """Refuses values that cannot work, with the field's name. Returns the config."""
    for name in ("dim", "window", "min_count", "epochs", "learning_rate", "x_max"):
        value = getattr(config, name)
        if not 0 < value < float("inf"):
            raise UserError(f"{name} must be greater than 0. Received: {value}. Give a positive number.")
    if config.negative < 1 and config.method != "glove":
        raise UserError(f"negative must be at least 1. Received: {config.negative}. The usual numbers are 5 to 20.")
    if not 0 <= config.subsampling < 1:
        raise UserError(f"subsampling must be at least 0 and below 1. Received: {config.subsampling}.")
    if config.threads < 0:
        raise UserError(f"threads must not be negative. Received: {config.threads}. Use 0 for all cores.")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed must be at least 0 and below 2^32. Received: {config.seed}.")
    if config.keep_punctuation and config.segmentation not in ("words", "jieba"):
        raise UserError(
            "keep_punctuation is for the segmentations words and jieba; spaces and characters always keep it. "
            f"Received: segmentation={config.segmentation}. Leave it out."
        )
    return config

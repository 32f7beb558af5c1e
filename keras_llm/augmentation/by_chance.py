"""Words dropped and swapped by chance, as in EDA: Wei and Zou 2019, https://arxiv.org/abs/1901.11196.

KerasHub's layers draw, over the places of the words rather than the words: so the text around them is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_llm.augmentation.words import join_words, split_words

TRIES = 100  # to draw a text that differs: of few words chance often takes none, or all


class ByChance:
    """Subclasses say which layer draws, and what a text becomes.

    Args:
        share: the layer's rate.
        segmentation: what a Chinese word is: "jieba", or "none", a character.
    """

    layer: str

    def __init__(self, share: float, segmentation: str = "jieba"):
        import keras_hub

        from keras_llm.text.sentences import word_segmenter

        self._draw = getattr(keras_hub.layers, self.layer)(rate=share, seed=0)  # the seed is of no use: see `rng`
        self._segment = word_segmenter(segmentation) or list

    def __call__(self, texts: Sequence[str], randoms: Sequence[np.random.Generator]) -> list[str]:
        return [self._changed(text, random) for text, random in zip(texts, randoms, strict=True)]

    def _changed(self, text, random):
        words, between = split_words(text, self._segment)
        if len(words) > 1:
            for _ in range(TRIES):
                # Not `__call__`: it looks for tensors to convert, which takes far longer than the drawing.
                places = self._draw.call(list(range(len(words))), rng=random)
                changed = self.rebuilt(words, between, places)
                if places and changed != text.strip():
                    return changed
        return text

    @staticmethod
    def rebuilt(words: list[str], between: list[str], places: list[int]) -> str:
        """A text's words and what is between them (`split_words`), and the places that were drawn -> its new form."""
        raise NotImplementedError


class Deletion(ByChance):
    """Each word is dropped with the probability `share`; at least one stays.

    Example:

    >>> Deletion(0.3)(["a very good film 🎬"], [np.random.default_rng(1)])
    ['a very good 🎬']
    """

    layer = "RandomDeletion"

    @staticmethod
    def rebuilt(words, between, places):
        kept = set(places)
        return join_words([word if i in kept else None for i, word in enumerate(words)], between)


class Swap(ByChance):
    """Two words, drawn anew each time, change places: as many times as words are drawn, each with the probability `share`.

    Example:

    >>> Swap(0.3)(["a very good film 🎬"], [np.random.default_rng(0)])
    ['a good very film 🎬']
    """

    layer = "RandomSwap"

    @staticmethod
    def rebuilt(words, between, places):
        return join_words([words[place] for place in places], between)

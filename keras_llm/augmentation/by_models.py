"""Texts changed by our own runs: words exchanged by a masked language model, texts translated there and back.

Shapes: B batch, M gaps of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_llm.augmentation.words import IS_HAN, WORD, join_words, split_words
from keras_llm.errors import UserError

ASKED_AT_ONCE = 32  # texts


class Substitution:
    """Words are hidden, each with the probability `share` (at least one, never all), and a masked language model fills the gaps.

    A word in letters becomes another one that is a single piece of the vocabulary, a Chinese character another character; all
    gaps of a text are filled at once. Words beyond the model's context stay.

    Args:
        task: a run of kind masked_lm, loaded.
        share: of the words.
        temperature: of the drawing; 0 takes the most probable one.
        top_k: draw from so many; 0: from all.

    Reference: Kobayashi 2018, https://arxiv.org/abs/1805.06201; Wu et al. 2019, https://arxiv.org/abs/1812.06705.
    """

    def __init__(self, task, share: float, temperature: float = 1.0, top_k: int = 10):
        if task.kind != "masked_lm":
            raise UserError(f"Words are exchanged by a run of kind masked_lm. Received: a {task.kind} run.")
        self.task, self.share, self.temperature, self.top_k = task, share, temperature, top_k
        ids = task.special.ordinary(task.model.vocabulary_size)
        pieces, continues = (part.numpy() for part in task.tokenizer.pieces(ids))
        pieces = [piece.decode("utf-8", "replace") for piece in pieces]
        whole = [bool(WORD.fullmatch(piece)) and not goes_on for piece, goes_on in zip(pieces, continues, strict=True)]
        han = [bool(IS_HAN.fullmatch(piece)) for piece in pieces]
        # For a gap in Chinese, and for one in letters: ids, and what they are.
        self._choices = {}
        for is_han in (True, False):
            some = [i for i in range(len(ids)) if whole[i] and han[i] == is_han]
            self._choices[is_han] = ids[some], np.array([pieces[i] for i in some], object)
        self._folded = {
            is_han: np.array([p.casefold() for p in found], object) for is_han, (_, found) in self._choices.items()
        }

    def __call__(self, texts: Sequence[str], randoms: Sequence[np.random.Generator]) -> list[str]:
        import tensorflow as tf

        from keras_llm.tasks.base import encode

        function = self.task.traced(self.task.gap_logits, tf.TensorSpec([None], tf.string))
        split = [split_words(text) for text in texts]
        hidden = [drawn(len(words), self.share, r) for (words, _), r in zip(split, randoms, strict=True)]
        changed = list(texts)
        # Texts of like length together: little is computed for padding.
        order = sorted((i for i, places in enumerate(hidden) if len(places)), key=lambda i: len(texts[i]))
        for first in range(0, len(order), ASKED_AT_ONCE):
            some = order[first : first + ASKED_AT_ONCE]
            asked = [encode(with_gaps(*split[i], hidden[i])) for i in some]
            logits, counts = (part.numpy() for part in function(tf.constant(asked)))
            for i, row, count in zip(some, logits, counts, strict=True):
                words, between = split[i]
                words = list(words)
                for place, scores in zip(hidden[i][:count], row[:count], strict=True):
                    words[place] = self._another(words[place], scores, randoms[i])
                changed[i] = join_words(words, between)
        return changed

    def _another(self, word, scores, random):
        """A word, and the scores [V] of what may stand in its place -> what does."""
        is_han = bool(IS_HAN.fullmatch(word))
        ids, pieces = self._choices[is_han]
        other = np.flatnonzero(self._folded[is_han] != word.casefold())
        if not len(other):
            return word
        scores = scores[ids[other]].astype("float64")
        best = np.argsort(-scores, kind="stable")[: self.top_k or None]
        if self.temperature == 0:
            best = best[:1]
        odds = np.exp((scores[best] - scores[best[0]]) / (self.temperature or 1.0))
        piece = pieces[other[best[random.choice(len(best), p=odds / odds.sum())]]]
        return piece[:1].upper() + piece[1:] if word[:1].isupper() else piece


def drawn(count: int, share: float, random: np.random.Generator) -> np.ndarray:
    """Ascending places of words, each with a probability; at least one and not all. Of less than two words none.

    Example:

    >>> drawn(1, 0.5, np.random.default_rng(0)).tolist(), len(drawn(2, 0.5, np.random.default_rng(0)))
    ([], 1)
    """
    if count < 2:
        return np.zeros(0, int)
    chosen = random.random(count) < share
    one = random.integers(count)
    if not chosen.any() or chosen.all():
        chosen[one] = not chosen[one]
    return np.flatnonzero(chosen)


def with_gaps(words: Sequence[str], between: Sequence[str], places) -> str:
    """A text with marks in place of some words. A mark that the text itself holds is no gap.

    Example:

    >>> with_gaps(["a", "MASK", "b"], ["", " [", "] ", ""], [2])
    'a [ MASK ] [MASK]'
    """
    from keras_llm.tasks.filling import MARK

    places, parts = set(places), [between[0]]
    for i, (word, behind) in enumerate(zip(words, between[1:], strict=True)):
        if i in places:
            parts.append("")
        parts[-1] += ("" if i in places else word) + behind
    return MARK.join(part.replace(MARK, f"{MARK[0]} {MARK[1:-1]} {MARK[-1]}") for part in parts)


class BackTranslation:
    """Texts are translated into another language and back, sentence by sentence.

    Tokens are drawn as in Edunov et al. 2018, https://arxiv.org/abs/1808.09381, or the best of some beams is taken. A sentence
    that is too long for one of the runs, or has no translation, stays as it is, and so does the white space between sentences.

    Args:
        forward, back: runs of kind seq2seq, loaded.
        temperature: of the drawing; 0 takes the most probable token.
        top_k: draw from so many tokens; 0: from all.
        beams: search with so many beams in place of drawing.

    Reference: Sennrich et al. 2016, https://arxiv.org/abs/1511.06709; for labelled texts: Xie et al. 2019,
    https://arxiv.org/abs/1904.12848.
    """

    def __init__(self, forward, back, temperature: float = 1.0, top_k: int = 10, beams: int | None = None):
        for task in (forward, back):
            if task.kind != "seq2seq":
                raise UserError(f"Texts are translated by runs of kind seq2seq. Received: a {task.kind} run.")
            task.num_beams = beams or task.num_beams
        self.runs = forward, back
        self.settings = {} if beams else {"temperature": temperature, "top_k": top_k}
        self.signature = "beam" if beams else "sample"

    def __call__(self, texts: Sequence[str], randoms: Sequence[np.random.Generator]) -> list[str]:
        split = [sentences_of(text) for text in texts]
        found = [sentence for sentences, _ in split for sentence in sentences]
        seeds = [int(r.integers(2**31)) for (sentences, _), r in zip(split, randoms, strict=True) for _ in sentences]
        for task in self.runs:
            found = self._translated(task, found, seeds)
        rest = iter(found)
        changed = []
        for text, (sentences, between) in zip(texts, split, strict=True):
            new = [next(rest) or sentence for sentence in sentences]
            changed.append(
                "".join(part for pair in zip(between, [*new, ""], strict=True) for part in pair).strip() or text
            )
        return changed

    def _translated(self, task, sentences, seeds):
        """Translations; "" where there is none."""
        import tensorflow as tf

        from keras_llm.tasks.base import encode

        way = task.signatures[self.signature]
        chosen = way.settings_of(self.settings)
        if not sentences:
            return []
        tokens = task.tokenizer.encode(task.prompted(tf.constant([*map(encode, sentences)]))).row_lengths().numpy()
        order = [i for i in np.argsort(tokens, kind="stable") if sentences[i] and tokens[i] <= task.source_limit]
        requests = [way.example({"text": sentences[i]}) | chosen for i in order]
        if "seed" in way.settings:
            requests = [request | {"seed": seeds[i]} for request, i in zip(requests, order, strict=True)]
        translations = [""] * len(sentences)
        for i, answer in zip(order, task.ask(requests, signature=self.signature), strict=True):
            translations[i] = " ".join(answer["answer"].split())
        return translations


def sentences_of(text: str) -> tuple[list[str], list[str]]:
    """Text to N sentences, and the N + 1 pieces of white space around them.

    Example:

    >>> sentences_of("很好。 下次还来！Good.")
    (['很好。', '下次还来！', 'Good.'], ['', ' ', '', ''])
    """
    from keras_llm.text.sentences import split_sentences

    sentences, between, end = split_sentences(text), [], 0
    for sentence in sentences:
        begin = text.index(sentence, end)
        between.append(text[end:begin])
        end = begin + len(sentence)
    return sentences, [*between, text[end:]]

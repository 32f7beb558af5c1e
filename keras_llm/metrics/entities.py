"""How well entities are found: whole ones, with the right label, or not at all.

Equal to seqeval, and so to the CoNLL scorer, on spans read from tags (`keras_llm.data.tags.read_tags`): in its default mode with
the mended spans, in its strict mode without them. A tagger's own answers have no impossible tags: both modes agree on them.

References: Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419; Nakayama 2018, seqeval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


def evaluate_entities(
    true: Sequence[Iterable[tuple[int, int, str]]], predicted: Sequence[Iterable[tuple[int, int, str]]]
) -> dict[str, float]:
    """Precision, recall and their harmonic mean over the entities of many texts.

    Args:
        true, predicted: for each text its entities: start, end, label; in tokens or characters, the same for both.

    Returns:
        `precision`, `recall`, `f1` over all entities (micro); `macro_precision`, `macro_recall`, `macro_f1`, the means over the
        labels that occur; `f1/<label>` of each of these, from 0 to 1; `entities`, how many are true. What has no entity to
        count is 0.

    Example:

    >>> found = evaluate_entities([[(0, 2, "PER"), (5, 6, "LOC")]], [[(0, 2, "PER"), (4, 6, "LOC")]])
    >>> found["f1"], found["macro_f1"], found["f1/PER"]
    (0.5, 0.5, 1.0)
    """
    wanted, given, right = Counter(), Counter(), Counter()
    for some, others in zip(true, predicted, strict=True):
        some, others = set(some), set(others)
        for counter, entities in ((wanted, some), (given, others), (right, some & others)):
            counter.update(label for _, _, label in entities)
    labels = sorted(wanted | given)
    each = {label: _scores(right[label], given[label], wanted[label]) for label in labels}
    names = ("precision", "recall", "f1")
    metrics = dict(zip(names, _scores(right.total(), given.total(), wanted.total()), strict=True))
    for place, name in enumerate(names):
        metrics[f"macro_{name}"] = sum(scores[place] for scores in each.values()) / max(len(labels), 1)
    metrics |= {f"f1/{label}": scores[2] for label, scores in each.items()}
    return metrics | {"entities": wanted.total()}


def _scores(right: int, given: int, wanted: int) -> tuple[float, float, float]:
    """Precision, recall, F1."""
    return right / max(given, 1), right / max(wanted, 1), 2 * right / max(given + wanted, 1)

"""Metrics of classifiers, from counts: accuracy, precision, recall, F1, Matthews' correlation, calibration.

Shapes: N texts, K labels.
"""

from __future__ import annotations

import math

import numpy as np

BINS = 15  # of the reliability diagram


def classification_metrics(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Metrics where each text has one label; the most probable one is chosen, the first of equals.

    Args:
        truth: int [N], places of the true labels; -1: a label that is none of the K, always wrong.
        probabilities: float [N, K].

    Returns:
        `accuracy`; `macro_precision`, `macro_recall` and `macro_f1`, means over the labels that occur in `truth` or are chosen;
        `weighted_f1`, weighted by how often a label is true; `mcc` (Matthews' correlation); `ece` (expected calibration
        error); `loss` (mean negative logarithm of the true label's probability). With two labels also `f1`, that of the
        second one, and its `precision` and `recall`. What has nothing to divide by is 0.

    Example:

    >>> found = classification_metrics(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]))
    >>> round(found["accuracy"], 3), round(found["f1"], 3)
    (0.667, 0.667)

    Reference: Gorodkin 2004 (correlation of K classes); Guo et al. 2017, https://arxiv.org/abs/1706.04599 (calibration).
    """
    chosen = np.argmax(probabilities, axis=1)
    table = confusion(truth, chosen, probabilities.shape[1])
    precision, recall, f1 = per_label(table)
    true, guessed = table.sum(axis=1), table[:-1].sum(axis=0) + table[-1]
    occurs = (true[:-1] + guessed) > 0
    known = truth >= 0
    true_probability = probabilities[np.arange(len(truth)), np.maximum(truth, 0)]
    found = {
        "accuracy": float(np.mean(chosen == truth)),
        "macro_precision": float(precision[occurs].mean()),
        "macro_recall": float(recall[occurs].mean()),
        "macro_f1": float(f1[occurs].mean()),
        "weighted_f1": float((f1 * true[:-1]).sum() / len(truth)),
        "mcc": correlation(table),
        "ece": calibration_error(probabilities.max(axis=1), chosen == truth),
        "loss": float(-np.log(np.maximum(np.where(known, true_probability, 0.0), 1e-12)).mean()),
    }
    if len(f1) == 2:
        found |= {"f1": float(f1[1]), "precision": float(precision[1]), "recall": float(recall[1])}
    return found


def multi_label_metrics(truth: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    """Metrics where a text may have any number of labels; those of at least `threshold` are chosen.

    Args:
        truth: bool [N, K].
        probabilities: float [N, K], each label's own.
        threshold: from 0 to 1.

    Returns:
        `micro_precision`, `micro_recall` and `micro_f1` over all decisions; `macro_f1`, the mean over labels that occur or are
        chosen; `exact_match`, the share of texts whose labels are all right; `hamming_loss`, the share of wrong decisions;
        `ece`; `threshold`.

    Example:

    >>> multi_label_metrics(np.array([[True, False]]), np.array([[0.9, 0.6]]), 0.5)["micro_precision"]
    0.5
    """
    chosen = probabilities >= threshold
    right, guessed, true = (chosen & truth).sum(axis=0), chosen.sum(axis=0), truth.sum(axis=0)
    occurs = (guessed + true) > 0
    f1 = ratio(2 * right, guessed + true)
    return {
        "micro_precision": float(ratio(right.sum(), guessed.sum())),
        "micro_recall": float(ratio(right.sum(), true.sum())),
        "micro_f1": float(ratio(2 * right.sum(), guessed.sum() + true.sum())),
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0,
        "exact_match": float((chosen == truth).all(axis=1).mean()),
        "hamming_loss": float((chosen != truth).mean()),
        "ece": calibration_error(
            np.maximum(probabilities, 1 - probabilities).ravel(), ((probabilities >= 0.5) == truth).ravel()
        ),
        "threshold": float(threshold),
    }


def best_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold with the best micro F1: halfway between two neighbouring probabilities; 0.5 where no label is true.

    Args:
        truth: bool [N, K].
        probabilities: float [N, K].

    Example:

    >>> round(best_threshold(np.array([[True, False, True]]), np.array([[0.9, 0.2, 0.4]])), 2)
    0.3
    """
    order = np.argsort(-probabilities, axis=None, kind="stable")
    sorted_, right = probabilities.ravel()[order].astype("float64"), np.cumsum(truth.ravel()[order])
    if not right[-1]:
        return 0.5
    f1 = 2 * right / (np.arange(1, len(right) + 1) + right[-1])
    f1[:-1][sorted_[:-1] == sorted_[1:]] = -1.0  # equals are chosen together
    best = int(np.argmax(f1))
    below = sorted_[best + 1] if best + 1 < len(sorted_) else 0.0
    return float((sorted_[best] + below) / 2)


def confusion(truth: np.ndarray, chosen: np.ndarray, labels: int) -> np.ndarray:
    """Counts int64 [K + 1, K]: row, the true label; column, the chosen one. The last row counts texts whose label is none.

    Example:

    >>> confusion(np.array([0, 1, 1, -1]), np.array([0, 0, 1, 1]), 2).tolist()
    [[1, 0], [1, 1], [0, 1]]
    """
    table = np.zeros((labels + 1, labels), "int64")
    np.add.at(table, (truth, chosen), 1)  # -1 is the last row
    return table


def per_label(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of every label from `confusion`'s counts: float [K] each."""
    right = np.diag(table)
    guessed, true = table.sum(axis=0), table[:-1].sum(axis=1)
    return ratio(right, guessed), ratio(right, true), ratio(2 * right, guessed + true)


def correlation(table: np.ndarray) -> float:
    """Matthews' correlation coefficient of K classes from `confusion`'s counts; 0 where one side has one class only."""
    table = np.concatenate([table.astype("float64"), np.zeros((len(table), 1))], axis=1)  # no text is given "none"
    total, right, true, guessed = table.sum(), np.trace(table), table.sum(axis=1), table.sum(axis=0)
    below = math.sqrt(total**2 - guessed @ guessed) * math.sqrt(total**2 - true @ true)
    return float((right * total - true @ guessed) / below) if below else 0.0


def reliability(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often a confidence is justified, in 15 bins of equal width: mean confidence, share of right ones, number; [15] each."""
    place = np.clip(np.ceil(np.asarray(confidence, "float64") * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    mean = ratio(np.bincount(place, weights=confidence, minlength=BINS), count)
    return mean, ratio(np.bincount(place, weights=right, minlength=BINS), count), count


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: |mean confidence - share of right ones| of each bin, weighted by its number.

    Example:

    >>> round(calibration_error(np.array([0.9, 0.9]), np.array([True, False])), 6)
    0.4
    """
    mean, accuracy, count = reliability(confidence, right)
    return float((np.abs(mean - accuracy) * count).sum() / count.sum())


def ratio(numerator, denominator):
    """numerator / denominator, 0 where there is nothing to divide by."""
    numerator, denominator = np.asarray(numerator, "float64"), np.asarray(denominator, "float64")
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)

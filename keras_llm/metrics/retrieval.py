"""How well vectors of texts compare: rank correlation with given scores, and finding the right text among many.

Shapes: N texts, M candidates, D width.
"""

import numpy as np

AT_ONCE = 1024  # rows of a matrix of similarities in memory
RECALLS = (1, 5, 10)


def spearman(scores: np.ndarray, similarities: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0.0 where all scores or all similarities are the same.

    Args:
        scores, similarities: [N].

    Example:

    >>> round(spearman(np.array([1.0, 2.0, 4.0]), np.array([0.1, 0.2, 0.9])), 6)
    1.0
    """
    from scipy.stats import spearmanr

    if len(set(map(float, scores))) < 2 or len(set(map(float, similarities))) < 2:
        return 0.0
    return float(spearmanr(scores, similarities).statistic)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of each row with the row beside it: [N, D] twice -> [N]."""
    return np.sum(_units(first) * _units(second), axis=1)


def retrieval_metrics(queries: np.ndarray, candidates: np.ndarray, relevant: list[list[int]]) -> dict[str, float]:
    """Where among all candidates, by cosine, the best of a query's right ones comes.

    A wrong candidate that is as near as the right one comes before it, so that equal vectors find nothing.

    Args:
        queries: [N, D].
        candidates: [M, D].
        relevant: of each query the numbers of its right candidates.

    Returns:
        `recall@1`, `recall@5`, `recall@10`: share of the queries with a right one among the first; `mrr`: mean of 1 / its place.

    Example:

    >>> retrieval_metrics(np.eye(2), np.array([[1, 0.1], [1, 1], [0.2, 1]]), [[1], [2]])
    {'recall@1': 0.5, 'recall@5': 1.0, 'recall@10': 1.0, 'mrr': 0.75}

    Reference: Voorhees 1999, "The TREC-8 Question Answering Track Report" (mean reciprocal rank).
    """
    queries, candidates = _units(queries), _units(candidates)
    places = []
    for first in range(0, len(queries), AT_ONCE):
        similarities = queries[first : first + AT_ONCE] @ candidates.T
        for row, right in zip(similarities, relevant[first : first + AT_ONCE], strict=True):
            before = row >= row[right].max()
            before[right] = False
            places.append(1 + int(before.sum()))
    places = np.array(places)
    return {f"recall@{k}": float((places <= k).mean()) for k in RECALLS} | {"mrr": float((1 / places).mean())}


def _units(vectors):
    vectors = np.asarray(vectors, "float32")
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

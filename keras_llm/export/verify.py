"""Proof that an export answers as Python does: the same requests to independent consumers, alone and in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_llm.errors import UserError
from keras_llm.export import gates
from keras_llm.export.consumers import CONSUMERS, NotRunError
from keras_llm.export.requests import batched, proof_requests
from keras_llm.tasks.base import Signature

LEAST = 64  # answers compared by each consumer
TOLERANCE = 1e-3  # of scores: sums in another batch shape come in another order


def compare(
    ask: Callable[[list[dict]], list[dict]],
    signature: Signature,
    directory: str | Path,
    records: Sequence[dict],
    server: str = gates.DEFAULT_SERVER,
    name: str = "serving_default",
    tolerance: float = TOLERANCE,
) -> dict:
    """Compares what every consumer gets from a SavedModel with what Python answers.

    Args:
        ask: Python's answers, e.g. `task.ask`.
        signature: what is asked; its settings change from request to request.
        directory: the SavedModel.
        records: real requests; difficult ones are added (`requests.py`). Python is asked with `str`, where bytes that
            are not UTF-8 have become U+FFFD; the consumers get the bytes.
        server: version of the stock server the model is for.
        name: the signature's name in the SavedModel.
        tolerance: how far floating-point outputs may differ; of numbers above 1 as a share of them.

    Returns:
        The report: what was compared by whom, in which batches, largest difference, seconds, versions.

    Raises:
        UserError: a string or an integer differs, or a float by more than the tolerance; or a consumer failed.

    Example:

    >>> compare(task.ask, task.signatures["serving_default"], "exported/reader/1", records)["differences"]
    0
    """
    texts = proof_requests(signature.texts, records)
    requests = [signature.example(request, i) for i, request in enumerate(texts)]
    expected = ask([{key: _text(value) for key, value in request.items()} for request in requests])
    batches = batched(texts, len(records), all_alone=name == "serving_default")
    compared = sum(map(len, batches))
    if compared < LEAST:
        raise UserError(f"At least {LEAST} answers are compared. Received: {compared}. Give more --data.")
    columns = [
        {key: _column([requests[i][key] for i in batch], dtype) for key, dtype in signature.inputs.items()}
        for batch in batches
    ]
    reports: dict[str, dict | str] = {}
    for who, consumer in CONSUMERS.items():
        try:
            answers = consumer(directory, columns, server, name)
        except NotRunError as error:
            reports[who] = f"not run: {error}"
            continue
        largest = _largest_difference(signature, answers.batches, expected, requests, batches, tolerance, who)
        reports[who] = {**answers.facts, "compared": compared, "differences": 0, "largest_score_difference": largest}
    ran = [report for report in reports.values() if isinstance(report, dict)]
    return {
        "compared": compared,
        "requests": len(requests),
        "real_requests": len(records),
        "invalid_utf8_requests": sum(not _is_text(request) for request in texts),
        "longest_request_bytes": max(len(value) for request in texts for value in request.values()),
        "batch_sizes": sorted({len(batch) for batch in batches}),
        "differences": 0,
        "tolerance": tolerance,
        "largest_score_difference": max(report["largest_score_difference"] for report in ran),
        "consumers": reports,
    }


def _largest_difference(signature, answers, expected, requests, batches, tolerance, consumer):
    largest = 0.0
    for batch, columns in zip(batches, answers, strict=True):
        for place, i in enumerate(batch):
            found = signature.without_padding({name: values[place] for name, values in columns.items()})
            for name, want in expected[i].items():
                got = found.get(name)
                difference = _difference(got, want)
                if not difference <= tolerance:  # NaN, too
                    shown = got.decode("utf-8", "replace") if isinstance(got, bytes) else got
                    request = {k: v[:80] if isinstance(v, bytes) else v for k, v in requests[i].items()}
                    raise UserError(
                        f"An export must answer as Python does. Received from the {consumer} consumer: {name}={shown!r} "
                        f"instead of {want!r} for {request} in a batch of {len(batch)}."
                    )
                largest = max(largest, difference)
    return largest


def _difference(got, want) -> float:
    """How far an output is from what is wanted: floats by a number (the largest of a list), others by 0 or infinity."""
    if got is None:
        return np.inf
    if isinstance(want, list | np.ndarray):
        if len(got) != len(want):
            return np.inf
        # np.max keeps a NaN, which Python's max would lose.
        return float(np.max([_difference(part, wanted) for part, wanted in zip(got, want, strict=True)], initial=0.0))
    if isinstance(want, float | np.floating):
        return abs(float(got) - float(want)) / max(abs(float(want)), 1.0)
    return 0.0 if got == (want.encode() if isinstance(want, str) else want) else np.inf


def _text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _column(values, dtype):
    if dtype == "string":
        return [value if isinstance(value, bytes) else value.encode() for value in values]
    return np.array(values, dtype)


def _is_text(request):
    try:
        for value in request.values():
            value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

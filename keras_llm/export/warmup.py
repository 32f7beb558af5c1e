"""Requests that TF Serving answers before it calls a version available, so that no user waits for the first run of an op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_llm.tasks.base import Signature, encode

WHERE = Path("assets.extra") / "tf_serving_warmup_requests"
BATCH_SIZES = (1, 1, 1, 1, 2, 2, 4, 8, 16)


def write(
    directory: str | Path, model: str, signatures: Mapping[str, Signature], records: Sequence[dict[str, str]]
) -> int:
    """Writes `assets.extra/tf_serving_warmup_requests`.

    A server that cannot answer one of them refuses the version, so an op that it lacks is found when the version is loaded
    and not by a user.

    Args:
        directory: the SavedModel.
        model: its name in the server.
        signatures: each is asked, in batches of `BATCH_SIZES`.
        records: real requests; they go round if there are few.

    Returns:
        How many requests were written.

    Example:

    >>> write("exported/reader/1", "reader", task.signatures, [{"question": "谁？", "context": "我。"}])
    9
    """
    path = Path(directory) / WHERE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for name, signature in signatures.items():
            first = 0
            for size in BATCH_SIZES:
                rows = [signature.example(records[i % len(records)], i) for i in range(first, first + size)]
                first += size
                log = PredictionLog()
                request = log.predict_log.request
                request.model_spec.name, request.model_spec.signature_name = model, name
                for key, dtype in signature.inputs.items():
                    values = [encode(row[key]) if dtype == "string" else row[key] for row in rows]
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(tf.constant(values, dtype).numpy()))
                file.write(log.SerializeToString())
    return len(signatures) * len(BATCH_SIZES)

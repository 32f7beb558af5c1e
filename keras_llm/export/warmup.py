"""Requests that TF Serving answers before it calls a version available, so that no user waits for the first run of an op."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_llm.tasks.base import encode

WHERE = Path("assets.extra") / "tf_serving_warmup_requests"
BATCH_SIZES = (1, 1, 1, 1, 2, 2, 4, 8, 16)


def write(
    directory: str | Path, model: str, requests: Sequence[dict[str, str]], signature: str = "serving_default"
) -> int:
    """Writes `assets.extra/tf_serving_warmup_requests`.

    A server that cannot answer one of them refuses the version, so an op that it lacks is found when the version is loaded
    and not by a user.

    Args:
        directory: the SavedModel.
        model: its name in the server.
        requests: real ones; they go round if there are few.
        signature: which one is called.

    Returns:
        How many requests were written, in batches of `BATCH_SIZES`.

    Example:

    >>> write("exported/reader/1", "reader", [{"question": "谁？", "context": "我。"}])
    9
    """
    path = Path(directory) / WHERE
    path.parent.mkdir(exist_ok=True)
    first = 0
    with tf.io.TFRecordWriter(str(path)) as file:
        for size in BATCH_SIZES:
            batch = [requests[i % len(requests)] for i in range(first, first + size)]
            first += size
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = model, signature
            for name in batch[0]:
                values = tf.constant([encode(row[name]) for row in batch])
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values.numpy()))
            file.write(log.SerializeToString())
    return len(BATCH_SIZES)

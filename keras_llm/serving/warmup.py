"""Requests stored with a model, answered before it is available: a version that cannot answer them is not served.

Source: tensorflow/serving, `servables/tensorflow/saved_model_warmup.cc`, `saved_model_warmup_util.cc`.
"""

from __future__ import annotations

import time
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_llm.serving import metrics, protos
from keras_llm.serving.servable import Servable
from keras_llm.serving.status import ServingError, invalid

WHERE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000

_ANSWERS = {
    "predict_log": protos.answer_predict,
    "classify_log": protos.answer_classify,
    "regress_log": protos.answer_regress,
    "multi_inference_log": protos.answer_multi_inference,
}


def warm_up(servable: Servable, directory: str | Path) -> int:
    """Answers the requests in `assets.extra/tf_serving_warmup_requests`, if there is such a file.

    Args:
        servable: the model.
        directory: where it was loaded from.

    Returns:
        How many there were.

    Raises:
        ServingError: a request fails, or the file is none of its kind.

    Example:

    >>> warm_up(Servable("reader", 1, "exported/reader/1"), "exported/reader/1")
    9
    """
    path = Path(directory) / WHERE
    if not path.is_file():
        return 0
    began, count = time.monotonic(), 0
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            _answer(servable, record, path)
            count += 1
            if count > MAX_RECORDS:
                raise invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
    except tf.errors.DataLossError as error:
        words = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise ServingError("DATA_LOSS", words) from None
    metrics.MODEL_WARMUP_LATENCY.add((time.monotonic() - began) * 1e6, str(directory), "OK")
    metrics.MODEL_WARMUP_RECORDS_READ.add(count, str(directory), "OK")
    return count


def _answer(servable: Servable, record: bytes, path: Path) -> None:
    try:
        log = PredictionLog.FromString(record)
    except DecodeError:
        raise invalid(f"Failed to parse warmup record: {record[:100]!r} from {path}") from None
    kind = log.WhichOneof("log_type")
    if kind in _ANSWERS:
        _ANSWERS[kind](servable, getattr(log, kind).request)
    elif kind:
        number = PredictionLog.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {number}")

"""Warm-up requests are answered before a version is available; one that fails keeps the version out."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from serving_models import save_half_plus
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_llm.serving import metrics
from keras_llm.serving.servables import Servables
from keras_llm.serving.warmup import WHERE


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "two"
    save_half_plus(directory, 2)
    return directory


def predict(value):
    log = PredictionLog()
    log.predict_log.request.model_spec.name = "another"  # the model is the one that is being loaded
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(value))
    return log


def of_examples(kind, signature):
    log = PredictionLog()
    request = getattr(log, kind).request
    request.model_spec.signature_name = signature
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    return log


def multi_inference():
    log = PredictionLog()
    request = log.multi_inference_log.request
    task = request.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name, task.model_spec.signature_name = "m", "regress_x_to_y"
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    return log


def export(saved, model, version, records):
    directory = model / str(version)
    shutil.copytree(saved, directory)
    (directory / WHERE).parent.mkdir()
    with tf.io.TFRecordWriter(str(directory / WHERE)) as file:
        for record in records:
            file.write(record.SerializeToString() if isinstance(record, PredictionLog) else record)
    return directory


def test_all_kinds_are_answered(tmp_path, saved):
    records = [
        predict(np.float32([1, 2])),
        of_examples("classify_log", "classify_x_to_y"),
        of_examples("regress_log", "regress_x_to_y"),
        multi_inference(),
        PredictionLog(),
    ]
    directory = export(saved, tmp_path / "m", 1, records)
    assert Servables(tmp_path).find("m").version == 1
    lines = metrics.page().decode().splitlines()
    assert f':tensorflow:serving:model_warmup_records_read{{model_path="{directory}",status="OK"}} 5' in lines
    assert f':tensorflow:serving:model_warmup_latency_count{{model_path="{directory}",status="OK"}} 1' in lines


def streamed():
    log = PredictionLog()
    log.predict_streamed_log.SetInParent()
    return log


FAILURES = {
    "wrong dtype": ([predict(np.float32(1)), predict(1)], "INVALID_ARGUMENT", "Expects arg[0] to be float but int32"),
    "streamed": ([streamed()], "UNIMPLEMENTED", "Unsupported log_type for warmup: "),
    "no log": ([b"\xff"], "INVALID_ARGUMENT", "Failed to parse warmup record: b'\\xff' from "),
    "no signature": ([of_examples("regress_log", "z")], "INVALID_ARGUMENT", "No signature was found with the name: z"),
    "too many": (
        [PredictionLog()] * 1001,
        "INVALID_ARGUMENT",
        "Number of warmup records exceeds the maximum (1000) at",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_one_that_fails_keeps_the_version_out(tmp_path, saved, case):
    records, code, words = FAILURES[case]
    shutil.copytree(saved, tmp_path / "m" / "1")
    servables = Servables(tmp_path)
    export(saved, tmp_path / "m", 2, records)
    servables.refresh()
    assert servables.find("m").version == 1
    status = servables.statuses("m", 2)[0]
    assert (status.state, status.code) == ("END", code)
    assert status.message.startswith(words)


def test_a_file_of_another_kind(tmp_path, saved):
    shutil.copytree(saved, tmp_path / "m" / "1")
    directory = export(saved, tmp_path / "m", 2, [])
    (directory / WHERE).write_bytes(b"not a record file at all")
    servables = Servables(tmp_path)
    assert servables.find("m").version == 1
    status = servables.statuses("m", 2)[0]
    assert status.code == "DATA_LOSS"
    assert status.message.endswith(". Please verify your warmup data is in TFRecord format.")

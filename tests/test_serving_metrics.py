"""The page for Prometheus: TF Serving's names, labels and text form (prometheus_exporter_test.cc)."""

import re

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from serving_models import save_half_plus
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from keras_llm.errors import UserError
from keras_llm.serving import metrics
from keras_llm.serving.server import Server


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(metrics, "ALL", {})


def test_counter_and_histogram(registry):
    counter = metrics.Counter("request_count", "model_name", "status")
    counter.add(1, 'a"\\\n半', "OK")
    counter.add(2, 'a"\\\n半', "OK")
    histogram = metrics.Histogram("batching_session/padding_size", "execution_batch_size", first=1, factor=2.5, count=3)
    for value in (0, 1, 2.4, 100):
        histogram.add(value, "32")
    assert metrics.page().decode() == (
        "# TYPE :tensorflow:serving:batching_session:padding_size histogram\n"
        ':tensorflow:serving:batching_session:padding_size_bucket{execution_batch_size="32",le="1"} 1\n'
        ':tensorflow:serving:batching_session:padding_size_bucket{execution_batch_size="32",le="2.5"} 3\n'
        ':tensorflow:serving:batching_session:padding_size_bucket{execution_batch_size="32",le="6.25"} 3\n'
        ':tensorflow:serving:batching_session:padding_size_bucket{execution_batch_size="32",le="+Inf"} 4\n'
        ':tensorflow:serving:batching_session:padding_size_sum{execution_batch_size="32"} 103.4\n'
        ':tensorflow:serving:batching_session:padding_size_count{execution_batch_size="32"} 4\n'
        "# TYPE :tensorflow:serving:request_count counter\n"
        ':tensorflow:serving:request_count{model_name="a\\"\\\\\\n半",status="OK"} 3\n'
    )
    assert counter.first() == 3 and histogram.first() == 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    save_half_plus(root / "counted" / "1", 2)
    return root


def values(url):
    """metric and labels -> value."""
    response = requests.get(url, timeout=30)
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain")
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-zA-Z_:][a-zA-Z0-9_:]*\{([a-zA-Z_]+="[^"]*",?)*\} [0-9.e+]+', line) for line in lines)
    return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines)}


def test_requests_of_both_protocols_are_counted(exported, tmp_path):
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 4 } allowed_batch_sizes: [4]")
    with Server(exported, port=0, grpc_port=0, batching_parameters_file=file) as server:
        url = server.url + metrics.PATH
        before = values(url)
        requests.post(f"{server.url}/v1/models/counted:predict", data='{"inputs": [1, 2, 3]}', timeout=30)
        requests.post(f"{server.url}/v1/models/counted:predict", data="{", timeout=30)
        for i in range(20):
            requests.get(f"{server.url}/v1/models/invented{i}", timeout=30)
        with grpc.insecure_channel(server.grpc_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "counted"
            request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([1])))
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
        after = values(url)
    grown = {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}

    def of(metric, **labels):
        pairs = ",".join(f'{key}="{value}"' for key, value in labels.items())
        return grown[f":tensorflow:serving:{metric}{{{pairs}}}"]

    assert of("request_count", model_name="counted", status="OK") == 2
    assert of("request_count", model_name="counted", status="INVALID_ARGUMENT") == 1
    assert of("request_count", model_name="", status="NOT_FOUND") == 20
    assert "invented" not in "".join(after)
    assert of("request_latency_count", model_name="counted", API="predict", entrypoint="REST") == 1
    assert of("request_latency_count", model_name="counted", API="Predict", entrypoint="GRPC") == 1
    assert of("request_latency_bucket", model_name="counted", API="Predict", entrypoint="GRPC", le="+Inf") == 1
    assert of("runtime_latency_count", model_name="counted", API="Predict", runtime="TF1") == 2
    assert of("batching_session:queuing_latency_count", thread_pool_name="batch_threads") == 2
    assert of("batching_session:wrapped_run_count") == 2
    assert of("batching_session:input_batch_size_sum") == 4
    assert of("batching_session:processed_batch_size_sum") == 8
    assert of("batching_session:padding_size_sum", execution_batch_size="4") == 4


@pytest.mark.parametrize(
    "text, path",
    [
        ("prometheus_config { enable: true path: '/m' }", "/m"),
        ("prometheus_config { enable: true }", metrics.PATH),
        ("prometheus_config { path: '/m' }", None),
        ("", None),
    ],
)
def test_monitoring_config(exported, tmp_path, text, path):
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    with Server(exported, port=0, monitoring_config_file=file) as server:
        answers = {p: requests.get(server.url + p, timeout=30).status_code for p in ("/m", metrics.PATH)}
    assert answers == {p: 200 if p == path else 404 for p in answers}


@pytest.mark.parametrize(
    "text, words",
    [
        ("prometheus_config { enabled: true }", "Did you mean enable\\?"),
        ("prometheus_config { enable: true path: 'm' }", "path must begin with /. Received: 'm'"),
    ],
)
def test_a_file_that_is_none(exported, tmp_path, text, words):
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        Server(exported, port=0, monitoring_config_file=file)

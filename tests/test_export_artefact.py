"""What lies around exported models: warm-up requests, server configs, Docker, Kubernetes and the page with the commands."""

import json
import shlex

import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from keras_llm.errors import UserError
from keras_llm.export import deployment, warmup
from keras_llm.tasks.base import Signature


def exported(directory, name, version=1, **facts):
    """What `deployment` sees of an exported model."""
    folder = directory / name / str(version)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"")
    report = {
        "server": "2.20",
        "size_bytes": 300 * 2**20,
        "signatures": {
            "serving_default": {
                "inputs": {"question": "string"},
                "outputs": {"answer": "string", "score": "float32"},
                "example": {"request": {"question": 'It\'s "谁"?\n'}, "answer": {"answer": "🙂", "score": 0.5}},
            }
        },
    }
    (folder / "report.json").write_text(json.dumps({**report, **facts}), encoding="utf-8")


def contents(directory):
    return {name: (directory / name).read_text(encoding="utf-8") for name in deployment.NAMES}


def flags(arguments):
    return dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)


@pytest.fixture
def written(tmp_path):
    for name in ("reader", "阅读", "memory"):
        exported(tmp_path, name)
    exported(tmp_path, "reader", 2)
    (tmp_path / "notes").mkdir()
    (tmp_path / "reader" / ".writing-7-3").mkdir()
    (tmp_path / "reader" / "10").mkdir()  # no SavedModel in it: another program is still copying
    assert deployment.write(tmp_path) == (list(deployment.NAMES), [])
    return tmp_path


def test_models_config_lists_all_models_in_order(written):
    config = text_format.Parse((written / "models.config").read_text(encoding="utf-8"), ModelServerConfig())
    models = [(m.name, m.base_path, m.model_platform) for m in config.model_config_list.config]
    assert models == [(name, f"/models/{name}", "tensorflow") for name in ("memory", "reader", "阅读")]


def test_batching_and_monitoring_configs_hold_the_servers_fields(written):
    """There are no published messages for these two; text_format's own tokenizer reads them."""

    def fields(name):
        found, tokenizer = {}, text_format.Tokenizer((written / name).read_text(encoding="utf-8").splitlines())
        while not tokenizer.AtEnd():
            field = tokenizer.ConsumeIdentifier()
            tokenizer.Consume("{")
            while not tokenizer.TryConsume("}"):
                inner = tokenizer.ConsumeIdentifier()
                tokenizer.Consume(":")
                value = tokenizer.token
                tokenizer.NextToken()
                found[field, inner] = value.strip('"')
        return found

    batching = fields("batching.config")
    assert {field for field, _ in batching} == {
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
    }
    assert all(inner == "value" and int(value) > 0 for (_, inner), value in batching.items())
    monitoring = {
        ("prometheus_config", "enable"): "true",
        ("prometheus_config", "path"): "/monitoring/prometheus/metrics",
    }
    assert fields("monitoring.config") == monitoring


def test_compose_and_kubernetes_start_the_same_server(written):
    service = yaml.safe_load((written / "docker-compose.yml").read_text())["services"]["tensorflow-serving"]
    deploy, cluster = yaml.safe_load_all((written / "kubernetes.yaml").read_text())
    pod = deploy["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert service["image"] == "tensorflow/serving:2.20.0"
    assert (written / "Dockerfile").read_text().splitlines()[-2:] == [
        "FROM tensorflow/serving:2.20.0",
        "COPY . /models",
    ]
    assert flags(service["command"]) == flags(container["args"])
    used = flags(container["args"])
    for flag in ("model_config_file", "monitoring_config_file", "batching_parameters_file"):
        assert (written / used[flag].removeprefix("/models/")).is_file()
    assert used["tensorflow_intra_op_parallelism"] == "1" and "enable_batching" in used
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    # 3 models of 300 MB, each twice while a new version loads, and the server: 2824, rounded up
    assert service["mem_limit"] == "3072m"
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "3072Mi"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/v1/models/memory", "port": "rest"}
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"grpc": 8500, "rest": 8501}
    assert {port["name"]: port["targetPort"] for port in cluster["spec"]["ports"]} == {"grpc": "grpc", "rest": "rest"}
    assert cluster["spec"]["selector"] == deploy["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    annotations = pod["metadata"]["annotations"]
    assert (
        annotations["prometheus.io/path"] == "/monitoring/prometheus/metrics"
        and annotations["prometheus.io/port"] == "8501"
    )
    assert f"docker build -t {container['image']} ." in (written / "README.md").read_text()


def test_the_page_asks_every_model_in_both_forms(written):
    page = (written / "README.md").read_text(encoding="utf-8")
    assert "| reader | 2 | serving_default | `question` string | `answer` string, `score` float32 |" in page
    commands = [shlex.split(line) for line in page.splitlines() if line.startswith("curl http")]
    assert len(commands) == 6
    request = {"question": 'It\'s "谁"?\n'}
    for command, form in zip(
        commands, [{"instances": [request]}, {"inputs": {"question": [request["question"]]}}] * 3, strict=True
    ):
        assert json.loads(command[-1]) == form
    assert [command[1].split("/")[5] for command in commands[::2]] == [
        "memory:predict",
        "reader:predict",
        "%E9%98%85%E8%AF%BB:predict",
    ]
    assert "@{" not in page and "lite/README.md" not in page


def test_the_page_shows_a_vector_by_its_beginning(tmp_path):
    """A single output is sent without its name."""
    example = {"request": {"text": "谁"}, "answer": {"embedding": [0.5] * 384}}
    tensors = {"inputs": {"text": "string"}, "outputs": {"embedding": "float32"}}
    exported(tmp_path, "vectors", signatures={"serving_default": {**tensors, "example": example}})
    deployment.write(tmp_path)
    wanted = '{"predictions": [[' + "0.5, " * 8 + '"..."]]}'
    assert f"The first one answers `{wanted}`." in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_the_page_shows_a_lite_file_where_there_is_one(written):
    (written / "reader" / "lite").mkdir()
    (written / "reader" / "lite" / "report.json").write_bytes(b"")
    deployment.write(written)
    assert "`reader/lite/README.md`" in (written / "README.md").read_text(encoding="utf-8")


def test_writing_again_changes_nothing_and_a_new_version_changes_the_image(written):
    before = contents(written)
    deployment.write(written)
    assert contents(written) == before
    exported(written, "memory", 2)
    deployment.write(written)
    after = contents(written)
    assert after["kubernetes.yaml"] != before["kubernetes.yaml"] and after["models.config"] == before["models.config"]
    assert sorted(p.name for p in written.iterdir() if p.is_file()) == sorted(deployment.NAMES)


def test_the_image_is_the_oldest_that_runs_every_model(tmp_path):
    exported(tmp_path, "a", server="2.19")
    deployment.write(tmp_path)
    assert "image: tensorflow/serving:2.19.1" in (tmp_path / "docker-compose.yml").read_text()
    exported(tmp_path, "b", server="2.20")
    deployment.write(tmp_path)
    assert "image: tensorflow/serving:2.20.0" in (tmp_path / "docker-compose.yml").read_text()


def test_files_that_are_not_ours_are_left_alone(tmp_path):
    exported(tmp_path, "reader")
    (tmp_path / "README.md").write_text("my own page\n")
    (tmp_path / "Dockerfile").write_bytes(b"\xff\xfe")
    written, kept = deployment.write(tmp_path)
    assert kept == ["Dockerfile", "README.md"] and "models.config" in written
    assert (tmp_path / "README.md").read_text() == "my own page\n"
    assert (tmp_path / "Dockerfile").read_bytes() == b"\xff\xfe"


def test_a_model_of_another_program_is_served_too(tmp_path):
    exported(tmp_path, "other")
    (tmp_path / "other" / "1" / "report.json").write_text("{ broken")
    deployment.write(tmp_path)
    assert 'name: "other"' in (tmp_path / "models.config").read_text()
    with pytest.raises(UserError, match="none"):
        deployment.write(tmp_path / "other")


def test_warm_up_goes_round_and_keeps_every_byte(tmp_path):
    texts = ["谁\x00？\n", "\ud800 lone", "🙂"]
    signatures = {"serving_default": Signature(dict, ("question", "context"))}
    assert (
        warmup.write(tmp_path, "reader", signatures, [{"question": t, "context": t[:1]} for t in texts])
        == len(warmup.BATCH_SIZES)
        <= 16
    )
    logs = [PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(tmp_path / warmup.WHERE))]
    requests = [log.predict_log.request for log in logs]
    assert {(r.model_spec.name, r.model_spec.signature_name) for r in requests} == {("reader", "serving_default")}
    batches = [tf.make_ndarray(r.inputs["question"]).tolist() for r in requests]
    assert tuple(map(len, batches)) == warmup.BATCH_SIZES
    expected = ["谁\x00？\n".encode(), "\ufffd lone".encode(), "🙂".encode()]
    assert [text for batch in batches for text in batch] == [expected[i % 3] for i in range(sum(warmup.BATCH_SIZES))]

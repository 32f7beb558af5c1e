"""Which models and versions are served: models.config, policies, labels, reloading, and changes under load.

The cases follow TF Serving's server_core_test.cc, file_system_storage_path_source_test.cc, tensorflow_model_server_test.py.
"""

import concurrent.futures
import gc
import json
import shutil
import urllib.request
import weakref
from urllib.parse import quote

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from serving_models import appear, save_half_plus, wait_for
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from keras_llm.errors import UserError
from keras_llm.serving import text_messages
from keras_llm.serving.servables import Servables
from keras_llm.serving.server import Server
from keras_llm.serving.status import ServingError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    save_half_plus(root / "two", 2)
    save_half_plus(root / "three", 3)
    return root


@pytest.fixture
def root(tmp_path, saved):
    """m with versions 1 (+ 2), 2 (+ 3) and 5 (+ 2); n with version 1 (+ 3)."""
    for version, what in {1: "two", 2: "three", 5: "two"}.items():
        shutil.copytree(saved / what, tmp_path / "m" / str(version))
    shutil.copytree(saved / "three", tmp_path / "n" / "1")
    return tmp_path


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def channel_to(server):
    return grpc.insecure_channel(server.grpc_address, options=[("grpc.enable_http_proxy", 0)])


def predict_request(name):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([2])))
    return request


def broken(directory):
    directory.mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(b"no protobuf")


def config(*models):
    """A configuration of models given in text form."""
    entries = "".join(f"config {{ model_platform: 'tensorflow' {model} }}" for model in models)
    return text_format.Parse(f"model_config_list {{ {entries} }}", ModelServerConfig())


M, N = "name: 'm' base_path: 'm'", "name: 'n' base_path: 'n'"


def serving(servables, name="m"):
    return [status.version for status in servables.statuses(name) if status.state == "AVAILABLE"]


def answer(servable):
    definition = servable.signature_defs["serving_default"]
    feeds = {definition.inputs["x"].name: np.float32(2)}
    return servable.run(feeds, [definition.outputs["y"].name], "Predict")[0]


@pytest.mark.parametrize(
    "policy, expected",
    [
        ("", [5]),
        ("model_version_policy { latest {} }", [5]),
        ("model_version_policy { latest { num_versions: 2 } }", [5, 2]),
        ("model_version_policy { all {} }", [5, 2, 1]),
        ("model_version_policy { specific { versions: [1, 5, 99] } }", [5, 1]),
    ],
)
def test_policies(root, policy, expected):
    servables = Servables(root, config(f"{M} {policy}"))
    assert servables.names() == ["m"]
    assert serving(servables) == expected
    assert servables.find("m").version == expected[0]
    for version in expected:
        assert servables.find("m", version).version == version
    with pytest.raises(ServingError, match="NOT_FOUND: Servable not found for request: Specific\\(m, 99\\)"):
        servables.find("m", 99)


def test_versions_come_and_go_by_the_policy(root, saved):
    servables = Servables(root, config(f"{M} model_version_policy {{ latest {{ num_versions: 2 }} }}"))
    shutil.copytree(saved / "three", root / "m" / "7")
    broken(root / "m" / "8")
    servables.refresh()
    assert serving(servables) == [7, 5]
    assert [(s.version, s.state, s.code == "OK") for s in servables.statuses("m")] == [
        (8, "END", False),
        (7, "AVAILABLE", True),
        (5, "AVAILABLE", True),
        (2, "END", True),
    ]
    shutil.rmtree(root / "m" / "7")
    servables.refresh()
    assert serving(servables) == [5, 2]
    shutil.move(root / "m", root / "moved")  # a disk that is away for a moment
    servables.refresh()
    assert serving(servables) == [5, 2]
    (root / "m").mkdir()  # there, but without versions
    servables.refresh()
    assert serving(servables) == []


def test_what_was_served_stays_while_nothing_wanted_loads(root):
    servables = Servables(root, config(f"{M} model_version_policy {{ specific {{ versions: 1 }} }}"))
    broken(root / "m" / "9")
    servables.reload(config(f"{M} model_version_policy {{ specific {{ versions: 9 }} }}"))
    assert serving(servables) == [1]
    assert servables.statuses("m", 9)[0].state == "END"


def test_a_version_is_freed(root):
    servables = Servables(root, config(M))
    held = servables.find("m")
    gone = weakref.ref(held)
    shutil.rmtree(root / "m" / "5")
    servables.refresh()
    assert servables.find("m").version == 2
    assert answer(held) == 3.0  # a request under way keeps its version
    del held
    gc.collect()
    assert gone() is None


# Labels


def test_labels(root):
    both = f"{M} model_version_policy {{ specific {{ versions: [1, 2] }} }}"
    stable = "version_labels {{ key: '稳' value: {} }}"
    with pytest.raises(UserError, match="version 1 of model m, which is not currently.*Give --allow-version-labels"):
        Servables(root, config(f"{both} {stable.format(1)}"))
    servables = Servables(root, config(both))
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: Unrecognized servable version label: 稳"):
        servables.find("m", label="稳")
    servables.reload(config(f"{both} {stable.format(1)}"))
    assert servables.find("m", label="稳").version == 1
    assert servables.find("m").version == 2
    servables.reload(config(f"{both} {stable.format(2)}"))
    assert servables.find("m", label="稳").version == 2
    words = (
        "FAILED_PRECONDITION: Request to assign label to version 5 of model m, which is not currently available for "
    )
    with pytest.raises(ServingError, match=words):
        servables.reload(config(f"{both} {stable.format(5)}"))
    assert servables.find("m", label="稳").version == 2
    servables.reload(config(both))
    with pytest.raises(ServingError, match="Unrecognized servable version label"):
        servables.find("m", label="稳")


def test_labels_for_versions_that_are_not_served_yet(root):
    servables = Servables(
        root, config(f"{M} version_labels {{ key: 'a' value: 5 }}"), allow_labels_for_unavailable=True
    )
    assert servables.find("m", label="a").version == 5
    with pytest.raises(ServingError, match="FAILED_PRECONDITION"):  # a label in use does not move there
        servables.reload(config(f"{M} version_labels {{ key: 'a' value: 2 }}"))
    servables.reload(config(f"{M} version_labels {{ key: 'a' value: 5 }} version_labels {{ key: 'b' value: 2 }}"))
    with pytest.raises(ServingError, match="NOT_FOUND: Servable not found for request: Specific\\(m, 2\\)"):
        servables.find("m", label="b")


# Reloading


def test_reload_takes_the_place_of_what_was(root):
    servables = Servables(root)
    assert servables.names() == ["m", "n"]
    kept = servables.find("m")
    servables.reload(config(M, "name: '另一个' base_path: 'n'"))
    assert servables.names() == ["m", "另一个"]
    assert servables.find("m") is kept
    assert [status.state for status in servables.statuses("n")] == ["END"]
    servables.refresh()
    assert servables.names() == ["m", "另一个"]
    servables.reload(config())
    assert servables.names() == []


REFUSED = {
    "not a list": ("custom_model_config {}", "INVALID_ARGUMENT: ServerModelConfig type not supported by Handle"),
    "twice": (config(M, M), "INVALID_ARGUMENT: Illegal to list model m multiple times in config list"),
    "platform": (
        config("name: 'x' base_path: 'n'", M).SerializeToString().replace(b"tensorflow", b"tensorflaw"),
        "INVALID_ARGUMENT: Model x requests unsupported platform tensorflaw",
    ),
    "platform changed": (
        config(M).SerializeToString().replace(b"tensorflow", b"tensorflaw"),
        "INVALID_ARGUMENT: Illegal to change a model's platform. For model m platform was tensorflow and new platform "
        "requested is tensorflaw",
    ),
    "no platform": (
        "model_config_list { config { name: 'm' base_path: 'm' } }",
        "INVALID_ARGUMENT: Illegal setting neither ModelServerConfig::model_type .* model name is m",
    ),
    "no directory": (
        config("name: 'x' base_path: '/not/there'"),
        "INVALID_ARGUMENT: Could not find base path /not/there",
    ),
    "does not load": (
        config(N, "name: 'x' base_path: 'x'", "name: 'y' base_path: 'm'"),
        "UNKNOWN: 1 model\\(s\\) did not become available: \\{\\{\\{name: x version: 1\\} due to error: ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_configuration_is_refused_and_the_old_one_stays(root, case):
    broken(root / "x" / "1")
    servables = Servables(root, config(M))
    kept = servables.find("m")
    given, words = REFUSED[case]
    if isinstance(given, str):
        given = text_format.Parse(given, ModelServerConfig())
    elif isinstance(given, bytes):
        given = ModelServerConfig.FromString(given)
    with pytest.raises(ServingError, match=words):
        servables.reload(given)
    assert servables.names() == ["m"]
    servables.refresh()
    assert servables.names() == ["m"]
    assert servables.find("m") is kept


# The file


def test_the_file(root, tmp_path):
    file = tmp_path / "models.config"
    file.write_text(
        "# 注释\nmodel_config_list {\n  config {\n    name: '半加二'\n    base_path: '/models/m'\n"
        "    model_platform: 'tensorflow'\n    model_version_policy { specific { versions: [1, 2] } }\n"
        "    version_labels { key: '稳' value: 1 }\n  }\n}\n"
    )
    arguments = {"model_config_file": file, "allow_labels_for_unavailable": True}
    with Server(root, port=0, grpc_port=0, **arguments) as server, channel_to(server) as channel:
        assert server.servables.names() == ["半加二"]
        assert serving(server.servables, "半加二") == [2, 1]
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for label, expected in ((None, 4.0), ("稳", 3.0)):
            which = f"/labels/{quote(label)}" if label else ""
            url = f"{server.url}/v1/models/{quote('半加二')}{which}:predict"
            with OPENER.open(url, b'{"inputs": [2.0]}', timeout=30) as response:
                assert json.load(response) == {"outputs": [expected]}
            request = predict_request("半加二")
            if label:
                request.model_spec.version_label = label
            response = stub.Predict(request, timeout=30)
            assert response.outputs["y"].float_val[0] == expected
            assert response.model_spec.version.value == (1 if label else 2)


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "model_config_list { config { nam: 'm' } }",
            "Error parsing text-format tensorflow.serving.ModelServerConfig. Received: .*models.config:1:.*named "
            '"nam".* Did you mean name\\?',
        ),
        ("model_config_lists {}", "Did you mean model_config_list\\?"),
        ("model_config_list { config {", "Error parsing text-format"),
        ("model_config_list { config { name: 'm' base_path: 'm' } }", "The models listed must load. Received: Illegal"),
    ],
)
def test_a_file_that_is_none(root, tmp_path, text, words):
    file = tmp_path / "models.config"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        Server(root, port=0, model_config_file=file)
    with pytest.raises(UserError, match="--model-config-file must name a readable file. Received: .*none"):
        Server(root, port=0, model_config_file=tmp_path / "none")


def test_configuration_messages_are_those_of_tf_serving():
    batching = text_format.Parse(
        "max_batch_size { value: 32 } allowed_batch_sizes: [1, 32] pad_variable_length_inputs: true "
        "thread_pool_name { value: 'a' } enable_large_batch_splitting { value: true }",
        text_messages.CLASSES["BatchingParameters"](),
    )
    # Field numbers and wire types of session_bundle_config.proto: what TF Serving would read from the same bytes.
    assert batching.SerializeToString(deterministic=True).hex() == "0a0208202a030a016132020120380142020801"


# Under load


class Clients:
    """Two of REST and two of gRPC that ask m without a pause and keep every answer."""

    def __init__(self, server):
        self.answers, self._stop = [], False
        self._threads = concurrent.futures.ThreadPoolExecutor(4)
        self._channel = channel_to(server)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._url = f"{server.url}/v1/models/m:predict"

    def rest(self):
        with OPENER.open(self._url, b'{"inputs": [2.0]}', timeout=30) as response:
            return json.load(response)["outputs"][0]

    def grpc(self):
        return self._stub.Predict(predict_request("m"), timeout=30).outputs["y"].float_val[0]

    def __enter__(self):
        def ask(once):
            while not self._stop:
                self.answers.append(once())

        self._asking = [self._threads.submit(ask, once) for once in (self.rest, self.grpc) * 2]
        return self

    def __exit__(self, *exception):
        self._stop = True
        for asking in self._asking:
            asking.result()
        self._channel.close()


def test_no_request_fails_while_versions_and_configurations_change(tmp_path, saved):
    appear(saved / "two", tmp_path / "m" / "1")
    with Server(tmp_path, port=0, grpc_port=0, poll_seconds=0.05) as server, Clients(server) as clients:
        with channel_to(server) as channel:
            reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
            wait_for(lambda: len(clients.answers) > 20)
            for version in range(2, 5):
                appear(saved / ("three" if version % 2 == 0 else "two"), tmp_path / "m" / str(version))
                wait_for(lambda: clients.rest() == clients.grpc() == 4.0 - version % 2)  # noqa: B023
            broken(tmp_path / "m" / "9")
            wait_for(lambda: server.servables.statuses("m")[0].state == "END")
            old = f"name: 'm' base_path: '{tmp_path / 'm'}' model_version_policy {{ specific {{ versions: 3 }} }}"
            request = model_management_pb2.ReloadConfigRequest(config=config(old), metric_names=[":none"])
            response = reload(request, timeout=30)
            assert (response.status.error_code, response.status.error_message) == (0, "")
            assert (response.metric[0].name, response.metric[0].int64_value_increase) == (":none", 0)
            wait_for(lambda: clients.rest() == clients.grpc() == 3.0)
            with pytest.raises(grpc.RpcError) as caught:
                reload(model_management_pb2.ReloadConfigRequest(config=config(old, old)), timeout=30)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert set(clients.answers) == {3.0, 4.0}

"""TF Serving's gRPC services against a real server and real stubs: every answer with its exact code and words.

The cases follow TF Serving's own tests: predict_impl_test.cc, predict_util_test.cc, classifier_test.cc, regressor_test.cc,
multi_inference_test.cc, get_model_metadata_impl_test.cc, get_model_status_impl_test.cc, tensorflow_model_server_test.py.
"""

import concurrent.futures
import json
import shutil
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_models import save_dtypes, save_half_plus, save_texts
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from keras_llm.serving.server import Server
from keras_llm.serving.status import ServingError
from keras_llm.serving.tensors import _FIELD, to_array, to_proto
from keras_llm.serving.web import Limits

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    save_half_plus(root / "m" / "00000123", 2)
    save_texts(root / "texts" / "1")
    save_dtypes(root / "dtypes" / "7")
    return root


@pytest.fixture(scope="module")
def server(exported):
    with Server(exported, port=0, grpc_port=0, limits=Limits(body_bytes=2**20)) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def predict_request(name="m", signature="", version=None, label=None, outputs=(), **inputs):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(value if isinstance(value, TensorProto) else tf.make_tensor_proto(value))
    return request


def of_examples(request, *values, context=None):
    """Fills a request's input with examples {"x": value}."""
    examples = [tf.train.Example() for _ in values]
    for example, value in zip(examples, values, strict=True):
        if value is not None:
            example.features.feature["x"].float_list.value.append(value)
    if context is None:
        request.input.example_list.examples.extend(examples)
    else:
        request.input.example_list_with_context.examples.extend(examples)
        request.input.example_list_with_context.context.features.feature["x"].float_list.value.append(context)
    return request


def failure(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    return caught.value.code().name, caught.value.details()


def spec(message, name="m", signature="serving_default", version=123):
    return (message.name, message.signature_name, message.version.value) == (name, signature, version)


# Predict


def test_predict(prediction):
    response = prediction.Predict(predict_request(x=np.float32([[1, 2], [3, 4]])), timeout=30)
    assert spec(response.model_spec)
    assert list(response.outputs) == ["y"]
    y = response.outputs["y"]
    assert (y.dtype, list(y.float_val), y.tensor_content) == (1, [2.5, 3.0, 3.5, 4.0], b"")
    assert [dim.size for dim in y.tensor_shape.dim] == [2, 2]


@pytest.mark.parametrize("which", [{"version": 123}, {"signature": "serving_default"}, {"outputs": ["y"]}])
def test_predict_names_what_it_wants(prediction, which):
    response = prediction.Predict(predict_request(x=np.float32(3), **which), timeout=30)
    assert spec(response.model_spec)
    assert tf.make_ndarray(response.outputs["y"]) == np.float32(3.5)


def test_output_filter_gives_only_these(prediction):
    request = predict_request("texts", outputs=["score"], question=["问"], context=["答"])
    assert list(prediction.Predict(request, timeout=30).outputs) == ["score"]


def test_default_of_an_input(exported, tmp_path):
    """An input with a default may be left out; an unknown one may not be sent in its place."""
    from tensorflow.core.protobuf import saved_model_pb2

    shutil.copytree(exported / "texts" / "1", tmp_path / "texts" / "1")
    file = tmp_path / "texts" / "1" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    definition = model.meta_graphs[0].signature_def["serving_default"]
    definition.defaults["context"].CopyFrom(tf.make_tensor_proto(["默认"]))
    file.write_bytes(model.SerializeToString())
    from keras_llm.serving.protos import answer_predict
    from keras_llm.serving.servable import Servable

    servable = Servable("texts", 1, tmp_path / "texts" / "1")
    response = answer_predict(servable, predict_request("texts", question=["问"]))
    assert tf.make_ndarray(response.outputs["answer"]) == ["问|默认".encode()]
    with pytest.raises(
        ServingError, match="Signature input alias: question\\(feed name: serving_default_question:0\\)"
    ):
        answer_predict(servable, predict_request("texts", context=["答"]))
    with pytest.raises(
        ServingError, match="Inputs contains invalid name. Used request inputs: question, request input: q"
    ):
        answer_predict(servable, predict_request("texts", question=["问"], qq=["答"]))


OUTPUTS = "{answer,score}"
PREDICT_FAILURES = {
    "no name": (predict_request(""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    "no spec": (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    "unknown model": (predict_request("foo"), "NOT_FOUND", "Servable not found for request: Latest(foo)"),
    "unknown version": (
        predict_request(version=99),
        "NOT_FOUND",
        "Servable not found for request: Specific(m, 99)",
    ),
    "unknown label": (
        predict_request(label="稳"),
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: 稳",
    ),
    "unknown signature": (
        predict_request(signature="z", x=1.0),
        "FAILED_PRECONDITION",
        'Serving signature key "z" not found.',
    ),
    "input missing": (
        predict_request(),
        "INVALID_ARGUMENT",
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
    ),
    "input too many": (
        predict_request(x=1.0, z=1.0),
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}.",
    ),
    "input misnamed": (
        predict_request(z=1.0),
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {z}, or default input alias set: ",
    ),
    "output misnamed": (
        predict_request("texts", outputs=["y"], question=["q"], context=["c"]),
        "INVALID_ARGUMENT",
        f"output tensor alias not found in signature: y Outputs expected to be in the set {OUTPUTS}.",
    ),
    "output twice": (
        predict_request("texts", outputs=["score", "score"], question=["q"], context=["c"]),
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: score",
    ),
    "wrong dtype": (
        predict_request(x=np.int32([1])),
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but int32 is provided",
    ),
    "no tensor": (predict_request(x=TensorProto()), "INVALID_ARGUMENT", "tensor parsing error: x"),
    "a tensor that lies": (
        predict_request(x=TensorProto(dtype=1, tensor_content=b"123")),
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    ),
}


@pytest.mark.parametrize("case", PREDICT_FAILURES)
def test_predict_fails(prediction, case):
    request, code, words = PREDICT_FAILURES[case]
    assert failure(prediction.Predict, request) == (code, words)


def test_a_failed_check_has_the_runtimes_words(prediction):
    code, words = failure(prediction.Predict, predict_request("texts", question=["fail"], context=["c"]))
    assert code == "INVALID_ARGUMENT"
    assert words.startswith("assertion failed: [you asked for it]")


def test_long_errors_are_cut(prediction):
    code, words = failure(prediction.Predict, predict_request(signature="长" * 1000, x=1.0))
    assert code == "FAILED_PRECONDITION"
    assert words.startswith('Serving signature key "长') and words.endswith("...TRUNCATED")
    assert len(words.encode()) <= 1024 + 3 + len("...TRUNCATED")


def test_a_few_bytes_do_not_ask_for_all_memory(prediction):
    proto = TensorProto(dtype=1, float_val=[1.0])
    for _ in range(4):
        proto.tensor_shape.dim.add(size=10_000)
    assert failure(prediction.Predict, predict_request(x=proto)) == ("INVALID_ARGUMENT", "tensor parsing error: x")


def test_a_message_over_the_limit(prediction):
    code, words = failure(prediction.Predict, predict_request(x=np.zeros(2**18 + 1, np.float32)))
    assert code == "RESOURCE_EXHAUSTED" and "larger than max" in words


@pytest.mark.parametrize(
    "name", ["double", "int32", "int16", "int8", "uint8", "int64", "uint32", "uint64", "bool", "half"]
)
def test_dtypes_there_and_back(prediction, name):
    given = np.array([[0, 1], [1, 0]]).astype(tf.as_dtype(name).as_numpy_dtype)
    response = prediction.Predict(predict_request("dtypes", name, x=given), timeout=30)
    got = tf.make_ndarray(response.outputs["x"])
    assert got.dtype == given.dtype
    np.testing.assert_array_equal(got, given)


def test_strings_there_and_back(prediction):
    texts = np.array([["“注意力”！".encode(), b""], [b"\xff\x00", "𠮷😀".encode()]], np.object_)
    for sent in (texts, texts.ravel(), np.array(b"one", np.object_), texts[:0]):
        response = prediction.Predict(predict_request("texts", "echo", text=sent), timeout=30)
        np.testing.assert_array_equal(tf.make_ndarray(response.outputs["echo"]), sent)
        assert response.outputs["echo"].tensor_content == b""


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_tensor_message_is_read_as_tensorflow_reads_it(data):
    proto = TensorProto(dtype=data.draw(st.sampled_from(sorted(_FIELD))))
    for size in data.draw(st.lists(st.integers(0, 3), max_size=3)):
        proto.tensor_shape.dim.add(size=size)
    field = _FIELD[proto.dtype]
    if data.draw(st.booleans()):
        proto.tensor_content = data.draw(st.lists(st.integers(0, 3), max_size=18).map(bytes))
    else:
        values = {"string_val": st.binary(max_size=3), "bool_val": st.booleans()}.get(field, st.integers(0, 300))
        getattr(proto, field).extend(data.draw(st.lists(values, max_size=9)))
    dtype = tf.as_dtype(proto.dtype)
    try:
        expected = tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()
    except tf.errors.InvalidArgumentError:
        with pytest.raises(ServingError, match="tensor parsing error: x"):
            to_array(proto, "x")
        return
    got = to_array(proto, "x")
    assert got.dtype == (np.object_ if dtype == tf.string else dtype.as_numpy_dtype)
    np.testing.assert_array_equal(got, expected)
    back = TensorProto()
    to_proto(got, back)
    np.testing.assert_array_equal(tf.make_ndarray(back), expected)


# Classify, regress, multi-inference


def test_classify(prediction):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "classify_x_to_y"
    response = prediction.Classify(of_examples(request, 20.0), timeout=30)
    assert spec(response.model_spec, signature="classify_x_to_y")
    (row,) = response.result.classifications
    assert [(entry.label, entry.score) for entry in row.classes] == [("", 12.0)]
    request.model_spec.signature_name = "classify_with_labels"
    (row,) = prediction.Classify(request, timeout=30).result.classifications
    assert [(entry.label, entry.score) for entry in row.classes] == [("正", 12.0), ("b", -12.0)]


def test_regress(prediction):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "regress_x_to_y"
    response = prediction.Regress(of_examples(request, 80.0, 1.5), timeout=30)
    assert spec(response.model_spec, signature="regress_x_to_y")
    assert [row.value for row in response.result.regressions] == [42.0, 2.75]
    request.ClearField("input")
    response = prediction.Regress(of_examples(request, None, None, context=80.0), timeout=30)
    assert [row.value for row in response.result.regressions] == [42.0, 42.0]


@pytest.mark.parametrize(
    "signature, values, words",
    [
        ("z", [1.0], "No signature was found with the name: z"),
        ("classify_with_labels", [1.0], "Expected one output Tensor."),
        ("regress_x_to_y", [], "Input is empty."),
    ],
)
def test_regress_fails(prediction, signature, values, words):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", signature
    assert failure(prediction.Regress, of_examples(request, *values)) == ("INVALID_ARGUMENT", words)


def multi_inference(*tasks, values=(80.0, 2.0)):
    request = inference_pb2.MultiInferenceRequest()
    for name, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = name, signature
    return of_examples(request, *values)


def test_multi_inference(prediction):
    request = multi_inference(("m", "regress_x_to_y", REGRESS), ("m", "classify_with_labels", CLASSIFY))
    first, second = prediction.MultiInference(request, timeout=30).results
    assert spec(first.model_spec, signature="regress_x_to_y")
    assert [row.value for row in first.regression_result.regressions] == [42.0, 3.0]
    assert spec(second.model_spec, signature="classify_with_labels")
    rows = second.classification_result.classifications
    assert [[(entry.label, entry.score) for entry in row.classes] for row in rows] == [
        [("正", 42.0), ("b", -42.0)],
        [("正", 3.0), ("b", -3.0)],
    ]


@pytest.mark.parametrize(
    "tasks, code, words",
    [
        ([], "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ([("", "a", REGRESS)], "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (
            [("m", "regress_x_to_y", REGRESS), ("", "a", REGRESS)],
            "INVALID_ARGUMENT",
            "Found ModelSpec with an empty model name.",
        ),
        (
            [("m", "regress_x_to_y", REGRESS), ("texts", "a", REGRESS)],
            "INVALID_ARGUMENT",
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            [("m", "regress_x_to_y", REGRESS)] * 2,
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: regress_x_to_y",
        ),
        ([("m", "z", REGRESS)], "INVALID_ARGUMENT", "Requested signature not found in model graph: z"),
        ([("m", "regress_x_to_y", "z")], "UNIMPLEMENTED", "Unsupported signature method_name: z"),
    ],
)
def test_multi_inference_fails(prediction, tasks, code, words):
    assert failure(prediction.MultiInference, multi_inference(*tasks)) == (code, words)


# Metadata and status


def test_metadata(prediction, server):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    response = prediction.GetModelMetadata(request, timeout=30)
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 123)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    url = f"{server.url}/v1/models/m/metadata"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as rest:
        shown = json.load(rest)["metadata"]["signature_def"]["signature_def"]
    assert set(signatures.signature_def) == set(shown) > {"serving_default", "regress_x_to_y"}
    assert (
        signatures.signature_def["serving_default"].inputs["x"].name == shown["serving_default"]["inputs"]["x"]["name"]
    )


def test_metadata_fails(prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    assert failure(prediction.GetModelMetadata, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    request.model_spec.name = "foo"
    words = "GetModelMetadataRequest must specify at least one metadata_field"
    assert failure(prediction.GetModelMetadata, request) == ("INVALID_ARGUMENT", words)
    request.metadata_field.append("z")
    words = "Metadata field z is not supported"
    assert failure(prediction.GetModelMetadata, request) == ("INVALID_ARGUMENT", words)
    request.metadata_field[:] = ["signature_def"]
    words = "Servable not found for request: Latest(foo)"
    assert failure(prediction.GetModelMetadata, request) == ("NOT_FOUND", words)


def test_status(models):
    request = get_model_status_pb2.GetModelStatusRequest()
    assert failure(models.GetModelStatus, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    request.model_spec.name = "m"
    (status,) = models.GetModelStatus(request, timeout=30).model_version_status
    assert (status.version, status.state) == (123, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
    assert (status.status.error_code, status.status.error_message) == (0, "")
    request.model_spec.version.value = 9
    words = "Could not find version 9 of model m"
    assert failure(models.GetModelStatus, request) == ("NOT_FOUND", words)
    request.model_spec.name = "foo"
    request.model_spec.ClearField("version")
    words = "Could not find any versions of model foo"
    assert failure(models.GetModelStatus, request) == ("NOT_FOUND", words)


def test_reload_without_a_list(models):
    code, words = failure(models.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest())
    assert (code, words) == (
        "INVALID_ARGUMENT",
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported",
    )


# Bad input

METHODS = [
    f"/tensorflow.serving.{service}/{method}"
    for service, methods in {
        "PredictionService": ["Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"],
        "ModelService": ["GetModelStatus", "HandleReloadConfigRequest"],
    }.items()
    for method in methods
]
WELL_FORMED = [
    predict_request("texts", question=["问"], context=["答"]),
    predict_request(x=np.float32([1, 2])),
    of_examples(regression_pb2.RegressionRequest(), 1.0),
    multi_inference(("m", "regress_x_to_y", REGRESS)),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(METHODS), st.sampled_from([message.SerializeToString() for message in WELL_FORMED]), st.data())
def test_damaged_messages_get_an_answer(channel, method, message, data):
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(message)))
        message = message[:start] + data.draw(st.binary(max_size=3)) + message[start + data.draw(st.integers(0, 4)) :]
    try:
        channel.unary_unary(method)(message, timeout=30)
    except grpc.RpcError as error:
        assert error.code() in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.UNIMPLEMENTED,
            grpc.StatusCode.INTERNAL,
        )
        assert error.code() != grpc.StatusCode.INTERNAL or error.details().startswith("The message is no ")


def test_no_message_and_no_method(channel):
    def call(method, message):
        return failure(lambda request, timeout: channel.unary_unary(method)(request, timeout=timeout), message)

    assert call(METHODS[0], b"\xff") == ("INTERNAL", "The message is no PredictRequest")
    assert call("/tensorflow.serving.PredictionService/PredictStreamed", b"")[0] == "UNIMPLEMENTED"


def test_concurrent_requests_of_both_protocols_get_their_own_answers(server, prediction):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def worker(start):
        for number in range(start, start + 15):
            question = f"问题 {number} 😀"
            response = prediction.Predict(predict_request("texts", question=[question], context=["c"]), timeout=30)
            assert response.outputs["answer"].string_val[0].decode() == f"{question}|c"
            body = json.dumps({"instances": [{"question": question, "context": "d"}]}).encode()
            with opener.open(f"{server.url}/v1/models/texts:predict", body, timeout=30) as rest:
                assert json.load(rest) == {"predictions": [{"answer": f"{question}|d", "score": 0.25}]}
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert all(threads.map(worker, range(0, 8000, 1000)))

"""Malformed requests of both protocols among well-formed ones, all sharing batches: never a crash, never another's answer.

`SERVING_FUZZ_REQUESTS=10000 pytest tests/test_serving_fuzz.py` sends that many malformed ones; a run of all tests sends fewer.
"""

import collections
import concurrent.futures
import http.client
import itertools
import json
import os
import random
import socket

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_models import save_half_plus, save_texts
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from keras_llm.serving.rest import HTTP_STATUS
from keras_llm.serving.server import Server
from keras_llm.serving.web import Limits

REQUESTS = int(os.environ.get("SERVING_FUZZ_REQUESTS", "600"))
BODIES = [
    b'{"instances": [{"question": "\xe9\x97\xae", "context": "\\u4f60\\ud83d\\ude00"}, {"question": "", "context": "b"}]}',
    b'{"inputs": {"question": ["a"], "context": [{"b64": "aGVsbG8="}]}}',
    b'{"signature_name": "echo", "instances": ["x", "y"]}',
    b'{"instances": [1.0, 2.5, NaN, -Infinity]}',
    b'{"signature_name": "regress_x_to_y", "context": {"a": true}, "examples": [{"x": [20.0]}]}',
]
BAD_VALUES = [
    None,
    True,
    1,
    -1e400,
    "text",
    "\x00\ud800",
    [],
    {},
    [[[]]],
    {"b64": 1},
    {"b64": "?"},
    2**70,
    [1, "a"],
    [None],
]
NAMES = ["m", "texts", "m/versions/1", "texts/labels/x", "%E6%97%A0", "m/versions/99999999999999999999", "%ff", ""]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    save_half_plus(root / "m" / "1", 2)
    save_texts(root / "texts" / "1")
    batching = root / "batching.config"
    batching.write_text(
        "max_batch_size { value: 64 } batch_timeout_micros { value: 1000 } num_batch_threads { value: 2 }"
    )
    limits = Limits(body_bytes=2**18)
    with Server(root, port=0, grpc_port=0, limits=limits, batching_parameters_file=batching) as server:
        yield server


def malformed(chance):
    """A path and a body."""
    path = f"/v1/models/{chance.choice(NAMES)}:{chance.choice(['predict', 'classify', 'regress', 'PREDICT'])}"
    kind = chance.randrange(5)
    if kind == 0:  # bytes that are nothing
        return path, chance.randbytes(chance.randrange(80))
    if kind == 1:  # well-formed JSON of the wrong kind
        document = {
            chance.choice(["instances", "inputs", "examples", "signature_name", "context"]): chance.choice(BAD_VALUES)
            for _ in range(chance.randrange(4))
        }
        return path, json.dumps(document).encode("utf-8", "replace")
    if kind == 2:  # too many rows for a batch, and sometimes for a body
        return path, json.dumps({"instances": [1.0] * chance.choice([65, 1000, 100_000])}).encode()
    body = bytearray(chance.choice(BODIES))
    if kind == 3:  # cut off
        return path, bytes(body[: chance.randrange(len(body))])
    for _ in range(chance.randrange(1, 4)):  # damaged
        place = chance.randrange(len(body))
        body[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
    return path, bytes(body)


class Http:
    """One connection, opened again when the server has closed it."""

    def __init__(self, server):
        self._address = server.url.removeprefix("http://")
        self._connection = None

    def post(self, path, body):
        for fresh in (False, True):
            if self._connection is None or fresh:
                self._connection = http.client.HTTPConnection(self._address, timeout=60)
            try:
                self._connection.request("POST", path, body)
                response = self._connection.getresponse()
                return response.status, response.read(), response.headers
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                if fresh:
                    raise
        raise AssertionError


def send_malformed_http(server, seed, count):
    chance, seen, connection = random.Random(seed), collections.Counter(), Http(server)
    for _ in range(count):
        path, body = malformed(chance)
        status, answer, headers = connection.post(path, body)
        seen[status] += 1
        if status != 200:
            assert status in {*HTTP_STATUS.values(), 413}, (path, body, status, answer)
            assert headers["content-type"] == "application/json"
            assert answer == b"" or list(json.loads(answer.decode("utf-8", "replace"))) == ["error"]
    return seen


def cut_connections(server, seed, count):
    """Requests that end in the middle, and what is not HTTP."""
    chance = random.Random(seed)
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(count):
        body = chance.choice(BODIES)
        head = f"POST /v1/models/texts:predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body) + 9}\r\n\r\n".encode()
        message = chance.choice([head + body, head[: chance.randrange(len(head))], chance.randbytes(40) + b"\r\n\r\n"])
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(message)
    return collections.Counter(cut=count)


def send_malformed_grpc(server, seed, count):
    chance, seen = random.Random(seed), collections.Counter()
    messages = [texts_request("q", "c").SerializeToString(), predict_pb2.PredictRequest().SerializeToString()]
    with grpc.insecure_channel(server.grpc_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        for _ in range(count):
            method = chance.choice(["Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata", "Nothing"])
            message = bytearray(chance.choice(messages) + chance.randbytes(1))
            for _ in range(chance.randrange(4)):
                place = chance.randrange(len(message))
                message[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(1, 3))
            try:
                channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")(bytes(message), timeout=60)
                seen["OK"] += 1
            except grpc.RpcError as error:
                seen[error.code().name] += 1
                details = error.details()
                assert error.code().name != "INTERNAL" or details.startswith("The message is no "), details
    return seen


def texts_request(question, context):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "texts"
    request.inputs["question"].CopyFrom(tf.make_tensor_proto(np.array([question.encode()], np.object_)))
    request.inputs["context"].CopyFrom(tf.make_tensor_proto(np.array([context.encode()], np.object_)))
    return request


def test_malformed_requests_among_well_formed_ones(server):
    stopped = []

    def well_formed(name):
        connection, count = Http(server), 0
        with grpc.insecure_channel(server.grpc_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for number in itertools.count():
                if stopped and number:
                    return count
                question = f"{name} 问题 {number}"
                answer = stub.Predict(texts_request(question, "甲"), timeout=60).outputs["answer"].string_val[0]
                assert answer.decode() == f"{question}|甲"
                body = json.dumps({"instances": [{"question": question, "context": "乙"}]}).encode()
                status, answer, _ = connection.post("/v1/models/texts:predict", body)
                assert (status, json.loads(answer)["predictions"][0]["answer"]) == (200, f"{question}|乙")
                count += 2

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        good = [threads.submit(well_formed, name) for name in ("a", "b")]
        shares = [
            threads.submit(send_malformed_http, server, 1, REQUESTS // 3),
            threads.submit(send_malformed_http, server, 2, REQUESTS // 3),
            threads.submit(send_malformed_grpc, server, 3, REQUESTS // 3),
            threads.submit(cut_connections, server, 4, REQUESTS // 20),
        ]
        try:
            seen = sum((share.result() for share in shares), collections.Counter())
        finally:
            stopped.append(True)
        assert sum(task.result() for task in good) >= 4
    assert seen.total() >= REQUESTS
    assert min(seen[400], seen[404], seen["INVALID_ARGUMENT"] + seen["NOT_FOUND"]) > 0
    assert seen["cut"] and not seen[500] and not seen["UNKNOWN"]

"""What a request may take (time, size, a place among others), and that the server's end waits for those under way."""

import concurrent.futures
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from serving_models import save_sleeper, wait_for, wait_until_served
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from keras_llm.serving.server import Server
from keras_llm.serving.web import Limits

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    save_sleeper(root / "sleeper" / "1")
    return root


class Asker:
    """Asks the sleeper by both protocols."""

    def __init__(self, url, grpc_address):
        self._url = f"{url}/v1/models/sleeper:predict"
        self._channel = grpc.insecure_channel(grpc_address, options=[("grpc.enable_http_proxy", 0)])
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def rest(self, seconds):
        response = requests.post(self._url, json={"instances": [seconds]}, timeout=30)
        return response.status_code, response.json().get("error", response.json().get("predictions"))

    def grpc(self, seconds, timeout=30):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "sleeper"
        request.inputs["seconds"].CopyFrom(tf.make_tensor_proto(np.float32([seconds])))
        try:
            return "OK", list(self._stub.Predict(request, timeout=timeout).outputs["slept"].float_val)
        except grpc.RpcError as error:
            return error.code().name, error.details()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._channel.close()


@pytest.mark.parametrize("batched", [False, True])
def test_time(exported, tmp_path, batched):
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 1 } num_batch_threads { value: 4 }")
    limits = Limits(request_seconds=1.0)
    batching = {"batching_parameters_file": file} if batched else {}
    with Server(exported, port=0, grpc_port=0, limits=limits, **batching) as server:
        with Asker(server.url, server.grpc_address) as ask:
            assert ask.rest(0) == (200, [0.0])
            assert ask.grpc(0) == ("OK", [0.0])
            began = time.monotonic()
            assert ask.rest(20) == (504, "Timed out waiting for notification")
            code, words = ask.grpc(20)
            assert (code, words) == ("DEADLINE_EXCEEDED", "Timed out waiting for notification")
            assert 2 <= time.monotonic() - began < 15
            assert ask.grpc(20, timeout=0.2)[0] == "DEADLINE_EXCEEDED"
            assert ask.rest(0) == (200, [0.0])
        began = time.monotonic()
    assert time.monotonic() - began < 10  # nothing went on running


def test_a_body_that_does_not_arrive(exported):
    with Server(exported, port=0, limits=Limits(request_seconds=0.3)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"POST /v1/models/sleeper:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (answer.status, b"did not arrive within 0.3 seconds" in answer.read()) == (408, True)


def test_more_requests_than_there_is_room_for(exported):
    with Server(exported, port=0, grpc_port=0, limits=Limits(requests=2)) as server:
        with Asker(server.url, server.grpc_address) as ask, concurrent.futures.ThreadPoolExecutor(4) as threads:
            ask.grpc(0)
            running = [threads.submit(asking, 4) for asking in (ask.rest, ask.rest, ask.grpc, ask.grpc)]
            time.sleep(1.5)
            assert ask.rest(0) == (429, "2 requests are under way, and no more are taken")
            assert ask.grpc(0)[0] == "RESOURCE_EXHAUSTED"
            assert requests.get(f"{server.url}/v1/models/sleeper", timeout=1).ok  # a probe is answered all the same
            assert [answer.result()[0] for answer in running] == [200, 200, "OK", "OK"]
            assert ask.rest(0) == (200, [0.0])
            assert ask.grpc(0) == ("OK", [0.0])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_signal_ends_the_server_after_the_requests_under_way(exported):
    rest, rpc = free_port(), free_port()
    command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), str(exported)]
    command += ["--rest-port", str(rest), "--grpc-port", str(rpc)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    try:
        wait_until_served(process, f"http://127.0.0.1:{rest}/v1/models/sleeper")
        with Asker(f"http://127.0.0.1:{rest}", f"127.0.0.1:{rpc}") as ask:
            assert ask.grpc(0) == ("OK", [0.0])
            with concurrent.futures.ThreadPoolExecutor(2) as threads:
                running = [threads.submit(asking, 4) for asking in (ask.rest, ask.grpc)]
                time.sleep(1.0)
                process.send_signal(signal.SIGTERM)
                wait_for(lambda: ask.grpc(0, timeout=1)[0] != "OK")  # no new ones
                assert [answer.result() for answer in running] == [(200, [4.0]), ("OK", [4.0])]
        err = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert f"gRPC at 127.0.0.1:{rpc}" in err and "Stopped." in err and "Traceback" not in err

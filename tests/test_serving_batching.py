"""Dynamic batching: what is joined, what it answers, and what it refuses; and batching.config.

The cases follow TF Serving's batching_session_test.cc and TensorFlow's shared_batch_scheduler_test.cc.
"""

import concurrent.futures
import gc
import json
import threading
import time
import urllib.error
import urllib.request
import weakref

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_models import save_half_plus, save_texts
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from keras_llm.errors import UserError
from keras_llm.serving.batching import Batching
from keras_llm.serving.batching_config import BatchingParameters, read_parameters
from keras_llm.serving.servable import Servable
from keras_llm.serving.server import Server
from keras_llm.serving.status import ServingError

SECOND = 1_000_000


class Doubler:
    """Stands for a model: y = 2 x; 13 is an error. It notes each batch, and may be held up."""

    def __init__(self):
        self.batches = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.busy = threading.Semaphore(0)

    def compute(self, feeds, fetches, deadline=None):
        self.busy.release()
        assert self.go_on.wait(30)
        x = feeds["x"]
        self.batches.append(x)
        if (x == 13).any():
            raise ServingError("INVALID_ARGUMENT", f"13 is bad luck, {len(x)} rows")
        return [x * 2 if fetch == "y" else np.sum(x) if fetch == "total" else x[:1] for fetch in fetches]


@pytest.fixture
def start():
    """Makes a Batching that is closed at the end, and the pool of its clients."""
    with concurrent.futures.ThreadPoolExecutor(32) as clients:
        made = []

        def start(**parameters):
            batching = Batching(BatchingParameters(**{"num_batch_threads": 1, **parameters}))
            made.append(batching)

            def ask(model, x, deadline=None, fetch="y"):
                return clients.submit(lambda: batching.run(model, {"x": np.array(x)}, [fetch], deadline)[0].tolist())

            return ask

        yield start
        for batching in made:
            batching.close()


def test_requests_that_come_together_are_computed_together(start):
    ask, model = start(max_batch_size=4, batch_timeout_micros=30 * SECOND), Doubler()
    answers = [ask(model, [i]) for i in range(8)]
    assert [answer.result(30) for answer in answers] == [[2 * i] for i in range(8)]
    assert [len(batch) for batch in model.batches] == [4, 4]  # full, so neither waited half a minute


def test_a_request_waits_only_so_long(start):
    ask, model = start(max_batch_size=4, batch_timeout_micros=SECOND // 10), Doubler()
    began = time.monotonic()
    assert ask(model, [1, 2]).result(30) == [2, 4]
    assert 0.1 <= time.monotonic() - began < 10


def test_what_does_not_fit_begins_the_next_batch(start):
    ask, model = start(max_batch_size=4, batch_timeout_micros=SECOND // 5), Doubler()
    first, second = ask(model, [1, 2, 3]), ask(model, [4, 5])
    assert (first.result(30), second.result(30)) == ([2, 4, 6], [8, 10])
    assert sorted(len(batch) for batch in model.batches) == [2, 3]


def test_batches_of_different_models_are_computed_at_once(start):
    ask = start(max_batch_size=1, num_batch_threads=2)
    models = [Doubler(), Doubler()]
    models[0].go_on.clear()
    held = ask(models[0], [1])
    assert models[0].busy.acquire(timeout=30)
    assert ask(models[1], [2]).result(30) == [4]
    models[0].go_on.set()
    assert held.result(30) == [2]


def test_allowed_sizes_are_filled_up_and_cut_again(start):
    ask, model = start(max_batch_size=8, allowed_batch_sizes=(2, 8)), Doubler()
    assert ask(model, [[1, 2], [3, 4], [5, 6]]).result(30) == [[2, 4], [6, 8], [10, 12]]
    assert model.batches[0].tolist() == [[1, 2], [3, 4], [5, 6]] + 5 * [[1, 2]]
    assert ask(model, [7, 8]).result(30) == [14, 16]
    assert ask(model, np.zeros([0, 2])).result(30) == []
    assert [len(batch) for batch in model.batches] == [8, 2, 0]


def together(ask, model, requests):
    """Answers of requests that all wait behind one that is held up."""
    model.go_on.clear()
    held = ask(model, [0])
    assert model.busy.acquire(timeout=30)
    answers = [ask(model, request) for request in requests]
    time.sleep(0.5)
    model.go_on.set()
    held.result(30)
    model.batches.pop(0)
    return answers


def test_rows_of_different_shapes_are_not_joined(start):
    ask, model = start(max_batch_size=8), Doubler()
    requests = [[[1, 2]], [[3, 4, 5]], [[6, 7]], [8], [[1.5, 2.5]]]
    answers = together(ask, model, requests)
    assert [answer.result(30) for answer in answers] == [(2 * np.array(request)).tolist() for request in requests]
    assert sorted(batch.shape for batch in model.batches) == [(1,), (1, 2), (1, 3), (2, 2)]


def test_rows_of_different_shapes_are_padded_when_asked(start):
    ask, model = start(max_batch_size=3, pad_variable_length_inputs=True, batch_timeout_micros=30 * SECOND), Doubler()
    answers = [ask(model, [[1, 2]]), ask(model, [[3, 4, 5]]), ask(model, [[6]])]
    assert [answer.result(30)[0] for answer in answers] == [[2, 4, 2], [6, 8, 10], [12, 12, 12]]
    assert len(model.batches) == 1


def test_an_error_is_only_its_own_requests(start):
    ask, model = start(max_batch_size=4, batch_timeout_micros=30 * SECOND), Doubler()
    answers = [ask(model, [x]) for x in (1, 13, 2, 3)]
    assert [answers[i].result(30) for i in (0, 2, 3)] == [[2], [4], [6]]
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: 13 is bad luck, 1 rows"):
        answers[1].result(30)


def test_a_full_queue_refuses(start):
    ask, model = start(max_batch_size=1, max_enqueued_batches=2), Doubler()
    model.go_on.clear()
    first = ask(model, [0])
    assert model.busy.acquire(timeout=30)
    waiting = [ask(model, [1]), ask(model, [2])]
    time.sleep(0.5)
    words = (
        "UNAVAILABLE: The batch scheduling queue .* is full; currently 2 batches enqueued and max_enqueued_batches is 2"
    )
    with pytest.raises(ServingError, match=words):
        ask(model, [3]).result(30)
    other = Doubler()
    waiting.append(ask(other, [4]))  # another model's queue has its own places
    model.go_on.set()
    assert [answer.result(30) for answer in [first, *waiting]] == [[0], [2], [4], [8]]


def test_time_ends_in_the_queue(start):
    ask, model = start(max_batch_size=1), Doubler()
    model.go_on.clear()
    first = ask(model, [0])
    assert model.busy.acquire(timeout=30)
    late = ask(model, [1], deadline=time.monotonic() + 0.1)
    with pytest.raises(ServingError, match="RESOURCE_EXHAUSTED: Run\\(\\) timeout exceeded while waiting in batching"):
        late.result(30)
    model.go_on.set()
    assert first.result(30) == [0]
    assert ask(model, [2]).result(30) == [4]
    assert len(model.batches) == 2  # nobody waited for the late one: it was not computed


def test_time_ends_during_the_run(start):
    ask, model = start(max_batch_size=1), Doubler()
    model.go_on.clear()
    late = ask(model, [1], deadline=time.monotonic() + 1)
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED: Timed out waiting for notification"):
        late.result(30)
    model.go_on.set()


@pytest.mark.parametrize(
    "x, fetch, words",
    [
        ([1, 2, 3, 4, 5], "y", "INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4"),
        (1, "y", "INVALID_ARGUMENT: Batching Run\\(\\) input tensors must have at least one dimension"),
        ([1, 2], "total", "FAILED_PRECONDITION: Batched output tensor has 0 dimensions"),
        ([1, 2], "first", "FAILED_PRECONDITION: Batched output tensor's 0th dimension does not equal"),
    ],
)
def test_what_cannot_be_part_of_a_batch(start, x, fetch, words):
    ask, model = start(max_batch_size=4), Doubler()
    with pytest.raises(ServingError, match=words):
        ask(model, x, fetch=fetch).result(30)


def test_inputs_of_different_lengths():
    batching = Batching(BatchingParameters(num_batch_threads=1))
    with pytest.raises(ServingError, match="must have equal 0th-dimension size"):
        batching.run(Doubler(), {"x": np.zeros(2), "z": np.zeros(3)}, ["y"], None)
    batching.close()


def test_large_requests_are_divided_when_asked(start):
    parameters = {"enable_large_batch_splitting": True, "max_execution_batch_size": 4}
    ask, model = start(max_batch_size=10, **parameters), Doubler()
    assert ask(model, list(range(10))).result(30) == list(range(0, 20, 2))
    assert [len(batch) for batch in model.batches] == [4, 4, 2]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(-9, 13), max_size=4), min_size=1, max_size=24),
    st.sampled_from([(), (1, 8), (3, 5, 8)]),
    st.integers(1, 3),
)
def test_everyone_gets_their_own(requests, allowed, threads):
    parameters = BatchingParameters(8, 500, 100, num_batch_threads=threads, allowed_batch_sizes=allowed)
    batching, model = Batching(parameters), Doubler()

    def ask(x):
        try:
            return batching.run(model, {"x": np.array(x, int)}, ["y"], None)[0].tolist()
        except ServingError as error:
            return error.message

    with concurrent.futures.ThreadPoolExecutor(24) as clients:
        answers = list(clients.map(ask, requests))
    batching.close()
    for x, answer in zip(requests, answers, strict=True):
        if 13 in x:
            assert answer.startswith("13 is bad luck")
        else:
            assert answer == [2 * value for value in x]


# The file


def test_the_file(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text(
        "# 一\nmax_batch_size { value: 32 }\nallowed_batch_sizes: [8, 32]\nnum_batch_threads { value: 2 }\n"
    )
    assert read_parameters(file) == BatchingParameters(32, num_batch_threads=2, allowed_batch_sizes=(8, 32))


def test_the_file_that_exports_write():
    from keras_llm.export.deployment import TEMPLATES

    assert read_parameters(TEMPLATES / "batching.config").max_batch_size == 32


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "max_batch_sizes { value: 32 }",
            'batching.config:1:1 : .* named "max_batch_sizes".* Did you mean max_batch_size\\?',
        ),
        ("max_batch_size: 32", "Error parsing text-format tensorflow.serving.BatchingParameters"),
        ("max_batch_size { value: many }", "Error parsing text-format .*:1:"),
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1. Received: 0 in"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be at least 0. Received: -1"),
        ("allowed_batch_sizes: [2, 4]", "must rise and end with max_batch_size, 1000. Received: \\[2, 4\\]"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [4, 2, 4]", "must rise and end with max_batch_size, 4"),
        ("enable_large_batch_splitting { value: true }", "max_execution_batch_size must be from 1 to max_batch_size"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, words):
    file = tmp_path / "batching.config"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_parameters(file)


# In the server


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    save_half_plus(root / "m" / "1", 2)
    save_texts(root / "texts" / "1")
    return root


def test_a_batching_server_answers_as_one_without(exported, tmp_path):
    """Both protocols ask at once, so that their requests share batches, and some of them fail."""
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 16 } batch_timeout_micros { value: 5000 } num_batch_threads { value: 2 }")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    questions = [f"问题 {i} 😀" if i % 9 else "fail" for i in range(40)]

    def ask(server, stub, i):
        question, context = questions[i], f"c{i}" * (i % 5)
        if i % 2:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "texts"
            request.inputs["question"].CopyFrom(tf.make_tensor_proto([question]))
            request.inputs["context"].CopyFrom(tf.make_tensor_proto([context]))
            try:
                outputs = stub.Predict(request, timeout=30).outputs
                return outputs["answer"].string_val[0].decode(), outputs["score"].float_val[0]
            except grpc.RpcError as error:
                return error.code().name, error.details()
        body = json.dumps({"instances": [{"question": question, "context": context}]}).encode()
        try:
            with opener.open(f"{server.url}/v1/models/texts:predict", body, timeout=30) as response:
                (answer,) = json.load(response)["predictions"]
                return answer["answer"], answer["score"]
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["error"]

    def answers(**arguments):
        with Server(exported, port=0, grpc_port=0, **arguments) as server:
            with grpc.insecure_channel(server.grpc_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                with concurrent.futures.ThreadPoolExecutor(20) as clients:
                    return list(clients.map(lambda i: ask(server, stub, i), range(len(questions))))

    batched = answers(batching_parameters_file=file)
    assert batched == answers()
    assert batched[1] == (f"{questions[1]}|c1", 0.25)
    assert batched[0][0] == 400 and batched[9][0] == "INVALID_ARGUMENT"


def test_a_batching_servable_is_freed(exported):
    batching = Batching(BatchingParameters(num_batch_threads=2))
    servable = Servable("m", 1, exported / "m" / "1", batching)
    definition = servable.signature_defs["serving_default"]
    feeds, fetches = {definition.inputs["x"].name: np.float32([2])}, [definition.outputs["y"].name]
    assert servable.run(feeds, fetches, "Predict")[0].tolist() == [3.0]
    gone = weakref.ref(servable)
    del servable
    gc.collect()
    assert gone() is None
    batching.close()

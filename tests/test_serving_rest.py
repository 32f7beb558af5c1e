"""TF Serving's REST API against a real server and a real client: every answer with its exact status and words.

The cases follow TF Serving's own tests: http_rest_api_handler_test.cc, http_rest_api_util_test.cc, json_tensor_test.cc,
get_model_status_impl_test.cc and tensorflow_model_server_test.py.
"""

import base64
import concurrent.futures
import gzip
import http.client
import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_models import appear, save_dtypes, save_half_plus, save_texts, wait_for, wait_until_served

from keras_llm.errors import UserError
from keras_llm.serving.client import ask
from keras_llm.serving.json_reader import read_json
from keras_llm.serving.json_writer import outputs_json, predictions_json
from keras_llm.serving.rest import HTTP_STATUS
from keras_llm.serving.servables import Servables
from keras_llm.serving.server import Server
from keras_llm.serving.status import ServingError
from keras_llm.serving.web import Limits

REPOSITORY = Path(__file__).resolve().parent.parent
TEXTS = [
    "谁提出了“注意力”机制？！，。；：（）《》",
    "emoji 👩‍👩‍👧 🇨🇳 𠮷野家",
    'back\\slash "quotes" \n\t\x00\x7f',
    "",
    "é e\u0301 \u2028",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Exported once: y = x / 2 + 2 and y = x / 2 + 3, to be copied."""
    root = tmp_path_factory.mktemp("saved")
    save_half_plus(root / "two", 2)
    save_half_plus(root / "three", 3)
    return root


@pytest.fixture(scope="module")
def exported(tmp_path_factory, saved):
    root = tmp_path_factory.mktemp("exported")
    shutil.copytree(saved / "two", root / "m" / "00000123")
    save_texts(root / "texts" / "1")
    save_dtypes(root / "dtypes" / "7")
    shutil.copytree(saved / "two", root / "半加二" / "5")
    # None of these is a model or a version.
    (root / "models.config").write_text("")
    (root / "m" / "lite").mkdir()
    (root / "m" / ".writing-1-124").mkdir()
    (root / "m" / "124").mkdir()
    (root / "m" / "²").mkdir()
    (root / "nothing").mkdir()
    return root


@pytest.fixture(scope="module")
def server(exported):
    with Server(exported, port=0, grpc_port=0, limits=Limits(body_bytes=2**20)) as server:
        yield server


@pytest.fixture(scope="module")
def http_session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def call(server, http_session):
    def call(method, path, body=b"", **arguments):
        if not isinstance(body, bytes | str):
            body = json.dumps(body)
        body = body.encode() if isinstance(body, str) else body
        return http_session.request(method, server.url + path, data=body, timeout=30, **arguments)

    return call


def error(message):
    return {"error": message}


AVAILABLE = {
    "model_version_status": [
        {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
}
ELEMENT = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: "
MALFORMED = "Malformed request: {} {}"
TWO_INPUTS = "instances is a plain list, but expecting list of objects as multiple input tensors required as per "

CASES = {
    # Predict
    "1 rows of rows": (
        ["POST", "/v1/models/m:predict", '{"instances":[[1.0,2.0],[3.0,4.0]]}'],
        200,
        '{\n    "predictions": [[2.5, 3.0], [3.5, 4.0]\n    ]\n}',
    ),
    "2 rows": (
        ["POST", "/v1/models/m:predict", '{"instances":[2.0,3.0,4.0]}'],
        200,
        '{\n    "predictions": [3.0, 3.5, 4.0\n    ]\n}',
    ),
    "3 columns": (
        ["POST", "/v1/models/m:predict", '{"inputs":[3.0,4.0]}'],
        200,
        '{\n    "outputs": [\n        3.5,\n        4.0\n    ]\n}',
    ),
    "3 columns, scalar": (["POST", "/v1/models/m:predict", '{"inputs": 3}'], 200, '{\n    "outputs": 3.5\n}'),
    "4 version": (
        ["POST", "/v1/models/m/versions/123:predict", '{"instances":[1.0,2.0]}'],
        200,
        {"predictions": [2.5, 3.0]},
    ),
    "4 version with zeros": (
        ["POST", "/v1/models/m/versions/00000123:predict", '{"instances":[1.0,2.0]}'],
        200,
        {"predictions": [2.5, 3.0]},
    ),
    "5 named input, rows": (
        ["POST", "/v1/models/m:predict", '{"instances":[{"x":2.0},{"x":3.0}]}'],
        200,
        {"predictions": [3.0, 3.5]},
    ),
    "5 named input, columns": (
        ["POST", "/v1/models/m:predict", '{"inputs":{"x":[2.0,3.0]}}'],
        200,
        {"outputs": [3.0, 3.5]},
    ),
    "6 signature": (
        ["POST", "/v1/models/m:predict", '{"signature_name":"serving_default","instances":[3.0,4.0]}'],
        200,
        {"predictions": [3.5, 4.0]},
    ),
    "6 signature, empty name": (
        ["POST", "/v1/models/m:predict", '{"signature_name":"","inputs":[3.0,4.0]}'],
        200,
        {"outputs": [3.5, 4.0]},
    ),
    # Classify and regress
    "7 regress": (
        ["POST", "/v1/models/m:regress", '{"signature_name":"regress_x_to_y","examples":[{"x":80.0}]}'],
        200,
        '{\n    "results": [42.0]\n}',
    ),
    "7 regress, two": (
        [
            "POST",
            "/v1/models/m/versions/123:regress",
            '{"signature_name":"regress_x_to_y","examples":[{"x":80.0},{"x":[1.5]}]}',
        ],
        200,
        '{\n    "results": [42.0, 2.75]\n}',
    ),
    "7 regress, context": (
        [
            "POST",
            "/v1/models/m:regress",
            '{"signature_name":"regress_x_to_y","context":{"x":80.0},"examples":[{"name":"甲"},{"n":[1,true]}]}',
        ],
        200,
        {"results": [42.0, 42.0]},
    ),
    "8 classify": (
        ["POST", "/v1/models/m:classify", '{"signature_name":"classify_x_to_y","examples":[{"x":20.0}]}'],
        200,
        '{\n    "results": [[["", 12.0]]\n    ]\n}',
    ),
    "8 classify, labels": (
        ["POST", "/v1/models/m:classify", '{"signature_name":"classify_with_labels","examples":[{"x":1.0},{"x":2.0}]}'],
        200,
        {"results": [[["正", 2.5], ["b", -2.5]], [["正", 3.0], ["b", -3.0]]]},
    ),
    "8 classify, no such signature": (
        ["POST", "/v1/models/m:classify", '{"signature_name":"x","examples":[{"x":20.0}]}'],
        400,
        error("No signature was found with the name: x"),
    ),
    "8 classify, not a classifier": (
        ["POST", "/v1/models/texts:classify", '{"examples":[{"x":20.0}]}'],
        400,
        error("Expected one input Tensor."),
    ),
    "7 regress, not a regressor": (
        ["POST", "/v1/models/m:regress", '{"signature_name":"classify_with_labels","examples":[{"x":20.0}]}'],
        400,
        error("Expected one output Tensor."),
    ),
    "8 no examples": (
        ["POST", "/v1/models/m:classify", '{"a": 1}'],
        400,
        error("""JSON Value: {
    "a": 1
} When method is classify, key 'examples' is expected and was not found"""),
    ),
    "8 examples no list": (
        ["POST", "/v1/models/m:regress", '{"examples": 1}'],
        400,
        error("""JSON Value: {
    "examples": 1
} Expecting 'examples' value to be an list/array"""),
    ),
    "8 examples empty": (
        ["POST", "/v1/models/m:classify", '{"examples": []}'],
        400,
        error("""JSON Value: {
    "examples": []
} 'examples' value is an empty array"""),
    ),
    "8 example no object": (
        ["POST", "/v1/models/m:classify", '{"examples": [1]}'],
        400,
        error("Example must be JSON object but got JSON Number"),
    ),
    "8 example name no text": (
        ["POST", "/v1/models/m:classify", b'{"examples": [{"\xff": 1}]}'],
        400,
        error("The name of a feature must be UTF-8"),
    ),
    "8 example number too large": (
        ["POST", "/v1/models/m:regress", '{"signature_name":"regress_x_to_y","examples": [{"x": 1e300}]}'],
        200,
        '{\n    "results": [Infinity]\n}',
    ),
    "8 serialised examples that are none": (
        ["POST", "/v1/models/m:predict", b'{"signature_name":"regress_x_to_y","inputs":["\xed\xa0\x80"]}'],
        400,
        None,
    ),
    "8 example null": (
        ["POST", "/v1/models/m:classify", '{"examples": [{"x": null}]}'],
        400,
        error("Feature: x has element with unexpected JSON type: Null"),
    ),
    "8 example nested": (
        ["POST", "/v1/models/m:classify", '{"examples": [{"x": [[1]]}]}'],
        400,
        error("Feature: x has element with unexpected JSON type: Array"),
    ),
    "8 example mixed": (
        ["POST", "/v1/models/m:classify", '{"examples": [{"x": [1, 2.5]}]}'],
        400,
        error("Unexpected element type in feature: x expecting type: int64"),
    ),
    "8 example uint64": (
        ["POST", "/v1/models/m:classify", '{"examples": [{"x": 9223372036854775808}]}'],
        400,
        error("Feature: x has uint64_t element. Only int64_t is supported."),
    ),
    # Status
    "9 status": (
        ["GET", "/v1/models/m"],
        200,
        '{\n "model_version_status": [\n  {\n   "version": "123",\n   "state": "AVAILABLE",\n   "status": {\n'
        '    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n',
    ),
    "10 status of a version": (["GET", "/v1/models/m/versions/123"], 200, AVAILABLE),
    "10 status by label": (["GET", "/v1/models/m/labels/any"], 200, AVAILABLE),
    # Which model
    "12 unknown model": (
        ["POST", "/v1/models/foo:predict", '{"instances":[1]}'],
        404,
        error("Servable not found for request: Latest(foo)"),
    ),
    "12 unknown model, regress": (
        ["POST", "/v1/models/foo:regress", '{"examples":[{"x":1}]}'],
        404,
        error("Servable not found for request: Latest(foo)"),
    ),
    "12 unknown model, metadata": (
        ["GET", "/v1/models/foo/metadata"],
        404,
        error("Servable not found for request: Latest(foo)"),
    ),
    "13 unknown version": (
        ["POST", "/v1/models/m/versions/99:predict", '{"instances":[1]}'],
        404,
        error("Servable not found for request: Specific(m, 99)"),
    ),
    "13 unknown version, metadata": (
        ["GET", "/v1/models/m/versions/99/metadata"],
        404,
        error("Servable not found for request: Specific(m, 99)"),
    ),
    "14 status of an unknown model": (
        ["GET", "/v1/models/foo"],
        404,
        error("Could not find any versions of model foo"),
    ),
    "14 status of an unknown version": (
        ["GET", "/v1/models/m/versions/9"],
        404,
        error("Could not find version 9 of model m"),
    ),
    "15 unknown label": (
        ["POST", "/v1/models/m/labels/canary:predict", '{"instances":["x"]}'],
        400,
        error("Unrecognized servable version label: canary"),
    ),
    "15 unknown label, metadata": (
        ["GET", "/v1/models/m/labels/%E7%A8%B3/metadata"],
        400,
        error("Unrecognized servable version label: 稳"),
    ),
    # Bodies
    "16 empty": (["POST", "/v1/models/m:predict", ""], 400, error("JSON Parse error: The document is empty")),
    "16 space": (
        ["POST", "/v1/models/m:predict", "  "],
        400,
        error("JSON Parse error: The document is empty. at offset: 2"),
    ),
    "17 not JSON": (
        ["POST", "/v1/models/m:predict", "instances = [1, 2]"],
        400,
        error("JSON Parse error: Invalid value. at offset: 0"),
    ),
    "17 cut off": (
        ["POST", "/v1/models/m:predict", '{"instances": [1, 2'],
        400,
        error("JSON Parse error: Missing a comma or ']' after an array element. at offset: 19"),
    ),
    "18 not an object": (["POST", "/v1/models/m:predict", "[1, 2]"], 400, error("JSON Value: [1, 2] Is not object")),
    "19 strings for numbers": (
        ["POST", "/v1/models/m:predict", '{"instances":["x","y"]}'],
        400,
        error(ELEMENT.format(0) + 'JSON Value: "x" Type: String is not of expected type: float'),
    ),
    "19 null for a number": (
        ["POST", "/v1/models/m:predict", '{"inputs":[1, null]}'],
        400,
        error("JSON Value: null Type: Null is not of expected type: float"),
    ),
    "19 true for a number": (
        ["POST", "/v1/models/m:predict", '{"inputs":[1, true]}'],
        400,
        error("JSON Value: true Type: True is not of expected type: float"),
    ),
    "19 object for a number": (
        ["POST", "/v1/models/m:predict", '{"instances":[{"x": {"a": [1]}}]}'],
        400,
        error("""Failed to process element: 0 key: x of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: {
    "a": [1]
} Type: Object is not of expected type: float"""),
    ),
    "19 number for a string": (
        ["POST", "/v1/models/texts:predict", '{"signature_name":"echo","inputs":[1]}'],
        400,
        error("JSON Value: 1 Type: Number is not of expected type: string"),
    ),
    "20 signature name no string": (
        ["POST", "/v1/models/m:predict", '{"signature_name":100}'],
        400,
        error("""JSON Value: {
    "signature_name": 100
} not formatted correctly. 'signature_name' key must be a string value."""),
    ),
    "21 unknown signature": (
        ["POST", "/v1/models/m:predict", '{"signature_name":"x","instances":[1]}'],
        400,
        error('Serving signature name: "x" not found in signature def'),
    ),
    "21 no default signature": (
        ["POST", "/v1/models/dtypes:predict", '{"instances":[1]}'],
        400,
        error('Serving signature name: "serving_default" not found in signature def'),
    ),
    "21 signature without inputs": (
        ["POST", "/v1/models/m:predict", '{"signature_name":"__saved_model_init_op","instances":[1]}'],
        400,
        error("Failed to get input map for signature: __saved_model_init_op"),
    ),
    "22 both forms": (
        ["POST", "/v1/models/m:predict", '{"instances":[1],"inputs":[1]}'],
        400,
        error("""JSON Value: {
    "instances": [1],
    "inputs": [1]
} Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist """),
    ),
    "23 neither form": (["POST", "/v1/models/m:predict", "{}"], 400, error("Missing 'inputs' or 'instances' key")),
    "24 instances no list": (
        ["POST", "/v1/models/m:predict", '{"instances": 1}'],
        400,
        error("""JSON Value: {
    "instances": 1
} Expecting 'instances' to be an list/array"""),
    ),
    "24 instances empty": (
        ["POST", "/v1/models/m:predict", '{"instances": []}'],
        400,
        error("""JSON Value: {
    "instances": []
} No values in 'instances' array"""),
    ),
    "25 different sizes": (
        ["POST", "/v1/models/m:predict", '{"instances":[[1,2],[3]]}'],
        400,
        error(ELEMENT.format(1) + "Expecting tensor size: 2 but got: 1"),
    ),
    "25 different shapes": (
        ["POST", "/v1/models/m:predict", '{"instances":[[1,2],[[3],[4]]]}'],
        400,
        error(ELEMENT.format(1) + "Expecting shape [2] but got: [2,1]"),
    ),
    "25 scalar and list": (
        ["POST", "/v1/models/m:predict", '{"instances":[1,[1]]}'],
        400,
        error(ELEMENT.format(1) + "Expecting shape [] but got: [1]"),
    ),
    "25 list too short": (
        ["POST", "/v1/models/m:predict", '{"inputs":[[1,2],[3]]}'],
        400,
        error("Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ),
    "25 list too deep": (
        ["POST", "/v1/models/m:predict", '{"inputs":[1,[2]]}'],
        400,
        error("Encountered list at unexpected level: 1 expected < 1"),
    ),
    "25 list missing": (
        ["POST", "/v1/models/m:predict", '{"inputs":[[1],2]}'],
        400,
        error("JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
    ),
    "25 more dimensions than a tensor has": (
        ["POST", "/v1/models/m:predict", '{"inputs":' + "[" * 65 + "1" + "]" * 65 + "}"],
        400,
        error("A tensor has at most 64 dimensions"),
    ),
    "25 more dimensions than a tensor has, rows": (
        ["POST", "/v1/models/m:predict", '{"instances":' + "[" * 65 + "1" + "]" * 65 + "}"],
        400,
        error(ELEMENT.format(0) + "A tensor has at most 64 dimensions"),
    ),
    "25 as many dimensions as a tensor has": (
        ["POST", "/v1/models/m:predict", '{"instances":' + "[" * 64 + "1" + "]" * 64 + "}"],
        200,
        '{\n    "predictions": ' + "[" * 64 + "2.5" + "]" * 63 + "\n    ]\n}",
    ),
    "26 two inputs, plain list": (
        ["POST", "/v1/models/texts:predict", '{"instances":["a"]}'],
        400,
        error(TWO_INPUTS + "tensorinfo_map"),
    ),
    "26 two inputs, plain columns": (
        ["POST", "/v1/models/texts:predict", '{"inputs":["a"]}'],
        400,
        error(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        ),
    ),
    "27 input missing, rows": (
        ["POST", "/v1/models/texts:predict", '{"instances":[{"question":"a"}]}'],
        400,
        error("""Failed to process element: 0 of 'instances' list. JSON object: {
    "question": "a"
} keys must be equal to: context,question"""),
    ),
    "27 input missing, columns": (
        ["POST", "/v1/models/texts:predict", '{"inputs":{"question":["a"]}}'],
        400,
        error("Missing named input: context in 'inputs' object."),
    ),
    "27 unknown input": (
        ["POST", "/v1/models/m:predict", '{"instances":[{"z":1}]}'],
        400,
        error(
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON object: does not have named input: z"
        ),
    ),
    "28 list among objects": (
        ["POST", "/v1/models/m:predict", '{"instances":[{"x":1},2]}'],
        400,
        error("Expecting object but got list at item 1 of input list"),
    ),
    "28 object among lists": (
        ["POST", "/v1/models/m:predict", '{"instances":[1,{"x":1}]}'],
        400,
        error("Expecting value/list but got object at item 1 of input list"),
    ),
    # Paths
    "29 no model": (["GET", "/v1/models"], 400, error("Missing model name in request.")),
    "29 no model, metadata": (
        ["GET", "/v1/models/metadata"],
        404,
        error("Could not find any versions of model metadata"),
    ),
    **{
        f"30 {method} {path}": ([method, path], 400, error(MALFORMED.format(method, path)))
        for method, path in [
            ("GET", "/v1/models/m:predict"),
            ("GET", "/v1/foo"),
            ("POST", "/v1/foo"),
            ("POST", "/v1/models"),
            ("POST", "/v1/models/m"),
            ("POST", "/v1/models/m/metadata"),
            ("POST", "/v1/models/m:PREDICT"),
            ("POST", "/v1/models/m:predict?x=1"),
            ("POST", "/v1/models/m/versions/HELLO:regress"),
            ("POST", "/v1/models/m/version/50:regress"),
            ("POST", "/v1/models/m/label/some:regress"),
            ("POST", "/v1/models/m/versions/50/labels/x:regress"),
            ("GET", "/v1/models/debug/m"),
            ("GET", "/v1/models/m/version/50:predict"),
            ("PUT", "/v1/models/m:predict"),
            ("DELETE", "/v1/models/m"),
        ]
    },
    "31 version with very many zeros": (["GET", f"/v1/models/m/versions/{'0' * 5000}123"], 200, AVAILABLE),
    "31 version beyond 64 bits": (["POST", "/v1/models/m/versions/18446744073709551615:regress"], 400, ""),
    "31 version beyond 64 bits, status": (["GET", f"/v1/models/m/versions/{'9' * 5000}"], 400, ""),
    # Beyond the list
    "path in capitals": (["POST", "/V1/Models/m:predict", '{"inputs":[3.0]}'], 200, {"outputs": [3.5]}),
    "after the document": (["POST", "/v1/models/m:predict", '{"inputs":[3.0]} } x'], 200, {"outputs": [3.5]}),
    "unknown keys": (["POST", "/v1/models/m:predict", '{"id":{"a":null},"inputs":[3.0]}'], 200, {"outputs": [3.5]}),
    "key twice": (["POST", "/v1/models/m:predict", '{"inputs":[3.0],"inputs":[4.0]}'], 200, {"outputs": [3.5]}),
    "deep and unused": (
        ["POST", "/v1/models/m:predict", '{"inputs":[3.0],"z":' + "[" * 100000 + "]" * 100000 + "}"],
        200,
        {"outputs": [3.5]},
    ),
    "byte order mark": (["POST", "/v1/models/m:predict", '\ufeff{"inputs":[3.0]}'], 200, {"outputs": [3.5]}),
    "percent-encoded name": (
        ["POST", "/v1/models/%E5%8D%8A%E5%8A%A0%E4%BA%8C/versions/5:predict", '{"inputs":[3.0]}'],
        200,
        {"outputs": [3.5]},
    ),
    "percent-encoded slash": (
        ["GET", "/v1/models/a%2Fb%3Apredict"],
        404,
        error("Could not find any versions of model a/b:predict"),
    ),
    "two inputs and outputs, rows": (
        [
            "POST",
            "/v1/models/texts:predict",
            '{"instances":[{"question":"a","context":"b"},{"context":"d","question":"c"}]}',
        ],
        200,
        '{\n    "predictions": [\n        {\n            "answer": "a|b",\n            "score": 0.25\n        },\n'
        '        {\n            "answer": "c|d",\n            "score": 0.25\n        }\n    ]\n}',
    ),
    "two inputs and outputs, columns": (
        ["POST", "/v1/models/texts:predict", '{"inputs":{"question":["a","c"],"context":["b","d"]}}'],
        200,
        '{\n    "outputs": {\n        "answer": [\n            "a|b",\n            "c|d"\n        ],\n'
        '        "score": [\n            0.25,\n            0.25\n        ]\n    }\n}',
    ),
    "empty strings": (
        ["POST", "/v1/models/texts:predict", '{"instances":[{"question":"","context":""}]}'],
        200,
        {"predictions": [{"answer": "|", "score": 0.25}]},
    ),
    "no rows in columns": (
        ["POST", "/v1/models/texts:predict", '{"inputs":{"question":[],"context":[]}}'],
        200,
        {"outputs": {"answer": [], "score": []}},
    ),
    "one string in columns": (
        ["POST", "/v1/models/texts:predict", '{"signature_name":"echo","inputs":"你"}'],
        200,
        '{\n    "outputs": "你"\n}',
    ),
    "base64 in": (
        [
            "POST",
            "/v1/models/texts:predict",
            '{"signature_name":"echo","instances":[{"b64":"aGVsbG8="},"x",{"b64":"5L2g"}]}',
        ],
        200,
        {"predictions": ["hello", "x", "你"]},
    ),
    "base64 in a named input": (
        ["POST", "/v1/models/texts:predict", '{"signature_name":"echo","instances":[{"text":{"b64":"aGVsbG8"}}]}'],
        200,
        {"predictions": ["hello"]},
    ),
    "base64 broken": (
        ["POST", "/v1/models/texts:predict", '{"signature_name":"echo","inputs":[{"b64":"a"}]}'],
        400,
        error("Unable to base64 decode"),
    ),
    "base64 with a second key": (
        ["POST", "/v1/models/texts:predict", '{"signature_name":"echo","inputs":[{"b64":"a","c":1}]}'],
        400,
        error("""JSON Value: {
    "b64": "a",
    "c": 1
} not formatted correctly for base64 data"""),
    ),
    "base64 for a number": (
        ["POST", "/v1/models/m:predict", '{"instances":[{"b64":"aGVsbG8="}]}'],
        400,
        error(
            ELEMENT.format(0)
            + """JSON Value: {
    "b64": "aGVsbG8="
} Type: Object is not of expected type: float"""
        ),
    ),
    "base64 out": (
        ["POST", "/v1/models/texts:predict", '{"signature_name":"as_bytes","instances":["hello","你"]}'],
        200,
        '{\n    "predictions": [{\n            "b64": "aGVsbG8="\n        }, {\n            "b64": "5L2g"\n        }\n'
        "    ]\n}",
    ),
    "a check inside the graph": (
        ["POST", "/v1/models/texts:predict", '{"instances":[{"question":"fail","context":""}]}'],
        400,
        None,
    ),
    "no form for half": (
        ["POST", "/v1/models/dtypes:predict", '{"signature_name":"half","inputs":[1.5]}'],
        501,
        error("Conversion of JSON Value: 1.5 to type: half"),
    ),
    "no form for half in answers": (
        ["POST", "/v1/models/dtypes:predict", '{"signature_name":"to_half","inputs":[1.5]}'],
        400,
        error("Failed to write JSON value for tensor type: half"),
    ),
    "scalar output in rows": (
        ["POST", "/v1/models/dtypes:predict", '{"signature_name":"total","instances":[1,2]}'],
        400,
        error("Tensor name: total has no shape information "),
    ),
    "scalar output in columns": (
        ["POST", "/v1/models/dtypes:predict", '{"signature_name":"total","inputs":[1,2]}'],
        200,
        {"outputs": 3.0},
    ),
    "uneven outputs in rows": (
        ["POST", "/v1/models/dtypes:predict", '{"signature_name":"uneven","instances":[1,2]}'],
        400,
        error("Tensor name: b has inconsistent batch size: 1 expecting: 2"),
    ),
    "uneven outputs in columns": (
        ["POST", "/v1/models/dtypes:predict", '{"signature_name":"uneven","inputs":[1,2]}'],
        200,
        {"outputs": {"a": [1.0, 2.0], "b": [2.0]}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(call, name):
    arguments, status, expected = CASES[name]
    response = call(*arguments)
    assert response.headers["content-type"] == "application/json"
    if isinstance(expected, str):
        assert (response.status_code, response.content.decode()) == (status, expected)
    elif expected is None:  # the runtime's own words
        assert response.status_code == status
        is_error_of_the_contract(response)
    else:
        assert (response.status_code, response.json()) == (status, expected)


def test_a_failed_check_has_the_runtimes_words_without_pythons(call):
    body = {"instances": [{"question": "fail", "context": ""}]}
    message = call("POST", "/v1/models/texts:predict", body).json()["error"]
    assert message.startswith("assertion failed: [you asked for it]")
    assert "Graph execution error" not in message and "[Op:" not in message


def test_case_11_metadata(call, exported):
    response = call("GET", "/v1/models/m/metadata")
    assert response.status_code == 200
    answer = response.json()
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "123"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    default = signatures["serving_default"]
    assert default["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [], "unknown_rank": True},
        "name": "serving_default_x:0",
    }
    assert default["outputs"]["y"]["dtype"] == "DT_FLOAT"
    assert default["method_name"] == "tensorflow/serving/predict"
    assert default["defaults"] == {}
    examples = signatures["classify_x_to_y"]["inputs"]["inputs"]["tensor_shape"]
    assert examples == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert set(signatures) > {"regress_x_to_y", "classify_with_labels"}
    assert call("GET", "/v1/models/m/versions/123/metadata").content == response.content


def test_case_32_outside_v1_is_not_json(call):
    response = call("GET", "/index")
    assert response.status_code == 404
    assert not response.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_unchanged(call, text):
    for escaped in (True, False):
        body = json.dumps({"signature_name": "echo", "instances": [text]}, ensure_ascii=escaped)
        assert call("POST", "/v1/models/texts:predict", body).json() == {"predictions": [text]}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(), min_size=1, max_size=4), st.booleans())
def test_any_text_comes_back_unchanged(call, texts, escaped):
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    body = json.dumps({"signature_name": "echo", "inputs": texts}, ensure_ascii=escaped)
    assert call("POST", "/v1/models/texts:predict", body).json() == {"outputs": texts}


def test_bytes_that_are_no_text_come_back_unchanged(call):
    raw = b"\xff\xfe \xe4\xbd"
    body = b'{"signature_name": "echo", "instances": ["' + raw + b'"]}'
    assert b'["' + raw + b'"\n' in call("POST", "/v1/models/texts:predict", body).content
    body = {"signature_name": "as_bytes", "instances": [{"b64": base64.b64encode(raw).decode()}]}
    (answer,) = call("POST", "/v1/models/texts:predict", body).json()["predictions"]
    assert base64.b64decode(answer["b64"]) == raw


def test_numbers_that_are_not_finite(call):
    response = call("POST", "/v1/models/m:predict", '{"instances":[NaN, Infinity, -Infinity, -Inf, 1e39]}')
    assert response.text == '{\n    "predictions": [NaN, Infinity, -Infinity, -Infinity, Infinity\n    ]\n}'


@pytest.mark.parametrize(
    "dtype, given, answer",
    [
        ("double", "[1, 0.1, 1e300, 0.333333333333333333]", "[1.0, 0.1, 1e+300, 0.33333333333333331]"),
        ("int32", "[-2147483648, 2147483647]", "[-2147483648, 2147483647]"),
        ("int16", "[-1, 32767]", "[-1, 32767]"),
        ("int8", "[-128, 130]", "[-128, -126]"),
        ("uint8", "[0, 255]", "[0, 255]"),
        ("int64", "[-9223372036854775808, 9223372036854775807]", "[-9223372036854775808, 9223372036854775807]"),
        ("uint32", "[0, 4294967295]", "[0, 4294967295]"),
        ("uint64", "[0, 18446744073709551615]", "[0, 18446744073709551615]"),
        ("bool", "[true, false]", "[true, false]"),
    ],
)
def test_dtypes_there_and_back(call, dtype, given, answer):
    response = call("POST", "/v1/models/dtypes:predict", f'{{"signature_name":"{dtype}","instances":[{given}]}}')
    assert response.text == f'{{\n    "predictions": [{answer}\n    ]\n}}'


@pytest.mark.parametrize(
    "dtype, given",
    [
        ("int32", "1.0"),
        ("int32", "2147483648"),
        ("int8", "2147483648"),
        ("int64", "9223372036854775808"),
        ("uint32", "-1"),
        ("uint64", "18446744073709551616"),
        ("bool", "1"),
        ("double", '"1"'),
    ],
)
def test_values_out_of_a_dtypes_range(call, dtype, given):
    response = call("POST", "/v1/models/dtypes:predict", f'{{"signature_name":"{dtype}","inputs":[{given}]}}')
    assert response.status_code == 400
    assert response.json()["error"].endswith(f"is not of expected type: {dtype}")


def test_float_text():
    """The numbers of json_tensor_test.cc, and floats that six digits do not carry."""
    six = np.array([9000000, 999999, 0.5, 0.0003, 0.00003, 555557.5, 0.2, -0.0], np.float32)
    assert b"[9e+06, 999999.0, 0.5, 0.0003, 3e-05, 555557.5, 0.2, -0.0\n" in predictions_json({"y": six})
    nine = np.array([1 / 3, 16777216, 0.1234567], np.float32)
    assert b"[0.333333343, 16777216.0, 0.123456702\n" in predictions_json({"y": nine})


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8))
def test_every_float_comes_back_exactly(values):
    array = np.array(values, np.float32)
    text = outputs_json({"y": array}).decode()
    back = json.loads(text)["outputs"]
    np.testing.assert_array_equal(np.array(back).astype(np.float32), array)
    assert all(type(value) is float for value in back)


@pytest.mark.parametrize("shape", [(2, 0), (2, 2, 0), (2, 0, 3), (0, 3), (2, 1, 2), (3,)])
def test_layout_is_the_arrays(shape):
    array = np.arange(math.prod(shape)).reshape(shape)
    assert json.loads(predictions_json({"y": array})) == {"predictions": array.tolist()}
    assert json.loads(outputs_json({"y": array})) == {"outputs": array.tolist()}
    both = json.loads(predictions_json({"y": array, "z": array}))["predictions"]
    assert both == [{"y": row.tolist(), "z": row.tolist()} for row in array]


@pytest.mark.parametrize(
    "document, what",
    [
        ("{", "Missing a name for object member. at offset: 1"),
        ('{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        ('{"a":1 "b"', "Missing a comma or '}' after an object member. at offset: 7"),
        ('{"a":1,}', "Missing a name for object member. at offset: 7"),
        ("[1,]", "Invalid value. at offset: 3"),
        ("[1 2]", "Missing a comma or ']' after an array element. at offset: 3"),
        ("[tru]", "Invalid value. at offset: 4"),
        ("[1.]", "Miss fraction part in number. at offset: 3"),
        ("[1e+]", "Miss exponent in number. at offset: 4"),
        ("[-]", "Invalid value. at offset: 2"),
        ("[01]", "Missing a comma or ']' after an array element. at offset: 2"),
        ("[1e400]", "Number too big to be stored in double. at offset: 1"),
        ('["a', "Missing a closing quotation mark in string. at offset: 3"),
        ('["\\x"]', "Invalid escape character in string. at offset: 2"),
        ('["\n"]', "Invalid escape character in string. at offset: 2"),
        ('["\\u12g4"]', "Incorrect hex digit after \\u escape in string. at offset: 2"),
        ('["\\ud800"]', "The surrogate pair in string is invalid. at offset: 2"),
        ("}", "The document is empty. at offset: 0"),
    ],
)
def test_parse_errors(document, what):
    """Words and offsets of RapidJSON 1.1.0, the parser inside TF Serving."""
    with pytest.raises(ServingError) as caught:
        read_json(document.encode())
    assert caught.value.message == f"JSON Parse error: {what}"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def as_bytes(value):
    """What `read_json` should make of a value."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return [as_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: as_bytes(item) for key, item in value.items()}
    return value


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_reads_what_pythons_reader_reads(value, escaped, indent):
    document = json.dumps(value, ensure_ascii=escaped, indent=indent).encode("utf-8", "replace")
    read, expected = read_json(document), as_bytes(json.loads(document))
    assert read == expected
    assert repr(read) == repr(expected)  # 1 is not True, nor 1.0


def test_long_numbers_and_long_strings_are_read_in_no_time():
    numbers = b"[" + b",".join([b"[" + b",".join([b"-1.25e-3"] * 500) + b"]"] * 200) + b"]"
    text = json.dumps("注意力\n" * 50_000).encode()
    began = time.perf_counter()
    read_json(numbers)
    read_json(text)
    assert time.perf_counter() - began < 2


def is_error_of_the_contract(response):
    assert response.status_code in HTTP_STATUS.values()
    assert response.headers["content-type"] == "application/json"
    assert list(json.loads(response.content.decode("utf-8", "replace"))) == ["error"]


PREDICTORS = ["/v1/models/m:predict", "/v1/models/texts:predict", "/v1/models/m:classify", "/v1/models/m:regress"]
WELL_FORMED = [
    b'{"instances":[[1.0,2.0],[3.0,4.0]]}',
    b'{"instances":[{"question":"a","context":"\\u4f60\\ud83d\\ude00"}]}',
    b'{"inputs":{"question":[{"b64":"aGVsbG8="}],"context":["b"]}}',
    b'{"signature_name":"classify_x_to_y","context":{"a":true},"examples":[{"x":[20.0]}]}',
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PREDICTORS), st.binary(max_size=60))
def test_any_bytes_get_an_error(call, path, body):
    is_error_of_the_contract(call("POST", path, body))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PREDICTORS), st.sampled_from(WELL_FORMED), st.data())
def test_damaged_bodies_get_an_answer(call, path, body, data):
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        body = body[:start] + data.draw(st.binary(max_size=3)) + body[start + data.draw(st.integers(0, 4)) :]
    response = call("POST", path, body)
    if response.status_code != 200:
        is_error_of_the_contract(response)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PREDICTORS), st.sampled_from(["instances", "inputs", "examples"]), JSON_VALUES)
def test_any_json_gets_an_answer(call, path, key, value):
    response = call("POST", path, json.dumps({key: value, "signature_name": "serving_default"}))
    if response.status_code != 200:
        is_error_of_the_contract(response)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?"), max_size=30))
def test_any_path_gets_an_answer(server, rest):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/v1/models/" + rest, b"{}")
    response = connection.getresponse()
    body = response.read()
    assert response.status in (400, 404)
    assert body == b"" or list(json.loads(body)) == ["error"]
    connection.close()


def test_concurrent_requests_get_their_own_answers(server):
    def worker(start):
        with requests.Session() as session:
            session.trust_env = False
            for number in range(start, start + 40):
                text = f"问题 {number} 😀"
                answer = session.post(
                    f"{server.url}/v1/models/texts:predict",
                    json={"instances": [{"question": text, "context": str(number)}]},
                    timeout=30,
                ).json()
                assert answer == {"predictions": [{"answer": f"{text}|{number}", "score": 0.25}]}
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert all(threads.map(worker, range(0, 8000, 1000)))


def test_body_size(call, server):
    allowed = b'{"inputs":[3.0]}'.ljust(2**20)
    assert call("POST", "/v1/models/m:predict", allowed).json() == {"outputs": [3.5]}
    response = call("POST", "/v1/models/m:predict", allowed + b" ")
    assert (response.status_code, response.json()) == (413, error("The request's body is larger than 1048576 bytes"))
    in_chunks = requests.post(f"{server.url}/v1/models/m:predict", data=iter([allowed, b" "]), timeout=30)
    assert in_chunks.status_code == 413


def test_compressed_body(call):
    def post(body):
        return call("POST", "/v1/models/m:predict", body, headers={"Content-Encoding": "gzip"})

    assert post(gzip.compress(b'{"inputs":[3.0]}')).json() == {"outputs": [3.5]}
    empty = error("JSON Parse error: The document is empty")
    assert post(b'{"inputs":[3.0]}').json() == empty
    assert post(gzip.compress(b'{"inputs":[3.0]}')[:-6]).json() == empty
    assert post(gzip.compress(b" " * (2**20 + 1))).status_code == 413


# New versions


def test_new_versions_are_swapped_in_and_broken_ones_reported(tmp_path, saved):
    model = tmp_path / "m"
    appear(saved / "two", model / "1")
    with Server(tmp_path, port=0, poll_seconds=0.05) as server, requests.Session() as session:
        session.trust_env = False

        def get(path):
            return session.get(server.url + path, timeout=30).json()

        def states():
            return [
                (status["version"], status["state"], status["status"]["error_code"])
                for status in get("/v1/models/m")["model_version_status"]
            ]

        def predict(which=""):
            response = session.post(f"{server.url}/v1/models/m{which}:predict", data='{"inputs":[2.0]}', timeout=30)
            return response.json().get("outputs")

        answers, stop = [], []

        def client():
            while not stop:
                answers.append(predict())

        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            clients = [threads.submit(client) for _ in range(2)]
            try:
                wait_for(lambda: len(answers) > 5)
                appear(saved / "three", model / "2")
                wait_for(lambda: predict() == [4.0])
                wait_for(lambda: states() == [("2", "AVAILABLE", "OK"), ("1", "END", "OK")])
                assert predict("/versions/2") == [4.0]
                assert predict("/versions/1") is None

                (model / "3").mkdir()
                (model / "3" / "saved_model.pb").write_bytes(b"no protobuf")
                wait_for(lambda: states()[0][:2] == ("3", "END"))
                broken = get("/v1/models/m/versions/3")["model_version_status"][0]["status"]
                assert broken["error_code"] != "OK" and broken["error_message"]
                assert states()[1] == ("2", "AVAILABLE", "OK")
                assert predict() == [4.0]

                shutil.rmtree(model / "3")  # mended: tried again
                appear(saved / "two", model / "3")
                wait_for(lambda: predict() == [3.0])
                wait_for(lambda: states() == [("3", "AVAILABLE", "OK"), ("2", "END", "OK"), ("1", "END", "OK")])
            finally:
                stop.append(True)
            for finished in clients:
                finished.result()
        assert {tuple(answer) for answer in answers} <= {(3.0,), (4.0,)}  # none failed

        appear(saved / "three", tmp_path / "另一个" / "1")
        wait_for(lambda: "model_version_status" in get("/v1/models/另一个"))
        wait_for(lambda: get("/v1/models/另一个")["model_version_status"][0]["state"] == "AVAILABLE")

        shutil.rmtree(model)
        wait_for(lambda: predict() is None)
        wait_for(lambda: states()[0] == ("3", "END", "OK"))
        message = session.post(f"{server.url}/v1/models/m:predict", data='{"inputs":[2.0]}', timeout=30).json()
        assert message == error("Servable not found for request: Latest(m)")


def test_a_version_taken_away_gives_place_to_the_one_before(tmp_path, saved):
    shutil.copytree(saved / "two", tmp_path / "m" / "1")
    shutil.copytree(saved / "three", tmp_path / "m" / "2")
    servables = Servables(tmp_path)
    assert servables.find("m").version == 2
    shutil.rmtree(tmp_path / "m" / "2")
    servables.refresh()
    assert servables.find("m").version == 1
    assert [(status.version, status.state) for status in servables.statuses("m")] == [(2, "END"), (1, "AVAILABLE")]


def test_a_broken_newest_version_at_the_start(tmp_path, saved, caplog):
    shutil.copytree(saved / "two", tmp_path / "m" / "1")
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "2" / "saved_model.pb").write_bytes(b"no protobuf")
    servables = Servables(tmp_path)
    assert servables.find("m").version == 1
    assert servables.statuses("m", 2)[0].state == "END"
    assert "m: version 2 does not load" in caplog.text
    caplog.clear()
    servables.refresh()
    assert caplog.text == ""  # reported once


# Mistakes at the start


@pytest.mark.parametrize(
    "make, what",
    [
        (lambda root: root / "missing", "which is not there"),
        (lambda root: (root / "file").write_text("x") and root / "file", "which is not a directory"),
        (lambda root: root, "without one. Export a model first"),
        (lambda root: (root / "m" / "lite").mkdir(parents=True) or root, "without one. Export a model first"),
    ],
)
def test_no_model(tmp_path, make, what):
    with pytest.raises(UserError, match=what):
        Server(make(tmp_path), port=0)


def test_one_level_too_deep(exported):
    with pytest.raises(UserError, match=f"This is one model: give {exported}"):
        Servables(exported / "m")
    with pytest.raises(UserError, match=f"This is one version of a model: give {exported}"):
        Servables(exported / "m" / "00000123")


def test_nothing_loads(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"no protobuf")
    with pytest.raises(UserError, match="At least one model must load.*m version 1: "):
        Servables(tmp_path)


def test_port_in_use(server, exported):
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(UserError, match=f"The port must be free. Received: 127.0.0.1:{port}, in use"):
        Server(exported, port=port)
    with pytest.raises(UserError, match="A port is a number from 0 to 65535. Received: 70000"):
        Server(exported, port=70000)
    with pytest.raises(UserError, match="The host must be an address of this machine"):
        Server(exported, host="not a host", port=0)


def test_stopping_answers_what_is_under_way(exported):
    with Server(exported, port=0) as server:
        request = json.dumps({"inputs": [1.0] * 200_000}).encode()
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(requests.post, f"{server.url}/v1/models/m:predict", data=request, timeout=30)
            time.sleep(0.05)
            server.stop()
            assert len(waiting.result().json()["outputs"]) == 200_000
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.url}/v1/models/m", timeout=5)


# The client


def test_ask(server):
    url = f"{server.url}/v1/models/texts"
    expected = {"answer": "谁？|😀，。", "score": 0.25}
    for form in (url, url + "/", url + ":predict", url + "/versions/1"):
        assert ask(form, {"question": "谁？", "context": "😀，。"}) == expected


def test_ask_finds_a_server_here_in_spite_of_a_proxy(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert ask(f"{server.url}/v1/models/texts", {"question": "a", "context": "b"})["answer"] == "a|b"


@pytest.mark.parametrize(
    "path, inputs, what",
    [
        ("/v1/models/foo", {"question": "a"}, r"404 from .*/foo: Servable not found for request: Latest\(foo\)"),
        ("/v1/models/没有", {"question": "a"}, "404 from .*Latest\\(没有\\)"),
        ("/v1/models/texts", {"question": "a"}, "(?s)400 from .*keys must be equal to: context,question"),
        ("/v1/models/m", {"x": "a"}, "400 from .*not of expected type: float"),
        ("/nothing/v1/models/m", {"x": "a"}, "404 from "),
        ("", {"question": "a"}, "A model's address is http://HOST:PORT/v1/models/NAME"),
        ("/v1/models/", {"question": "a"}, "A model's address is"),
    ],
)
def test_ask_shows_the_servers_error(server, path, inputs, what):
    with pytest.raises(UserError, match=what):
        ask(server.url + path, inputs)


def test_ask_without_a_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1/models/reader"
        with pytest.raises(UserError, match="A server must be running at .*Connection refused.*scripts/serve.py"):
            ask(url, {"question": "a"})
    with pytest.raises(UserError, match="A model's address is"):
        ask("127.0.0.1:8501/v1/models/reader", {"question": "a"})


def test_ask_a_model_with_one_input_and_one_output(tmp_path):
    """Its input gets the question whatever it is called, and its output has its name, although the protocol drops it."""
    module = tf.Module()
    module.echo = tf.function(lambda text: {"echo": text}, input_signature=[tf.TensorSpec([None], tf.string, "text")])
    module.two = tf.function(
        lambda text: {"numbers": tf.tile([[0.5, 2.0]], [tf.shape(text)[0], 1])},
        input_signature=[tf.TensorSpec([None], tf.string, "text")],
    )
    module.padded = tf.function(
        lambda text: {
            "label": tf.tile([["甲", ""]], [tf.shape(text)[0], 1]),
            "count": tf.ones(tf.shape(text), tf.int32),
        },
        input_signature=[tf.TensorSpec([None], tf.string, "text")],
    )
    tf.saved_model.save(module, str(tmp_path / "padded" / "1"), signatures={"serving_default": module.padded})
    tf.saved_model.save(module, str(tmp_path / "echo" / "1"), signatures={"serving_default": module.echo})
    tf.saved_model.save(module, str(tmp_path / "two" / "1"), signatures={"serving_default": module.two})
    with Server(tmp_path, port=0) as server:
        for name in ("text", "question"):
            assert ask(f"{server.url}/v1/models/echo", {name: "谁？"}) == {"echo": "谁？"}
        assert ask(f"{server.url}/v1/models/two", {"question": "a"}) == {"numbers": [0.5, 2.0]}
        assert ask(f"{server.url}/v1/models/padded", {"question": "a"}) == {"label": ["甲"], "count": 1}
        with pytest.raises(UserError, match="400 from .*two"):
            ask(f"{server.url}/v1/models/two", {"question": "a", "context": "b"})


# The script


def script(*arguments, **options):
    command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        **options,
    )


@pytest.mark.parametrize(
    "arguments, code, what",
    [
        (["--help"], 0, "--rest-port"),
        ([], 2, "EXPORTED"),
        (["exported", "--rest-prot", "1"], 2, "--rest-port"),
        (["exported", "--rest-port", "many"], 2, "--rest-port"),
        (["exported", "--poll-seconds", "0"], 2, "error: --poll-seconds must be above 0. Received: 0.0."),
        (["exported", "--max-requests", "-1"], 2, "error: --max-requests must be above 0. Received: -1."),
        (["/not/there"], 2, "error: Models are served from a directory"),
        (["exported", "--rest-port", "70000"], 2, "error: A port is a number from 0 to 65535. Received: 70000."),
    ],
)
def test_script_refuses(arguments, code, what):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    process = script(*arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert what in out + err
    assert "Traceback" not in err
    # TensorFlow alone takes longer to import.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2.5


def test_script_serves_until_it_is_told_to_stop(exported, tmp_path):
    shutil.copytree(exported / "texts", tmp_path / "texts")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = script(tmp_path, "--rest-port", port)
    try:
        url = f"http://127.0.0.1:{port}/v1/models"
        wait_until_served(process, f"{url}/texts")
        second = script(tmp_path, "--rest-port", port)
        assert f"error: The port must be free. Received: 127.0.0.1:{port}, in use." in second.communicate(timeout=60)[1]
        assert second.returncode == 2
        assert ask(f"{url}/texts", {"question": "问", "context": "答"})["answer"] == "问|答"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert f"POST {url}/texts:predict" in err and "Stopped." in err and "Traceback" not in err

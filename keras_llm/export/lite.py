"""A task's model as a `.tflite` file with builtin ops only: ids in, numbers or ids out.

A reader's file takes one window and gives its logits; a closed-book file holds the whole decode loop. Tokenizing stays
outside: the tokenizer's files lie beside the model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_llm import files
from keras_llm.errors import UserError
from keras_llm.tasks.base import encode

TOLERANCE = 1e-3
COMPARED = 16


def export_lite(task, directory: str | Path, records: Sequence[dict]) -> dict:
    """Writes `directory/model.tflite` and the tokenizer, and compares the file with TensorFlow.

    Args:
        task: from `keras_llm.load`.
        directory: where to; an older file is replaced.
        records: requests, some of which are compared.

    Returns:
        The report: inputs and outputs with shapes, ops, size, what was compared, milliseconds a request.

    Raises:
        UserError: the file would need Flex ops, or its results differ.
    """
    directory = Path(directory)
    function, requests = LITE[task.config.kind](task, records[:COMPARED])
    content = convert(function)
    interpreter = _interpreter(content)
    inputs = [detail["name"] for detail in interpreter.get_input_details()]
    outputs = sorted(function.get_concrete_function().structured_outputs)
    ops = sorted({detail["op_name"] for detail in interpreter._get_ops_details()})
    largest, seconds = 0.0, 0.0
    for request in requests:
        start = time.perf_counter()
        got = _run(interpreter, request, outputs)
        seconds += time.perf_counter() - start
        expected = function(**{name: tf.constant(value) for name, value in request.items()})
        for name in outputs:
            want = expected[name].numpy()
            if want.dtype == np.int32:
                same = np.array_equal(got[name], want)
            else:
                # Padding's -1e9 is compared as such; elsewhere the difference counts.
                difference = np.abs(got[name] - want)[want > -1e8]
                largest = max(largest, float(difference.max(initial=0)))
                same = largest <= TOLERANCE
            if not same:
                raise UserError(f"The .tflite file must compute what TensorFlow does. Received: {name} differs.")
    task.tokenizer.save(directory / "tokenizer")
    with files.replacing(directory / "model.tflite") as temporary:
        temporary.write_bytes(content)
    return {
        "file": "model.tflite",
        "size_bytes": len(content),
        "inputs": _describe(interpreter.get_input_details(), inputs),
        "outputs": _describe(interpreter.get_output_details(), outputs),
        "ops": ops,
        "compared": len(requests),
        "largest_difference": largest,
        "milliseconds": round(1000 * seconds / max(len(requests), 1), 2),
        "runtime": "ai-edge-litert",
    }


def convert(function) -> bytes:
    """A `tf.function` with static shapes -> the bytes of a `.tflite` file with builtin ops only.

    Raises:
        UserError: some op has no builtin form.
    """
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        return converter.convert()
    except Exception as error:  # the converter raises several kinds of its own
        raise UserError(
            "A .tflite file may hold builtin ops only: Flex ops do not run in the Python and most mobile runtimes. "
            f"Received: {str(error).strip().splitlines()[-1][:300]}. Export without --lite."
        ) from error


def _interpreter(content):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return interpreter


def _run(interpreter, request, names):
    """{input name: array} -> {output name: array}."""
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], request[detail["name"]])
    interpreter.invoke()
    # Without a signature the outputs are called Identity, Identity_1, ... in the order of the graph's.
    outputs = interpreter.get_output_details()
    return {name: interpreter.get_tensor(detail["index"]) for name, detail in zip(names, outputs, strict=True)}


def _describe(details, names):
    return {
        name: {"shape": detail["shape"].tolist(), "dtype": np.dtype(detail["dtype"]).name, "tensor": detail["name"]}
        for name, detail in zip(names, details, strict=True)
    }


def _reading(task, records):
    """One window of ids -> its logits."""
    lengths = task.config.lengths
    shapes = {"question_ids": lengths.max_question_length, "context_ids": lengths.window_length}
    signature = {name: tf.TensorSpec([1, size], tf.int32, name=name) for name, size in shapes.items()}

    @tf.function(input_signature=[signature["question_ids"], signature["context_ids"]], autograph=False)
    def logits(question_ids, context_ids):
        return {"logits": task.model({"question_ids": question_ids, "context_ids": context_ids}, training=False)}

    requests = []
    for record in records:
        windows = task.windows(tf.constant([encode(record["question"])]), tf.constant([encode(record["context"])]))
        requests.append({name: _fixed(windows[name].numpy()[:1], size) for name, size in shapes.items()})
    return logits, requests


def _closed_book(task, records):
    """Question ids -> answer ids, the decode loop inside."""
    size = task.config.lengths.max_question_length + 1

    @tf.function(input_signature=[tf.TensorSpec([1, size], tf.int32, name="source_ids")], autograph=False)
    def answer_ids(source_ids):
        ids, log_probs = task.decode_ids(source_ids)
        return {"ids": ids, "log_probs": log_probs}

    requests = [
        {"source_ids": _fixed(task.encode_question(tf.constant([encode(record["question"])])).numpy(), size)}
        for record in records
    ]
    return answer_ids, requests


def _fixed(ids, size):
    return np.pad(ids[:, :size], [[0, 0], [0, max(size - ids.shape[1], 0)]]).astype("int32")


LITE = {"reading": _reading, "closed_book": _closed_book}

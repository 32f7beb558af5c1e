"""Tiny SavedModels of the servers' tests, and their arrival on the disk."""

import os
import shutil
import time

import requests
import tensorflow as tf


def save_half_plus(directory, constant):
    """y = x / 2 + constant, for numbers of any shape, and for examples as classifier and regressor."""
    module = tf.Module()
    module.constant = tf.Variable(float(constant))

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
    def predict(x):
        return {"y": x / 2 + module.constant}

    def of_examples(serialised):
        x = tf.io.parse_example(serialised, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        return x / 2 + module.constant

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(inputs):
        return {"outputs": of_examples(inputs)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(inputs):
        return {"scores": of_examples(inputs)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify_with_labels(inputs):
        y = of_examples(inputs)
        return {"scores": tf.concat([y, -y], 1), "classes": tf.tile([["正", "b"]], [tf.shape(y)[0], 1])}

    tf.saved_model.save(
        module,
        str(directory),
        signatures={
            "serving_default": predict,
            "regress_x_to_y": regress,
            "classify_x_to_y": classify,
            "classify_with_labels": classify_with_labels,
        },
    )


def save_texts(directory):
    """string -> string, two strings -> string and float, string -> bytes."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def echo(text):
        return {"echo": text}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, n) for n in ("question", "context")])
    def join(question, context):
        tf.debugging.assert_none_equal(question, "fail", message="you asked for it")
        return {"answer": tf.strings.join([question, context], "|"), "score": tf.fill(tf.shape(question), 0.25)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def as_bytes(text):
        return {"text_bytes": text}

    tf.saved_model.save(
        module, str(directory), signatures={"serving_default": join, "echo": echo, "as_bytes": as_bytes}
    )


def save_dtypes(directory):
    """Every dtype that has a JSON form, and one that has none; a scalar output; outputs of different length."""
    module = tf.Module()
    dtypes = ("double", "int32", "int16", "int8", "uint8", "int64", "uint32", "uint64", "bool", "half")

    def identity(dtype):
        return tf.function(lambda x: {"x": tf.identity(x)}, input_signature=[tf.TensorSpec(None, dtype, "x")])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def total(x):
        return {"total": tf.reduce_sum(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def uneven(x):
        return {"a": x, "b": x[1:]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def half(x):
        return {"h": tf.cast(x, tf.float16)}

    module.functions = {name: identity(tf.as_dtype(name)) for name in dtypes}
    signatures = {**module.functions, "total": total, "uneven": uneven, "to_half": half}
    tf.saved_model.save(module, str(directory), signatures=signatures)


def save_sleeper(directory):
    """Answers after as many seconds as the largest of its numbers says, without using the processor."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "seconds")])
    def sleep(seconds):
        kinds = {"output_types": [tf.float32], "output_shapes": [[None]]}
        numbers = tf.raw_ops.TensorDataset(components=[seconds], output_shapes=[[None]])
        micros = tf.cast(tf.reduce_max(seconds) * 1e6, tf.int64)
        slow = tf.raw_ops.SleepDataset(input_dataset=numbers, sleep_microseconds=micros, **kinds)
        return {"slept": tf.raw_ops.DatasetToSingleElement(dataset=slow, **kinds)[0]}

    tf.saved_model.save(module, str(directory), signatures={"serving_default": sleep})


def wait_for(what, seconds=20):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def wait_until_served(process, url):
    """Until a server of its own process answers for a model; it must not end before."""

    def answers():
        assert process.poll() is None, process.communicate()
        try:
            return requests.get(url, timeout=5).ok
        except requests.ConnectionError:
            return False

    wait_for(answers, seconds=120)


def appear(source, version_directory):
    """As an export does it: written beside, then renamed."""
    beside = version_directory.parent / f".writing-{version_directory.name}"
    shutil.copytree(source, beside)
    os.rename(beside, version_directory)

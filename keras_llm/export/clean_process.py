"""Run by path, never imported: answers requests with a SavedModel in a process that knows TensorFlow and tf-text only.

usage: clean_process.py SAVED_MODEL REQUESTS.json ANSWERS.json

REQUESTS.json: a list of batches; a batch is {input name: list of base64 strings}. ANSWERS.json: a list of batches
{output name: list of values}, strings as base64.
"""

import base64
import json
import sys

import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the ops


def main(directory, requests, answers):
    function = tf.saved_model.load(directory).signatures["serving_default"]
    results = []
    with open(requests, encoding="utf-8") as file:
        batches = json.load(file)
    for batch in batches:
        inputs = {name: tf.constant([base64.b64decode(text) for text in texts]) for name, texts in batch.items()}
        outputs = {name: value.numpy().tolist() for name, value in function(**inputs).items()}
        results.append({name: [_json(value) for value in values] for name, values in outputs.items()})
    strangers = sorted({name.partition(".")[0] for name in sys.modules} & {"keras_llm", "keras_hub", "sentencepiece"})
    if strangers:
        sys.exit(f"the process is not clean: {strangers}")
    with open(answers, "w", encoding="utf-8") as file:
        json.dump(results, file)


def _json(value):
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value


if __name__ == "__main__":
    main(*sys.argv[1:])

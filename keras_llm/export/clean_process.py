"""Run by path, never imported: answers requests with a SavedModel in a process that knows TensorFlow and tf-text only.

usage: clean_process.py SAVED_MODEL SIGNATURE REQUESTS ANSWERS

REQUESTS and ANSWERS are TFRecord files of serialised NamedTensorProto: a request is one record for each input of the
signature, an answer one record for each output. `cpp/consumer.cc` takes the same arguments and files.
"""

import sys
import time

import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the ops
from tensorflow.core.protobuf.named_tensor_pb2 import NamedTensorProto


def main(directory, signature, requests, answers):
    start = time.perf_counter()
    function = tf.saved_model.load(directory).signatures[signature]
    print(f"loaded in {time.perf_counter() - start:.2f} s")
    strangers = sorted({name.partition(".")[0] for name in sys.modules} & {"keras_llm", "keras_hub", "sentencepiece"})
    if strangers:
        sys.exit(f"the process is not clean: {strangers}")
    count = len(function.structured_input_signature[1])
    inputs = {}
    with tf.io.TFRecordWriter(answers) as file:
        for record in tf.data.TFRecordDataset(requests):
            named = NamedTensorProto.FromString(record.numpy())
            inputs[named.name] = tf.constant(tf.make_ndarray(named.tensor))
            if len(inputs) < count:
                continue
            for name, value in function(**inputs).items():
                named = NamedTensorProto(name=name, tensor=tf.make_tensor_proto(value.numpy()))
                file.write(named.SerializeToString())
            inputs = {}


if __name__ == "__main__":
    main(*sys.argv[1:])

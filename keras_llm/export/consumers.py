"""Independent programs that answer requests with a SavedModel: a clean Python process, and a C++ program that loads it as
TF Serving does.

Both are functions `(directory, batches, server, signature) -> Answers` and exchange TFRecord files of NamedTensorProto with
their process, so that NUL bytes, line ends and bytes that are not UTF-8 arrive as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.named_tensor_pb2 import NamedTensorProto

from keras_llm import files
from keras_llm.errors import UserError
from keras_llm.export import gates

CLEAN_PROCESS = Path(__file__).with_name("clean_process.py")
SOURCE = Path(__file__).with_name("cpp") / "consumer.cc"
LOG_LINE = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl")
LONGEST = 1800  # seconds; a model that hangs must not hang the export


class NotRunError(Exception):
    """A consumer cannot run on this machine; the message says why. It says nothing about the model."""


@dataclasses.dataclass
class Answers:
    """What a consumer answered.

    Attributes:
        batches: for each batch of requests its outputs by name, batch first.
        facts: what ran, for the report.
    """

    batches: list[dict[str, np.ndarray]]
    facts: dict


def python(directory: str | Path, batches: Sequence[dict], server: str, signature: str = "serving_default") -> Answers:
    """Answers in a new Python process that imports TensorFlow and tensorflow-text only.

    Args:
        directory: the SavedModel.
        batches: for each batch its inputs by name; lists or arrays, strings as bytes.
        server: version of the stock server the model is for; the process has every text op, whatever it is.
        signature: which one is called.

    Raises:
        UserError: the process failed.
    """
    # -I: neither the current directory nor PYTHONPATH can lend the process our package.
    command = [sys.executable, "-I", str(CLEAN_PROCESS)]
    answers, times = _exchange(command, directory, batches, signature, (), "in a Python process of its own")
    return Answers(
        answers,
        {
            "what": "Python process with tensorflow and tensorflow_text only",
            "tensorflow": version("tensorflow"),
            "tensorflow_text": version("tensorflow-text"),
            **times,
        },
    )


def cpp(directory: str | Path, batches: Sequence[dict], server: str, signature: str = "serving_default") -> Answers:
    """Answers in a C++ program with TF Serving's loader, XLA compilation off and only the text ops that `server` links.

    Args and Raises as `python`; besides:

    Raises:
        NotRunError: there is no g++, or it cannot compile the program.
    """
    program, compiler = build()
    libraries = gates.text_libraries(server)
    answers, times = _exchange(
        [str(program)], directory, batches, signature, libraries, "in C++, as TF Serving would run it"
    )
    return Answers(
        answers,
        {
            "what": f"C++ program with the op libraries of tensorflow_model_server {server}, XLA compilation disabled",
            "tensorflow": version("tensorflow"),
            "tensorflow_text": version("tensorflow-text"),
            "op_libraries": len(libraries),
            "compiler": compiler,
            **times,
        },
    )


CONSUMERS = {"python": python, "c++": cpp}


def build() -> tuple[Path, str]:
    """Compiles `cpp/consumer.cc` against the installed TensorFlow, once for each source, TensorFlow and compiler.

    Returns:
        The program, in the user's cache directory, and the compiler's first line about itself.

    Raises:
        NotRunError: there is no g++, it failed, or the cache directory cannot be written.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise NotRunError("g++ was not found")
    about = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[
        0
    ]
    package = importlib.util.find_spec("tensorflow").submodule_search_locations[0]
    # -w: TensorFlow's headers, not our source, are full of deprecation warnings.
    command = [compiler, "-std=c++17", "-O1", "-w", f"-I{package}/include", str(SOURCE), f"-L{package}"]
    command += ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{package}"]
    parts = (SOURCE.read_text(encoding="utf-8"), version("tensorflow"), about, *command)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras_llm"
    program = cache / f"consumer-{version('tensorflow')}-{key}"
    if not program.exists():
        try:
            with files.replacing(program) as temporary:
                done = subprocess.run([*command, "-o", str(temporary)], capture_output=True, text=True, check=False)
                if done.returncode:
                    lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
                    raise NotRunError(f"g++ could not compile {SOURCE.name}: {lines[0][:300]}")
        except (UserError, OSError) as error:
            raise NotRunError(f"the program could not be written: {error}") from error
    return program, about


def _exchange(command, directory, batches, signature, libraries, where):
    """Writes requests, runs a consumer, reads its answers: batches, and how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        requests, answers = str(Path(folder) / "requests"), str(Path(folder) / "answers")
        with tf.io.TFRecordWriter(requests) as file:
            for batch in batches:
                for name, values in batch.items():
                    file.write(_named(name, values).SerializeToString())
        command = [*command, str(directory), signature, requests, answers, *map(str, libraries)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, env=environment, timeout=LONGEST
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"The exported model did not answer {where} within {LONGEST} seconds.") from None
        seconds = round(time.perf_counter() - start, 1)
        if done.returncode:
            message = "\n".join(line for line in done.stderr.splitlines() if not LOG_LINE.match(line))
            raise UserError(
                f"The exported model failed {where} (exit code {done.returncode}):\n{message.strip()[-2000:]}"
            )
        # The last line of either program: loaded in 0.41 s
        facts = {"seconds": seconds, "load_seconds": float(done.stdout.split()[-2])}
        return _read(answers, len(batches)), facts


def _named(name, values):
    # make_tensor_proto would take a list of bytes through a NumPy type that drops trailing NUL bytes.
    values = np.array(values, object) if isinstance(values[0], bytes) else np.asarray(values)
    return NamedTensorProto(name=name, tensor=tf.make_tensor_proto(values))


def _read(path, count):
    batches = []
    for record in tf.data.TFRecordDataset(path):
        named = NamedTensorProto.FromString(record.numpy())
        if not batches or named.name in batches[-1]:
            batches.append({})
        batches[-1][named.name] = tf.make_ndarray(named.tensor)
    if len(batches) != count:
        raise UserError(f"The exported model answered {len(batches)} of {count} batches.")
    return batches

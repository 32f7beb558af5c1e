"""A task's model as `.tflite` files, proven in a process of their own.

For each format one file from strings to strings (tensorflow-text's `ByteSplit` and `FastWordpieceDetokenize` as custom
ops), and one from ids to ids with builtin ops only; beside them the vocabulary, a usage note and the report.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import keras
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from keras_llm import files
from keras_llm.errors import UserError
from keras_llm.export.lite.functions import LiteFunction, ids_function, string_function
from keras_llm.export.lite.note import usage_note
from keras_llm.export.lite.tokenizers import NotPossibleError
from keras_llm.export.requests import proof_requests
from keras_llm.layers import cache

FORMATS = ("float32", "float16", "int8")
KINDS = ("reading", "closed_book")  # that have TFLite functions
PROCESS = Path(__file__).with_name("process.py")
TOLERANCE = 1e-3  # of scores, as in `verify`
FLOOR = 0.5  # share of float32's answers that a smaller file must still give
COMPARED = 24  # real requests
VERY_LONG = 20_000  # bytes of a request; windows are read one by one, more of them would show nothing new
LONGEST = 600  # seconds a file may take to answer all of them
TEXT_OPS = {"TFText>ByteSplitWithOffsets", "TFText>FastWordpieceDetokenize"}


def export_lite(
    task, directory: str | Path, records: Sequence[dict], formats: Sequence[str] = ("float32",)
) -> Iterator[tuple[str, dict]]:
    """Writes `directory`: `text_FORMAT.tflite`, `ids_FORMAT.tflite`, `tokenizer/`, `README.md` and `report.json`.

    Nothing stands there before all of it is proven; then it replaces what an earlier export wrote.

    Args:
        task: from `keras_llm.load`.
        directory: where to.
        records: real requests; float32 files are also asked the difficult ones of `requests.py`.
        formats: of `FORMATS`; float16 and int8 (dynamic range) are smaller.

    Yields:
        Each file's name and its part of the report, as it is done.

    Raises:
        UserError: a file would need Flex ops, a float32 file answers other than Python, or a smaller one gives less than
            half of the answers.

    Example:

    >>> for name, facts in export_lite(task, "exported/reader/lite", records):
    ...     print(name, facts["size_bytes"])
    """
    directory = Path(directory)
    check_formats(formats, task)
    records = records[:COMPARED]
    requests = [
        {name: text[:VERY_LONG] for name, text in request.items()} for request in proof_requests(task.inputs, records)
    ]
    expected = task.ask([{k: v.decode("utf-8", "replace") for k, v in request.items()} for request in requests])
    report = {
        "kind": task.config.kind,
        "tokenizer": task.tokenizer.kind,
        "runtime": f"ai-edge-litert {version('ai-edge-litert')}",
    }
    report |= {"tensorflow_text": version("tensorflow-text"), "files": {}}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".writing-", dir=directory))
    except OSError as error:
        raise UserError(f"{directory} could not be written ({error.strerror or error}).") from error
    try:
        for form, make in {"text": string_function, "ids": ids_function}.items():
            try:
                function = make(task)
            except NotPossibleError as error:
                report["text_not_possible"] = str(error)
                continue
            module = tf.Module()
            module.weights = [variable.value for variable in task.model.variables]
            with lite_ops():
                concrete = function.trace()
            for format_ in formats:
                name = f"{form}_{format_}.tflite"
                (beside / name).write_bytes(convert(concrete, module, format_, custom=form == "text"))
                # A smaller file is compared on the real requests alone.
                count = len(requests) if format_ == "float32" else len(records)
                facts = _describe(beside / name, function, concrete)
                facts |= _compare(beside / name, function, format_, requests[:count], expected[:count])
                report["files"][name] = facts
                yield name, facts
        task.tokenizer.save(beside / "tokenizer")
        files.write_json(beside / "report.json", report)
        (beside / "README.md").write_text(usage_note(task, report), encoding="utf-8")
        _move(beside, directory)
    except OSError as error:
        raise UserError(f"{directory} could not be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds something
            directory.rmdir()


def has_lite(task) -> bool:
    """Whether a run has TFLite files: not the reader on a pretrained encoder, whose tokenizer TFLite cannot run."""
    return task.kind in KINDS and task.config.model != "transformer_encoder"


def check_formats(formats: Sequence[str], task) -> None:
    """Raises UserError if a format does not exist, or none for this kind of run."""
    if formats and not has_lite(task):
        raise UserError(
            f"TFLite files are written for {' and '.join(KINDS)} runs, but for those of model transformer_encoder. Received: a "
            f"{task.kind} run of model {task.config.model}. Use --lite none."
        )
    for unknown in set(formats) - set(FORMATS):
        raise UserError(f"A TFLite format is one of {', '.join(FORMATS)}, or none. Received: {unknown!r}.")


@contextlib.contextmanager
def lite_ops() -> Iterator[None]:
    """While it lasts, what is traced writes into caches by the op that the converter knows (DYNAMIC_UPDATE_SLICE)."""
    ours, cache.slice_update = cache.slice_update, keras.ops.slice_update
    try:
        yield
    finally:
        cache.slice_update = ours


def convert(concrete, module, format_: str = "float32", custom: bool = False) -> bytes:
    """A graph -> the bytes of a `.tflite` file.

    Args:
        concrete: from `tf.function(...).get_concrete_function`.
        module: a `tf.Module` that holds the graph's variables.
        format_: one of `FORMATS`.
        custom: whether tensorflow-text's ops may stay as custom ops.

    Raises:
        UserError: some op has neither a builtin form nor one of tensorflow-text's.
    """
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.allow_custom_ops = custom
    if format_ != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if format_ == "float16":
        converter.target_spec.supported_types = [tf.float16]
    try:
        content = converter.convert()
    except Exception as error:  # the converter raises several kinds of its own
        raise _not_builtin(
            re.findall(r"(?:Flex ops: |tf\.)(\w+)", str(error)) or [str(error).strip()[-200:]]
        ) from error
    strange = ops_of(content)[1] - (TEXT_OPS if custom else set())
    if strange:
        raise _not_builtin(strange)
    return content


def ops_of(content: bytes) -> tuple[set[str], set[str]]:
    """The builtin and the custom ops of a `.tflite` file."""
    model = schema.Model.GetRootAs(content, 0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    builtin, custom = set(), set()
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        if code.BuiltinCode() == schema.BuiltinOperator.CUSTOM:
            custom.add(code.CustomCode().decode())
        else:
            builtin.add(names[code.BuiltinCode()])
    return builtin, custom


def _describe(path, function, concrete):
    builtin, custom = ops_of(path.read_bytes())
    outputs = concrete.structured_outputs
    return {
        "size_bytes": path.stat().st_size,
        "inputs": {name: f"{spec.dtype.name} {spec.shape.as_list()}" for name, spec in function.signature.items()},
        "outputs": {name: f"{value.dtype.name} {value.shape.as_list()}" for name, value in sorted(outputs.items())},
        "ops": sorted(builtin),
        "custom_ops": sorted(custom),
    }


def _compare(path, function: LiteFunction, format_, requests, expected):
    """What LiteRT answers in a process of its own, beside what Python answers in float32."""
    found = _run(path, [function.request(request) for request in requests], bool(ops_of(path.read_bytes())[1]))
    same, largest = 0, 0.0
    for request, outputs, want in zip(requests, found["answers"], expected, strict=True):
        got = function.answer(request, outputs)
        equal = all(got[name] == want[name] for name in want if name != "score")
        difference = abs(got["score"] - want["score"])
        same += equal
        largest = max(largest, difference)
        if format_ == "float32" and not (equal and difference <= TOLERANCE):
            shown = {name: value[:80] for name, value in request.items()}
            raise UserError(
                f"A .tflite file must answer as Python does. Received: {got} instead of {want} for {shown}."
            )
    agreement = same / len(requests)
    if agreement < FLOOR:
        raise UserError(
            f"A {format_} file must give at least {FLOOR:.0%} of float32's answers. Received: {agreement:.0%} of "
            f"{len(requests)}. Leave {format_} out of --lite."
        )
    return {
        "compared": len(requests),
        "agreement": round(agreement, 4),
        "largest_score_difference": largest,
        "milliseconds": {str(threads): value for threads, value in found["milliseconds"].items()},
    }


def _run(path, requests, text):
    """Answers and latencies of a file in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        sent, received = Path(folder) / "requests", Path(folder) / "answers"
        sent.write_bytes(pickle.dumps({"text": text, "requests": requests}))
        # -I: neither the current directory nor PYTHONPATH can lend the process our package.
        command = [sys.executable, "-I", str(PROCESS), str(path), str(sent), str(received)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, env=environment, timeout=LONGEST
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"{path.name} did not answer in LiteRT within {LONGEST} seconds.") from None
        if done.returncode:
            raise UserError(
                f"{path.name} failed in LiteRT (exit code {done.returncode}):\n{done.stderr.strip()[-1500:]}"
            )
        return pickle.loads(received.read_bytes())


def _move(beside, directory):
    """What was written takes the place of an earlier export's; files that are not ours stay."""
    written = [file.relative_to(beside) for file in beside.rglob("*") if file.is_file()]
    for old in (*directory.glob("text_*.tflite"), *directory.glob("ids_*.tflite"), directory / "model.tflite"):
        if old.relative_to(directory) not in written:
            old.unlink(missing_ok=True)
    for file in written:
        (directory / file).parent.mkdir(exist_ok=True)
        os.replace(beside / file, directory / file)


def _not_builtin(ops):
    return UserError(
        "A .tflite file may hold builtin ops and tensorflow-text's only: Flex ops do not run in the Python and most mobile "
        f"runtimes. Received: {', '.join(sorted(set(ops)))}. Write that part of the model with other operations, or export "
        "with --lite none."
    )

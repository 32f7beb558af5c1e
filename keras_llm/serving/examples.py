"""Classify, regress and several of them at once, for every protocol: serialised tf.Examples in, arrays out.

Source: tensorflow/serving, `servables/tensorflow/{classifier,regressor,multi_inference,util}.cc`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_llm.serving import metrics
from keras_llm.serving.predict import DEFAULT_SIGNATURE
from keras_llm.serving.servable import Servable
from keras_llm.serving.status import ServingError, invalid

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@dataclasses.dataclass(frozen=True)
class Classes:
    """What a classifier says of B examples."""

    labels: list[list[bytes]]
    """[B][C]; "" where the model gives none."""
    scores: np.ndarray
    """float32 [B, C]; 0 where the model gives none."""


def classify(servable: Servable, signature: str, examples: np.ndarray, deadline: float | None = None) -> Classes:
    """Runs a classifier.

    Args:
        servable: the model.
        signature: its name; "" for the default one.
        examples: object array [B] of serialised tf.Examples.
        deadline: `time.monotonic()` at which the answer comes too late.

    Raises:
        ServingError: INVALID_ARGUMENT where the signature is no classifier's, or there is no example.
    """
    definition = _signature(servable, signature, "No signature was found with the name: ")
    input_name, output_names = _classifier(definition)
    values = servable.run({input_name: _some(examples)}, output_names, "Classify", deadline)
    return _classes(definition, len(examples), dict(zip(output_names, values, strict=True)))


def regress(servable: Servable, signature: str, examples: np.ndarray, deadline: float | None = None) -> np.ndarray:
    """Runs a regressor; arguments and errors are `classify`'s.

    Returns:
        Values float32 [B].
    """
    definition = _signature(servable, signature, "No signature was found with the name: ")
    input_name, output_names = _regressor(definition)
    values = servable.run({input_name: _some(examples)}, output_names, "Regress", deadline)
    return _values(definition, len(examples), dict(zip(output_names, values, strict=True)))


def multi_inference(
    servable: Servable, tasks: Sequence[tuple[str, str]], examples: np.ndarray, deadline: float | None = None
) -> list[Classes | np.ndarray]:
    """Runs several classifiers and regressors over the same examples at once.

    Args:
        servable: the model.
        tasks: signature name ("" for the default one) and method, `CLASSIFY` or `REGRESS`, of each.
        examples: object array [B] of serialised tf.Examples.
        deadline: `time.monotonic()` at which the answer comes too late.

    Returns:
        What `classify` or `regress` gives, for each task.

    Raises:
        ServingError: INVALID_ARGUMENT, or UNIMPLEMENTED for another method.
    """
    seen, inputs, outputs = set(), [], []
    for name, method in tasks:
        name = name or DEFAULT_SIGNATURE
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        definition = _signature(servable, name, "Requested signature not found in model graph: ")
        if method not in _METHODS:
            raise ServingError("UNIMPLEMENTED", f"Unsupported signature method_name: {method}")
        input_name, output_names = _METHODS[method][0](definition)
        inputs.append(input_name)
        outputs += [output for output in output_names if output not in outputs]
    feeds = dict.fromkeys(inputs, _some(examples))
    results = dict(zip(outputs, servable.run(feeds, outputs, "MultiInference", deadline), strict=True))
    metrics.REQUEST_EXAMPLE_COUNTS.add(len(examples), servable.name)
    metrics.REQUEST_EXAMPLE_COUNT_TOTAL.add(len(examples), servable.name)
    return [_METHODS[method][1](_signature(servable, name, ""), len(examples), results) for name, method in tasks]


def _signature(servable: Servable, name: str, unknown: str):
    name = name or DEFAULT_SIGNATURE
    if name not in servable.signature_defs:
        raise invalid(unknown + name)
    return servable.signature_defs[name]


def _some(examples: np.ndarray) -> np.ndarray:
    if not len(examples):
        raise invalid("Input is empty.")
    return examples


def _classifier(definition) -> tuple[str, list[str]]:
    """Tensor names of the input and the outputs."""
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    if "inputs" not in definition.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {definition}")
    names = [definition.outputs[key].name for key in ("classes", "scores") if key in definition.outputs]
    if not names:
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {definition}"
        )
    return definition.inputs["inputs"].name, names


def _regressor(definition) -> tuple[str, list[str]]:
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in definition.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {definition}")
    if "outputs" not in definition.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {definition}")
    return definition.inputs["inputs"].name, [definition.outputs["outputs"].name]


def _classes(definition, examples: int, values: dict[str, np.ndarray]) -> Classes:
    classes, scores = (
        values[definition.outputs[key].name] if key in definition.outputs else None for key in ("classes", "scores")
    )
    _check_matrix("classes", classes, np.object_, "DT_STRING", examples)
    _check_matrix("scores", scores, np.float32, "DT_FLOAT", examples)
    if classes is None:
        return Classes([[b""] * scores.shape[1]] * len(scores), scores)
    if scores is None:
        return Classes(classes.tolist(), np.zeros(classes.shape, np.float32))
    if classes.shape != scores.shape:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    return Classes(classes.tolist(), scores)


def _values(definition, examples: int, values: dict[str, np.ndarray]) -> np.ndarray:
    value = values[definition.outputs["outputs"].name]
    if not (value.ndim == 1 or value.ndim == 2 and value.shape[1] == 1):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape_text(value)}"
        )
    if len(value) != examples:
        raise invalid(f"Input batch size did not match output batch size: {examples} vs. {len(value)}")
    if value.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_dtype_text(value)}")
    return value.ravel()


# method -> how a signature is read, how its results are
_METHODS = {CLASSIFY: (_classifier, _classes), REGRESS: (_regressor, _values)}


def _check_matrix(name: str, array: np.ndarray | None, dtype, dtype_text: str, examples: int) -> None:
    if array is None:
        return
    if array.ndim != 2:
        raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape_text(array)}")
    if array.dtype != dtype:
        raise invalid(f"Expected {name} Tensor of {dtype_text}. Got: {_dtype_text(array)}")
    if len(array) != examples:
        raise invalid(f"Expected {name} output batch size of {examples}. Got: {len(array)}")


def _shape_text(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _dtype_text(array: np.ndarray) -> str:
    return "DT_" + tf.as_dtype(array.dtype).name.upper().replace("FLOAT32", "FLOAT").replace("FLOAT64", "DOUBLE")

"""One version of an exported model in memory. It knows nothing of HTTP, gRPC or other versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the ops that exported tokenizers consist of
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2

from keras_llm.serving.status import ServingError, invalid

# What Python adds around the runtime's own words, which are what TF Serving passes on.
_PYTHON_BEFORE = re.compile(
    r"^Graph execution error:\s*Detected at node.*?(?:<stack traces unavailable>\n|$)", re.DOTALL
)
_PYTHON_AFTER = re.compile(r" \[Op:[^\]]*\](?: name: .*)?$", re.DOTALL)


class Servable:
    """A loaded SavedModel. Any number of threads may run it at once.

    Args:
        name: of the model.
        version: its number.
        directory: where `saved_model.pb` lies.

    Raises:
        ServingError: the model does not load.

    Example:

    >>> half_plus_two = Servable("half_plus_two", 123, "exported/half_plus_two/00000123")
    >>> half_plus_two.run("serving_default", {"x": np.array([1, 2], np.float32)})
    {'y': array([2.5, 3. ], dtype=float32)}
    """

    def __init__(self, name: str, version: int, directory: str | Path):
        self.name = name
        self.version = version
        try:
            self._model = tf.saved_model.load(str(directory), tags=["serve"])  # functions live as long as it does
            self.signature_defs = _signature_defs(Path(directory))
        except Exception as error:  # a broken file may raise anything
            raise _serving_error(error) from error

    def input_dtypes(self, signature: str) -> dict[str, str]:
        """TensorFlow's dtype name ("float", "string") of each input, by name.

        Raises:
            KeyError: there is no such signature.
        """
        inputs = self.signature_defs[signature].inputs
        return {name: types_pb2.DataType.Name(inputs[name].dtype)[len("DT_") :].lower() for name in sorted(inputs)}

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one signature.

        Args:
            signature: its name; must be one with inputs.
            inputs: an array for each of them. Strings, here and in the result, are object arrays of bytes.

        Raises:
            ServingError: the runtime's code and words.
        """
        try:
            outputs = self._model.signatures[signature](**{name: tf.constant(array) for name, array in inputs.items()})
            return {name: _array(output) for name, output in outputs.items()}
        except tf.errors.OpError as error:
            raise _serving_error(error) from error
        except UnicodeDecodeError as error:  # Python could not read the runtime's message, which quotes the input
            raise invalid(error.object.decode("utf-8", "surrogateescape")) from None
        except (TypeError, ValueError) as error:  # what Python itself refuses to pass on
            raise invalid(str(error)) from error


def _array(output: tf.Tensor) -> np.ndarray:
    value = output.numpy()
    return np.array(value, np.object_) if isinstance(value, bytes) else value  # one string alone comes as bytes


def _signature_defs(directory: Path) -> dict:
    """name -> SignatureDef, as the file has them."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((directory / "saved_model.pb").read_bytes())
    for graph in saved_model.meta_graphs:
        if set(graph.meta_info_def.tags) == {"serve"}:
            return {name: graph.signature_def[name] for name in sorted(graph.signature_def)}
    raise ServingError("NOT_FOUND", f'{directory} has no graph with the tag "serve".')


def _serving_error(error: Exception) -> ServingError:
    if isinstance(error, ServingError):
        return error
    if not isinstance(error, tf.errors.OpError):
        return ServingError("UNKNOWN", f"{type(error).__name__}: {error}")
    message = _PYTHON_AFTER.sub("", _PYTHON_BEFORE.sub("", error.message))
    return ServingError(error_codes_pb2.Code.Name(error.error_code), message)

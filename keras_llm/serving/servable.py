"""One version of an exported model in memory. It knows nothing of HTTP, gRPC or other versions."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the ops that exported tokenizers consist of
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import error_codes_pb2

from keras_llm.serving import metrics
from keras_llm.serving.batching import Batching
from keras_llm.serving.status import ServingError, invalid


class Servable:
    """A loaded SavedModel, run as TF Serving runs it: by a session, through the tensors that its signatures name.

    Any number of threads may run it at once. What it holds is freed when the last reference to it is gone.

    Args:
        name: of the model.
        version: its number.
        directory: where `saved_model.pb` lies.
        batching: joins the runs that come together.

    Raises:
        ServingError: the model does not load.

    Example:

    >>> half_plus_two = Servable("half_plus_two", 123, "exported/half_plus_two/00000123")
    >>> half_plus_two.run({"serving_default_x:0": np.float32([1, 2])}, ["PartitionedCall:0"], "Predict")
    [array([2.5, 3. ], dtype=float32)]
    """

    def __init__(self, name: str, version: int, directory: str | Path, batching: Batching | None = None):
        self.name = name
        self.version = version
        self._batching = batching
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        weakref.finalize(self, self._session.close)
        try:
            with graph.as_default(), _without_deprecation():
                loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], str(directory))
        except Exception as error:  # a broken file may raise anything
            raise _serving_error(error) from error
        graph.finalize()
        self._graph = graph
        self.signature_defs = {name: loaded.signature_def[name] for name in sorted(loaded.signature_def)}
        for definition in self.signature_defs.values():
            for info in definition.inputs.values():
                # Python's session would compare shapes before the runtime does, and refuse more: one string alone, say.
                self._tensor(info.name)._shape_val = tf.TensorShape(None)

    def input_dtypes(self, signature: str) -> dict[str, str]:
        """TensorFlow's dtype name ("float", "string") of each input, by name.

        Raises:
            KeyError: there is no such signature.
        """
        inputs = self.signature_defs[signature].inputs
        return {name: types_pb2.DataType.Name(inputs[name].dtype)[len("DT_") :].lower() for name in sorted(inputs)}

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], api: str, deadline: float | None = None
    ) -> list[np.ndarray]:
        """Computes tensors.

        Args:
            feeds: an array for each input, by its tensor's name. Strings, here and in the result, are object arrays of
                bytes.
            fetches: the names of the tensors wanted.
            api: what is asked, "Predict" for example; the time it takes is counted under that.
            deadline: `time.monotonic()` at which the run is broken off.

        Raises:
            ServingError: the runtime's code and words.
        """
        began = time.monotonic()
        if self._batching:
            values = self._batching.run(self, feeds, fetches, deadline)
        else:
            values = self.compute(feeds, fetches, deadline)
        metrics.RUNTIME_LATENCY.add((time.monotonic() - began) * 1e6, self.name, api, "TF1")
        return values

    def compute(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], deadline: float | None = None
    ) -> list[np.ndarray]:
        """As `run`, at once and alone."""
        try:
            values = self._session.run(
                [self._tensor(name) for name in fetches], self._checked(feeds), options=_options(deadline)
            )
        except tf.errors.OpError as error:
            raise _serving_error(error) from error
        except UnicodeDecodeError as error:  # Python could not read the runtime's message, which quotes the input
            raise invalid(error.object.decode("utf-8", "surrogateescape")) from None
        except (TypeError, ValueError) as error:  # what Python itself refuses to pass on
            raise invalid(str(error)) from error
        # One string alone comes as bytes, one number as NumPy's scalar.
        return [np.array(value, np.object_) if isinstance(value, bytes) else np.asarray(value) for value in values]

    def _checked(self, feeds: Mapping[str, np.ndarray]) -> dict[tf.Tensor, np.ndarray]:
        """Python would cast arrays of another dtype; the runtime does not."""
        tensors = {}
        for i, name in enumerate(sorted(feeds)):
            tensor, array = self._tensor(name), feeds[name]
            if array.dtype != tensor.dtype.as_numpy_dtype:
                wanted, got = (_dtype_name(dtype) for dtype in (tensor.dtype, tf.as_dtype(array.dtype)))
                raise invalid(f"Expects arg[{i}] to be {wanted} but {got} is provided")
            tensors[tensor] = array
        return tensors

    def _tensor(self, name: str) -> tf.Tensor:
        return self._graph.get_tensor_by_name(name)


@contextlib.contextmanager
def _without_deprecation() -> Iterator[None]:
    """TensorFlow would tell every user of this server to load models in another way."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _options(deadline: float | None):
    """The rest of the time, for the runtime.

    Raises:
        ServingError: DEADLINE_EXCEEDED where there is none.
    """
    if deadline is None:
        return None
    milliseconds = int((deadline - time.monotonic()) * 1000)
    if milliseconds <= 0:
        raise ServingError("DEADLINE_EXCEEDED", "Timed out waiting for notification")
    return tf.compat.v1.RunOptions(timeout_in_ms=milliseconds)


def _dtype_name(dtype: tf.DType) -> str:
    return types_pb2.DataType.Name(dtype.as_datatype_enum)[len("DT_") :].lower()


def _serving_error(error: Exception) -> ServingError:
    if isinstance(error, ServingError):
        return error
    if not isinstance(error, tf.errors.OpError):
        return ServingError("UNKNOWN", f"{type(error).__name__}: {error}")
    # Python's session words the runtime's error anew; clients of TF Serving know the runtime's own words.
    raw = error.__context__ if isinstance(error.__context__, tf.errors.OpError) else error
    return ServingError(error_codes_pb2.Code.Name(raw.error_code), raw.message)

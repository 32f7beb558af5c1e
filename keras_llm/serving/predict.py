"""Predict with TF Serving's checks, for every protocol: named arrays in, named arrays out.

Source: tensorflow/serving, `servables/tensorflow/predict_util.cc`; tensorflow, `cc/saved_model/util.cc`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from keras_llm.serving import tensors
from keras_llm.serving.servable import Servable
from keras_llm.serving.status import ServingError, invalid

DEFAULT_SIGNATURE = "serving_default"


def predict(
    servable: Servable,
    signature: str,
    given: Collection[str],
    read: Callable[[str], np.ndarray],
    outputs: Collection[str] = (),
    deadline: float | None = None,
) -> dict[str, np.ndarray]:
    """Runs a signature.

    Args:
        servable: the model.
        signature: its name; "" for the default one.
        given: names of the inputs in the request.
        read: name -> array; called for the inputs that the signature has.
        outputs: which outputs to compute, each named once; all where there is none.
        deadline: `time.monotonic()` at which the answer comes too late.

    Returns:
        name -> array, in the order asked for. Strings are object arrays of bytes.

    Raises:
        ServingError: FAILED_PRECONDITION for an unknown signature, INVALID_ARGUMENT for inputs or outputs that are not
            the signature's, and whatever the runtime says.

    Example:

    >>> predict(half_plus_two, "", ["x"], {"x": np.float32([1, 2])}.get)
    {'y': array([2.5, 3. ], dtype=float32)}
    """
    name = signature or DEFAULT_SIGNATURE
    if name not in servable.signature_defs:
        raise ServingError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
    definition = servable.signature_defs[name]
    _check_count(definition, given)
    feeds = {definition.inputs[key].name: array for key, array in _arrays(definition, given, read).items()}
    names = _outputs(definition, outputs)
    values = servable.run(feeds, [definition.outputs[key].name for key in names], "Predict", deadline)
    return dict(zip(names, values, strict=True))


def _check_count(definition, given: Collection[str]) -> None:
    wanted = len(definition.inputs)
    if len(given) > wanted or (len(given) < wanted and not definition.defaults):
        sent, needed = set(given), set(definition.inputs)
        raise invalid(
            f"input size does not match signature: {len(sent)}!={wanted} len({_set(sent)}) != len({_set(needed)}). "
            f"Sent extra: {_set(sent - needed)}. Missing but required: {_set(needed - sent)}."
        )


def _arrays(definition, given: Collection[str], read: Callable[[str], np.ndarray]) -> Mapping[str, np.ndarray]:
    arrays = {}
    for key in sorted(definition.inputs):
        if key in given:
            arrays[key] = read(key)
        elif key in definition.defaults:
            arrays[key] = tensors.to_array(definition.defaults[key], key)
        else:
            raise invalid(
                f"Signature input alias: {key}(feed name: {definition.inputs[key].name}) not found in request and no "
                f"default value provided. Inputs expected to be in the request {_set(given)}, or default input alias "
                f"set: {','.join(sorted(definition.defaults))}"
            )
    used = [key for key in arrays if key in given]
    if len(used) != len(given):
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(used)}, "
            f"request input: {','.join(sorted(given))}"
        )
    return arrays


def _outputs(definition, asked: Collection[str]) -> list[str]:
    names = []
    for name in asked:
        if name not in definition.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_set(definition.outputs)}."
            )
        if name in names:
            raise invalid(f"duplicate output tensor alias: {name}")
        names.append(name)
    return names or sorted(definition.outputs)


def _set(names: Collection[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"

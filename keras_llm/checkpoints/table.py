"""The table of a family of checkpoints: which of their tensors is which weight here, read in both directions.

Shapes: D inputs and F outputs of a product of matrices.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from keras_llm.errors import UserError

NAMED = 5  # so many tensors are named in a message


@dataclasses.dataclass(frozen=True)
class Entry:
    """One weight here, and the tensors there that it is made of.

    Attributes:
        ours: the weight's path below the model, e.g. "encoder/block_0/self_attention/query_key_value/kernel".
        theirs: names of the tensors, as the family's own code saves them.
        to_ours: the tensors, in this order -> the weight.
        to_theirs: the weight -> the tensors. Both only rearrange numbers.
    """

    ours: str
    theirs: tuple[str, ...]
    to_ours: Callable[..., np.ndarray]
    to_theirs: Callable[[np.ndarray], Sequence[np.ndarray]]


def same(ours: str, *theirs: str, sizes: Sequence[int] = ()) -> Entry:
    """A weight that is a tensor as it is, or several, of `sizes` rows, one below the other."""
    return Entry(ours, theirs, lambda *parts: np.concatenate(parts), lambda weight: _split(weight, sizes))


def linear(ours: str, *theirs: str, outputs: Sequence[int], inputs_first: bool = False) -> Entry:
    """The kernel of a `keras_llm.layers.linear.Linear`, which is a matrix, or several with the same inputs.

    Args:
        ours: path of the kernel.
        theirs: the matrices, each [F, D].
        outputs: F of each of them.
        inputs_first: they are [D, F] (GPT-2's Conv1D).
    """

    def to_ours(*parts):
        matrix = np.concatenate([part.T if inputs_first else part for part in parts])
        return matrix if matrix.shape[1] > matrix.shape[0] else matrix.T  # `Linear` keeps [F, D] where D > F

    def to_theirs(kernel):
        is_transposed = kernel.size // sum(outputs) > sum(outputs)
        parts = _split(kernel if is_transposed else kernel.T, outputs)
        return [part.T if inputs_first else part for part in parts]

    return Entry(ours, theirs, to_ours, to_theirs)


def dense(ours: str, theirs: str) -> Entry:
    """The kernel [D, F] of a `keras.layers.Dense`, which is a matrix [F, D]."""
    return Entry(ours, (theirs,), lambda matrix: matrix.T, lambda kernel: [kernel.T])


def to_ours(
    table: Iterable[Entry],
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    canonical: Callable[[str], str] = str,
    tied: Mapping[str, str] | None = None,
    ignored: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """A checkpoint's tensors as weights here: every weight has its tensors, and every tensor has its place.

    Args:
        table: an entry for each weight.
        tensors: a `Checkpoint`.
        shapes: path -> shape of every weight of the model.
        canonical: a tensor's name in the file -> the name in the table (other prefixes, older names).
        tied: tensors that a file may repeat -> the tensor they must equal.
        ignored: regular expressions of names, as they are in the file, that may be without a place: what is no weight
            (`.*position_ids`, attention masks), or belongs to a head that is not read.

    Raises:
        UserError: a tensor is missing, left over, of another shape, or a repeated one differs; it is named.
    """
    tied = tied or {}
    table = list(table)
    names = {canonical(name): name for name in tensors}
    wanted = {name: shape for entry in table for name, shape in _their_shapes(entry, shapes[entry.ours])}
    where = getattr(tensors, "folder", "The checkpoint")
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(
            f"{where} must have every tensor that its config.json asks for. Missing: {_list(missing)}. "
            "Fetch the checkpoint again, or mend config.json."
        )
    leftover = [
        names[name]
        for name in names
        if name not in wanted and name not in tied and not any(re.fullmatch(part, names[name]) for part in ignored)
    ]
    if leftover:
        raise UserError(
            f"{where} must have no tensor without a place in the model. Left over: {_list(leftover)}. "
            "It is another architecture than its config.json says, or has parts that are not supported."
        )
    size_of = getattr(tensors, "shape", None) or (lambda name: tensors[name].shape)
    for name, shape in wanted.items():
        if size_of(names[name]) != shape:
            raise UserError(
                f"{where}: the tensor {names[name]} must be {list(shape)} by config.json. Received: "
                f"{list(size_of(names[name]))}. Use the config.json of these weights."
            )
    for name, other in tied.items():
        if name in names and not np.array_equal(tensors[names[name]], tensors[names[other]]):
            raise UserError(
                f"{where}: {names[name]} must equal {names[other]}, with which it is tied. Received: others. "
                "Checkpoints of this family with weights of their own there are not supported."
            )
    found = {entry.ours: entry.to_ours(*(tensors[names[name]] for name in entry.theirs)) for entry in table}
    without = sorted(set(shapes) - set(found))
    if without:
        raise ValueError(f"weights without an entry in the table: {', '.join(without)}")
    return found


def to_theirs(table: Iterable[Entry], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights here as a checkpoint's tensors: the way back of `to_ours`."""
    table = list(table)
    without = sorted(set(weights) - {entry.ours for entry in table})
    if without:
        raise ValueError(f"weights without an entry in the table: {', '.join(without)}")
    parts = {entry: entry.to_theirs(weights[entry.ours]) for entry in table}
    return {name: part for entry in table for name, part in zip(entry.theirs, parts[entry], strict=True)}


def _their_shapes(entry, shape):
    """Name and shape of each tensor of a weight: what becomes of a weight that takes no memory."""
    parts = entry.to_theirs(np.broadcast_to(np.float32(0), shape))
    return zip(entry.theirs, (part.shape for part in parts), strict=True)


def _split(array, sizes):
    return np.split(array, np.cumsum(sizes)[:-1]) if len(sizes) > 1 else [array]


def _list(names):
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown

"""What must hold of a SavedModel before it is called exported: each gate names what is wrong, where, and the way out.

What a stock server links is data: `servers.json`. A missing op need not fail when a model is loaded, only at the first
request; an attribute that the server's TensorFlow does not know yet fails the load.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from keras_llm.errors import UserError

SERVERS = json.loads(Path(__file__).with_name("servers.json").read_text(encoding="utf-8"))
DEFAULT_SERVER = "2.20"
# Families of ops with a reason of their own; everything else that is not in servers.json is just not linked.
REFUSED = {
    r"\w*PyFunc\w*": "Python code does not run in a server. Express it with TensorFlow ops",
    r"\w*Mutable\w*HashTable\w*": "the table grows with traffic until memory ends. Use a static table",
    r"Xla\w*": "stock servers run with XLA compilation switched off. Trace the model without jit_compile",
}
# What a request or an answer can be in JSON and in the clients of every language.
SIGNATURE_TYPES = ("string", "float", "int32", "int64", "bool")
HALVES = {types_pb2.DT_HALF, types_pb2.DT_BFLOAT16}


def check(directory: str | Path, server: str = DEFAULT_SERVER) -> list[str]:
    """Checks a SavedModel on disk, every node of every function.

    Args:
        directory: holds saved_model.pb.
        server: version of the stock tensorflow_model_server it is for, a key of `servers.json`.

    Returns:
        The names of all ops, sorted; calls of the graph's own functions are not counted.

    Raises:
        UserError: the first thing that this server would refuse, fail on or not survive.

    Example:

    >>> "MatMul" in check("exported/reader/1")
    True
    """
    linked = ops_of(server)
    unknown_attributes = SERVERS["servers"][server]["without_attributes"]
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((Path(directory) / "saved_model.pb").read_bytes())
    ops = set()
    for graph in proto.meta_graphs:
        functions = {function.signature.name for function in graph.graph_def.library.function}
        _check_signatures(graph.signature_def)
        for function in graph.graph_def.library.function:
            _check_compiled(function.attr, f"function {function.signature.name}")
        for where, node in _nodes(graph.graph_def):
            place = f"{_place(node.name)} in {where}"
            _check_compiled(node.attr, place)
            if node.op not in functions:
                _check_op(node.op, place, linked, server)
                ops.add(node.op)
            for attribute in sorted(set(unknown_attributes.get(node.op, ())) & set(node.attr)):
                raise UserError(
                    f"{node.op} must not have the attribute {attribute!r}: TensorFlow "
                    f"{SERVERS['servers'][server]['tensorflow']} of server {server} does not know it and refuses the whole "
                    f"model. Received: {place}. Let the op use its default, or choose a newer --server."
                )
            _check_precision(node, place)
    return sorted(ops)


def ops_of(server: str) -> frozenset[str]:
    """Names of all ops that a stock server of this version links.

    Raises:
        UserError: there is no list for this version.

    Example:

    >>> sorted(ops_of("2.20") - ops_of("2.19"))
    ['DecodeWebP', 'TFText>RoundRobinGenerateMasks', 'TFText>RoundRobinTrim', 'TFText>Utf8Binarize']
    """
    facts = _server(server)
    text = (
        op
        for library, ops in SERVERS["text_libraries"].items()
        if library not in facts["without_text_libraries"]
        for op in ops
    )
    return frozenset(SERVERS["core_ops"]).difference(facts["without_core_ops"]).union(text)


def text_libraries(server: str) -> list[Path]:
    """The installed tensorflow-text op libraries that hold what a stock server of this version links.

    Raises:
        UserError: there is no list for this version.
    """
    package = Path(importlib.util.find_spec("tensorflow_text").submodule_search_locations[0])
    missing = _server(server)["without_text_libraries"]
    return [package / library for library in SERVERS["text_libraries"] if library not in missing]


def _server(server):
    known = SERVERS["servers"]
    if server not in known:
        nearest = get_close_matches(server, known, n=1, cutoff=0) or list(known)
        raise UserError(
            f"--server must be one of {', '.join(known)}. Received: {server!r}. Did you mean {nearest[0]}? "
            "Choose the highest one that is not above your server's version."
        )
    return known[server]


def _nodes(graph) -> Iterator:
    for node in graph.node:
        yield "the main graph", node
    for function in graph.library.function:
        for node in function.node_def:
            yield f"function {function.signature.name}", node


def _place(name: str) -> str:
    """A node's name and, where it has a scope, the Keras layer that made it."""
    scope = name.rpartition("/")[0]
    return f"node {name} (layer {scope})" if scope else f"node {name}"


def _check_op(op, place, linked, server):
    if op in linked:
        return
    others = [name for name in SERVERS["servers"] if op in ops_of(name)]
    reason = next((reason for family, reason in REFUSED.items() if re.fullmatch(family, op)), None)
    if reason is None:
        reason = f"a stock server {server} does not link it. " + (
            f"Servers from {others[-1]} on do: choose --server {others[-1]}, or use other ops"
            if others
            else "Use core TensorFlow or the tensorflow-text ops of servers.json"
        )
    raise UserError(f"{op} must not be in an export: {reason}. Received: {place}.")


def _check_compiled(attributes, place):
    for name in ("_XlaMustCompile", "_XlaCompile"):
        if name in attributes and attributes[name].b:
            raise UserError(
                f"An export must not ask for XLA: stock servers switch its compilation off, so that the first request "
                f"fails. Received: {place} with {name}. Trace the model without jit_compile."
            )


def _check_precision(node, place):
    for name, value in node.attr.items():
        if value.type in HALVES or HALVES.intersection(value.list.type):
            raise UserError(
                f"An export must compute in float32 everywhere. Received: {place}, a {node.op} with {name} "
                f"{types_pb2.DataType.Name(value.type or value.list.type[0])}. Load the model with precision float32."
            )


def _check_signatures(signatures):
    if "serving_default" not in signatures:
        raise UserError(
            f"An export must have the signature serving_default, which clients get without asking. Received: "
            f"{', '.join(name for name in signatures if not name.startswith('__')) or 'none'}. Add it."
        )
    for name, signature in signatures.items():
        if name.startswith("__"):  # the initialiser's own
            continue
        for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
            if not tensors:
                raise UserError(
                    f"A signature must have inputs and outputs. Received: {name!r} without {kind}s. Add some."
                )
            for key, info in tensors.items():
                _check_tensor(key, info, kind, f"{kind} {key!r} of signature {name!r}")


def _check_tensor(key, info, kind, what):
    types = {f"DT_{name.upper()}" for name in SIGNATURE_TYPES}
    dtype = types_pb2.DataType.Name(info.dtype)
    if not info.name or dtype in ("DT_INVALID", "DT_RESOURCE", "DT_VARIANT"):
        raise UserError(
            "Inputs and outputs must be dense tensors: ragged ones save silently and fail in the server. "
            f"Received: {what}, {dtype}. Pad it."
        )
    if dtype not in types:
        raise UserError(
            f"Inputs and outputs must be {', '.join(SIGNATURE_TYPES)}: other types do not pass through JSON. "
            f"Received: {what}, {dtype[3:].lower()}. Cast it in the graph."
        )
    if not re.fullmatch(r"[A-Za-z]\w*", key, re.ASCII):
        raise UserError(
            f"Inputs and outputs must be named with letters, digits and _, a letter first: clients use them as names. "
            f"Received: {what}. Rename it."
        )
    if kind == "output" and dtype == "DT_STRING" and key.endswith("_bytes"):
        raise UserError(
            f"A text output must not be called ..._bytes: TF Serving's REST answers base64 for such names. "
            f"Received: {what}. Rename it."
        )
    dims = info.tensor_shape.dim
    if info.tensor_shape.unknown_rank or not dims or dims[0].size != -1:
        raise UserError(
            f"The first dimension must be the free batch dimension. Received: {what} of shape "
            f"{[d.size for d in dims]}. Trace with shape [None, ...]."
        )

"""What must hold of a SavedModel before it is called exported: each gate names what is wrong and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from keras_llm.errors import UserError

# tensorflow-text's ops that every stock TF Serving from 2.12 on links; Utf8Binarize and RoundRobin* came with 2.20.
# Source: tensorflow/serving, model_servers/BUILD and workspace.bzl; tensorflow/text, BUILD (ops_lib).
SERVED_TEXT_OPS = frozenset(
    {
        "CaseFoldUTF8",
        "ConstrainedSequence",
        "FastBertNormalize",
        "FastWordpieceTokenizeWithOffsets",
        "FindSourceOffsets",
        "MaxSpanningTree",
        "NormalizeUTF8",
        "NormalizeUTF8WithOffsetsMap",
        "PhraseTokenize",
        "RegexSplitWithOffsets",
        "RougeL",
        "SentenceFragments",
        "SentenceFragmentsV2",
        "SentencepieceDetokenizeOp",
        "SentencepieceIdToStringOp",
        "SentencepieceOp",
        "SentencepieceStringToIdOp",
        "SentencepieceTokenizeOp",
        "SentencepieceTokenizeWithOffsetsOp",
        "SentencepieceVocabSizeOp",
        "SplitMergeTokenizeWithOffsets",
        "TFText>BoiseTagsToOffsets",
        "TFText>ByteSplitByOffsets",
        "TFText>ByteSplitWithOffsets",
        "TFText>FastSentencepieceDetokenize",
        "TFText>FastSentencepieceTokenize",
        "TFText>FastWordpieceDetokenize",
        "TFText>NgramsStringJoin",
        "TFText>OffsetsToBoiseTags",
        "TFText>PhraseDetokenize",
        "TFText>WhitespaceTokenizeWithOffsetsV2",
        "TokenizerFromLogits",
        "UnicodeScriptTokenizeWithOffsets",
        "WhitespaceTokenizeWithOffsets",
        "WordpieceTokenizeWithOffsets",
    }
)
REFUSED = {
    "PyFunc": "Python code does not run in TF Serving; express it with TensorFlow ops",
    "PyFuncStateless": "Python code does not run in TF Serving; express it with TensorFlow ops",
    "EagerPyFunc": "Python code does not run in TF Serving; express it with TensorFlow ops",
    "MutableHashTableV2": "the table grows with traffic until memory ends; use a static table",
    "MutableHashTableOfTensorsV2": "the table grows with traffic until memory ends; use a static table",
    "MutableDenseHashTableV2": "the table grows with traffic until memory ends; use a static table",
}


def check(directory: str | Path) -> list[str]:
    """Checks a SavedModel on disk, every function of it.

    Args:
        directory: holds saved_model.pb.

    Returns:
        The names of all ops, sorted.

    Raises:
        UserError: the first thing that stock TF Serving would refuse or fail on.

    Example:

    >>> "MatMul" in check("exported/reader/1")
    True
    """
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((Path(directory) / "saved_model.pb").read_bytes())
    ops = set()
    for graph in proto.meta_graphs:
        _check_signatures(graph.signature_def)
        for where, node in _nodes(graph.graph_def):
            ops.add(node.op)
            _check_op(where, node)
        for function in graph.graph_def.library.function:
            if function.attr["_XlaMustCompile"].b:
                raise UserError(
                    f"An export must not ask for XLA: stock TF Serving refuses it at the first request. Received: function "
                    f"{function.signature.name} with _XlaMustCompile. Trace the model without jit_compile."
                )
    return sorted(ops)


def _nodes(graph) -> Iterator:
    for node in graph.node:
        yield "graph", node
    for function in graph.library.function:
        for node in function.node_def:
            yield function.signature.name, node


def _check_op(where, node):
    reason = None
    if node.op in REFUSED:
        reason = REFUSED[node.op]
    elif node.op.startswith("Xla") or node.attr["_XlaMustCompile"].b:
        reason = "stock TF Serving runs with XLA switched off; use plain ops"
    elif not hasattr(tf.raw_ops, node.op) and node.op not in SERVED_TEXT_OPS and not _is_function(node.op):
        reason = "stock TF Serving does not link this op; use core TensorFlow or the served tensorflow-text ops"
    if reason:
        raise UserError(f"{node.op} must not be in an export: {reason}. Received: node {node.name} in {where}.")


def _is_function(op: str) -> bool:
    return op.startswith("__inference_") or op.startswith("__forward_")


def _check_signatures(signatures):
    from tensorflow.core.framework import types_pb2

    for name, signature in signatures.items():
        if name.startswith("__"):
            continue
        for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
            for key, info in tensors.items():
                what = f"{kind} {key!r} of signature {name!r}"
                if not info.name or info.dtype in (types_pb2.DT_INVALID, types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT):
                    raise UserError(
                        f"Inputs and outputs must be dense tensors: ragged ones save silently and fail in the server. "
                        f"Received: {what}. Pad it."
                    )
                dims = info.tensor_shape.dim
                if info.tensor_shape.unknown_rank or not dims or dims[0].size != -1:
                    raise UserError(
                        f"The first dimension must be the free batch dimension. Received: {what} of shape "
                        f"{[d.size for d in dims]}. Trace with shape [None, ...]."
                    )

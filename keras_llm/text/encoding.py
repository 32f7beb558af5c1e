"""Documents to rows of ids, many at a time: what prepares a corpus, in this process or in several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_llm.text import load_tokenizer

SMALL = 1 << 16  # ids below this fit into uint16


class DocumentEncoder:
    """Encodes documents with a saved tokenizer, traced once.

    Args:
        directory: what `Tokenizer.save` wrote.

    Attributes:
        dtype: of the ids: uint16 where all of the vocabulary fits, else int32.

    Example:

    >>> values, lengths = DocumentEncoder("runs/poems/tokenizer")(["床前明月光", ""])
    >>> lengths.tolist()
    [7, 2]
    """

    def __init__(self, directory):
        tokenizer = load_tokenizer(directory)
        self.dtype = np.dtype("uint16" if tokenizer.vocabulary_size <= SMALL else "int32")
        self._ends = tokenizer.start_id, tokenizer.end_id
        self._encode = tf.function(tokenizer.encode, input_signature=[tf.TensorSpec([None], tf.string)])

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes each text as start_id, its ids, end_id.

        Args:
            texts: documents.

        Returns:
            All ids one after the other, `[n]`, and how many each document has, int64 `[len(texts)]`.
        """
        ids = self._encode(tf.constant([text.encode("utf-8", "replace") for text in texts], tf.string))
        lengths = ids.row_lengths().numpy() + 2
        ends = np.cumsum(lengths)
        values = np.empty(lengths.sum(), self.dtype)
        inside = np.ones(len(values), bool)
        for at, id_ in zip((ends - lengths, ends - 1), self._ends, strict=True):
            values[at], inside[at] = id_, False
        values[inside] = ids.values.numpy()
        return values, lengths


def encoder_of_a_process(directory) -> DocumentEncoder:
    """The encoder of one of several processes: it keeps to one thread, and leaves the accelerator alone."""
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return DocumentEncoder(directory)

"""Documents to rows of ids, many at a time: what prepares a corpus, in this process or in several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_llm.text import load_tokenizer
from keras_llm.text.sentences import split_sentences, word_segmenter
from keras_llm.text.tokenizer import Tokenizer

SMALL = 1 << 16  # ids below this fit into uint16


class DocumentEncoder:
    """Encodes each document as start_id, its ids, end_id; traced once.

    Args:
        tokenizer: any.

    Attributes:
        dtype: of the ids: uint16 where all of the vocabulary fits, else int32.

    Example:

    >>> values, lengths = DocumentEncoder(load_tokenizer("runs/poems/tokenizer"))(["床前明月光", ""])["token_ids"]
    >>> lengths.tolist()
    [7, 2]
    """

    def __init__(self, tokenizer: Tokenizer):
        self.dtype = id_dtype(tokenizer)
        self._ends = tokenizer.start_id, tokenizer.end_id
        self._encode = tf.function(tokenizer.encode, input_signature=[tf.TensorSpec([None], tf.string)])

    def __call__(self, texts: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """A block of `Prepared.write_blocks` with one row a text: `token_ids`."""
        ids = self._encode(strings(texts))
        lengths = ids.row_lengths().numpy() + 2
        ends = np.cumsum(lengths)
        values = np.empty(lengths.sum(), self.dtype)
        inside = np.ones(len(values), bool)
        for at, id_ in zip((ends - lengths, ends - 1), self._ends, strict=True):
            values[at], inside[at] = id_, False
        values[inside] = ids.values.numpy()
        return {"token_ids": (values, lengths)}


class SentencewiseEncoder:
    """Encodes documents sentence by sentence, and says where words begin; traced once.

    Args:
        tokenizer: one with offsets.
        segmentation: what a word is in Chinese, see `word_segmenter`.

    Example:

    >>> block = SentencewiseEncoder(load_tokenizer("runs/encoder/tokenizer"))(["A house. A garden."])
    >>> block["sentence_lengths"][0].tolist()
    [3, 3]
    """

    def __init__(self, tokenizer: Tokenizer, segmentation: str = "none"):
        self.dtype = id_dtype(tokenizer)
        self.tokenizer = tokenizer
        self._segment = word_segmenter(segmentation)
        self._encode = tf.function(self._to_ids, input_signature=[tf.TensorSpec([None], tf.string)])

    def __call__(self, texts: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """A block of `Prepared.write_blocks` with one row for each text that has a token: `token_ids` without special ones,
        `starts_word` (bool, of each id), and `sentence_lengths` in ids."""
        documents = [split_sentences(text) for text in texts]
        sentences = [sentence for document in documents for sentence in document]
        ids, lengths, starts_word, starts = (value.numpy() for value in self._encode(strings(sentences)))
        if self._segment:
            ends = np.cumsum(lengths)
            for sentence, end, length in zip(sentences, ends, lengths, strict=True):
                here = slice(end - length, end)
                starts_word[here] &= np.isin(starts[here], word_starts(self._segment(sentence)))
        # Each sentence's document; a sentence without a token is none, and so is a document of such.
        owner = np.repeat(np.arange(len(documents)), [len(document) for document in documents])[lengths > 0]
        lengths = lengths[lengths > 0]
        tokens = np.bincount(owner, lengths, len(documents)).astype("int64")
        kept = tokens > 0
        return {
            "token_ids": (ids.astype(self.dtype), tokens[kept]),
            "starts_word": (starts_word, tokens[kept]),
            "sentence_lengths": (lengths.astype("int32"), np.bincount(owner, minlength=len(documents))[kept]),
        }

    def _to_ids(self, sentences):
        ids, starts, ends = self.tokenizer.encode_with_offsets(sentences)
        return ids.values, ids.row_lengths(), ~self.tokenizer.continues(ids, starts, ends).values, starts.values


ENCODERS = {"documents": DocumentEncoder, "sentences": SentencewiseEncoder}


def make_encoder(kind: str, directory, *arguments):
    """One of `ENCODERS`, with a saved tokenizer and what else it takes."""
    return ENCODERS[kind](load_tokenizer(directory), *arguments)


def encoder_of_a_process(*arguments):
    """`make_encoder` in one of several processes: it keeps to one thread, and leaves the accelerator alone."""
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return make_encoder(*arguments)


def rows(block: dict[str, tuple[np.ndarray, np.ndarray]]):
    """A block's rows, one dict each.

    Example:

    >>> list(rows({"ids": (np.array([5, 6, 7]), np.array([2, 1]))}))
    [{'ids': array([5, 6])}, {'ids': array([7])}]
    """
    parts = {name: np.split(values, np.cumsum(lengths)[:-1]) for name, (values, lengths) in block.items()}
    for values in zip(*parts.values(), strict=True):
        yield dict(zip(parts, values, strict=True))


def id_dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("uint16" if tokenizer.vocabulary_size <= SMALL else "int32")


def strings(texts: Sequence[str]) -> tf.Tensor:
    return tf.constant([text.encode("utf-8", "replace") for text in texts], tf.string)


def word_starts(words: Sequence[str]) -> np.ndarray:
    """The byte at which each word of a text begins.

    Example:

    >>> word_starts(["北京", "a"]).tolist()
    [0, 6]
    """
    return np.cumsum([0, *(len(word.encode("utf-8", "replace")) for word in words[:-1])])

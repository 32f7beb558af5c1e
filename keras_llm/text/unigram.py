"""SentencePiece models of checkpoints as a tokenizer of runs: T5's and mT5's."""

from __future__ import annotations

import re

import tensorflow as tf
import tensorflow_text as tf_text
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from keras_llm.errors import UserError
from keras_llm.text.tokenizer import Tokenizer, printable
from keras_llm.text.unicode import sanitise

PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece
TEXT = (PIECE.NORMAL, PIECE.USER_DEFINED, PIECE.BYTE)  # types of pieces that are text
PAD, END, UNKNOWN = 0, 1, 2
MARK = "\u2581"  # SentencePiece's space
# Scores are sums of these, so that float32 adds up those of a word without rounding: see `_exact`.
QUANTUM = 2.0**-14
ADDED = re.compile(r"<extra_id_\d+>|<unused_\d+>")  # ids behind the model's own pieces


class UnigramTokenizer(Tokenizer):
    """Unigram language model over pieces of text (Kudo 2018, https://arxiv.org/abs/1804.10959) as checkpoints of T5's family have
    it: its own normalisation, usually NFKC, white space in one piece, and a character without a piece is unknown, or
    becomes bytes where the model has these (mT5). What a decoder begins with is the padding.

    Args:
        model: a serialized SentencePiece model with as many pieces as the embedding has rows: see `extended`.

    Raises:
        UserError: it is none, or its first pieces are not padding, end and unknown.

    Example:

    >>> tokenizer = load_tokenizer("runs/t5/tokenizer")
    >>> tokenizer.decode(tokenizer.encode(["translate English to German:  That is good."])).numpy()
    array([b'translate English to German: That is good.'], dtype=object)
    """

    kind = "unigram"
    reversible = False
    has_offsets = False
    trained = False
    vocabulary_file = "unigram.model"
    pad_id, unknown_id, start_id, end_id = PAD, UNKNOWN, PAD, END

    def __init__(self, model: bytes):
        proto = read_model(model, self.vocabulary_file)
        self.pieces = [(piece.piece, piece.type) for piece in proto.pieces]
        super().__init__(model, len(self.pieces), "identity")
        self._has_words = _has_words(proto)
        self._tokenizer = tf_text.SentencepieceTokenizer(_exact(proto), out_type=tf.int32)
        self._is_text = tf.constant([type_ in TEXT for _, type_ in self.pieces])

    @classmethod
    def train(cls, texts, vocabulary_size, unicode_policy="identity") -> Tokenizer:
        raise UserError(
            "The tokenizer unigram comes with a checkpoint and is not trained. Use sentencepiece, or start from a checkpoint."
        )

    @classmethod
    def _from_bytes(cls, vocabulary: bytes, unicode_policy: str) -> UnigramTokenizer:
        return cls(vocabulary)

    @property
    def model(self) -> bytes:
        """The serialized SentencePiece model."""
        return self._vocabulary

    @property
    def all_special_ids(self) -> frozenset[int]:
        return frozenset(id_ for id_, (_, type_) in enumerate(self.pieces) if type_ not in TEXT)

    def tokens(self) -> list[str]:
        return [printable(piece.replace(MARK, " ")) for piece, _ in self.pieces]

    def _speaks(self, ids):
        known = tf.clip_by_value(ids.values, 0, self.vocabulary_size - 1)
        return ids.with_values((ids.values >= 0) & tf.gather(self._is_text, known))

    def _encode(self, text):
        if not self._has_words:
            return self._tokenizer.tokenize(text)
        words = tf.strings.split(text, " ")
        ids = self._tokenizer.tokenize(words.values)  # [words, (n)]
        return tf.RaggedTensor.from_row_splits(ids, words.row_splits).merge_dims(1, 2)

    def _decode(self, ids):
        return sanitise(self._tokenizer.detokenize(ids))


def _has_words(model) -> bool:
    """Whether no piece goes on behind a space, so that the words of a text have the ids that they have in it."""
    spec = model.normalizer_spec
    is_usual = spec.add_dummy_prefix and spec.remove_extra_whitespaces and spec.escape_whitespaces
    return is_usual and not any(MARK in piece.piece[1:] for piece in model.pieces)


def _exact(model) -> bytes:
    """The model with scores that float32 adds without rounding, serialized.

    A text's pieces are those with the highest sum. Of equal sums (`4 44` and `44 4`) the first one counts, but float32, in which
    TensorFlow's operation adds up, makes them unequal by chance; Hugging Face's tokenizers add in float64.
    """
    for piece in model.pieces:
        piece.score = round(piece.score / QUANTUM) * QUANTUM
    return model.SerializeToString()


def read_model(content: bytes, name):
    """A SentencePiece model of T5's form.

    Args:
        content: serialized.
        name: of its file, for messages.

    Raises:
        UserError: it is none.
    """
    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(content)
    except DecodeError as error:
        raise UserError(f"{name} must be a SentencePiece model. Received: {error}. Fetch it again.") from None
    kind = sentencepiece_model_pb2.TrainerSpec.ModelType.Name(model.trainer_spec.model_type)
    if kind != "UNIGRAM" or not model.pieces:
        raise UserError(f"{name} must hold a unigram model. Received: {kind}, {len(model.pieces)} pieces.")
    first = [piece.type for piece in model.pieces[:3]]
    if first != [PIECE.CONTROL, PIECE.CONTROL, PIECE.UNKNOWN]:
        named = ", ".join(piece.piece for piece in model.pieces[:3])
        raise UserError(
            f"{name} must have padding, end and unknown as pieces 0, 1 and 2, as T5's does. Received: {named}. "
            "Choose another checkpoint."
        )
    return model


def extended(model, extra_ids: int, size: int) -> bytes:
    """A SentencePiece model with an id for each row of an embedding, serialized: its own pieces, T5's sentinels
    `<extra_id_99>` … `<extra_id_0>`, and unused ids.

    What is added is no text: no text gives these ids, and they vanish when decoding.

    Args:
        model: from `read_model`.
        extra_ids: how many sentinels.
        size: V, at least as many as pieces and sentinels.
    """
    own = len(model.pieces)
    for number in reversed(range(extra_ids)):
        model.pieces.add(piece=f"<extra_id_{number}>", score=0.0, type=PIECE.CONTROL)
    for id_ in range(own + extra_ids, size):
        model.pieces.add(piece=f"<unused_{id_}>", score=0.0, type=PIECE.CONTROL)
    return model.SerializeToString(deterministic=True)


def original(content: bytes) -> tuple[bytes, int]:
    """What `extended` was given: a serialized model without what was added, and how many sentinels these were."""
    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    extra_ids = 0
    while model.pieces[-1].type == PIECE.CONTROL and ADDED.fullmatch(model.pieces[-1].piece):
        extra_ids += model.pieces.pop().piece.startswith("<extra_id_")
    return model.SerializeToString(deterministic=True), extra_ids

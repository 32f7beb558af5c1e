"""SentencePiece's byte-pair encoding with bytes as a fallback, for checkpoints that have it: Llama 1 and 2, Mistral."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Literal

import tensorflow as tf
import tensorflow_text as tf_text
from sentencepiece import sentencepiece_model_pb2

from keras_llm.errors import UserError
from keras_llm.text.tokenizer import Tokenizer, printable
from keras_llm.text.unicode import sanitise

SPACE = "\u2581"  # how SentencePiece writes a space
ROLES = ("pad", "unknown", "start", "end")
PIECES = sentencepiece_model_pb2.ModelProto.SentencePiece


@dataclasses.dataclass(frozen=True)
class SentencePieces:
    """What such a tokenizer is made of.

    Attributes:
        model: a serialised SentencePiece model, the file tokenizer.model.
        special: token -> id of those that are no text: no text gives them, and they vanish when decoding.
        pad, unknown, start, end: ids of these.
        ends: further ids that end a text when they are written.
        added: token -> id of marks that no text gives either, but that are shown when decoding.
        prefix: whether a text gets a space in front: "always", "unless" it begins with one, or "never".
        size: number of ids V, where embeddings have more rows than there are tokens; 0: as many as tokens.
    """

    model: bytes
    special: Mapping[str, int]
    pad: int
    unknown: int
    start: int
    end: int
    ends: Sequence[int] = ()
    added: Mapping[str, int] = dataclasses.field(default_factory=dict)
    prefix: Literal["always", "unless", "never"] = "always"
    size: int = 0


class SentencePieceBPETokenizer(Tokenizer):
    """SentencePiece byte-pair encoding (Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226) with the ids of the
    checkpoint it comes from. A character without a piece becomes its UTF-8 bytes, so nothing is unknown. Special tokens written
    in a text are plain text.

    Args:
        pieces: see `SentencePieces`.

    Raises:
        UserError: the model is broken, of another type, or changes text in a way that is not known here.

    Example:

    >>> model = open("llama-2/tokenizer.model", "rb").read()
    >>> special = {"<unk>": 0, "<s>": 1, "</s>": 2}
    >>> tokenizer = SentencePieceBPETokenizer(SentencePieces(model, special, pad=0, unknown=0, start=1, end=2))
    >>> tokenizer.encode(["Hello 你好"]).to_list()
    [[15043, 29871, 30919, 31076]]
    """

    kind = "sentencepiece_bpe"
    reversible = True
    has_offsets = False
    vocabulary_file = "sentencepiece_bpe.json"
    trained = False

    def __init__(self, pieces: SentencePieces):
        self.made_of = pieces
        proto = _parsed(pieces.model)
        tokens = len(proto.pieces)
        tokens = 1 + max((tokens - 1, *pieces.special.values(), *pieces.added.values()))
        if pieces.size and pieces.size < tokens:
            raise UserError(
                f"A tokenizer's ids must all have a row of the embedding. Received: {tokens} ids, {pieces.size} rows."
            )
        described = {**dataclasses.asdict(pieces), "model": base64.b64encode(pieces.model).decode()}
        super().__init__(json.dumps(described, ensure_ascii=False).encode(), pieces.size or tokens, "identity")
        self.pad_id, self.unknown_id, self.start_id, self.end_id = (getattr(pieces, role) for role in ROLES)
        self._ends = (pieces.end, *(end for end in pieces.ends if end != pieces.end))
        # The space in front is put there before the op: it knows one of the three ways only.
        proto.normalizer_spec.add_dummy_prefix = False
        self._tokenizer = tf_text.SentencepieceTokenizer(proto.SerializeToString(), out_type=tf.int32)
        texts = [b""] * (self.vocabulary_size + 1)  # one more, empty, for ids outside the vocabulary
        for id_, piece in enumerate(proto.pieces):
            if piece.type == PIECES.BYTE:
                texts[id_] = bytes([int(piece.piece[3:-1], 16)])
            elif piece.type in (PIECES.NORMAL, PIECES.UNUSED):
                texts[id_] = piece.piece.replace(SPACE, " ").encode()
        for token, id_ in pieces.added.items():
            texts[id_] = token.encode()
        for id_ in pieces.special.values():
            texts[id_] = b""
        self._texts = tf.constant(texts)

    @property
    def end_ids(self) -> tuple[int, ...]:
        return self._ends

    @property
    def all_special_ids(self) -> frozenset[int]:
        return frozenset(self.made_of.special.values())

    @classmethod
    def train(cls, texts, vocabulary_size, unicode_policy="identity") -> Tokenizer:
        raise UserError(
            "The tokenizer sentencepiece_bpe comes with a checkpoint and is not trained. Use sentencepiece, or start from a "
            "checkpoint."
        )

    @classmethod
    def _from_bytes(cls, vocabulary: bytes, unicode_policy: str) -> SentencePieceBPETokenizer:
        try:
            described = json.loads(vocabulary)
            return cls(SentencePieces(**{**described, "model": base64.b64decode(described["model"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{cls.vocabulary_file} must describe a SentencePiece tokenizer. Received: {error}. Import the checkpoint again."
            ) from None

    def tokens(self) -> list[str]:
        names = [f"<unused {id_}>" for id_ in range(self.vocabulary_size)]
        for id_, piece in enumerate(_parsed(self.made_of.model).pieces):
            names[id_] = printable(piece.piece.replace(SPACE, " "))
        for token, id_ in {**self.made_of.added, **self.made_of.special}.items():
            names[id_] = token
        return names

    def decode(self, ids) -> tf.Tensor:
        text = self.continuation(ids)
        if self.made_of.prefix == "never":
            return text
        return tf.strings.regex_replace(text, "^ ", "", replace_global=False)

    def continuation(self, ids) -> tf.Tensor:
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(tf.convert_to_tensor(ids))
        ids = tf.cast(ids, tf.int32)
        known = (ids.values >= 0) & (ids.values < self.vocabulary_size)
        texts = tf.gather(self._texts, tf.where(known, ids.values, self.vocabulary_size))
        return sanitise(tf.strings.reduce_join(ids.with_values(texts), axis=-1))

    def _encode(self, text):
        if self.made_of.prefix != "never":
            needs = text != ""
            if self.made_of.prefix == "unless":
                needs &= ~tf.strings.regex_full_match(text, f"(?s)[ {SPACE}].*")
            text = tf.strings.join([tf.where(needs, " ", ""), text])
        return self._tokenizer.tokenize(text)


def _parsed(model: bytes):
    """A SentencePiece model, of the one sort that is known here."""
    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    except Exception as error:  # protobuf's own, in one of several modules
        raise UserError(f"tokenizer.model must be a SentencePiece model. Received: {error}. Fetch it again.") from None
    normalizer, kinds = proto.normalizer_spec, [piece.type for piece in proto.pieces]
    odd = {
        "a model_type that is not BPE": proto.trainer_spec.model_type != proto.trainer_spec.BPE,
        "no piece for each of the 256 bytes": kinds.count(PIECES.BYTE) != 256,
        "a normalisation of its own": bool(normalizer.precompiled_charsmap),
        "spaces that are removed": normalizer.remove_extra_whitespaces,
        "spaces that are kept as they are": not normalizer.escape_whitespaces,
        "spaces behind words": proto.trainer_spec.treat_whitespace_as_suffix,
        "user-defined symbols": PIECES.USER_DEFINED in kinds,
    }
    found = [name for name, is_so in odd.items() if is_so]
    if found:
        raise UserError(
            "A SentencePiece model of this kind is byte-pair encoding with bytes as a fallback and leaves text as it is, as "
            f"Llama's. Received: {', '.join(found)}. Choose another checkpoint."
        )
    return proto

"""SentencePiece unigram with byte fallback: exactly reversible, for models that write text."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
import tensorflow as tf
import tensorflow_text as tf_text
from sentencepiece import sentencepiece_model_pb2

from keras_llm.errors import UserError
from keras_llm.text.tokenizer import Tokenizer, check_size, clean_texts, printable
from keras_llm.text.unicode import sanitise

# SentencePiece writes a space as U+2581, so a user's own U+2581 would come back as a space. Inside the model U+2581 is
# therefore another character, A, and a user's A or B is written after a B: a prefix code, so decoding is unique.
ESCAPED, ESCAPE = "\ue000", "\ue001"
ESCAPES = {"\u2581": ESCAPED, ESCAPED: ESCAPE + ESCAPED, ESCAPE: ESCAPE + ESCAPE}
SMALLEST = 4 + 256 + 1


class SentencePieceTokenizer(Tokenizer):
    """Unigram language model over pieces of text (Kudo 2018, https://arxiv.org/abs/1804.10959).

    Identity normalisation, every space kept, and a character without a piece becomes its UTF-8 bytes: with the policy
    `identity`, `decode(encode(text)) == text` for any valid UTF-8.

    Args:
        model: a serialized SentencePiece model made by `train`.
        unicode_policy: see `Tokenizer`.

    Example:

    >>> tokenizer = SentencePieceTokenizer.train(["什么是词元？ What is a token?"], vocabulary_size=300)
    >>> tokenizer.decode(tokenizer.encode(["  什么是 token？"])).numpy()[0].decode()
    '  什么是 token？'
    """

    kind = "sentencepiece"
    reversible = True
    has_offsets = False
    vocabulary_file = "sentencepiece.model"

    def __init__(self, model: bytes, unicode_policy: str = "identity"):
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        super().__init__(model, self._processor.get_piece_size(), unicode_policy)
        self._tokenizer = tf_text.SentencepieceTokenizer(model, out_type=tf.int32)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocabulary_size: int, unicode_policy: str = "identity"
    ) -> SentencePieceTokenizer:
        check_size(vocabulary_size, SMALLEST, "4 special ids, 256 bytes, one piece")
        model = _train_model(list(clean_texts(texts, unicode_policy)), vocabulary_size)
        return cls(model, unicode_policy)

    @classmethod
    def _from_bytes(cls, vocabulary: bytes, unicode_policy: str) -> SentencePieceTokenizer:
        try:
            return cls(vocabulary, unicode_policy)
        except RuntimeError as error:
            raise UserError(
                f"{cls.vocabulary_file} must be a SentencePiece model. Received: {error}. Train anew."
            ) from None

    def tokens(self) -> list[str]:
        pieces = (self._processor.id_to_piece(id_) for id_ in range(self.vocabulary_size))
        return [printable(piece.replace(ESCAPED, "\\u2581")) for piece in pieces]

    def _encode(self, text):
        return self._tokenizer.tokenize(text)

    def _decode(self, ids):
        return sanitise(self._tokenizer.detokenize(ids))


def _train_model(texts: list[str], vocabulary_size: int) -> bytes:
    """A serialized unigram model with at most `vocabulary_size` pieces."""
    with tempfile.TemporaryDirectory() as directory:
        rules = {"normalization": ESCAPES, "denormalization": {written: char for char, written in ESCAPES.items()}}
        for name, table in rules.items():
            lines = (f"{_code_points(source)}\t{_code_points(target)}\n" for source, target in table.items())
            (Path(directory) / name).write_text("".join(lines))
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocabulary_size,
            hard_vocab_limit=False,  # a small text gives fewer pieces
            character_coverage=_coverage(texts, (vocabulary_size - SMALLEST) * 3 // 4 + 1),
            byte_fallback=True,
            normalization_rule_tsv=str(Path(directory) / "normalization"),
            denormalization_rule_tsv=str(Path(directory) / "denormalization"),
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=2**30,  # longer texts would be left out
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            num_threads=1,
            minloglevel=2,
        )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # The compiled rules are in the model; the path of the file they came from would make equal models differ.
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    proto.denormalizer_spec.ClearField("normalization_rule_tsv")
    return proto.SerializeToString(deterministic=True)


def _coverage(texts: list[str], most: int) -> float:
    """The share of the text that its `most` most frequent characters make up, at most 0.9995 as is usual."""
    counts = Counter()
    for text in texts:
        counts.update(text)
    return min(0.9995, sum(count for _, count in counts.most_common(most)) / counts.total())


def _code_points(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)

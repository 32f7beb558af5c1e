"""SentencePiece unigram with byte fallback: exactly reversible, for models that write text."""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
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
RESERVED = "\0\u2585" + ESCAPED + ESCAPE  # the trainer drops sentences with the first two
COVERAGE = 0.9995  # share of the text whose characters get a piece, as is usual
SMALLEST = 4 + 256 + 1  # special ids, bytes, the space
LONGEST_SENTENCE = 4000  # characters; the trainer's arithmetic fails on very long ones


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
        check_size(vocabulary_size, SMALLEST, "4 special ids, 256 bytes, the space")
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
        return [printable(piece.replace("\u2581", " ").replace(ESCAPED, "\u2581")) for piece in pieces]

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
            sentence_iterator=_sentences(texts, (vocabulary_size - SMALLEST) * 3 // 4),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocabulary_size,
            hard_vocab_limit=False,  # a small text gives fewer pieces
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_tsv=str(Path(directory) / "normalization"),
            denormalization_rule_tsv=str(Path(directory) / "denormalization"),
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=4 * LONGEST_SENTENCE,  # bytes; longer ones would be left out
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            num_threads=4,  # a fixed number: the order of floating-point sums, so the result, depends on it
            minloglevel=2,
        )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # The compiled rules are in the model; the path of the file they came from would make equal models differ.
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    proto.denormalizer_spec.ClearField("normalization_rule_tsv")
    return proto.SerializeToString(deterministic=True)


def _sentences(texts: list[str], most: int) -> Iterator[str]:
    """The texts as the trainer takes them: in parts that are not too long, and cut at rare characters.

    Rare are all but the `most` most frequent ones, or those of the last 0.05 % of the text: those become bytes.
    """
    counts = Counter()
    for text in texts:
        counts.update(text)
    for character in RESERVED:
        del counts[character]
    frequent, uncovered = "", counts.total()
    for character in sorted(counts, key=lambda character: (-counts[character], character))[:most]:
        if uncovered <= counts.total() * (1 - COVERAGE):
            break
        frequent += character
        uncovered -= counts[character]
    sentence = re.compile(f"[ {re.escape(frequent)}]{{1,{LONGEST_SENTENCE}}}")
    # A space without a piece would become the bytes of U+2581 and come back as that: there is always a piece for it.
    yield " "
    for text in texts:
        yield from sentence.findall(text)


def _code_points(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)

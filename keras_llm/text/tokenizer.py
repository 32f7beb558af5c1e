"""The contract of every tokenizer: text to ids and back in the TensorFlow graph, and its files."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow as tf

from keras_llm.errors import UserError
from keras_llm.text.unicode import check_policy, normalise, normalise_with_offsets, sanitise


class Tokenizer(tf.Module):
    """Text to ids (and byte offsets), ids to text.

    Everything runs in the graph with operations the stock TF Serving binary links; as a `tf.Module` it takes its
    tables into a SavedModel. Invalid UTF-8 is read as U+FFFD. Ids 0 to 3 mean the same in every tokenizer that is trained
    here; those of pretrained models set `pad_id`, `unknown_id`, `start_id` and `end_id` of their own. Special
    tokens in user text (`[SEP]`, `</s>`) are ordinary characters: no text gives their ids.

    A subclass defines `kind`, `reversible`, `has_offsets`, `vocabulary_file`, `train`, `_from_bytes`, `tokens`,
    `_encode`, `_decode`, and `_encode_with_offsets` if it has offsets.

    Args:
        vocabulary: content of the vocabulary file, in bytes.
        vocabulary_size: number of ids V.
        unicode_policy: `identity`, `nfc`, `nfkc` or `lowercase` (see `keras_llm.text.unicode`).
    """

    kind: str
    reversible: bool
    has_offsets: bool
    vocabulary_file: str
    trained = True  # False: comes with a checkpoint, and `train` refuses
    pad_id, unknown_id, start_id, end_id = 0, 1, 2, 3
    special_ids = 4  # ids below this are special; tokenizers of checkpoints say which in `all_special_ids`

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a text when they are written, `end_id` first; pretrained models may have several."""
        return (self.end_id,)

    def __init__(self, vocabulary: bytes, vocabulary_size: int, unicode_policy: str):
        super().__init__(name=self.kind)
        self.vocabulary_size = vocabulary_size
        self.unicode_policy = check_policy(unicode_policy)
        self._vocabulary = vocabulary

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int, unicode_policy: str = "identity") -> Tokenizer:
        """Learns a vocabulary; the same texts give the same vocabulary.

        Args:
            texts: the user's texts, of any length.
            vocabulary_size: upper limit; a small text gives fewer pieces.
            unicode_policy: applied to the texts here and to everything encoded later.

        Raises:
            UserError: no text, or a vocabulary size below the smallest possible.
        """
        raise NotImplementedError

    def encode(self, text) -> tf.RaggedTensor:
        """Text to ids; no special id is added.

        Args:
            text: string `[B]`, any bytes.

        Returns:
            int32 `[B, (n)]`.
        """
        return self._encode(normalise(sanitise(text), self.unicode_policy))

    def encode_with_offsets(self, text) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """As `encode`, and where each token stands.

        Args:
            text: string `[B]`, any bytes.

        Returns:
            ids, starts, ends: int32 `[B, (n)]`; byte offsets into `sanitise(text)`, on character boundaries, ends
            exclusive.

        Raises:
            UserError: this tokenizer has no offsets.
        """
        if not self.has_offsets:
            raise UserError(
                f"Byte offsets need a tokenizer that keeps them. Received: {self.kind}. Use wordpiece, characters or words."
            )
        normalised, to_source = normalise_with_offsets(sanitise(text), self.unicode_policy)
        ids, starts, ends = self._encode_with_offsets(normalised)
        return ids, *to_source(starts, ends)

    def decode(self, ids) -> tf.Tensor:
        """Ids to text; special ids, and ids outside the vocabulary, vanish.

        Args:
            ids: int32 `[B, T]`, dense or ragged.

        Returns:
            string `[B]`, valid UTF-8.
        """
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(tf.convert_to_tensor(ids))
        ids = tf.cast(ids, tf.int32)
        return self._decode(tf.ragged.boolean_mask(ids, self._speaks(ids) & (ids < self.vocabulary_size)))

    def continuation(self, ids) -> tf.Tensor:
        """As `decode`, for ids that go on a text: a space they begin with stays, where `decode` takes it for the one that
        was put in front of a whole text."""
        return self.decode(ids)

    @property
    def all_special_ids(self) -> frozenset[int]:
        """Ids that are no text: padding, unknown, start, end and others like them."""
        return frozenset(range(self.special_ids))

    def continues(self, ids, starts, ends) -> tf.RaggedTensor:
        """Which tokens go on the word, or the character, of the token before them.

        Args:
            ids, starts, ends: from `encode_with_offsets`.

        Returns:
            bool `[B, (n)]`; false for the first token of a text.
        """
        number = tf.range(tf.size(ids.values))
        later = number != tf.cast(tf.gather(ids.row_starts(), ids.value_rowids()), tf.int32)
        return ids.with_values(later & self._continues_before(ids.values, starts.values, ends.values))

    def tokens(self) -> list[str]:
        """The V pieces in the order of their ids, printable: for tables and the embedding projector."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """sha256 over both files: two tokenizers with the same fingerprint give the same ids."""
        return hashlib.sha256(self._description().encode() + self._vocabulary).hexdigest()

    def save(self, directory) -> None:
        """Writes the vocabulary file, then `tokenizer.json`, into `directory`: each beside and renamed."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        contents = {self.vocabulary_file: self._vocabulary, "tokenizer.json": self._description().encode()}
        for name, content in contents.items():
            beside = directory / f".{name}.part"
            beside.write_bytes(content)
            os.replace(beside, directory / name)

    @classmethod
    def load(cls, directory) -> Tokenizer:
        """Reads what `save` wrote.

        Raises:
            UserError: a file is missing, broken, or of another kind of tokenizer.
        """
        description = read_description(directory)
        where = Path(directory) / "tokenizer.json"
        if description["kind"] != cls.kind:
            raise UserError(
                f"{where} must describe a {cls.kind} tokenizer. Received: {description['kind']!r}. Use load_tokenizer."
            )
        path = Path(directory) / cls.vocabulary_file
        try:
            vocabulary = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"A tokenizer needs its vocabulary. Received: {path}: {error.strerror}. Restore it or train anew."
            ) from None
        if hashlib.sha256(vocabulary).hexdigest() != description["sha256"]:
            raise UserError(
                f"{path} must be the file {where} belongs to. Received: another sha256. Restore both or train anew."
            )
        tokenizer = cls._from_bytes(vocabulary, description["unicode_policy"])
        if tokenizer.vocabulary_size != description["vocabulary_size"]:
            raise UserError(
                f"{where}: vocabulary_size must be that of {path.name}, {tokenizer.vocabulary_size}. "
                f"Received: {description['vocabulary_size']!r}. Restore both or train anew."
            )
        return tokenizer

    def _description(self) -> str:
        description = {
            "kind": self.kind,
            "unicode_policy": self.unicode_policy,
            "vocabulary_size": self.vocabulary_size,
            "sha256": hashlib.sha256(self._vocabulary).hexdigest(),
        }
        return json.dumps(description, indent=2) + "\n"

    @classmethod
    def _from_bytes(cls, vocabulary: bytes, unicode_policy: str) -> Tokenizer:
        raise NotImplementedError

    def _speaks(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """Whether an id is text: int32 -> bool `[B, (n)]`."""
        return ids >= self.special_ids

    def _continues_before(self, ids, starts, ends):
        """Whether each of a row of tokens, int32 `[n]`, goes on the one before it: bool `[n]`."""
        return starts == tf.concat([[-1], starts[:-1]], 0)[: tf.size(starts)]

    def _encode(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Normalised text, string `[B]` -> int32 `[B, (n)]`."""
        raise NotImplementedError

    def _encode_with_offsets(self, text: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Normalised text, string `[B]` -> ids and offsets into it, int32 `[B, (n)]`."""
        raise NotImplementedError

    def _decode(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """Ids of the vocabulary without special ones, int32 `[B, (n)]` -> string `[B]`."""
        raise NotImplementedError


def read_description(directory) -> dict:
    """The checked content of `tokenizer.json` in `directory`."""
    path = Path(directory) / "tokenizer.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"A tokenizer directory needs tokenizer.json. Received: {path}: {error.strerror}. Give a run's tokenizer/."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} must be JSON. Received: {error}. Restore it or train anew.") from None
    fields = {"kind", "unicode_policy", "vocabulary_size", "sha256"}
    if not isinstance(description, dict) or set(description) != fields:
        raise UserError(
            f"{path} must hold exactly {', '.join(sorted(fields))}. Received: {description}. Restore it or train anew."
        )
    return description


def clean_texts(texts: Iterable[str], unicode_policy: str) -> Iterator[str]:
    """Sanitised and normalised texts to train on; UserError if there is nothing to learn from."""
    if isinstance(texts, str):
        texts = [texts]
    raw = (text.encode("utf-8", "surrogatepass") for text in texts if text.strip())
    empty = True
    while batch := list(itertools.islice(raw, 256)):
        empty = False
        for text in normalise(sanitise(batch), unicode_policy).numpy():
            yield text.decode()
    if empty:
        raise UserError(
            "A tokenizer is trained on text. Received: no text that is not empty. Give at least one sentence."
        )


def check_size(vocabulary_size: int, smallest: int, why: str) -> None:
    """Raises UserError if the vocabulary could not hold what the tokenizer always needs."""
    if vocabulary_size < smallest:
        raise UserError(
            f"vocabulary_size must be at least {smallest} ({why}). Received: {vocabulary_size}. Give a larger one."
        )


def printable(piece: str) -> str:
    """A piece as one visible word: a space as `▁`, what cannot be seen (and `▁` itself) as its escape.

    Example:

    >>> printable(" a\\n") == "▁a" + "\\\\n"
    True
    """
    return "".join(
        "▁" if c == " " else c if c.isprintable() and c != "▁" else c.encode("unicode_escape").decode() for c in piece
    )

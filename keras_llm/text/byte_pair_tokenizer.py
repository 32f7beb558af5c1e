"""Byte-level byte pairs as a tokenizer of runs: those of GPT-2, Llama 3, Qwen and their kin, and new ones learned here."""

from __future__ import annotations

import dataclasses
import functools
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tokenizers

from keras_llm.errors import UserError
from keras_llm.text.byte_pair import BytePairEncoder, byte_letters
from keras_llm.text.splitting import SPLITTINGS
from keras_llm.text.tokenizer import Tokenizer, check_size, clean_texts, printable
from keras_llm.text.unicode import sanitise

SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")
LEARNED_SPLITTING = "llama3"  # of what is learned here
ROLES = ("pad", "start", "end", "unknown", "mask")


@dataclasses.dataclass(frozen=True)
class BytePairs:
    """What a byte-pair tokenizer is made of.

    Attributes:
        vocabulary: token -> id, in GPT-2's letters for bytes; without special and added tokens.
        merges: pairs of tokens "a b" in their order of rank.
        special: token -> id of those that are no text: no text gives them, and they vanish when decoding.
        pad, start, end: ids of these.
        ends: further ids that end a text when they are written.
        unknown, mask: ids of these, -1 where there is none (bytes are never unknown).
        added: token -> id of marks that a text does not give either, but that are shown when decoding (`<think>`).
        splitting: a key of `SPLITTINGS`.
        whole_words: a word that is a token is that token, whatever the merges say.
        prefix_space: a text that does not begin with a space gets one.
        size: number of ids V, where embeddings have more rows than there are tokens; 0: as many as tokens.
    """

    vocabulary: Mapping[str, int]
    merges: Sequence[str]
    special: Mapping[str, int]
    pad: int
    start: int
    end: int
    ends: Sequence[int] = ()
    unknown: int = -1
    mask: int = -1
    added: Mapping[str, int] = dataclasses.field(default_factory=dict)
    splitting: str = "gpt2"
    whole_words: bool = False
    prefix_space: bool = False
    size: int = 0


class BytePairTokenizer(Tokenizer):
    """Byte-level byte-pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; Radford et al. 2019) with the ids of
    the model it comes from. Nothing is unknown; a byte of a character that is no token of its own has the offsets of the whole
    character. The space that a word's token begins with is no part of its offsets.

    Args:
        pairs: see `BytePairs`.
        unicode_policy: see `Tokenizer`.

    Example:

    >>> tokenizer = BytePairTokenizer.train(["hello hello 你好"], vocabulary_size=270)
    >>> tokenizer.decode(tokenizer.encode(["hello 你好 🙂"])).numpy()[0].decode()
    'hello 你好 🙂'
    """

    kind = "byte_pair"
    reversible = True
    has_offsets = True
    vocabulary_file = "byte_pair.json"
    goes_on, begins = "", " "  # how pieces are shown that go on a word, and those that begin one

    def __init__(self, pairs: BytePairs, unicode_policy: str = "identity"):
        everything = {**pairs.vocabulary, **pairs.added, **pairs.special}
        tokens = 1 + max(everything.values())
        _check(pairs, everything, tokens)
        content = json.dumps(dataclasses.asdict(pairs), ensure_ascii=False) + "\n"
        super().__init__(content.encode(), pairs.size or tokens, unicode_policy)
        self.pad_id, self.start_id, self.end_id = pairs.pad, pairs.start, pairs.end
        self.unknown_id, self.mask_id = pairs.unknown, pairs.mask
        self._ends = (pairs.end, *(end for end in pairs.ends if end != pairs.end))
        self._prefix_space = pairs.prefix_space
        # The policy normalises before the encoder is asked.
        splitting = dataclasses.replace(
            SPLITTINGS[pairs.splitting], normal_form="identity", whole_words=pairs.whole_words
        )
        marks = {*pairs.special.values(), *pairs.added.values()}
        self._encoder = BytePairEncoder(everything, pairs.merges, splitting, sorted(marks), pairs.prefix_space)
        texts = [b""] * (tokens + 1)
        for token, id_ in pairs.added.items():
            texts[id_] = token.encode()
        self._marks = tf.constant(texts)

    @property
    def pairs(self) -> BytePairs:
        """What it is made of."""
        return BytePairs(**json.loads(self._vocabulary))

    @property
    def all_special_ids(self) -> frozenset[int]:
        return frozenset(self.pairs.special.values())

    @property
    def end_ids(self) -> tuple[int, ...]:
        return tuple(self._ends)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int, unicode_policy: str = "identity") -> BytePairTokenizer:
        least = len(SPECIAL_TOKENS) + 256
        check_size(vocabulary_size, least, "4 special ids, 256 bytes")
        learner = tokenizers.Tokenizer(tokenizers.models.BPE())
        source = tokenizers.Regex(SPLITTINGS[LEARNED_SPLITTING].source)
        learner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Split(source, "isolated"),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=byte_letters(),
            show_progress=False,
        )
        learner.train_from_iterator(clean_texts(texts, unicode_policy), trainer)
        learned = json.loads(learner.to_str())["model"]
        special = {token: learned["vocab"].pop(token) for token in SPECIAL_TOKENS}
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in learned["merges"]]
        pairs = BytePairs(
            learned["vocab"], merges, special, *(special[token] for token in ("<pad>", "<s>", "</s>")),
            unknown=special["<unk>"], splitting=LEARNED_SPLITTING,
        )  # fmt: skip
        return cls(pairs, unicode_policy)

    @classmethod
    def _from_bytes(cls, vocabulary: bytes, unicode_policy: str) -> BytePairTokenizer:
        try:
            pairs = BytePairs(**json.loads(vocabulary))
        except (ValueError, TypeError) as error:
            raise UserError(f"{cls.vocabulary_file} must describe byte pairs. Received: {error}. Train anew.") from None
        return cls(pairs, unicode_policy)

    def tokens(self) -> list[str]:
        pairs, names = self.pairs, [f"<unused {id_}>" for id_ in range(self.vocabulary_size)]
        bytes_of = {letter: byte for byte, letter in enumerate(byte_letters())}
        for token, id_ in pairs.vocabulary.items():
            piece = bytes(bytes_of[letter] for letter in token)
            try:
                names[id_] = printable(piece.decode())
            except UnicodeDecodeError:  # a part of a character
                names[id_] = "".join(f"<{byte:02X}>" for byte in piece)
        for token, id_ in {**pairs.added, **pairs.special}.items():
            names[id_] = token
        return names

    def pieces(self, ids) -> tuple[tf.Tensor, tf.Tensor]:
        """Bytes of each id, which need not be whole characters, without the space it may begin with, and whether there is none:
        int32 `[...]` -> string and bool `[...]`."""
        pieces = self._encoder.pieces(ids)
        is_led = tf.strings.substr(pieces, 0, 1) == " "
        return tf.where(is_led, tf.strings.substr(pieces, 1, -1), pieces), ~is_led

    def decode(self, ids) -> tf.Tensor:
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(tf.convert_to_tensor(ids))
        ids = tf.cast(ids, tf.int32)
        none = tf.size(self._marks) - 1
        known = (ids.values >= 0) & (ids.values < none)
        marks = tf.gather(self._marks, tf.where(known, ids.values, none))
        pieces = tf.strings.join([self._encoder.pieces(ids.values), marks])  # one of the two is empty
        return sanitise(tf.strings.reduce_join(ids.with_values(pieces), axis=-1))

    @functools.cached_property
    def _borders(self) -> np.ndarray:
        """Whether each token begins, and whether it ends, in the middle of words: bool `[2, V]`."""
        borders = np.zeros((2, self.vocabulary_size), bool)
        bytes_of = {letter: byte for byte, letter in enumerate(byte_letters())}
        for token, id_ in self.pairs.vocabulary.items():
            # A part of a character shares the place of the other part, which says it already.
            text = bytes(bytes_of[letter] for letter in token).decode(errors="ignore")
            borders[:, id_] = [bool(text) and _in_word(text[side]) for side in (0, -1)]
        return borders

    def _continues_before(self, ids, starts, ends):
        def before(values, none):
            return tf.concat([[none], values[:-1]], 0)[: tf.size(values)]

        left, right = (tf.gather(tf.constant(flags), ids) for flags in self._borders)
        return (starts < before(ends, 0)) | ((starts == before(ends, 0)) & left & before(right, False))

    def _encode(self, text):
        return self._encoder.encode(text)

    def _encode_with_offsets(self, text):
        ids = self._encode(text)
        row = tf.cast(ids.value_rowids(), tf.int32)  # of each token
        sizes = tf.strings.length(text)
        first = tf.gather(tf.cumsum(sizes, exclusive=True), row)  # where its text begins, among the bytes of all
        added = tf.zeros_like(sizes)  # bytes in front of each text
        if self._prefix_space:
            added = tf.cast((text != "") & (tf.strings.substr(text, 0, 1) != " "), tf.int32)
        # Tokens cover a text without gaps: they end where the sum of their lengths says.
        lengths = tf.strings.length(self._encoder.pieces(ids.values))
        ends = tf.cumsum(lengths) - tf.gather(tf.cumsum(added), row)
        starts = tf.maximum(ends - lengths, first)
        # A token may begin or end inside a character: it has all of that.
        bytes_ = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(text), tf.uint8), tf.int32)
        begins = tf.bitwise.bitwise_and(bytes_, 0xC0) != 0x80
        character = tf.concat([tf.cumsum(tf.cast(begins, tf.int32)) - 1, [0]], 0)
        places = tf.concat([tf.cast(tf.where(begins)[:, 0], tf.int32), [tf.size(bytes_)]], 0)
        is_space = ends <= starts  # the one in front, where it is a token of its own
        starts = tf.where(is_space, starts, tf.gather(places, tf.gather(character, starts)))
        behind = tf.gather(places, tf.gather(character, tf.maximum(ends - 1, 0)) + 1)
        ends = tf.where(is_space, starts, behind)
        # A word's place is without the space that its token begins with.
        is_led = (tf.gather(tf.concat([bytes_, [0]], 0), starts) == ord(" ")) & (ends > starts + 1)
        starts += tf.cast(is_led, tf.int32)
        return ids, ids.with_values(starts - first), ids.with_values(ends - first)


def _in_word(character: str) -> bool:
    """Whether a character is one of a word that has several: letters and digits but those of Chinese and Japanese."""
    is_wide = "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"
    return unicodedata.category(character)[0] in "LMN" and not is_wide


def _check(pairs: BytePairs, everything, tokens) -> None:
    where = "A byte-pair tokenizer's "
    if len(set(everything.values())) != len(everything) or min(everything.values()) < 0:
        raise UserError(f"{where}tokens must have an id each. Received: one id for two tokens, or one below 0.")
    if pairs.splitting not in SPLITTINGS:
        raise UserError(f"{where}splitting is one of {', '.join(SPLITTINGS)}. Received: {pairs.splitting!r}.")
    if pairs.size and pairs.size < tokens:
        raise UserError(f"{where}ids must all have a row of the embedding. Received: {tokens} ids, {pairs.size} rows.")
    special = set(pairs.special.values())
    named = {role: getattr(pairs, role) for role in ROLES} | {f"end {end}": end for end in pairs.ends}
    for role, id_ in named.items():
        if id_ not in special and not (id_ == -1 and role in ("unknown", "mask")):
            raise UserError(f"{where}{role} id must be that of a special token. Received: {id_}.")

"""WordPiece with byte offsets into the source: for models that read text and point at parts of it."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable

import tensorflow as tf
import tensorflow_text as tf_text
import tokenizers

from keras_llm.errors import UserError
from keras_llm.text.tokenizer import Tokenizer, check_size, clean_texts, printable
from keras_llm.text.unicode import gather_rows

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 100  # bytes; a longer word is [UNK]


class PieceTokenizer(Tokenizer):
    """What tokenizers share whose pieces begin a word or (`##ing`) go on with one.

    Not reversible: white space is lost, and a word that has no pieces is the unknown token.

    Args:
        pieces: in the order of their ids.
        vocabulary: content of the vocabulary file.
        unicode_policy: see `Tokenizer`.
    """

    reversible = False
    has_offsets = True
    goes_on, begins = "##", ""  # how pieces are shown that go on a word, and those that begin one

    def __init__(self, pieces: list[str], vocabulary: bytes, unicode_policy: str):
        super().__init__(vocabulary, len(pieces), unicode_policy)
        self._tokens = tuple(pieces)
        self._pieces = tf.constant([piece.removeprefix("##") for piece in pieces])
        self._continues = tf.constant([piece.startswith("##") for piece in pieces])
        self._joins_left = tf.constant([piece.startswith("##") or _joins(piece[:1], "left") for piece in pieces])
        self._joins_right = tf.constant([_joins(piece[-1:], "right") for piece in pieces])

    def tokens(self) -> list[str]:
        return [printable(piece) for piece in self._tokens]

    def pieces(self, ids) -> tuple[tf.Tensor, tf.Tensor]:
        """Text of each id, without `##`, and whether it goes on a word: int32 `[...]` -> string and bool `[...]`."""
        return tf.gather(self._pieces, ids), tf.gather(self._continues, ids)

    def _continues_before(self, ids, starts, ends):
        return super()._continues_before(ids, starts, ends) | tf.gather(self._continues, ids)

    def _decode(self, ids):
        flat = ids.values
        after_joining = tf.concat([[True], tf.gather(self._joins_right, flat)[:-1]], 0)[: tf.size(flat)]
        first = tf.range(tf.size(flat)) == tf.cast(tf.gather(ids.row_starts(), ids.value_rowids()), tf.int32)
        glued = tf.gather(self._joins_left, flat) | after_joining | first
        pieces = tf.where(glued, "", " ") + tf.gather(self._pieces, flat)
        return tf.strings.reduce_join(ids.with_values(pieces), axis=-1)


class WordPieceTokenizer(PieceTokenizer):
    """BERT's tokenizer (Devlin et al. 2019, https://arxiv.org/abs/1810.04805), in linear time (Song et al. 2021,
    https://arxiv.org/abs/2012.15524).

    Text is split at white space, punctuation and Chinese characters, and each word into the longest pieces of the
    vocabulary. A word that has no pieces is `[UNK]`.

    Args:
        vocabulary: the pieces in the order of their ids, the first five being `SPECIAL_TOKENS`.
        unicode_policy: see `Tokenizer`.

    Example:

    >>> tokenizer = WordPieceTokenizer.train(["the cat and the dog 猫"], vocabulary_size=60)
    >>> ids, starts, ends = tokenizer.encode_with_offsets(["the 猫"])
    >>> starts.to_list(), ends.to_list()
    ([[0, 4]], [[3, 7]])
    """

    kind = "wordpiece"
    vocabulary_file = "vocab.txt"
    mask_id = 4
    special_ids = 5

    def __init__(self, vocabulary: list[str], unicode_policy: str = "identity"):
        if tuple(vocabulary[: len(SPECIAL_TOKENS)]) != SPECIAL_TOKENS:
            wanted = " ".join(SPECIAL_TOKENS)
            raise UserError(f"A WordPiece vocabulary begins with {wanted}. Received: {vocabulary[:5]}. Train anew.")
        super().__init__(vocabulary, "".join(f"{piece}\n" for piece in vocabulary).encode(), unicode_policy)
        self._cleaner = tf_text.FastBertNormalizer()  # control characters are read as spaces
        self._splitter = tf_text.FastWordpieceTokenizer(
            vocabulary, max_bytes_per_word=LONGEST_WORD, token_out_type=tf.int32, unknown_token="[UNK]"
        )

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int, unicode_policy: str = "identity") -> WordPieceTokenizer:
        check_size(vocabulary_size, len(SPECIAL_TOKENS) + 2, "5 special ids, one letter first and later in a word")
        words = _count_words(clean_texts(texts, unicode_policy))
        if not words:
            raise UserError("WordPiece is trained on words. Received: text without any. Give at least one sentence.")
        return cls(_train_vocabulary(words, vocabulary_size), unicode_policy)

    @classmethod
    def _from_bytes(cls, vocabulary: bytes, unicode_policy: str) -> WordPieceTokenizer:
        try:
            return cls(vocabulary.decode().split("\n")[:-1], unicode_policy)
        except UnicodeDecodeError as error:
            raise UserError(f"{cls.vocabulary_file} must be UTF-8. Received: {error}. Train anew.") from None

    def _encode(self, text):
        return self._splitter.tokenize(self._cleaner.normalize(text))

    def _encode_with_offsets(self, text):
        # The two steps of tf_text.FastBertTokenizer, whose own mapping of the offsets takes ten times as long.
        clean, origin = self._cleaner.normalize_with_offsets(text)
        ids, starts, ends = self._splitter.tokenize_with_offsets(clean)
        origin = tf.cast(origin, tf.int32)
        return ids, gather_rows(origin, starts), gather_rows(origin, ends)


def _count_words(texts: Iterable[str]) -> Counter:
    """How often each word occurs, split by the very operation that will split text in the graph."""
    cleaner = tf_text.FastBertNormalizer()
    # Without pieces that continue a word every word is one token, with its offsets. (An empty vocabulary is refused.)
    splitter = tf_text.FastWordpieceTokenizer(["[UNK]", "a"], max_bytes_per_word=LONGEST_WORD, token_out_type=tf.int32)
    words = Counter()
    texts = iter(texts)
    while batch := list(itertools.islice(texts, 256)):
        clean = cleaner.normalize(batch)
        _, starts, ends = splitter.tokenize_with_offsets(clean)
        for text, begin, end in zip(clean.numpy(), starts.to_list(), ends.to_list(), strict=True):
            words.update(text[a:b].decode() for a, b in zip(begin, end, strict=True))
    return words


def _train_vocabulary(words: Counter, vocabulary_size: int) -> list[str]:
    """The special tokens, the letters, and the pieces learned from counted words."""
    letters = _letters(words, (vocabulary_size - len(SPECIAL_TOKENS)) * 3 // 4)
    # The trainer numbers single letters in the random order of a hash map, and pieces of equal count by those numbers;
    # as "special tokens" the letters keep the order given here.
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS, *letters],
        show_progress=False,
    )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    known = {letter for letter in letters if len(letter) == 1}
    learnable = (word for word in sorted(words) if len(word.encode()) <= LONGEST_WORD and known.issuperset(word))
    lines = (" ".join([word] * words[word]) for word in learnable)
    tokenizer.train_from_iterator(lines, trainer)
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


def _letters(words: Counter, most: int) -> list[str]:
    """The most frequent letters, each as it begins a word and, where it does so, as it continues one (`##e`)."""
    counts = Counter()
    for word, count in words.items():
        for letter in word:
            counts[letter] += count
    inside = {letter for word in words for letter in word[1:]}
    letters = []
    for letter in sorted(counts, key=lambda letter: (-counts[letter], letter)):
        forms = [letter, f"##{letter}"] if letter in inside else [letter]
        if letters and len(letters) + len(forms) > most:
            break
        letters += forms
    return letters


def _joins(character: str, side: str) -> bool:
    """Whether text is written without a space on that side of a character: Chinese, Japanese, and most punctuation."""
    if "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or "\uff00" <= character <= "\uffef":
        return True
    if character >= "\U00020000":
        return True
    category = unicodedata.category(character) if character else ""
    return category in ({"Pe", "Pf", "Po"} if side == "left" else {"Ps", "Pi"})

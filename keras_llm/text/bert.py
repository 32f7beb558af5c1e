"""BERT's tokenizer in the graph exactly as Hugging Face runs it, for checkpoints that were trained with it.

`WordPieceTokenizer` is for vocabularies learned here; tensorflow-text's normaliser behind it folds full-width letters and
punctuation (`！` becomes `!`), which those checkpoints never saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from keras_llm.errors import UserError
from keras_llm.text.unicode import sanitise

# As in tokenizers' BertNormalizer, whose Unicode is an old one: punctuation and accents that came after version 8 it does
# not know as such.
SPACES = r"[\t\n\r\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
CHINESE = (
    r"[\x{4e00}-\x{9fff}\x{3400}-\x{4dbf}\x{20000}-\x{2a6df}\x{2a700}-\x{2b73f}\x{2b740}-\x{2b81f}\x{2b920}-\x{2ceaf}"
    r"\x{f900}-\x{faff}\x{2f800}-\x{2fa1f}]"
)
DROPPED = r"[\p{C}\x{fffd}]"  # control and format characters, private ones, and what was not UTF-8
PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
LONGEST_WORD = 100  # characters; a longer word is unknown


class BertEncoder(tf.Module):
    """Text to ids and back, by WordPiece (Devlin et al. 2019, https://arxiv.org/abs/1810.04805).

    Args:
        vocabulary: the pieces in the order of their ids.
        lowercase: as for uncased checkpoints; accents go with it unless `strip_accents` says otherwise.
        strip_accents: None: as `lowercase`.
        unknown_token: stands for a word without pieces.
        special_ids: vanish when decoding.
        split_chinese: each Chinese character is a word.

    Example:

    >>> encoder = BertEncoder(["[UNK]", "play", "##ing", "！", "猫"], lowercase=True)
    >>> encoder.encode(["Playing 猫！"]).to_list()
    [[1, 2, 4, 3]]
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        lowercase: bool,
        strip_accents: bool | None = None,
        unknown_token: str = "[UNK]",
        special_ids: Sequence[int] = (),
        split_chinese: bool = True,
    ):
        super().__init__(name="bert")
        if unknown_token not in vocabulary:
            raise UserError(
                f"A WordPiece vocabulary must have a token for unknown words. Received: none called {unknown_token!r}. "
                "Use the vocabulary the model was trained with."
            )
        twice = [piece for piece, count in Counter(vocabulary).items() if count > 1]
        if twice:
            raise UserError(
                f"A WordPiece vocabulary must have each piece once. Received: {twice[0]!r} more often. Use the file the model "
                "was trained with."
            )
        self.vocabulary_size = len(vocabulary)
        self.lowercase = lowercase
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self.split_chinese = split_chinese
        self._unknown = unknown_token
        self._pieces = tf_text.FastWordpieceTokenizer(
            list(vocabulary),
            suffix_indicator="##",
            max_bytes_per_word=4 * LONGEST_WORD,
            token_out_type=tf.int32,
            unknown_token=unknown_token,
            no_pretokenization=True,
        )
        written = [piece[2:] if piece.startswith("##") and len(piece) > 2 else f" {piece}" for piece in vocabulary]
        for id_ in special_ids:
            written[id_] = ""
        # One more, empty, for ids outside the vocabulary: embeddings may be larger than it.
        self._texts = tf.constant([*written, ""])

    def encode(self, text) -> tf.RaggedTensor:
        """Text to ids; no special id is added, and special tokens in the text are plain text.

        Args:
            text: string `[B]`, any bytes; what is not UTF-8 is read as U+FFFD, which BERT drops.

        Returns:
            int32 `[B, (n)]`.
        """
        words = tf_text.regex_split(self._normalise(sanitise(text)), f"[ ]+|{PUNCTUATION}", PUNCTUATION)
        too_long = tf.strings.length(words.values, unit="UTF8_CHAR") > LONGEST_WORD
        ids = self._pieces.tokenize(words.with_values(tf.where(too_long, self._unknown, words.values)))
        return ids.merge_dims(1, 2)

    def encode_with_offsets(self, text) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """As `encode`, and where each token stands.

        Args:
            text: string `[B]`, any bytes.

        Returns:
            ids, starts, ends: int32 `[B, (n)]`; byte offsets into `sanitise(text)`, on character boundaries, ends exclusive.
        """
        characters, offsets = tf.strings.unicode_split_with_offsets(sanitise(text), "UTF-8")
        # Character by character, each kind of them once: nothing in the normalisation looks at the neighbours.
        kinds, kind = tf.unique(characters.values)
        normal = tf.gather(self._normalise(kinds), kind)
        joined = tf.strings.reduce_join(characters.with_values(normal), axis=-1)
        words, begins, _ = tf_text.regex_split_with_offsets(joined, f"[ ]+|{PUNCTUATION}", PUNCTUATION)
        too_long = tf.strings.length(words.values, unit="UTF8_CHAR") > LONGEST_WORD
        ids, first, last = self._pieces.tokenize_with_offsets(
            words.with_values(tf.where(too_long, self._unknown, words.values))
        )
        word = ids.values.value_rowids()
        is_whole = tf.gather(too_long, word)
        length = tf.gather(tf.strings.length(words.values), word)
        begin = tf.gather(tf.cast(begins.values, tf.int32), word)
        first = begin + tf.where(is_whole, 0, tf.cast(first.values.values, tf.int32))
        last = begin + tf.where(is_whole, length, tf.cast(last.values.values, tf.int32)) - 1
        ids = ids.merge_dims(1, 2)
        # Which character each byte of the normalised texts comes from.
        origin = tf.repeat(tf.range(tf.size(normal)), tf.strings.length(normal))
        row = tf.gather(tf.cumsum(tf.strings.length(joined), exclusive=True), ids.value_rowids())
        first, last = tf.gather(origin, row + first), tf.gather(origin, row + last)
        offsets = tf.cast(offsets.values, tf.int32)
        ends = offsets + tf.strings.length(characters.values)
        return ids, ids.with_values(tf.gather(offsets, first)), ids.with_values(tf.gather(ends, last))

    def decode(self, ids) -> tf.Tensor:
        """Ids to text with a space between words; special ids, and ids outside the vocabulary, vanish.

        Args:
            ids: int32 `[B, T]`, dense or ragged.

        Returns:
            string `[B]`.
        """
        return tf.strings.strip(tf.strings.reduce_join(self.pieces(ids), axis=-1))

    def pieces(self, ids):
        """The text of each id, with a space where it begins a word: int32 `[...]` -> string `[...]`."""
        known = (ids >= 0) & (ids < self.vocabulary_size)
        return tf.gather(self._texts, tf.where(known, ids, self.vocabulary_size))

    def _normalise(self, text):
        """Valid UTF-8 -> words with spaces between them, as BertNormalizer gives them."""
        text = tf.strings.regex_replace(tf.strings.regex_replace(text, SPACES, " "), DROPPED, "")
        if self.split_chinese:
            text = tf.strings.regex_replace(text, CHINESE, r" \0 ")
        if self.strip_accents:
            text = tf.strings.regex_replace(tf_text.normalize_utf8(text, "NFD"), r"\p{Mn}", "")
        if self.lowercase:
            # Letter by letter: the last sigma of a word is no other letter.
            text = tf.strings.lower(tf.strings.regex_replace(text, "Σ", "σ"), encoding="utf-8")
        return text

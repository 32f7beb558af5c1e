"""KerasHub tokenizers as graphs without state: byte-pair and WordPiece by `keras_llm.text`, SentencePiece by its own op.

KerasHub's own byte-pair graph remembers every word it has seen, its WordPiece folds full-width punctuation, and some of its
tokenizers are Python functions. Every encoder has `encode`, `decode`, `pieces` and `vocabulary_size`.
"""

from __future__ import annotations

import json
from pathlib import Path

import keras_hub
import tensorflow as tf
import tensorflow_text as tf_text

from keras_llm.errors import UserError
from keras_llm.text.bert import BertEncoder
from keras_llm.text.byte_pair import BytePairEncoder
from keras_llm.text.splitting import SPLITTINGS, Splitting, splitting_of
from keras_llm.text.unicode import sanitise

# How the makers of a family split text, where the folder does not say so.
FAMILIES = {
    "GPT2Tokenizer": "gpt2",
    "RobertaTokenizer": "gpt2",
    "BartTokenizer": "gpt2",
    "OPTTokenizer": "gpt2",
    "Llama3Tokenizer": "llama3",
    "SmolLM3Tokenizer": "llama3",
    "QwenTokenizer": "qwen2",
    "QwenMoeTokenizer": "qwen2",
    "Qwen3Tokenizer": "qwen2",
    "Qwen3MoeTokenizer": "qwen2",
}
IN_PYTHON = ("MistralTekkenTokenizer", "RWKVTokenizer")


class SentencePieceEncoder(tf.Module):
    """A KerasHub SentencePiece tokenizer's model as a graph. User-defined symbols of the model in a text are what the model says.

    Args:
        tokenizer: a `keras_hub.tokenizers.SentencePieceTokenizer`.
    """

    def __init__(self, tokenizer):
        super().__init__(name="sentencepiece")
        self._model = tf_text.SentencepieceTokenizer(tokenizer.proto, out_type=tf.int32)
        # Fairseq put its own special tokens first: its id is the model's and one more, and unknown is 3.
        self._is_fairseq = isinstance(tokenizer, keras_hub.tokenizers.XLMRobertaTokenizer)
        self.vocabulary_size = tokenizer.vocabulary_size()
        written = [piece.replace("\u2581", " ") for piece in tokenizer.get_vocabulary()]
        special = _special_ids(tokenizer)
        self._texts = tf.constant(["" if i in special else text for i, text in enumerate(written)] + [""])
        self._speaks = tf.constant([i not in special for i in range(self.vocabulary_size)] + [False])

    def encode(self, text) -> tf.RaggedTensor:
        """string `[B]`, any bytes -> int32 `[B, (n)]`."""
        ids = self._model.tokenize(sanitise(text))
        return tf.where(ids == 0, 3, ids + 1) if self._is_fairseq else ids

    def decode(self, ids) -> tf.Tensor:
        """int32 `[B, T]` -> string `[B]`; special ids, and ids outside the vocabulary, vanish."""
        ids = ids if isinstance(ids, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(ids)
        speaks = ids.with_values(tf.gather(self._speaks, self._known(ids.values)))
        ids = tf.ragged.boolean_mask(ids, speaks)
        return sanitise(self._model.detokenize(ids - 1 if self._is_fairseq else ids))

    def pieces(self, ids):
        """The text of each id, with a space where it begins a word: int32 `[...]` -> string `[...]`."""
        return tf.gather(self._texts, self._known(ids))

    def _known(self, ids):
        return tf.where((ids >= 0) & (ids < self.vocabulary_size), ids, self.vocabulary_size)


def make_encoder(tokenizer, folder: Path):
    """The graph that does what a KerasHub tokenizer does.

    Args:
        tokenizer: from a KerasHub preset or a Hugging Face checkpoint.
        folder: where it came from; a Hugging Face tokenizer.json there says more than KerasHub keeps.

    Raises:
        UserError: there is no such graph.
    """
    name = type(tokenizer).__name__
    hub = keras_hub.tokenizers
    if name in IN_PYTHON:
        raise UserError(
            f"A tokenizer must run in the graph. Received: {name} of {folder}, which is a Python function in KerasHub. Export a "
            "checkpoint of the family with a SentencePiece or byte-pair tokenizer."
        )
    if isinstance(tokenizer, hub.BytePairTokenizer):
        return BytePairEncoder(
            tokenizer.vocabulary,
            [merge for merge in tokenizer.merges if merge and not merge.startswith("#version")],
            splitting_of_family(name, folder),
            sorted(_special_ids(tokenizer)),
            tokenizer.add_prefix_space,
        )
    if isinstance(tokenizer, hub.WordPieceTokenizer):
        settings = _read(folder / "tokenizer_config.json")
        lowercase = bool(tokenizer.lowercase)
        return BertEncoder(
            tokenizer.vocabulary,
            lowercase,
            settings.get("strip_accents", True if tokenizer.strip_accents else None),
            tokenizer.oov_token,
            sorted(_special_ids(tokenizer)),
            tokenizer.split_on_cjk,
        )
    if isinstance(tokenizer, hub.SentencePieceTokenizer):
        return SentencePieceEncoder(tokenizer)
    raise UserError(
        f"A tokenizer must be a byte-pair, WordPiece or SentencePiece one. Received: {name} of {folder}. Export another model."
    )


def splitting_of_family(name: str, folder: Path) -> Splitting:
    """How a byte-pair tokenizer splits text into words: what the folder's tokenizer.json says, else what its family does.

    Args:
        name: KerasHub's class.
        folder: a preset or checkpoint.

    Raises:
        UserError: it splits in a way that is not in `SPLITTINGS`.
    """
    described = _read(folder / "tokenizer.json")
    if "pre_tokenizer" not in described:
        if name in FAMILIES:
            return SPLITTINGS[FAMILIES[name]]
        raise UserError(
            f"A byte-pair tokenizer must split text as one of {', '.join(FAMILIES)} does. Received: {name} of {folder}. "
            "Put its Hugging Face tokenizer.json into the folder, or export another model."
        )
    return splitting_of(described, folder / "tokenizer.json")


def _special_ids(tokenizer) -> set[int]:
    """Ids that are no text: those KerasHub names, and all that it keeps whole."""
    ids = {*tokenizer.special_token_ids, getattr(tokenizer, "mask_token_id", None)} - {None}
    vocabulary = getattr(tokenizer, "vocabulary", None)
    if isinstance(vocabulary, dict):
        ids.update(vocabulary[token] for token in tokenizer.unsplittable_tokens or () if token in vocabulary)
    return ids


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}

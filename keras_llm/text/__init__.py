"""Tokenizers that run in the TensorFlow graph.

`TOKENIZERS` is the list of kinds; `load_tokenizer` opens what any of them saved.
"""

from __future__ import annotations

from pathlib import Path

from keras_llm.errors import UserError
from keras_llm.text.bert_tokenizer import BertTokenizer
from keras_llm.text.byte_pair_tokenizer import BytePairTokenizer
from keras_llm.text.characters import CharacterTokenizer
from keras_llm.text.sentencepiece import SentencePieceTokenizer
from keras_llm.text.sentencepiece_bpe import SentencePieceBPETokenizer
from keras_llm.text.tokenizer import Tokenizer, read_description
from keras_llm.text.unicode import normalise, normalise_with_offsets, sanitise
from keras_llm.text.unigram import UnigramTokenizer
from keras_llm.text.wordpiece import WordPieceTokenizer
from keras_llm.text.words import WordsTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    "wordpiece": WordPieceTokenizer,
    "sentencepiece": SentencePieceTokenizer,
    "characters": CharacterTokenizer,
    "words": WordsTokenizer,
    "bert": BertTokenizer,
    "byte_pair": BytePairTokenizer,
    "sentencepiece_bpe": SentencePieceBPETokenizer,
    "unigram": UnigramTokenizer,
}

__all__ = ["TOKENIZERS", "Tokenizer", "load_tokenizer", "normalise", "normalise_with_offsets", "sanitise"]


def load_tokenizer(directory) -> Tokenizer:
    """Opens a saved tokenizer of any kind.

    Args:
        directory: what `Tokenizer.save` wrote: `tokenizer.json` and a vocabulary file.

    Raises:
        UserError: a file is missing or broken.
    """
    kind = read_description(directory)["kind"]
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        where = Path(directory) / "tokenizer.json"
        raise UserError(f"{where}: kind must be one of {', '.join(TOKENIZERS)}. Received: {kind!r}. Train anew.")
    return TOKENIZERS[kind].load(directory)

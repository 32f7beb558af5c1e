"""Word vectors as the first values of a model's embedding. Shapes: V tokens, D dimension."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from keras_llm.errors import UserError
from keras_llm.vectors.word_vectors import WordVectors

SPACE = "▁"  # how a tokenizer prints the space in a piece
CONTINUES = "##"  # how WordPiece marks a piece that goes on with a word
# Scripts written without spaces: a piece of them is a word wherever it stands.
_WITHOUT_SPACES = re.compile("[\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def embedding_matrix(
    tokens: Sequence[str], vectors: WordVectors, seed: int = 0, scale: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """An embedding for a tokenizer's pieces: the vector of the word that a piece is, else random numbers like those.

    A piece is a word where it stands for one: "the" of WordPiece but not "##the", "▁the" of SentencePiece but not
    "the", which goes on with a word; punctuation and Chinese characters or words with and without mark. A word is
    sought as it is written, then in lower case, with a capital, in capitals.

    Args:
        tokens: V pieces as `Tokenizer.tokens()` gives them.
        vectors: the word vectors.
        seed: of the random ones, which are normal with the mean and the spread of all numbers of those found.
        scale: mean length that the vectors found are brought to, all by one factor; None leaves them as they are.

    Returns:
        matrix: float32 [V, D].
        found: bool [V], which pieces got a word's vector.

    Raises:
        UserError: no piece is a word of the vectors.

    Example:

    >>> matrix, found = embedding_matrix(["[UNK]", "king", "##s"], WordVectors(["king"], [[3.0, 4.0]]), scale=1.0)
    >>> matrix[1].tolist(), found.tolist()
    ([0.6000000238418579, 0.800000011920929], [False, True, False])
    """
    word_of = _word_of(tokens)
    rows = np.array([_row(word_of(token), token, vectors.index) for token in tokens], dtype=np.int64)
    found = rows >= 0
    if not found.any():
        raise UserError(
            f"An embedding starts from the vectors of words that are also tokens. Received: none of {len(rows):,} tokens "
            f"is among {len(vectors):,} words. Use vectors of the same language and kind of words as the tokenizer."
        )
    known = vectors.matrix[rows[found]]
    length = float(np.linalg.norm(known, axis=1).mean())
    if scale is not None and length:
        known = known * np.float32(scale / length)
    random = np.random.default_rng(seed)
    matrix = random.normal(known.mean(), known.std(), (len(rows), vectors.dim)).astype(np.float32)
    matrix[found] = known
    return matrix, found


def _word_of(tokens: Sequence[str]) -> Callable[[str], str | None]:
    """How these pieces become words; None for one that only goes on with a word."""
    if any(token.startswith(CONTINUES) and len(token) > len(CONTINUES) for token in tokens):
        return _of_wordpiece
    if any(token.startswith(SPACE) and len(token) > len(SPACE) for token in tokens):
        return _of_sentencepiece
    return str


def _of_wordpiece(token):
    if not token.startswith(CONTINUES) or token == CONTINUES:
        return token
    rest = token[len(CONTINUES) :]
    return rest if _WITHOUT_SPACES.match(rest) else None


def _of_sentencepiece(token):
    if token.startswith(SPACE):
        return token.strip(SPACE)
    return token if _WITHOUT_SPACES.match(token) or not token[:1].isalnum() else None


def _row(word, token, index):
    if token.startswith((CONTINUES, SPACE)) and token in index:  # the vectors may know pieces
        return index[token]
    if word:
        for written in (word, word.lower(), word.title(), word.upper()):
            if written in index:
                return index[written]
    return -1

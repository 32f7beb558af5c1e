"""Documents that repeat an earlier one, found while streaming: exactly, by hashes; nearly, by MinHash."""

from __future__ import annotations

import hashlib
import re

NEAR_PERMUTATIONS, NEAR_BANDS, NEAR_SEED = 64, 16, 42
SEQUENCE = 3  # words, or characters of a script that is written without spaces
UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNIT = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


def digest(text: str) -> int:
    """64 bits of a text: among ten million texts two meet with a probability of 3 in a million."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


class ExactDuplicates:
    """Remembers the texts it has met, with about 70 bytes each."""

    def __init__(self):
        self._met: set[int] = set()

    def repeats(self, text: str) -> bool:
        """Whether this text was met before."""
        key, before = digest(text), len(self._met)
        self._met.add(key)
        return len(self._met) == before


class NearDuplicates:
    """Remembers what the texts it has met consist of: MinHash and locality-sensitive hashing (Broder 1997,
    https://doi.org/10.1109/SEQUEN.1997.666900), with about 2 kB each.

    A text is the set of its sequences of three words or, of Chinese, Japanese and other unspaced scripts, characters; case
    and punctuation do not count. Two texts are the same if the sets' Jaccard similarity, estimated from 64 hashes with a
    standard error of at most 0.06, reaches the threshold. A text that has no word or letter repeats none.

    Args:
        threshold: similarity from which on two texts are the same, 0.5 to 1.

    Example:

    >>> near = NearDuplicates(0.6)
    >>> [near.repeats(text) for text in ("山上有一座古老的寺庙。", "山上有一座古老的寺庙！！", "海边有一个新的港口。")]
    [False, True, False]
    """

    def __init__(self, threshold: float = 0.8):
        from rensa import RMinHash, RMinHashDeduplicator

        self._sketch = RMinHash
        self._met = RMinHashDeduplicator(threshold, NEAR_PERMUTATIONS, True, NEAR_BANDS, NEAR_SEED)
        self._count = 0

    def repeats(self, text: str) -> bool:
        """Whether a text like this one was met before; if not, it is remembered."""
        sequences = sequences_of(text)
        if not sequences:
            return False
        sketch = self._sketch(NEAR_PERMUTATIONS, NEAR_SEED)
        sketch.update(sequences)
        self._count += 1
        return not self._met.add(str(self._count), sketch)


def sequences_of(text: str) -> list[str]:
    """What near duplicates have in common; a text of less than three words or characters is one sequence.

    Example:

    >>> sequences_of("To be, or not"), sequences_of("生存还是")
    (['to be or', 'be or not'], ['生 存 还', '存 还 是'])
    """
    units = UNIT.findall(text.lower())
    if len(units) < SEQUENCE:
        return [" ".join(units)] if units else []
    return list(map(" ".join, zip(*(units[i:] for i in range(SEQUENCE)), strict=False)))

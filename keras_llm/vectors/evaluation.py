"""How good word vectors are: word similarity against people's judgement, analogies. Shapes: V words, D dimension."""

from __future__ import annotations

import dataclasses
import gzip
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_llm.errors import UserError
from keras_llm.vectors.word_vectors import WordVectors

QUESTIONS_AT_ONCE = 256


@dataclasses.dataclass
class Similarity:
    """Agreement with people on how alike two words are."""

    spearman: float | None
    """Rank correlation with the people's scores; None where fewer than two different scores are left."""
    pairs: int
    """Pairs in the file."""
    scored: int
    """Pairs both of whose words have vectors; only these count."""
    missing: list[str]
    """Words without a vector."""


@dataclasses.dataclass
class Section:
    """Analogies of one section of a file."""

    name: str
    correct: int = 0
    """Questions whose fourth word came out first."""
    scored: int = 0
    """Questions all of whose words have vectors; only these count."""
    questions: int = 0
    """Questions in the section."""

    @property
    def accuracy(self) -> float | None:
        """Share of the scored ones that are correct; None without any."""
        return self.correct / self.scored if self.scored else None


@dataclasses.dataclass
class Analogies:
    """Accuracy on analogies, by section."""

    sections: list[Section]
    missing: list[str]
    """Words without a vector."""

    @property
    def total(self) -> Section:
        """All sections as one."""
        sums = (sum(getattr(s, name) for s in self.sections) for name in ("correct", "scored", "questions"))
        return Section("total", *sums)


def evaluate_similarity(vectors: WordVectors, path: str | Path, ignore_case: bool = True) -> Similarity:
    """Spearman's rank correlation of cosine similarities with the scores of a file.

    Args:
        vectors: the word vectors.
        path: a line a pair: two words and a score, between tabs, commas or spaces; further columns, a heading and lines
            that begin with # are allowed (WordSim-353, SimLex-999, MEN, RW, wordsim-240 and -297 are read as they are).
        ignore_case: a word of the file finds the most frequent known word that differs in case only.

    Raises:
        UserError: not such a file (with file:line).
    """
    find = _finder(vectors, ignore_case)
    ours, theirs, missing, pairs = [], [], {}, 0
    for first, second, score in _pairs(Path(path)):
        pairs += 1
        rows = [find(word) for word in (first, second)]
        missing.update({word: None for word, row in zip((first, second), rows, strict=True) if row is None})
        if None not in rows:
            ours.append(float(vectors.unit[rows[0]] @ vectors.unit[rows[1]]))
            theirs.append(score)
    return Similarity(_spearman(ours, theirs), pairs, len(ours), list(missing))


def evaluate_analogies(
    vectors: WordVectors, path: str | Path, ignore_case: bool = True, most_frequent: int | None = None
) -> Analogies:
    """How often the fourth word of an analogy is the nearest to b - a + c (3CosAdd, the three left out).

    Args:
        vectors: the word vectors.
        path: lines of four words, and ": name" before each section (questions-words.txt, CA8).
        ignore_case: words that differ in case only count as one.
        most_frequent: answers are sought among so many words; a question that needs others is not scored.

    Raises:
        UserError: not such a file (with file:line).
    """
    vectors = _first_words(vectors, most_frequent)
    fold = str.lower if ignore_case else str
    # Words that are one but for their case form a group; the most frequent lends its vector to the questions.
    groups: dict[str, int] = {}
    group = np.array([groups.setdefault(fold(word), len(groups)) for word in vectors.words])  # [V]
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(groups)))
    first = vectors.unit[order[starts]]  # [groups, D]
    sections, missing, waiting = [], {}, []

    def answer():
        questions = np.array([question for _, question in waiting])  # [Q, 4]
        a, b, c = (first[questions[:, i]] for i in range(3))
        similarity = (b - a + c) @ vectors.unit.T  # [Q, V]
        if len(groups) < len(vectors):
            similarity = np.maximum.reduceat(similarity[:, order], starts, axis=1)  # [Q, groups]
        np.put_along_axis(similarity, questions[:, :3], -np.inf, axis=1)
        for (section, _), right in zip(waiting, similarity.argmax(axis=1) == questions[:, 3], strict=True):
            section.correct += int(right)
        waiting.clear()

    for name, words in _questions(Path(path)):
        if not sections or sections[-1].name != name:
            sections.append(Section(name))
        sections[-1].questions += 1
        unknown = [word for word in words if fold(word) not in groups]
        missing.update(dict.fromkeys(unknown))
        if not unknown:
            sections[-1].scored += 1
            waiting.append((sections[-1], [groups[fold(word)] for word in words]))
        if len(waiting) == QUESTIONS_AT_ONCE:
            answer()
    if waiting:
        answer()
    return Analogies(sections, list(missing))


def report(
    vectors: WordVectors,
    similarity: Sequence[str | Path] = (),
    analogies: Sequence[str | Path] = (),
    ignore_case: bool = True,
    most_frequent: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, list[dict]]:
    """Evaluates on several files and says each result in a line.

    Returns:
        {"similarity": ..., "analogies": ...}: the figures of each file, for JSON.

    Raises:
        UserError: see `evaluate_similarity` and `evaluate_analogies`.
    """
    result: dict[str, list[dict]] = {"similarity": [], "analogies": []}
    for path in similarity:
        found = evaluate_similarity(vectors, path, ignore_case)
        shown = "-" if found.spearman is None else f"{found.spearman:.4f}"
        say(f"{Path(path).name}: Spearman {shown} over {found.scored} of {found.pairs} pairs{_missing(found.missing)}")
        result["similarity"].append({"file": Path(path).name, **dataclasses.asdict(found)})
    for path in analogies:
        found = evaluate_analogies(vectors, path, ignore_case, most_frequent)
        say(f"{Path(path).name}{_missing(found.missing)}")
        for section in [*found.sections, found.total]:
            shown = "-" if section.accuracy is None else f"{section.accuracy:.2%}"
            say(f"  {section.name}: {shown} right, {section.correct} of {section.scored} ({section.questions} asked)")
        sections = [dataclasses.asdict(section) | {"accuracy": section.accuracy} for section in found.sections]
        total = dataclasses.asdict(found.total) | {"accuracy": found.total.accuracy}
        result["analogies"].append(
            {"file": Path(path).name, **total, "sections": sections, "missing": found.missing},
        )
    return result


def _missing(words):
    shown = f"{', '.join(words[:5])}{'…' if len(words) > 5 else ''}"
    return f"; words without a vector: {len(words)} ({shown})" if words else ""


def _first_words(vectors, most_frequent):
    if most_frequent is None or most_frequent >= len(vectors):
        return vectors
    if most_frequent < 1:
        raise UserError(f"The number of words answers come from must be at least 1. Received: {most_frequent}.")
    return WordVectors(vectors.words[:most_frequent], vectors.matrix[:most_frequent])


def _finder(vectors, ignore_case):
    if not ignore_case:
        return vectors.index.get
    folded = {}
    for i, word in enumerate(vectors.words):
        folded.setdefault(word.lower(), i)
    return lambda word: folded.get(word.lower())


def _spearman(ours, theirs):
    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return None
    from scipy.stats import rankdata

    value = float(np.corrcoef(rankdata(ours), rankdata(theirs))[0, 1])
    return value if math.isfinite(value) else None


def _pairs(path) -> Iterator[tuple[str, str, float]]:
    found = False
    for number, line in _lines(path):
        separator = next((mark for mark in ("\t", ",") if mark in line), None)
        fields = [field.strip() for field in line.split(separator)]
        score = next((value for value in map(_number, fields[2:]) if value is not None), None)
        if score is None and number == 1 and len(fields) > 2:
            continue  # a heading
        if score is None or not fields[0] or not fields[1]:
            raise UserError(
                f"{path}:{number}: a line is two words and a score, between tabs, commas or spaces. "
                f"Received: {line[:60]!r}. Mend the file."
            )
        found = True
        yield fields[0], fields[1], score
    if not found:
        raise UserError(f"{path} must hold pairs of words with scores. Received: none. Check the file.")


def _questions(path) -> Iterator[tuple[str, list[str]]]:
    name, found = "", False
    for number, line in _lines(path):
        if line.startswith(":"):
            name = line[1:].strip()
            continue
        words = line.split()
        if len(words) != 4:
            raise UserError(
                f"{path}:{number}: an analogy is four words with spaces between. Received: {line[:60]!r}. Mend the file."
            )
        found = True
        yield name, words
    if not found:
        raise UserError(f"{path} must hold analogies. Received: none. Check the file.")


def _number(text):
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _lines(path):
    """(number, line) of the lines that say something; UTF-8, gzipped or not."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError) as error:
        raise UserError(f"A test file must be readable. Received: {path} ({error}). Check the path.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: text must be UTF-8. Save the file as UTF-8.") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()

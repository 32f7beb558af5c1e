"""A corpus: files -> documents, streamed, so that no corpus has to fit into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from keras_llm.config import CorpusConfig
from keras_llm.data.cleaning import StopWords, clean
from keras_llm.data.corpus_report import Amount, CorpusReport, Dropped
from keras_llm.data.cutting import Piece, cut, documents
from keras_llm.data.documents import get, parse_json, short, string_of
from keras_llm.data.duplicates import ExactDuplicates, NearDuplicates, digest
from keras_llm.data.text_files import find_files, is_json_lines, read_blocks
from keras_llm.errors import UserError

LONGEST_RECORD = 1 << 26  # characters of a line of JSON: unlike text, it cannot be cut
DROPPED, TRAIN, EVAL = range(3)  # what becomes of a document
PARTS = {"train": TRAIN, "eval": EVAL}


class Corpus:
    """The documents of files, one str after the other; each iteration reads the files anew.

    The first complete iteration decides for every document whether it is kept, and for which part; later ones follow
    that decision (a byte a document) without looking for duplicates again, unless a file has changed meanwhile.

    Args:
        paths: text files, JSON lines (`.jsonl`, `.ndjson`), either gzipped (`.gz`), and directories of these.
        config: what a document is, and which are kept.

    Raises:
        UserError: a path or a setting is wrong; while iterating, with file:line: a file is not UTF-8 text, a record is
            broken; at its end: nothing was kept.

    Example:

    >>> corpus = Corpus(["poems.jsonl"], CorpusConfig(field="paragraphs", eval_share=0.05))
    >>> next(iter(corpus.part("train")))
    '床前明月光...'
    >>> corpus.report.lines()
    ['files read: 1', ...]
    """

    def __init__(self, paths: Sequence[str | Path], config: CorpusConfig | None = None):
        self.config = _checked(config or CorpusConfig())
        self.paths, self._passed_over = find_files(paths)
        self._stop_words = StopWords(self.config.stop_words) if self.config.stop_words else None
        self._decided: tuple[tuple, bytearray, CorpusReport] | None = None

    @property
    def size(self) -> int:
        """Bytes of the files on the disk."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def report(self) -> CorpusReport:
        """What there was, what is kept and why not; reads the files if no iteration has been complete yet."""
        return self.scan()

    def scan(self, show_progress: bool = False) -> CorpusReport:
        """Reads all files unless that was done, and gives the report.

        Args:
            show_progress: draw a bar over the files' bytes.
        """
        if self._decisions() is None:
            with tqdm(total=self.size, unit="B", unit_scale=True, desc="Reading", disable=not show_progress) as bar:
                for _ in self._kept(None, bar.update):
                    pass
        return self._decided[2]

    def part(self, name: str) -> CorpusPart:
        """The documents of one part.

        Args:
            name: `train` or `eval`.

        Raises:
            UserError: there is no such part: for `eval`, `eval_share` must be above 0.
        """
        if name not in PARTS:
            raise UserError(f"The parts of a corpus are {', '.join(PARTS)}. Received: {name!r}. Name one of them.")
        if name == "eval" and not self.config.eval_share:
            raise UserError("An evaluation part needs eval_share above 0. Received: 0. Give it, or files of its own.")
        return CorpusPart(self, name)

    def __iter__(self) -> Iterator[str]:
        return self._kept(None)

    def _kept(self, wanted: int | None, progress: Callable[[int], object] = lambda _: None) -> Iterator[str]:
        """The documents that are kept, of one part or of both."""
        decisions = self._decisions()
        if decisions is not None:
            for i, piece in enumerate(self._pieces(progress)):
                if decisions[i] and wanted in (None, decisions[i]):
                    yield self._cleaned(piece.text)
            return
        stamp, judge, decisions = self._stamp(), _Judge(self.config), bytearray()
        for piece in self._pieces(progress):
            text = self._cleaned(piece.text)
            decision = judge.decide(piece, text)
            decisions.append(decision)
            if decision and wanted in (None, decision):
                yield text
        judge.report.files, judge.report.passed_over = len(self.paths), self._passed_over
        self._require_any(judge.report)
        self._decided = stamp, decisions, judge.report

    def _pieces(self, progress) -> Iterator[_Placed]:
        for path in self.paths:
            blocks, limit = read_blocks(path, progress), self.config.max_characters
            if is_json_lines(path):
                yield from self._records(path, blocks)
            else:
                for piece in documents(blocks, self.config.document, limit):
                    yield _Placed(path, piece)

    def _records(self, path: Path, blocks: Iterator[str]) -> Iterator[_Placed]:
        for record in documents(blocks, "line", LONGEST_RECORD):
            where = f"{path}:{record.line}"
            if record.part:
                raise UserError(
                    f"{where}: a JSON record has at most {LONGEST_RECORD:,} characters. Received: a longer line. "
                    "Divide it, or give it as a text file, which is cut."
                )
            field = self.config.field
            value = get(parse_json(record.text, path, record.line), field, where)
            lines = value if isinstance(value, list) else [value] if value is not None else []
            text = "\n".join(string_of(line, f'{where}: key "{field}"') for line in lines)
            parts = list(cut(text, self.config.max_characters)) or [""]
            for number, part in enumerate(parts, 1):
                yield _Placed(path, Piece(part, record.line, number if len(parts) > 1 else 0))

    def _cleaned(self, text: str) -> str:
        text = clean(text) if self.config.clean else text.strip("\n")
        return self._stop_words.remove(text) if self._stop_words else text

    def _decisions(self) -> bytearray | None:
        return self._decided[1] if self._decided and self._decided[0] == self._stamp() else None

    def _stamp(self) -> tuple:
        stats = [(path, path.stat()) for path in self.paths]
        return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)

    def _require_any(self, report: CorpusReport) -> None:
        if not report.kept.documents:
            names = ", ".join(map(str, self.paths[:5])) + (" ..." if len(self.paths) > 5 else "")
            why = "".join(f" Dropped, {why}: {dropped.documents}." for why, dropped in report.dropped.items())
            received = f"none of the {report.read.documents} documents in {names}"
            raise UserError(f"A corpus must have at least one document. Received: {received}.{why} Check the files.")


def evaluation_corpus(paths: Sequence[str | Path], config: CorpusConfig) -> Corpus:
    """A corpus to evaluate on: what a document is stays as in training, but no duplicate is dropped and nothing is kept apart."""
    return Corpus(paths, dataclasses.replace(config, deduplicate="none", eval_share=0.0))


class CorpusPart:
    """One part of a corpus, to be iterated as often as wanted; made by `Corpus.part`."""

    def __init__(self, corpus: Corpus, name: str):
        self.corpus, self.name = corpus, name

    @property
    def amount(self) -> Amount:
        """Documents, characters and bytes; reads the files if no iteration has been complete yet."""
        return getattr(self.corpus.report, self.name)

    def __iter__(self) -> Iterator[str]:
        empty = True
        for text in self.corpus._kept(PARTS[self.name]):
            empty = False
            yield text
        if empty:
            kept, share = self.corpus.report.kept.documents, self.corpus.config.eval_share
            raise UserError(
                f"Each part of a corpus needs a document. Received: none for {self.name}, of {kept} documents with "
                f"eval_share={share}. Give more documents (document=paragraph or line), another share, or files of its own."
            )


class _Placed:
    """A piece and its file."""

    __slots__ = ("path", "piece")

    def __init__(self, path: Path, piece: Piece):
        self.path, self.piece = path, piece

    @property
    def text(self) -> str:
        return self.piece.text

    @property
    def where(self) -> str:
        return f"{self.path}:{self.piece.line}"


class _Judge:
    """Decides what becomes of each document, and keeps the report."""

    def __init__(self, config: CorpusConfig):
        self.config, self.report = config, CorpusReport()
        self.exact = ExactDuplicates() if config.deduplicate != "none" else None
        self.near = NearDuplicates(config.near_threshold) if config.deduplicate == "near" else None

    def decide(self, placed: _Placed, text: str) -> int:
        report, config = self.report, self.config
        report.read.add(placed.text)
        if placed.piece.part:
            report.parts += 1
            if placed.piece.part == 1:
                report.cut.add_at(placed.text, placed.where)
        report.cleaned += config.clean and text != placed.text.strip("\n")
        why = None
        if len(text.strip()) < config.min_characters:
            empty, least = not text.strip(), config.min_characters
            why = "empty" if empty else f"shorter than {least} characters"
        elif self.exact and self.exact.repeats(text):
            why = "the same as an earlier document"
        elif self.near and self.near.repeats(text):
            why = f"nearly the same as an earlier document (similarity {config.near_threshold} or more)"
        if why:
            report.dropped.setdefault(why, Dropped()).add_at(placed.text, placed.where)
            return DROPPED
        if is_for_evaluation(text, config.eval_share):
            report.eval.add(text)
            return EVAL
        report.train.add(text)
        return TRAIN


def is_for_evaluation(text: str, share: float) -> bool:
    """Whether a document is kept for evaluation: decided by its text alone, so that the same document is never on both
    sides, in whatever order and however often it comes. White space and case do not count.

    Example:

    >>> is_for_evaluation("A  document.", 0.5) == is_for_evaluation("a document.\\n", 0.5)
    True
    """
    return share > 0 and digest(" ".join(text.casefold().split())) < share * 2**64


def _checked(config: CorpusConfig) -> CorpusConfig:
    for name, least, most in (
        ("max_characters", 1, LONGEST_RECORD),
        ("min_characters", 1, config.max_characters),
        ("near_threshold", 0.5, 1.0),
        ("eval_share", 0.0, 0.5),
    ):
        if not least <= getattr(config, name) <= most:
            received = f"{getattr(config, name)}"
            raise UserError(f"{name} must be from {least:,} to {most:,}. Received: {received}. Give a value between.")
    for name, choices in (("document", ("line", "paragraph", "file")), ("deduplicate", ("none", "exact", "near"))):
        if getattr(config, name) not in choices:
            received = short(getattr(config, name))
            raise UserError(f"{name} must be one of {', '.join(choices)}. Received: {received}. Choose one of them.")
    return config

"""What a corpus gave: documents kept, dropped and why, in lines for printing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from keras_llm.data.documents import short

EXAMPLES = 5


@dataclass
class Amount:
    """Documents, and their size in characters and in bytes of UTF-8."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0

    def add(self, text: str) -> None:
        self.documents += 1
        self.characters += len(text)
        self.bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))

    def __str__(self) -> str:
        return f"{self.documents:,} documents, {self.characters:,} characters, {self.bytes:,} bytes"


@dataclass
class Dropped(Amount):
    """Documents dropped for one reason, with the first of them: where, and how they begin."""

    examples: list[str] = field(default_factory=list)

    def add_at(self, text: str, where: str) -> None:
        self.add(text)
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{where}: {short(text[:200])}")


@dataclass
class CorpusReport:
    """What reading a corpus met.

    Args:
        files: number of files read.
        passed_over: suffix -> number of files in the given directories that were not read.
        read: what the files hold; the parts of a document that was cut count as documents.
        train, eval: what is kept for either; without a split everything is `train`.
        cut: documents that were too long, with the number of parts they gave.
        cleaned: documents that cleaning, or the removal of stop words, changed.
        dropped: reason -> documents dropped for it.
    """

    files: int = 0
    passed_over: Counter = field(default_factory=Counter)
    read: Amount = field(default_factory=Amount)
    train: Amount = field(default_factory=Amount)
    eval: Amount = field(default_factory=Amount)
    cut: Dropped = field(default_factory=Dropped)
    parts: int = 0
    cleaned: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)

    @property
    def kept(self) -> Amount:
        """All that is kept."""
        return Amount(*(getattr(self.train, name) + getattr(self.eval, name) for name in Amount.__dataclass_fields__))

    def facts(self) -> dict[str, int]:
        """What is kept with metrics."""
        dropped = sum(amount.documents for amount in self.dropped.values())
        return {"documents": self.kept.documents, "dropped": dropped, "cut": self.cut.documents}

    def lines(self) -> list[str]:
        """The report for printing, with an example or more of everything dropped or cut."""
        lines = [f"files read: {self.files}"]
        if self.passed_over:
            names = ", ".join(f"{suffix} ({count})" for suffix, count in self.passed_over.most_common(10))
            lines.append(f"other files in the directories, passed over: {names}")
        lines += [f"read: {self.read}", f"kept: {self.kept}"]
        if self.eval.documents:
            lines += [f"  to train on: {self.train}", f"  to evaluate on: {self.eval}"]
        if self.cleaned:
            lines.append(f"changed by cleaning: {self.cleaned:,} documents")
        if self.cut.documents:
            lines.append(f"too long, cut into {self.parts:,} documents: {self.cut.documents:,}")
            lines += [f"  {example}" for example in self.cut.examples]
        for why, dropped in self.dropped.items():
            lines.append(f"dropped, {why}: {dropped}")
            lines += [f"  {example}" for example in dropped.examples]
            if dropped.documents > len(dropped.examples):
                lines.append(f"  ... and {dropped.documents - len(dropped.examples):,} more")
        return lines

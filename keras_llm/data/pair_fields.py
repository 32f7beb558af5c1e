"""Which keys of JSON or columns of a table hold a source and its targets."""

from __future__ import annotations

from collections.abc import Sequence

from keras_llm.data.documents import get, short, string_of
from keras_llm.errors import UserError

# Names that are known without being given, in this order. Instructions come with a `text` that repeats all the rest.
SOURCE_FIELDS = (
    *("instruction", "source", "src", "text", "document", "article", "dialogue", "body", "content", "abstract"),
    *("prompt", "question", "context", "input", "原文", "正文", "问题"),
)
# What a source is about, and is read behind it.
BESIDE = {"instruction": ("input", "context"), "prompt": ("context",), "question": ("context",)}
TARGET_FIELDS = (
    *("target", "targets", "tgt", "translation", "summary", "title", "headline", "headlines", "subject"),
    *("response", "answer", "answers", "output", "译文", "摘要", "标题", "回答"),
)
NAME_THEM = "Name them: --text-field and --target-field, a name or the number of a column."


class PairFields:
    """Finds sources and targets, and remembers where.

    Args:
        source, target: as for `keras_llm.data.parallel_text.read_parallel`.

    Attributes:
        chosen: "body → subject" for all fields that were found without being given.
        absent: further fields of targets that nothing had.

    Raises:
        UserError: one is a number and the other is not, or both are the same.

    Example:

    >>> PairFields().of_object({"instruction": "Add.", "input": "1 2", "output": "3"}, "a.jsonl:1")
    ('Add.\\n1 2', ['3'])
    """

    def __init__(self, source: str = "", target: str = ""):
        self.source = source.strip()
        self.target, *self.more = [part.strip() for part in target.split(",")]
        self.given = f"--text-field {self.source or '(none)'}, --target-field {target or '(none)'}"
        if self.source and self.source in (self.target, *self.more):
            raise UserError(f"Source and target are two fields. Received: {self.given}. Name another one.")
        numbers = [field.isdecimal() for field in (self.source, self.target, *self.more)]
        if any(numbers) and not all(numbers):
            raise UserError(f"Columns are given by number for all fields or for none. Received: {self.given}.")
        if any(numbers) and "0" in (self.source, self.target, *self.more):
            raise UserError(f"Columns are counted from 1. Received: {self.given}.")
        self.numbered = any(numbers)
        self.chosen: set[str] = set()
        self.absent = set() if self.numbered else set(self.more)

    def of_object(self, item, where: str) -> tuple[str, list[str]]:
        """The source and the targets of a JSON object."""
        if self.numbered:
            raise UserError(f"{where}: keys of JSON have names. Received: {self.given}. Give the names.")
        keys = list(item) if isinstance(item, dict) else []
        source, target = self._find(keys)
        for name, what in ((source, "source"), (target, "target")):
            if not name:
                raise UserError(f"{where}: no key is known to hold the {what}. Received: {short(item)}. {NAME_THEM}")
        sources = self._sources(source, [name for name in keys if item[name] and name != target])
        if not self.source and source == "instruction" and item.get("history"):
            raise UserError(
                f'{where}: earlier turns are read from messages. Received: them in "history". Write the conversation as '
                "messages, or name what is to be read with --text-field."
            )
        self._choose(sources, target)
        texts = [text for source in sources for text in _texts(*_value(item, source, where))]
        targets = _texts(*_value(item, target, where))
        for field in self.more:
            if _has(item, field):
                self.absent.discard(field)
                targets += _texts(*_value(item, field, where))
        return "\n".join(texts), targets

    def of_header(self, row: list[str], where: str) -> tuple[list[int], list[int], int | None] | None:
        """Columns of sources, of targets and of ids by a table's first row; None: it holds no names and is an example itself."""
        if self.numbered:
            columns = [int(field) - 1 for field in (self.source, self.target, *self.more)]
            if max(columns) >= len(row):
                raise UserError(f"{where}: no such column, there are {len(row)}. Received: {self.given}.")
            return None
        names = [cell.strip() for cell in row]
        lower = [name.lower() for name in names]
        source, target = self._find(lower)
        if not source and not target:
            return None
        found = [_column(name, names, lower) for name in (source, target)]
        if None in found:
            raise UserError(
                f"{where}: the first row must name the columns of source and target. Received: "
                f"{short(', '.join(names))}; wanted: {self.given}. Mend the file or the fields; where it is an example, "
                "give the columns by number."
            )
        sources = self._sources(source, [name for name in lower if name != target.lower()])
        self._choose(sources, target)
        more = {name: _column(name, names, lower) for name in self.more}
        self.absent -= {name for name, column in more.items() if column is not None}
        columns = [_column(name, names, lower) for name in sources]
        return columns, [found[1], *(i for i in more.values() if i is not None)], _column("id", names, lower)

    def of_bare_row(self, row: list[str], where: str) -> tuple[list[int], list[int], None]:
        """Columns of a table whose first row is an example."""
        if self.numbered:
            return [int(self.source) - 1], [int(field) - 1 for field in (self.target, *self.more)], None
        if len(row) == 2 or (len(row) == 3 and row[2].startswith("CC-BY")):
            return [0], [1], None
        raise UserError(
            f"{where}: a table without known names of columns must have two, source and target. Received: {len(row)}, "
            f"{short(', '.join(row))}. {NAME_THEM}"
        )

    def _choose(self, sources: list[str], target: str) -> None:
        if not (self.source and self.target):
            self.chosen.add(f"{' + '.join(sources)} → {target}")

    def _find(self, names: Sequence[str]) -> tuple[str, str]:
        """The fields of source and target: what is given, else the first known one that is not the other; "" for none."""
        taken = {name.lower() for name in (self.source, self.target, *self.more)}
        source = self.source or _first(SOURCE_FIELDS, names, taken)
        return source, self.target or _first(TARGET_FIELDS, names, taken | {source})

    def _sources(self, source: str, names: Sequence[str]) -> list[str]:
        """The source that was found, with what is read before and behind it."""
        if self.source:
            return [source]
        before = ("system",) if source == "instruction" else ()
        found = [*before, source, *BESIDE.get(source, ())]
        return [name for name in found if name == source or (name in names and name not in self.more)]


def _first(known: Sequence[str], names: Sequence[str], taken: set[str]) -> str:
    return next((name for name in known if name in names and name not in taken), "")


def _column(name: str, names: list[str], lower: list[str]) -> int | None:
    if name in names:
        return names.index(name)
    return lower.index(name.lower()) if name and name.lower() in lower else None


def _has(item, field: str) -> bool:
    """Whether a key is there, which may lie inside another."""
    if isinstance(item, dict) and field in item:
        return True
    for part in field.split("."):
        if not isinstance(item, dict) or part not in item:
            return False
        item = item[part]
    return True


def _value(item, field: str, where: str) -> tuple[object, str]:
    """The value of a key, which may lie inside another, and how it is called in messages."""
    if isinstance(item, dict) and field in item:
        return item[field], f'{where}: key "{field}"'
    node, inner = item, field.split(".")
    for part in inner:
        node = get(node, part, where)
    return node, f'{where}: key "{field}"'


def _texts(value, where: str) -> list[str]:
    return [string_of(text, where) for text in (value if isinstance(value, list) else [value])]

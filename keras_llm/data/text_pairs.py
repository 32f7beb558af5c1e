"""Pairs of texts that belong together, perhaps with texts that do not, or with a score: tables and JSON lines."""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_llm.config import Config, FieldConfig
from keras_llm.data.documents import (
    existing,
    parse_json,
    read_text,
    short,
    short_names,
    string_of,
    suffix_of,
    table_rows,
)
from keras_llm.data.known_fields import PAIRS, Found, Known, columns_of, tell, values_of
from keras_llm.data.records import ReaderReport, finish
from keras_llm.errors import UserError

KNOWN = Known(
    texts=(
        *("text", "query", "anchor", "question", "sentence", "title", "文本", "句子", "问题", "查询", "标题"),
        *(first for first, _ in PAIRS if first != "text"),
    ),
    pairs=(
        *(second for _, second in PAIRS),
        *("positive", "pos", "passage", "document", "answer", "context", "paragraph"),
        *("正例", "段落", "文档", "答案", "回答", "上下文"),
    ),
    labels=("score", "similarity", "分数", "得分", "相似度", "label", "标签"),
)
CLASSES = ("label", "标签")  # these hold a score, or the name of a class
# "negative", "neg_2", "hard_negatives", "negative document", "负例1"; but not "neg_scores".
NEGATIVE = re.compile(
    rf"(hard[ _-]?)?(negatives?|neg|负例)[ _-]?(({'|'.join(KNOWN.texts + KNOWN.pairs)})s?)?[ _-]?\d*", re.IGNORECASE
)


@dataclass
class PairReport(ReaderReport):
    """What `read_text_pairs` met.

    Args:
        unlearned: what is told of pairs that are read but not learned from; "" where there are none.
    """

    noun: str = "pairs"
    unlearned: str = ""

    def lines(self, most: int = 10) -> list[str]:
        return super().lines(most) + ([self.unlearned] if self.unlearned else [])


def read_text_pairs(paths: Sequence[str | Path], config: Config) -> tuple[list[dict], PairReport]:
    """Reads pairs of texts.

    The form follows from the file's name (`.gz` may follow):

    - `.tsv`, `.txt`: columns between tabs, quotes are ordinary characters. With a header row that names them; without one the
      first column is the text, the second one its pair, and a third one a score if it is a number, else a wrong text;
    - `.csv`: the same with commas, quotes around fields that need them;
    - `.jsonl`, `.json`: an object a line, or a list of objects; or lists `[text, pair]`, `[text, pair, wrong text …]`. Pairs and
      wrong texts may be lists: each of the pairs is one record.

    `config.fields` names text, pair and (as the label) score. What it leaves open is found by name
    (`keras_llm.data.known_fields.find`) and told in the report; wrong texts always are. A column or key `label` that is not named
    is a score if its first value is a number, else it is left out. White space around texts is removed. Rows with an empty text
    are left out and reported.

    Args:
        paths: the files; their forms may differ.
        config: uses `fields`.

    Returns:
        Records `{"id": str, "text": str, "pair": str, "negatives": [str]}`, with `"score": float` where the file has one, and the
        `PairReport`. The id is `<file stem>:<line>`; where two files share a stem, `<path>:<line>`.

    Raises:
        UserError: a file is missing, broken or not UTF-8, a column or key is missing, several may hold one of the texts, a score
            is no number; with `file:line`. Some pairs have a score and others none.

    Example:

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
    ...     _ = file.write("下雨了\\t开始下雨\\nIt rains.\\tRain falls.\\n")
    ...     file.flush()
    ...     read_text_pairs([file.name], Config())[0][1]["pair"]
    'Rain falls.'
    """
    paths = existing(paths)
    report, records = PairReport(), []
    for path, stem in zip(paths, short_names(paths), strict=True):
        if suffix_of(path) not in FORMS:
            raise UserError(
                f"Pairs of texts are read from {', '.join(FORMS)}. Received: {path}. Convert or rename the file."
            )
        for line, text, pairs, negatives, score in FORMS[suffix_of(path)](path, config.fields, report):
            where = f"{path}:{line}"
            score = None if score is None else _number(score, where)
            negatives = [negative.strip() for negative in negatives if negative.strip()]
            for i, pair in enumerate(pairs or [""]):
                report.read += 1
                if not text.strip() or not pair.strip():
                    report.skipped.append((where, "a text is empty"))
                    continue
                name = f"{stem}:{line}" + (f".{i}" if i else "")
                record = {"id": name, "text": text.strip(), "pair": pair.strip(), "negatives": negatives}
                records.append(record if score is None else {**record, "score": score})
    scored = sum("score" in record for record in records)
    if scored not in (0, len(records)):
        raise UserError(
            f"Either all pairs have a score or none. Received: {scored} of {len(records)} with one. Give files of one kind."
        )
    return finish(records, report, paths)


def _number(value, where: str) -> float:
    if not _is_number(value) or not math.isfinite(float(value)):
        raise UserError(f"{where}: a score must be a number. Received: {short(value)}. Mend the file.")
    return float(value)


def _is_number(value) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_class(found: Found, value, fields: FieldConfig) -> bool:
    """Whether a `label` nobody named holds, by its first value, the name of a class and no score."""
    return not fields.label_field and str(found.label).lower() in CLASSES and not _is_number(value)


def _tell(report: ReaderReport, found: Found, negatives: list[str], without_label: bool, fields: FieldConfig) -> None:
    more = f" (wrong: {', '.join(negatives)})" if negatives else ""
    if without_label:
        more += f" (without {found.label}: its first value is no number)"
        found = found._replace(label=None)
    tell(report, found, _wanted(fields), more)


def _wanted(fields: FieldConfig) -> tuple[str, str, str]:
    return fields.text_field, fields.pair_field, fields.label_field


def _table(path: Path, fields: FieldConfig, report: ReaderReport, suffix: str) -> Iterator[tuple]:
    """(line, text, pairs, negatives, score) for the rows of a table."""
    columns = header = None
    for line, row in table_rows(path, suffix):
        where = f"{path}:{line}"
        if columns is None:
            columns, header = _columns(row, fields, where)
            names = row
            if header:
                continue
            report.headless.append((where, row))
        if len(row) != len(names):
            raise UserError(
                f"{where}: every row must have {len(names)} columns, as the first one has. Received: {len(row)}. Mend the row."
            )
        text, pair, score, negatives = columns
        if header:  # the first row below it
            is_class = score is not None and _is_class(header, row[score], fields)
            _tell(report, header, [names[column].strip() for column in negatives], is_class, fields)
            score = None if is_class else score
            columns, header = (text, pair, score, negatives), None
        score = None if score is None else row[score]
        yield line, row[text], [row[pair]], [row[column] for column in negatives], score


def _columns(row: list[str], fields: FieldConfig, where: str) -> tuple[tuple, Found | None]:
    """Indices of text, pair and score, and those of wrong texts; and the names, if the row is a header."""
    given = {"text": fields.text_field, "pair": fields.pair_field, "score": fields.label_field}
    numbers = {name: int(value) - 1 for name, value in given.items() if value.isdecimal()}
    out = [place + 1 for place in numbers.values() if not 0 <= place < len(row)]
    if out:
        raise UserError(f"{where}: columns are numbered from 1 to {len(row)}. Received: {out[0]}.")
    if numbers:
        if {"text", "pair"} - set(numbers) or any(value and name not in numbers for name, value in given.items()):
            raise UserError(
                "Columns are named, or all are numbered: the text's and its pair's number are needed. "
                f"Received: text {given['text']!r}, pair {given['pair']!r}, score {given['score']!r}."
            )
        return (numbers["text"], numbers["pair"], numbers.get("score"), []), None
    found, columns = columns_of(row, _wanted(fields), KNOWN, where)
    negatives = [i for i, name in enumerate(row) if i not in columns and NEGATIVE.fullmatch(name.strip())]
    if found.text and found.pair and (found.label or not fields.label_field):
        return (*columns, negatives), found
    named = negatives or any(found)  # a header, not all of it known
    if not any(given.values()) and not named and len(row) in (2, 3):
        third = len(row) == 3
        if _is_number(row[-1]):
            return (0, 1, 2 if third else None, []), None
        return (0, 1, None, [2] * third), None
    raise UserError(
        f"{where}: a table has a header row with a text and its pair, or two or three columns: text, pair, "
        f"and a score or a wrong text. Received: {', '.join(row[:10])}. Name the columns with --text-field, --pair-field "
        "(and --label-field, the score), or give their numbers from 1."
    )


def _objects(path: Path, fields: FieldConfig, report: ReaderReport) -> Iterator[tuple]:
    text = read_text(path)
    if text.lstrip().startswith("[") and suffix_of(path) == ".json":
        items = [(f"[{i}]", item) for i, item in enumerate(parse_json(text, path))]
    else:
        lines = enumerate(text.split("\n"), 1)
        items = ((number, parse_json(line, path, number)) for number, line in lines if line.strip())
    has_classes = None
    for line, item in items:
        where = f"{path}:{line}"
        if isinstance(item, list) and len(item) >= 2:
            first, pair, *rest = item
            score = rest.pop(0) if rest and isinstance(rest[0], int | float) else None
            yield line, string_of(first, where), [string_of(pair, where)], [string_of(r, where) for r in rest], score
            continue
        if not isinstance(item, dict):
            raise UserError(
                f"{where}: must be an object, or a list of two texts or more. Received: {short(item)}. Mend the file."
            )
        needed = (True, True, bool(fields.label_field))
        found, (text, pairs, score) = values_of(item, _wanted(fields), KNOWN, needed, where)
        if has_classes is None and score is not None:
            has_classes = _is_class(found, score, fields)
        is_class = bool(has_classes) and found.label in CLASSES
        names = [key for key in item if key not in found and NEGATIVE.fullmatch(key)]
        _tell(report, found, names, is_class, fields)
        negatives = [wrong for key in names for wrong in _texts(item[key] or [], where)]
        yield line, string_of(text, where), _texts(pairs, where), negatives, None if is_class else score


def _texts(value, where: str) -> list[str]:
    return [string_of(text, where) for text in (value if isinstance(value, list) else [value])]


FORMS = {
    ".tsv": functools.partial(_table, suffix=".tsv"),
    ".txt": functools.partial(_table, suffix=".tsv"),
    ".csv": functools.partial(_table, suffix=".csv"),
    ".jsonl": _objects,
    ".json": _objects,
}

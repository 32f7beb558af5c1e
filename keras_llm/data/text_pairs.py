"""Pairs of texts that belong together, perhaps with texts that do not, or with a score: tables and JSON lines."""

import functools
import math
from collections.abc import Iterator, Sequence
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
from keras_llm.data.records import ReaderReport, finish
from keras_llm.errors import UserError

# Accepted names of columns and keys, the usual one first.
TEXT_KEYS = (
    *("text", "query", "anchor", "question", "sentence1", "text_a", "premise", "sentence", "title"),
    *("文本", "句子1", "问题", "查询", "标题"),
)
PAIR_KEYS = (
    *("pair", "positive", "pos", "passage", "document", "answer", "sentence2", "text_b", "hypothesis", "context"),
    *("句子2", "段落", "文档", "答案", "回答"),
)
NEGATIVE_KEYS = ("negatives", "negative", "neg", "负例")
SCORE_KEYS = ("score", "similarity", "label", "分数", "得分", "相似度", "标签")


def read_text_pairs(paths: Sequence[str | Path], config: Config) -> tuple[list[dict], ReaderReport]:
    """Reads pairs of texts.

    The form follows from the file's name (`.gz` may follow):

    - `.tsv`, `.txt`: columns between tabs, quotes are ordinary characters. With a header row that names them; without one the
      first column is the text, the second one its pair, and a third one a score if it is a number, else a wrong text;
    - `.csv`: the same with commas, quotes around fields that need them;
    - `.jsonl`, `.json`: an object a line, or a list of objects; or lists `[text, pair]`, `[text, pair, wrong text …]`. Pairs and
      wrong texts may be lists: each of the pairs is one record.

    `config.fields` names text, pair and (as the label) score. White space around texts is removed. Rows with an empty text are
    left out and reported.

    Args:
        paths: the files; their forms may differ.
        config: uses `fields`.

    Returns:
        Records `{"id": str, "text": str, "pair": str, "negatives": [str]}`, with `"score": float` where the file has one, and the
        `ReaderReport`. The id is `<file stem>:<line>`; where two files share a stem, `<path>:<line>`.

    Raises:
        UserError: a file is missing, broken or not UTF-8, a column or key is missing, a score is no number; with `file:line`.
            Some pairs have a score and others none.

    Example:

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
    ...     _ = file.write("下雨了\\t开始下雨\\nIt rains.\\tRain falls.\\n")
    ...     file.flush()
    ...     read_text_pairs([file.name], Config())[0][1]["pair"]
    'Rain falls.'
    """
    paths = existing(paths)
    report, records = ReaderReport(noun="pairs"), []
    for path, stem in zip(paths, short_names(paths), strict=True):
        if suffix_of(path) not in FORMS:
            raise UserError(
                f"Pairs of texts are read from {', '.join(FORMS)}. Received: {path}. Convert or rename the file."
            )
        for line, text, pairs, negatives, score in FORMS[suffix_of(path)](path, config.fields, report):
            where = f"{path}:{line}"
            score = None if score is None else _number(score, where)
            negatives = [negative.strip() for negative in negatives if negative.strip()]
            for i, pair in enumerate(pairs):
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
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(f"{where}: a score must be a number. Received: {short(value)}. Mend the file.") from None
    return number


def _table(path: Path, fields: FieldConfig, report: ReaderReport, suffix: str) -> Iterator[tuple]:
    """(line, text, pairs, negatives, score) for the rows of a table."""
    columns = None
    for line, row in table_rows(path, suffix):
        where = f"{path}:{line}"
        if columns is None:
            columns, is_header = _columns(row, fields, where)
            width = len(row)
            if is_header:
                continue
            report.headless.append((where, row))
        if len(row) != width:
            raise UserError(
                f"{where}: every row must have {width} columns, as the first one has. Received: {len(row)}. Mend the row."
            )
        text, pair, score, negatives = columns
        score = None if score is None else row[score]
        yield line, row[text], [row[pair]], [row[column] for column in negatives], score


def _columns(row: list[str], fields: FieldConfig, where: str) -> tuple[tuple, bool]:
    """Indices of text, pair and score, those of wrong texts, and whether the row is a header."""
    header = [cell.strip().lower() for cell in row]
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
        return (numbers["text"], numbers["pair"], numbers.get("score"), []), False

    def place(name, keys):
        keys = (given[name].lower(),) if given.get(name) else keys
        return next((header.index(key) for key in keys if key in header), None)

    text, pair, score = place("text", TEXT_KEYS), place("pair", PAIR_KEYS), place("score", SCORE_KEYS)
    negatives = [i for i, name in enumerate(header) if name.rstrip("_0123456789") in NEGATIVE_KEYS]
    if text is not None and pair is not None and (score is not None or not given["score"]):
        return (text, pair, score, negatives), True
    named = negatives or any(column is not None for column in (text, pair, score))  # a header, not all of it known
    if not any(given.values()) and not named and len(row) in (2, 3):
        third = len(row) == 3
        try:
            float(row[-1])
            return (0, 1, 2 if third else None, []), False
        except ValueError:
            return (0, 1, None, [2] * third), False
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
        found = []
        for name, keys, needed in (
            (fields.text_field, TEXT_KEYS, True),
            (fields.pair_field, PAIR_KEYS, True),
            ("", NEGATIVE_KEYS, False),
            (fields.label_field, SCORE_KEYS, bool(fields.label_field)),
        ):
            key = next((key for key in ([name] if name else keys) if key in item), None)
            if key is None and needed:
                raise UserError(
                    f'{where}: key "{name or keys[0]}" is missing. Received: {short(item)}. Add it, or name another key.'
                )
            found.append(None if key is None else item[key])
        text, pairs, negatives, score = found
        yield line, string_of(text, where), _texts(pairs, where), _texts(negatives or [], where), score


def _texts(value, where: str) -> list[str]:
    return [string_of(text, where) for text in (value if isinstance(value, list) else [value])]


FORMS = {
    ".tsv": functools.partial(_table, suffix=".tsv"),
    ".txt": functools.partial(_table, suffix=".tsv"),
    ".csv": functools.partial(_table, suffix=".csv"),
    ".jsonl": _objects,
    ".json": _objects,
}

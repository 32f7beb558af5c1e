"""Labelled texts: tables (TSV, CSV), JSON lines, and lines that begin with their label."""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_llm.config import Config, FieldConfig, LabelConfig, nearest
from keras_llm.data.documents import (
    existing,
    parse_json,
    read_text,
    short,
    short_names,
    string_of,
    suffix_of,
    table_rows,
    unique,
)
from keras_llm.data.known_fields import PAIRS, Known, columns_of, tell, values_of
from keras_llm.data.records import ReaderReport, finish
from keras_llm.errors import UserError

# The texts are many: what is not known here is no text, and could be lost without a word.
KNOWN = Known(
    texts=(
        *("text", "sentence", "review", "content", "title", "question", "tweet", "comment", "utterance", "query"),
        *("message", "body", "article", "document", "passage", "paragraph", "context", "abstract", "description"),
        *("headline", "answer", "文本", "句子", "内容", "正文", "评论", "标题", "问题", "文章", "文档", "段落"),
        *("上下文", "摘要", "描述", "答案", "回答", *(first for first, _ in PAIRS if first != "text")),
    ),
    pairs=tuple(second for _, second in PAIRS),
    labels=(
        *("label", "labels", "class", "category", "tag", "target", "sentiment", "intent", "topic", "toxic"),
        *("标签", "类别", "分类", "意图", "情感"),
    ),
)
FASTTEXT = "__label__"


def read_labelled(paths: Sequence[str | Path], config: Config) -> tuple[list[dict], ReaderReport]:
    """Reads texts with one label, several or none.

    The form follows from the file's name (`.gz` may follow):

    - `.tsv`: a header row that names the columns, or two columns, text and label; quotes are ordinary characters;
    - `.csv`: the same with commas, quotes around fields that need them;
    - `.jsonl`, `.json`: an object a line, or a list of objects; a label may be a number, several are a list;
    - `.txt`: `text<TAB>label`, or `label text` as in TREC's files, or `__label__a __label__b text` as for fastText.

    `config.fields` names columns and keys, or gives their numbers from 1 in tables without a header. What it leaves open is
    found by name (`keras_llm.data.known_fields.find`) and told in the report. Several labels in one
    field of a table stand apart by `|`. `config.labels.label_names` gives numbers their names, `separator` and `levels` cut
    hierarchical labels. White space around texts and labels is removed. Texts without characters are left out and reported;
    of texts with several labels where one is expected, that is an error.

    Args:
        paths: the files; their forms may differ.
        config: uses `fields` and `labels`.

    Returns:
        Records `{"id": str, "text": str, "labels": [str]}`, with `"pair": str` where texts come in pairs, and the
        `ReaderReport`. The id is `<file stem>:<line>`; where two files share a stem, `<path>:<line>`.

    Raises:
        UserError: a file is missing, broken or not UTF-8, a column or key is missing, several may hold the text, no label or
            several where one is expected, a label without name or not among `config.labels.labels`; with `file:line`.

    Example:

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
    ...     _ = file.write("sentence\\tlabel\\n很好 !\\t1\\nbad\\t0\\n")
    ...     file.flush()
    ...     records, report = read_labelled([file.name], Config())
    >>> records[0]["text"], records[0]["labels"]
    ('很好 !', ['1'])
    """
    paths = existing(paths)
    names = names_of(config.labels)
    report, records = ReaderReport(noun="texts"), []
    for path, stem in zip(paths, short_names(paths), strict=True):
        if suffix_of(path) not in FORMS:
            raise UserError(
                f"Labelled texts are read from {', '.join(FORMS)}. Received: {path}. Convert or rename the file."
            )
        for line, text, pair, labels in FORMS[suffix_of(path)](path, config.fields, report):
            where = f"{path}:{line}"
            report.read += 1
            text, pair = text.strip(), pair if pair is None else pair.strip()
            if not text or pair == "":
                report.skipped.append((where, "the text is empty"))
                continue
            labels = unique(_label(label.strip(), names, config.labels, where) for label in labels)
            if not config.labels.multi_label and len(labels) != 1:
                raise UserError(
                    f"{where}: a text has exactly one label, unless --multi-label is given. Received: "
                    f"{_listed(labels)}. Mend the file."
                )
            record = {"id": f"{stem}:{line}", "text": text, "labels": labels}
            records.append(record if pair is None else {**record, "pair": pair})
    with_pair = sum("pair" in record for record in records)
    if with_pair not in (0, len(records)):
        raise UserError(
            f"Either all texts come in pairs or none. Received: {with_pair} of {len(records)} with a second text. Give files "
            "of one kind."
        )
    return finish(records, report, paths)


def names_of(labels: LabelConfig) -> list[str]:
    """Names of the labels 0, 1, … of the data: those the model was trained with, else those of the file `label_names`."""
    if labels.names or not labels.label_names:
        return labels.names
    (path,) = existing([labels.label_names])
    names = [line.strip() for line in read_text(path).rstrip().split("\n")]
    for number, name in enumerate(names):
        where = f"{path}:{number + 1}"
        if not name:
            raise UserError(
                f"{where}: line by line the labels 0, 1, … get their names. Received: an empty line. Fill it."
            )
        if name in names[:number]:
            raise UserError(f"{where}: each label has one name. Received: {name!r} twice. Mend the file.")
        if name.isdecimal() and int(name) != number and int(name) < len(names):
            raise UserError(
                f"{where}: a name that is a number could be another label's number. Received: {name!r} for label {number}. "
                f"Write for example 'class {name}'."
            )
    return names


def _label(label: str, names: list[str], config, where: str) -> str:
    """A label of the data -> its name, cut to the levels that are learned."""
    if names and label not in names:
        if not label.isdecimal() or int(label) >= len(names):
            raise UserError(
                f"{where}: a label must be one of the {len(names)} names of {config.label_names}, or its number from 0. "
                f"Received: {label!r}. Mend one of the files."
            )
        label = names[int(label)]
    if config.levels:
        label = config.separator.join(label.split(config.separator)[: config.levels])
    if label and config.labels and label not in config.labels:
        raise UserError(
            f"{where}: a label must be one of {_listed(config.labels)}. Received: {label!r}."
            f"{nearest(label, config.labels)} Mend the file, or train with this label."
        )
    return label


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "") or "none"


def _table(path: Path, fields: FieldConfig, report: ReaderReport, suffix: str) -> Iterator[tuple]:
    """(line, text, pair, labels) for the rows of a table."""
    columns = None
    for line, row in table_rows(path, suffix):
        where = f"{path}:{line}"
        if columns is None:
            columns, is_header = _columns(row, fields, where, report)
            width = len(row)
            if is_header:
                continue
            report.headless.append((where, row))
        if len(row) != width:
            raise UserError(
                f"{where}: every row must have {width} columns, as the first one has. Received: {len(row)}. Mend the row."
            )
        text, pair, label = (None if column is None else row[column] for column in columns)
        yield line, text, pair, [label for label in label.split("|") if label.strip()]


def _columns(row: list[str], fields: FieldConfig, where: str, report: ReaderReport) -> tuple[tuple, bool]:
    """Indices of text, pair and label, and whether the row is a header."""
    wanted = _wanted(fields)
    numbers = [name for name in wanted if name.isdecimal()]
    if numbers:
        if any(name and not name.isdecimal() for name in wanted) or not (fields.text_field and fields.label_field):
            raise UserError(
                "Columns are named, or all are numbered: the text's and the label's number are needed. "
                f"Received: text {fields.text_field!r}, pair {fields.pair_field!r}, label {fields.label_field!r}."
            )
        out = [number for number in numbers if not 1 <= int(number) <= len(row)]
        if out:
            raise UserError(f"{where}: columns are numbered from 1 to {len(row)}. Received: {out[0]}.")
        return tuple(int(name) - 1 if name else None for name in wanted), False
    found, columns = columns_of(row, wanted, KNOWN, where)
    if found.text and found.label and (not fields.pair_field or found.pair):
        tell(report, found, wanted)
        return tuple(columns), True
    given = [name for name in wanted if name]
    if not given and found == (None, None, None) and len(row) == 2:
        return (0, None, 1), False
    raise UserError(
        f"{where}: a table has a header row with {' and '.join(given) or 'a text and a label'}, or two columns, text and "
        f"label. Received: {_listed(row)}. Name the columns with --text-field, --label-field (and --pair-field), "
        "or give their numbers from 1."
    )


def _wanted(fields: FieldConfig) -> tuple[str, str, str]:
    return fields.text_field, fields.pair_field, fields.label_field


def _objects(path: Path, fields: FieldConfig, report: ReaderReport) -> Iterator[tuple]:
    text = read_text(path)
    if text.lstrip().startswith("["):
        items = [(f"[{i}]", item) for i, item in enumerate(parse_json(text, path))]
    else:
        lines = enumerate(text.split("\n"), 1)
        items = ((number, parse_json(line, path, number)) for number, line in lines if line.strip())
    for line, item in items:
        where = f"{path}:{line}"
        if not isinstance(item, dict):
            raise UserError(f"{where}: must be an object. Received: {short(item)}. Mend the file.")
        wanted = _wanted(fields)
        found, (text, pair, label) = values_of(item, wanted, KNOWN, (True, bool(fields.pair_field), True), where)
        tell(report, found if pair is not None else found._replace(pair=None), wanted)
        labels = label if isinstance(label, list) else [label]
        pair = None if pair is None else string_of(pair, where)
        yield line, string_of(text, where), pair, [_text_of_label(label, where) for label in labels]


def _text_of_label(label, where: str) -> str:
    if isinstance(label, int) and not isinstance(label, bool):
        return str(label)
    return string_of(label, f"{where}: a label")


def _lines(path: Path, fields: FieldConfig, report: ReaderReport) -> Iterator[tuple]:
    text = read_text(path)
    first = next(line for line in text.split("\n") if line.strip())
    if "\t" in first and FASTTEXT not in first:
        yield from FORMS[".tsv"](path, fields, report)
        return
    is_fasttext = any(word.startswith(FASTTEXT) for word in text.split())
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if is_fasttext:
            words = line.split()
            labels = [word.removeprefix(FASTTEXT) for word in words if word.startswith(FASTTEXT)]
            yield number, re.sub(rf"{FASTTEXT}\S+\s*", "", line), None, labels
            continue
        label, _, rest = line.strip().partition(" ")
        if not rest:
            raise UserError(
                f"{path}:{number}: a line is `label text` or `text<TAB>label`. Received: {short(line)}. Mend the file."
            )
        yield number, rest, None, [label]


FORMS = {
    ".tsv": functools.partial(_table, suffix=".tsv"),
    ".csv": functools.partial(_table, suffix=".csv"),
    ".jsonl": _objects,
    ".json": _objects,
    ".txt": _lines,
}

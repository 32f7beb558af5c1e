"""Writing labelled texts in a form that `read_labelled` reads."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from keras_llm import files
from keras_llm.config import FieldConfig
from keras_llm.data.documents import suffix_of
from keras_llm.errors import UserError

FORMS = (".tsv", ".csv", ".jsonl")
# Where a text was made from another: that one's id, and how.
ORIGIN = {"source": "augmented_from", "method": "augmented_by"}


def check_output(path: str | Path, fields: FieldConfig) -> None:
    """Refuses a file that exists or would not be read again with the same fields.

    Raises:
        UserError: it exists, has none of the endings of `FORMS`, or is a table though columns are numbered.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"The output must not exist. Received: {path}. Choose another name or remove it.")
    if suffix_of(path) not in FORMS:
        raise UserError(f"Labelled texts are written as {', '.join(FORMS)}. Received: {path}. Name the file so.")
    numbered = any(name.isdecimal() for name in (fields.text_field, fields.pair_field, fields.label_field))
    if numbered and suffix_of(path) != ".jsonl":
        raise UserError(
            f"A table is written with a header, so its columns have names, not numbers. Received: {path} with numbered "
            "fields. Write .jsonl: it is read with the same flags."
        )


def check_table(path: str | Path, records: Sequence[dict]) -> None:
    """Refuses records that a table has no place for; JSON lines have one for all.

    Args:
        path: says the form.
        records: as for `write_labelled`.

    Raises:
        UserError: a label with `|`; in a TSV, tabs or line breaks.
    """
    form = suffix_of(Path(path))
    if form == ".jsonl":
        return
    for record in records:
        labels = record["labels"]
        cells = [record[name] for name in ("text", "pair", *ORIGIN) if name in record] + ["|".join(labels)]
        if any("|" in label for label in labels) or (form == ".tsv" and any(re.search(r"[\t\r\n]", c) for c in cells)):
            raise UserError(
                f"A table has no place for a label with `|`, a TSV none for a text with tabs or line breaks. Received: {cells} "
                f"for {path}. Write .jsonl."
            )


def write_labelled(path: str | Path, records: Sequence[dict], fields: FieldConfig) -> None:
    """Writes records, all or nothing. Read again with the same `fields`, they have the same texts and labels.

    Args:
        path: `.tsv`, `.csv` or `.jsonl`, perhaps with `.gz`.
        records: as `read_labelled` gives them, all with "pair" or none; "source" and "method" may tell where a text is from.
        fields: names of columns and keys; empty: text, pair and label.

    Raises:
        UserError: see `check_output` and `check_table`; the disk is full.
    """
    check_output(path, fields)
    check_table(path, records)
    path = Path(path)
    names = {"text": fields.text_field or "text", "pair": fields.pair_field or "pair"}
    names = {key: name for key, name in names.items() if key in records[0]}
    label = fields.label_field or "label"
    origin = {key: name for key, name in ORIGIN.items() if key in records[0]}
    single = all(len(record["labels"]) == 1 for record in records)
    rows = []
    for record in records:
        labels = record["labels"]
        row = {name: record[key] for key, name in names.items()}
        rows.append({**row, label: labels[0] if single else labels, **{o: record[k] for k, o in origin.items()}})
    data = (_json_lines if suffix_of(path) == ".jsonl" else _table)(rows, label, path).encode()
    with files.replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix.lower() == ".gz" else data)


def _json_lines(rows, label, path) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(rows, label, path) -> str:
    as_csv = suffix_of(path) == ".csv"
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")  # as RFC 4180 has it; and only so older Pythons quote a lone \r
    lines = [list(rows[0])]
    for row in rows:
        labels = row[label] if isinstance(row[label], list) else [row[label]]
        lines.append(list((row | {label: "|".join(labels)}).values()))
    if as_csv:
        writer.writerows(lines)
        return out.getvalue()
    return "".join("\t".join(cells) + "\n" for cells in lines)

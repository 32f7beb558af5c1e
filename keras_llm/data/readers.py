"""Files -> records: the only place that knows the forms in which people keep questions and answers.

Every reader takes a list of paths and returns `(records, ReaderReport)`. `.gz` files are read directly; text must be
UTF-8 and stays as it is (no Unicode normalisation). An example that cannot be used is skipped and listed with its
place; a file that cannot be right is refused with a `UserError` naming the place.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from keras_llm.errors import UserError

MAX_LOST_SHARE = 0.05  # of a SQuAD file's answers; when more are not in their contexts the file itself must be wrong
# Accepted names of JSON keys and CSV columns, the usual one first.
ID_KEYS = ("id", "qId")
QUESTION_KEYS = ("question", "q", "prompt", "qText", "问题", "問題")
ANSWER_KEYS = ("answer", "answers", "a", "response", "答案", "回答")


@dataclass
class ReaderReport:
    """What a reader met.

    Args:
        read: questions found in the files.
        kept: records returned.
        mended: answers whose offset was wrong and whose text stands elsewhere in the context.
        merged: repeated questions whose answers `read_pairs` added to the first one's.
        skipped: `(where, why)` of every question, and every single answer, that was left out.
    """

    read: int = 0
    kept: int = 0
    mended: int = 0
    merged: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def lines(self, most: int = 10) -> list[str]:
        """The report for printing; of `skipped` the first `most`."""
        lines = [f"questions read: {self.read}, kept: {self.kept}"]
        if self.mended:
            lines.append(f"answers found beside their offset and mended: {self.mended}")
        if self.merged:
            lines.append(f"repeated questions merged into the first: {self.merged}")
        if self.skipped:
            lines.append(f"skipped: {len(self.skipped)}")
            lines += [f"  {where}: {why}" for where, why in self.skipped[:most]]
        if len(self.skipped) > most:
            lines.append(f"  ... and {len(self.skipped) - most} more")
        return lines


def read_squad(paths: Sequence[str | Path]) -> tuple[list[dict], ReaderReport]:
    """Reads questions about contexts in the form of SQuAD 1.1 and 2.0, which CMRC 2018 and DRCD share.

    An answer that does not stand at its `answer_start` is searched in the context; the occurrence nearest to the offset
    wins. A question is unanswerable where `is_impossible` is true or `answers` is empty.

    Args:
        paths: JSON files, also gzipped.

    Returns:
        Records `{"id": str, "question": str, "context": str, "answers": [{"text": str, "start": int}],
        "impossible": bool}`, `start` counted in characters, and the `ReaderReport`.

    Raises:
        UserError: a file is missing, empty, not UTF-8 or not such JSON (with the line or the path in the document); an
            id occurs twice; more than 5 % of a file's answers are lost, because they are not in their contexts or
            their question or context is empty; nothing is left.

    Example:

    >>> import json, tempfile
    >>> qas = [{"id": 1, "question": "哪一年？", "answers": [{"text": "2017", "answer_start": 0}]}]
    >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    ...     json.dump({"data": [{"paragraphs": [{"context": "注意力机制，2017年。", "qas": qas}]}]}, file)
    ...     file.flush()
    ...     records, report = read_squad([file.name])
    >>> records[0]["answers"], report.mended
    ([{'text': '2017', 'start': 6}], 1)

    Reference: https://arxiv.org/abs/1606.05250, https://arxiv.org/abs/1806.03822
    """
    report, records, places = ReaderReport(), [], {}
    for path in _existing(paths):
        records += _squad_records(_parse_json(_read_text(path), path), path, places, report)
    return _finish(records, report, paths)


def read_pairs(paths: Sequence[str | Path]) -> tuple[list[dict], ReaderReport]:
    """Reads questions with their answers, for training without a context.

    The form follows from the file's name (`.gz` may follow):

    - `.jsonl`: an object a line, `{"question": "...", "answer": "..."}` or `"answers": ["...", ...]`;
    - `.json`: a list of such objects, or a SQuAD file, whose answerable questions become pairs;
    - `.csv`, `.tsv`: a header row that names the columns, or exactly two columns, question and answer;
    - `.yml`, `.yaml`: `conversations: [[turn, turn, ...], ...]` as ChatterBot has them: every turn is the question to
      which the next one is the answer.

    Keys and columns may also have one of the names in `QUESTION_KEYS`, `ANSWER_KEYS` and `ID_KEYS`. White space around
    questions and answers is removed. A repeated question keeps its first answer for training, and all of them in
    `answers`.

    Args:
        paths: the files; their forms may differ.

    Returns:
        Records `{"id": str, "question": str, "answer": str, "answers": [str]}` and the `ReaderReport`. Where no id is
        given it is `<file stem>:<line>`, in a JSON list `<file stem>:<number of the item>`.

    Raises:
        UserError: as `read_squad`, with `file:line`.

    Example:

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
    ...     _ = file.write("question\\tanswer\\n谁？\\t我。\\n谁？\\t你。\\n")
    ...     file.flush()
    ...     records, report = read_pairs([file.name])
    >>> records[0]["answer"], records[0]["answers"], report.merged
    ('我。', ['我。', '你。'], 1)
    """
    paths = _existing(paths)
    stems = [path.name.split(".")[0] for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
    report, places = ReaderReport(), {}
    records: dict[str, dict] = {}  # by question
    for path, name in zip(paths, names, strict=True):
        suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
        if suffix not in PAIR_FORMS:
            raise UserError(
                f"Pairs are read from {', '.join(PAIR_FORMS)}. Received: {path}. Convert or rename the file."
            )
        for where, identifier, question, answers in PAIR_FORMS[suffix](path, name, report):
            question, answers = question.strip(), _unique(answer.strip() for answer in answers)
            report.read += 1
            if not question or not answers:
                report.skipped.append((where, "there is no answer" if question else "the question is empty"))
                continue
            _claim(identifier, where, places)
            record = {"id": identifier, "question": question, "answer": answers[0], "answers": answers}
            first = records.setdefault(question, record)
            if first is not record:
                first["answers"] = _unique(first["answers"] + answers)
                report.merged += 1
    return _finish(list(records.values()), report, paths)


def limit(records: list[dict], max_examples: int | None, seed: int) -> list[dict]:
    """A random subset in the order of `records`; with the same seed, a smaller subset is part of every larger one.

    Raises:
        UserError: `max_examples` is below 1.

    Example:

    >>> limit(["a", "b", "c"], 5, seed=0)
    ['a', 'b', 'c']
    """
    if max_examples is None:
        return records
    if max_examples < 1:
        raise UserError(f"The number of examples must be at least 1. Received: {max_examples}. Give a positive number.")
    chosen = np.random.default_rng(seed).permutation(len(records))[:max_examples]
    return [records[i] for i in sorted(chosen)]


# --- SQuAD ------------------------------------------------------------------------------------------------------------


def _squad_records(document, path: Path, places: dict[str, str], report: ReaderReport) -> list[dict]:
    """Records of one parsed file; counts into `report`, notes in `places` where each id stands."""
    records, skipped, total, lost = [], [], 0, 0
    for where, context, qa in _squad_questions(document, path):
        report.read += 1
        identifier, question = _identifier(_get(qa, "id", where), where), _text(qa, "question", where)
        _claim(identifier, where, places)
        impossible = qa.get("is_impossible") is True
        answers = [] if impossible else list(_items(qa, "answers", where))
        found, missing, mended = _find_answers(answers, context)
        total += max(1, len(answers))
        if not question.strip() or not context.strip():
            skipped.append((where, f"the {'context' if question.strip() else 'question'} is empty"))
            lost += max(1, len(answers))
            continue
        skipped += missing
        lost += len(missing)
        report.mended += mended
        if found or not missing:
            record = {"id": identifier, "question": question, "context": context, "answers": found}
            records.append(record | {"impossible": not found})
    if lost > MAX_LOST_SHARE * total:
        first = "; ".join(f"{where}: {why}" for where, why in skipped[:3])
        raise UserError(
            f"At most {MAX_LOST_SHARE:.0%} of a file's answers may be outside their contexts or belong to empty texts. "
            f"Received: {lost} of {total} in {path}, first {first}. Mend the file."
        )
    report.skipped += skipped
    return records


def _squad_questions(document, path: Path) -> Iterator[tuple[str, str, object]]:
    """(place, context, question object)"""
    for where_article, article in _items(document, "data", str(path), joint=": "):
        for where_paragraph, paragraph in _items(article, "paragraphs", where_article):
            context = _text(paragraph, "context", where_paragraph)
            for where, qa in _items(paragraph, "qas", where_paragraph):
                yield where, context, qa


def _find_answers(answers: list[tuple[str, object]], context: str) -> tuple[list[dict], list[tuple[str, str]], int]:
    """(answers that stand in the context, places of the others, how many were not at their offset)"""
    found, missing, mended = [], [], 0
    for where, answer in answers:
        text, start = _text(answer, "text", where), _get(answer, "answer_start", where)
        if isinstance(start, bool) or not isinstance(start, int):
            raise UserError(f'{where}: key "answer_start" must be a whole number. Received: {_short(start)}. Mend it.')
        if not text.strip():
            if start != -1:  # an empty text at -1 is how some converters write "no answer"
                missing.append((where, "the answer is empty"))
            continue
        stands_at = _nearest(context, text, start)
        if stands_at is None:
            text = text.strip()
            stands_at = _nearest(context, text, start)
        if stands_at is None:
            missing.append((where, f"the answer {_short(text)} is not in its context"))
        else:
            found.append({"text": text, "start": stands_at})
            mended += stands_at != start
    return found, missing, mended


def _nearest(context: str, text: str, start: int) -> int | None:
    """Where `text` stands in `context`, as near to `start` as possible; None if nowhere."""
    start_inside = min(max(start, 0), len(context))
    candidates = (context.rfind(text, 0, start_inside + len(text)), context.find(text, start_inside))
    return min((at for at in candidates if at >= 0), key=lambda at: abs(at - start), default=None)


# --- pairs: every form yields (where, id, question, answers) ----------------------------------------------------------


def _pairs_jsonl(path: Path, name: str, report: ReaderReport) -> Iterator[tuple]:
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if line.strip():
            yield _pair_of_object(_parse_json(line, path, number), f"{path}:{number}", f"{name}:{number}")


def _pairs_json(path: Path, name: str, report: ReaderReport) -> Iterator[tuple]:
    document = _parse_json(_read_text(path), path)
    if isinstance(document, list):
        for i, item in enumerate(document):
            yield _pair_of_object(item, f"{path}: [{i}]", f"{name}:{i + 1}")
    elif isinstance(document, dict) and "data" in document:
        places: dict[str, str] = {}
        records = _squad_records(document, path, places, report)
        report.read -= len(records)  # read_pairs counts what it is given
        for record in records:
            identifier, answers = record["id"], [answer["text"] for answer in record["answers"]]
            yield places[identifier], identifier, record["question"], answers
    else:
        rule = 'must be a list of pairs, or SQuAD with the key "data"'
        raise UserError(f"{path}: {rule}. Received: {_short(document)}. Mend the file.")


def _pair_of_object(item, where: str, default_id: str) -> tuple:
    question, _ = _one_of(item, QUESTION_KEYS, where), _one_of(item, ANSWER_KEYS, where)
    answers = []
    for key in ANSWER_KEYS:
        value = item.get(key, [])
        answers += [_string(text, f'{where}: key "{key}"') for text in (value if isinstance(value, list) else [value])]
    given = [item[key] for key in ID_KEYS if key in item]
    return where, _identifier(given[0], where) if given else default_id, _text(item, question, where), answers


def _pairs_csv(path: Path, name: str, report: ReaderReport, delimiter: str = ",") -> Iterator[tuple]:
    rows, columns = _csv_rows(path, delimiter), None
    for line, row in rows:
        where = f"{path}:{line}"
        if columns is None:
            columns = _csv_columns(row, where)
            width = len(row) if columns else 2
            if columns:
                continue
            columns = (0, 1, None)
        if len(row) != width:
            raise UserError(
                f"{where}: every row must have {width} columns. Received: {len(row)}. Quote fields that contain the "
                "separator; name the columns in a header row (question, answer) if there are more than two."
            )
        question, answer, identifier = columns
        given = "" if identifier is None else row[identifier].strip()
        yield where, given or f"{name}:{line}", row[question], [row[answer]]


def _pairs_tsv(path: Path, name: str, report: ReaderReport) -> Iterator[tuple]:
    return _pairs_csv(path, name, report, delimiter="\t")


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line where the row begins, row); empty rows are left out."""
    rows, line = csv.reader(io.StringIO(_read_text(path), newline=""), delimiter=delimiter, strict=True), 1
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                yield line, row
            line = rows.line_num + 1
    except csv.Error as error:
        rule = 'Close every quote and write " inside a quoted field as "".'
        raise UserError(f"{path}:{line}: rows must be valid CSV. Received: {error}. {rule}") from None


def _csv_columns(row: list[str], where: str) -> tuple[int, int, int | None] | None:
    """Indices of question, answer and id if the row is a header."""
    header = [cell.strip() for cell in row]
    question, answer, identifier = (
        next((header.index(cell) for key in keys for cell in header if cell.lower() == key.lower()), None)
        for keys in (QUESTION_KEYS, ANSWER_KEYS, ID_KEYS)
    )
    if question is not None and answer is not None:
        return question, answer, identifier
    if {"question", "answer", "answers"} & {cell.lower() for cell in header}:
        rule = "a header must name a question and an answer column"
        raise UserError(f"{where}: {rule}. Received: {_short(', '.join(header))}. Add the other.")
    return None


def _pairs_yaml(path: Path, name: str, report: ReaderReport) -> Iterator[tuple]:
    used: Counter[int] = Counter()  # flow style puts several turns on one line
    for row in _yaml_conversations(path):
        where = f"{path}:{row.start_mark.line + 1}"
        if not isinstance(row, yaml.SequenceNode) or not all(isinstance(turn, yaml.ScalarNode) for turn in row.value):
            report.read += 1
            report.skipped.append((where, "the conversation is not a list of texts"))
            continue
        # Values as written, so that an unquoted 1963, yes or 12:30 stays text; only an empty value or ~ is nothing.
        turns = ["" if turn.tag == "tag:yaml.org,2002:null" else _string(turn.value, where) for turn in row.value]
        if len(turns) < 2:
            report.read += 1
            report.skipped.append((where, "there is no answer"))
        for node, question, answer in zip(row.value, turns, turns[1:], strict=False):
            line = node.start_mark.line + 1
            used[line] += 1
            identifier = f"{name}:{line}" if used[line] == 1 else f"{name}:{line}.{used[line]}"
            yield f"{path}:{line}", identifier, question, [answer]


def _yaml_conversations(path: Path) -> list[yaml.Node]:
    """The items of `conversations` as nodes, which know their lines."""
    text = _read_text(path)
    loader, depth = getattr(yaml, "CSafeLoader", yaml.SafeLoader), 0
    try:
        for event in yaml.parse(text, Loader=loader):  # composing recurses in C: too deep a nesting ends the process
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > 100:
                raise yaml.YAMLError("lists nested more than 100 deep")
        root = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0)) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise UserError(f"{path}:{line}: must be valid YAML. Received: {problem}. Mend the file.") from None
    for key, value in root.value if isinstance(root, yaml.MappingNode) else []:
        if key.value == "conversations" and isinstance(value, yaml.SequenceNode):
            return value.value
    raise UserError(f'{path}: must have a list under the key "conversations". Received: none. Add it.')


PAIR_FORMS = {
    ".jsonl": _pairs_jsonl,
    ".json": _pairs_json,
    ".csv": _pairs_csv,
    ".tsv": _pairs_tsv,
    ".yml": _pairs_yaml,
    ".yaml": _pairs_yaml,
}


# --- files ------------------------------------------------------------------------------------------------------------


def _existing(paths: Sequence[str | Path]) -> list[Path]:
    paths = [Path(path) for path in paths]
    if not paths:
        raise UserError("At least one data file is needed. Received: none. Name a file.")
    for path in paths:  # all of them before the first is read: a misspelt last one costs no minutes
        if path.is_dir():
            raise UserError(f"Data is read from files. Received: the directory {path}. Name the files in it.")
        if not path.exists():
            raise UserError(f"The data file must exist. Received: {path}. Check the path.")
    return paths


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz" and data:
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: must be a whole gzip file. Received: {error}. Fetch or compress it again.") from None
    except OSError as error:
        raise UserError(f"The data file must be readable. Received: {path}: {error.strerror}. Check it.") from None
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line, wrong = data.count(b"\n", 0, error.start) + 1, f"byte 0x{data[error.start]:02x} at position {error.start}"
        raise UserError(f"{path}:{line}: text must be UTF-8. Received: {wrong}. Save the file as UTF-8.") from None
    if not text.strip():
        raise UserError(f"The data file must not be empty. Received: {path}. Check how it was written.")
    return text


def _parse_json(text: str, path: Path, first_line: int = 1):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line, what = first_line, error
        if isinstance(error, json.JSONDecodeError):
            line, what = first_line + error.lineno - 1, f"{error.msg} at column {error.colno}"
        raise UserError(f"{path}:{line}: must be valid JSON. Received: {what}. Mend the file.") from None


def _finish(records: list[dict], report: ReaderReport, paths: Iterable) -> tuple[list[dict], ReaderReport]:
    report.kept = len(records)
    if not records:
        why = "".join(f", first {where}: {why}" for where, why in report.skipped[:1])
        raise UserError(
            f"At least one example must be usable. Received: none of the {report.read} in "
            f"{', '.join(map(str, paths))}{why}. Check the files."
        )
    return records, report


# --- values in a document, with their place in error messages ---------------------------------------------------------


def _get(node, key: str, where: str):
    if not isinstance(node, dict):
        raise UserError(f"{where}: must be an object. Received: {_short(node)}. Mend the file.")
    if key not in node:
        raise UserError(f'{where}: key "{key}" is missing. Received: {_short(node)}. Add it.')
    return node[key]


def _one_of(node, keys: Sequence[str], where: str) -> str:
    return next((key for key in keys if isinstance(node, dict) and key in node), None) or _get(node, keys[0], where)


def _items(node, key: str, where: str, joint: str = ".") -> Iterator[tuple[str, object]]:
    """(place, item) for the items of the list `node[key]`."""
    items = _get(node, key, where)
    if not isinstance(items, list):
        raise UserError(f'{where}: key "{key}" must be a list. Received: {_short(items)}. Mend the file.')
    for i, item in enumerate(items):
        yield f"{where}{joint}{key}[{i}]", item


def _text(node, key: str, where: str) -> str:
    return _string(_get(node, key, where), f'{where}: key "{key}"')


def _string(value, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where} must be a text. Received: {_short(value)}. Put it in quotes.")
    return re.sub("[\ud800-\udfff]", "\ufffd", value)  # half a surrogate pair, from a wrong \u escape, has no UTF-8


def _identifier(value, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: an id must be a text or a whole number. Received: {_short(value)}. Mend the file.")
    return _string(str(value), where)


def _claim(identifier: str, where: str, places: dict[str, str]) -> None:
    if identifier in places:
        raise UserError(
            f"Ids must be unique. Received: {_short(identifier)} at {places[identifier]} and {where}. Rename one."
        )
    places[identifier] = where


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _short(value) -> str:
    """A value as an error message shows it: whole if it is small, never broken UTF-8."""
    if isinstance(value, dict):
        text = "an object with the keys " + ", ".join(list(value)[:10])
    elif isinstance(value, list):
        text = f"a list of {len(value)}"
    else:
        text = json.dumps(value, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= 80 else text[:77] + "..."

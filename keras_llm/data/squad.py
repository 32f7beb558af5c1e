"""SQuAD 1.1 and 2.0 JSON, and what has its form (CMRC 2018, DRCD): questions with answers in a context."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_llm.data.documents import claim, existing, get, identifier_of, items, parse_json, read_text, short, text_of
from keras_llm.data.records import ReaderReport, finish
from keras_llm.errors import UserError

MAX_LOST_SHARE = 0.05  # of a file's answers; when more are not in their contexts the file itself must be wrong


def read_squad(paths: Sequence[str | Path]) -> tuple[list[dict], ReaderReport]:
    """Reads questions about contexts in the form of SQuAD 1.1 and 2.0, which CMRC 2018 and DRCD share.

    An answer that does not stand at its `answer_start` is searched in the context; the occurrence nearest to the offset
    wins. A question is unanswerable where `is_impossible` is true or `answers` is empty.

    Args:
        paths: JSON files, also gzipped.

    Returns:
        Records `{"id": str, "question": str, "context": str, "answers": [{"text": str, "start": int}],
        "impossible": bool}`, `start` counted in characters, and the `ReaderReport`. Where one of several answers is not in
        the context it comes last with `start` -1: nothing to learn from, but accepted when answers are scored.

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
    for path in existing(paths):
        records += squad_records(parse_json(read_text(path), path), path, places, report)
    return finish(records, report, paths)


def squad_records(document, path: Path, places: dict[str, str], report: ReaderReport) -> list[dict]:
    """Records of one parsed file; counts into `report`, notes in `places` where each id stands."""
    records, skipped, total, lost = [], [], 0, 0
    for where, context, qa in _squad_questions(document, path):
        report.read += 1
        identifier, question = identifier_of(get(qa, "id", where), where), text_of(qa, "question", where)
        claim(identifier, where, places)
        impossible = qa.get("is_impossible") is True
        answers = [] if impossible else list(items(qa, "answers", where))
        found, missing, mended = _find_answers(answers, context)
        total += max(1, len(answers))
        if not question.strip() or not context.strip():
            skipped.append((where, f"the {'context' if question.strip() else 'question'} is empty"))
            lost += max(1, len(answers))
            continue
        skipped += [(place, why) for place, why, _ in missing]
        lost += len(missing)
        report.mended += mended
        if found or not missing:
            found += [{"text": text, "start": -1} for _, _, text in missing if text]
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
    for where_article, article in items(document, "data", str(path), joint=": "):
        for where_paragraph, paragraph in items(article, "paragraphs", where_article):
            context = text_of(paragraph, "context", where_paragraph)
            for where, qa in items(paragraph, "qas", where_paragraph):
                yield where, context, qa


def _find_answers(
    answers: list[tuple[str, object]], context: str
) -> tuple[list[dict], list[tuple[str, str, str]], int]:
    """(answers that stand in the context, (place, why not, text) of the others, how many were not at their offset)"""
    found, missing, mended = [], [], 0
    for where, answer in answers:
        text, start = text_of(answer, "text", where), get(answer, "answer_start", where)
        if isinstance(start, bool) or not isinstance(start, int):
            raise UserError(f'{where}: key "answer_start" must be a whole number. Received: {short(start)}. Mend it.')
        if not text.strip():
            if start != -1:  # an empty text at -1 is how some converters write "no answer"
                missing.append((where, "the answer is empty", ""))
            continue
        stands_at = _nearest(context, text, start)
        if stands_at is None:
            text = text.strip()
            stands_at = _nearest(context, text, start)
        if stands_at is None:
            missing.append((where, f"the answer {short(text)} is not in its context", text))
        else:
            found.append({"text": text, "start": stands_at})
            mended += stands_at != start
    return found, missing, mended


def _nearest(context: str, text: str, start: int) -> int | None:
    """Where `text` stands in `context`, as near to `start` as possible; None if nowhere."""
    start_inside = min(max(start, 0), len(context))
    candidates = (context.rfind(text, 0, start_inside + len(text)), context.find(text, start_inside))
    return min((at for at in candidates if at >= 0), key=lambda at: abs(at - start), default=None)

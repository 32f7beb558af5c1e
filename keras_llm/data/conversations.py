"""Conversations: prompts with their responses, one or several in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_llm.data.documents import (
    claim,
    existing,
    get,
    identifier_of,
    items,
    one_of,
    parse_json,
    read_text,
    short,
    short_names,
    string_of,
    suffix_of,
    text_of,
)
from keras_llm.data.pairs import read_pairs
from keras_llm.data.parallel_text import read_parallel
from keras_llm.data.records import ReaderReport, finish
from keras_llm.errors import UserError

MESSAGES = ("messages", "conversations", "conversation")
ROLE, CONTENT = ("role", "from"), ("content", "value")
PROMPTS, RESPONSES, SYSTEM = ("user", "human"), ("assistant", "gpt", "bot", "model"), ("system", "developer")


def read_conversations(
    paths: Sequence[str | Path], text_field: str = "", target_field: str = ""
) -> tuple[list[dict], ReaderReport]:
    """Reads what a language model is to answer, and how.

    - `.jsonl` and `.json` whose objects have `messages` (or `conversations`): a list of `{"role", "content"}` (or
      `{"from", "value"}`), the roles "user" and "assistant" in turn. A "system" message at the beginning, or a key "system"
      beside them, becomes the first lines of the first prompt. What follows the last response is left out.
    - `.yml`, `.yaml`: `conversations: [[turn, turn, ...], ...]`, every turn the prompt of the next one.
    - everything that `read_parallel` reads: single prompts with their responses.

    Args:
        paths, text_field, target_field: as for `read_parallel`.

    Returns:
        Records `{"id": str, "turns": [str], "targets": [str]}`, prompts and responses in turn, and the accepted last responses,
        that of `turns` first; and the `ReaderReport`. A conversation with an empty turn is skipped.

    Raises:
        UserError: as `read_parallel`; a role that is not known, or out of turn.

    Example:

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write('{"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]}')
    ...     file.flush()
    ...     records, _ = read_conversations([file.name])
    >>> records[0]["turns"]
    ['你好', '你好！']
    """
    paths = existing(paths)
    report, records, places = ReaderReport(noun="conversations"), [], {}
    whole = [path for path in paths if _has_messages(path)]
    for path, name in zip(whole, short_names(whole, [path for path in paths if path not in whole]), strict=True):
        for where, identifier, turns in _conversations(path, name):
            report.read += 1
            if not turns or not all(turns):
                report.skipped.append((where, "a turn is empty" if turns else "there is no response"))
                continue
            claim(identifier, where, places)
            records.append({"id": identifier, "turns": turns, "targets": turns[-1:]})
    for pairs, found in _single_turns(paths, whole, text_field, target_field):
        report.add(found)
        for record in pairs:
            claim(record["id"], record["id"], places)
            records.append(
                {
                    "id": record["id"],
                    "turns": [record["text"], record["targets"][0]],
                    "targets": record["targets"],
                }
            )
    return finish(records, report, paths)


def _single_turns(paths: list[Path], whole: list[Path], text_field: str, target_field: str):
    """(records as of `read_parallel`, report) of the files without messages."""
    yaml = [path for path in paths if suffix_of(path) in (".yml", ".yaml")]
    others = [path for path in paths if path not in yaml and path not in whole]
    if yaml:
        pairs, report = read_pairs(yaml, whole + others)
        yield (
            [{"id": pair["id"], "text": pair["question"], "targets": pair["answers"]} for pair in pairs],
            report,
        )
    if others:
        yield read_parallel(others, text_field, target_field, whole + yaml)


def _has_messages(path: Path) -> bool:
    if suffix_of(path) not in (".jsonl", ".json"):
        return False
    where, item = next(_objects(path), ("", None))
    return isinstance(item, dict) and any(key in item for key in MESSAGES)


def _objects(path: Path) -> Iterator[tuple[str, object]]:
    """(line or number of the item, object)."""
    text = read_text(path)
    if suffix_of(path) == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield str(number), parse_json(line, path, number)
        return
    document = parse_json(text, path)
    if isinstance(document, list):
        yield from ((str(number), item) for number, item in enumerate(document, 1))


def _conversations(path: Path, name: str) -> Iterator[tuple[str, str, list[str]]]:
    for number, item in _objects(path):
        where = f"{path}:{number}"
        identifier = identifier_of(item["id"], where) if isinstance(item, dict) and "id" in item else f"{name}:{number}"
        yield where, identifier, _turns(item, where)


def _turns(item, where: str) -> list[str]:
    """Prompts and responses in turn, ending with a response."""
    messages = items(item, one_of(item, MESSAGES, where), where)
    turns, system = [], string_of(item.get("system") or "", f'{where}: key "system"').strip()
    for place, message in messages:
        role = string_of(get(message, one_of(message, ROLE, place), place), f"{place}: the role").lower()
        content = text_of(message, one_of(message, CONTENT, place), place).strip()
        expected = RESPONSES if len(turns) % 2 else PROMPTS
        if role in SYSTEM and not turns and not system:
            system = content
        elif role in expected:
            turns.append(f"{system}\n{content}" if system and not turns else content)
        else:
            begun = " or system" if not turns else ""
            raise UserError(
                f"{place}: the role must be {expected[0]}{begun} here, user and assistant in turn. "
                f"Received: {short(role)}. Mend the conversation."
            )
    return turns[: len(turns) // 2 * 2]

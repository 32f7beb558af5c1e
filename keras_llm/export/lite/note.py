"""The usage note beside the `.tflite` files: Python and C++ that ask them, as a user would copy it."""

from __future__ import annotations

import string
from pathlib import Path

TEMPLATES = Path(__file__).parent.parent / "templates" / "lite"

ENCODE = {
    "wordpiece": """\
from tokenizers import BertWordPieceTokenizer, normalizers

# The tokenizers library gives the same ids for all but very rare characters.
vocabulary = BertWordPieceTokenizer("tokenizer/vocab.txt", lowercase=$lowercase)
if $lowercase:
    vocabulary.normalizer = normalizers.Sequence([normalizers.NFKC(), vocabulary.normalizer])


def encode(text):
    found = vocabulary.encode(text, add_special_tokens=False)
    return found.ids, found.offsets""",
    "sentencepiece": """\
from sentencepiece import SentencePieceProcessor

vocabulary = SentencePieceProcessor(model_file="tokenizer/sentencepiece.model")


def encode(text):
    return vocabulary.encode(text), None


def decode(ids):
    return vocabulary.decode([id_ for id_ in ids if id_ > 3])""",
    "characters": '''\

with open("tokenizer/vocab.txt") as file:
    codes = [int(line, 16) for line in file]
places = {code: 260 + i for i, code in enumerate(codes)}


def encode(text):
    """A character with an id becomes it, another its UTF-8 bytes: ids 4 to 259."""
    ids, offsets = [], []
    for i, character in enumerate(text):
        some = [places[ord(character)]] if ord(character) in places else [4 + byte for byte in character.encode()]
        ids += some
        offsets += [(i, i + 1)] * len(some)
    return ids, offsets


def decode(ids):
    parts = (bytes([id_ - 4]) if id_ < 260 else chr(codes[id_ - 260]).encode() for id_ in ids if id_ > 3)
    return b"".join(parts).decode("utf-8", "replace")''',
}
# Of a tokenizer that no other library reads as it lies here.
ENCODE_OURS = """\
from keras_llm.text import load_tokenizer

vocabulary = load_tokenizer("tokenizer")


def encode(text):
    ids, starts, ends = (part[0].numpy() for part in vocabulary.encode_with_offsets([text]))
    raw = text.encode()
    return ids, [(len(raw[:start].decode()), len(raw[:end].decode())) for start, end in zip(starts, ends)]


def decode(ids):
    return vocabulary.decode([ids])[0].numpy().decode()"""
ASK_IDS = {
    "reading": """\
question, context = "$question", "$context"
question_ids, _ = encode(question)
context_ids, offsets = encode(context)
found = ask(question_ids=np.array([question_ids], np.int32), context_ids=np.array([context_ids], np.int32))
start, end = int(found["start"][0]), int(found["end"][0])  # tokens; -1 for no answer
print(context[offsets[start][0] : offsets[end - 1][1]] if start >= 0 else "", found["score"][0])""",
    "closed_book": """\
question_ids, _ = encode("$question")
found = ask(question_ids=np.array([question_ids], np.int32))
print(decode(found["ids"][0].tolist()), found["score"][0])""",
}
ASK_TEXT = {
    "reading": """\
question, context = "$question", "$context"
found = ask(question=np.array([question.encode()], object), context=np.array([context.encode()], object))
print(found["answer"][0].decode(), found["score"][0], found["start"][0], found["end"][0])  # characters""",
    "closed_book": """\
found = ask(question=np.array(["$question".encode()], object))
print(found["answer"][0].decode(), found["score"][0])""",
}
EXAMPLE = {"question": "谁发明了 LSTM？", "context": "LSTM 由 Hochreiter 和 Schmidhuber 在 1997 年发明。"}


def usage_note(task, report: dict) -> str:
    """`README.md` of the folder.

    Args:
        task: whose files they are.
        report: what `report.json` holds.
    """
    kind, lengths, policy = task.config.kind, task.config.lengths, task.tokenizer.unicode_policy
    format_ = next(iter(report["files"])).removesuffix(".tflite").partition("_")[2]
    values = {
        "format": format_,
        "table": _table(report["files"]),
        "limits": f"{lengths.max_question_length} tokens of a question, {lengths.max_answer_length} of an answer",
        "vocabulary": f"tokenizer/{task.tokenizer.vocabulary_file}",
        "policy": "",
        "lowercase": str(policy == "lowercase"),
        "first_ids": "question_ids",
        "set_cpp": "\n".join(f'  set("{name}", "{EXAMPLE[name]}");' for name in task.inputs),
        **EXAMPLE,
    }
    read_elsewhere = task.tokenizer.kind in ENCODE
    if policy != "identity" and read_elsewhere and not (policy == "lowercase" and task.tokenizer.kind == "wordpiece"):
        values["policy"] = (
            f"; text is normalised before (`{policy}`, see `tokenizer/tokenizer.json`), which this code leaves out"
        )
    for name, part in {
        "encode": ENCODE.get(task.tokenizer.kind, ENCODE_OURS),
        "ask_ids": ASK_IDS[kind],
        "ask_text": ASK_TEXT[kind],
    }.items():
        values[name] = string.Template(part).substitute(values)
    if "text_not_possible" in report:
        values["text"] = f"\nThere is no such file: {report['text_not_possible']}.\n"
    else:
        values["text"] = _template("text.md").substitute(values)
    return _template("README.md").substitute(values)


def _table(files):
    rows = ["| file | MB | agreement | ms on 1 thread | ms on 2 threads |", "|---|---|---|---|---|"]
    for name, facts in files.items():
        one, two = facts["milliseconds"].values()
        rows.append(f"| `{name}` | {facts['size_bytes'] / 1e6:.2f} | {facts['agreement']:.2f} | {one} | {two} |")
    return "\n".join(rows)


def _template(name):
    return string.Template((TEMPLATES / name).read_text(encoding="utf-8"))

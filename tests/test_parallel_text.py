"""Sources with targets and conversations from files in the forms in which people keep them."""

import gzip
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_llm.data.conversations import read_conversations
from keras_llm.data.parallel_text import read_parallel
from keras_llm.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(name, *lines):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
        path = tmp_path / name
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress((text + "\n").encode()))
        else:
            path.write_text(text + "\n", encoding="utf-8", newline="")
        return path

    return write


def pairs(*arguments):
    return [(record["text"], *record["targets"]) for record in read_parallel(*arguments)[0]]


def test_two_files_line_by_line(write):
    source = write("train.en.gz", "A dog.", 'He said "hi"\tand left 🙂', "A cat.")
    target = write("train.zh", "一只狗。", "他说“嗨”就走了🙂", "一只猫。")
    records, report = read_parallel([source, target])
    assert records[1] == {"id": "train:2", "text": 'He said "hi"\tand left 🙂', "targets": ["他说“嗨”就走了🙂"]}
    assert (report.read, report.kept, report.skipped) == (3, 3, [])
    assert report.lines() == ["pairs read: 3, kept: 3"]
    # The order of the files is the direction; more files are more data.
    more = [write("val.zh.txt", "好"), write("val.en.txt", "Good")]
    assert pairs([target, source, *more])[0] == ("一只狗。", "A dog.")
    assert [record["id"] for record in read_parallel([target, source, *more])[0]][-1] == "val:1"


def test_a_line_may_hold_any_separator_of_unicode(write):
    source, target = write("a.en", "one\u2028two\x0b", "three\x85"), write("a.de", "eins\u2029zwei", "drei\r")
    assert pairs([source, target]) == [("one\u2028two", "eins\u2029zwei"), ("three", "drei")]


def test_empty_lines_are_skipped_with_their_place(write):
    source, target = write("a.en", "one", " ", "three", "four"), write("a.de", "eins", "zwei", "\u3000", "vier")
    records, report = read_parallel([source, target])
    assert [record["id"] for record in records] == ["a:1", "a:4"]
    assert report.skipped == [(f"{source}:2", "the source is empty"), (f"{target}:3", "the target is empty")]


def test_files_of_different_length_are_refused_with_both_counts(write):
    source, target = write("a.en", "one", "two", "three"), write("a.de", "eins", "zwei")
    with pytest.raises(UserError, match=rf"{re.escape(str(source))} with 3 lines, {re.escape(str(target))} with 2"):
        read_parallel([source, target])
    with pytest.raises(UserError, match=rf"come in twos.*Received: {re.escape(str(source))} without a second"):
        read_parallel([source])


def test_tatoeba(write):
    note = "CC-BY 2.0 (France) Attribution: tatoeba.org #1 (CK) & #2 (will66)"
    for name in ("cmn.txt", "dev.tsv"):
        path = write(name, f"I try.\t我试试。\t{note}", f'"Skip" it.\t不管它。\t{note}')
        assert pairs([path]) == [("I try.", "我试试。"), ('"Skip" it.', "不管它。")]
        assert pairs([path], "2", "1")[0] == ("我试试。", "I try.")


def test_titles_by_number_of_the_column(write):
    path = write("train.tsv", "标题一\t正文一", "标题二\t正文二")
    assert pairs([path], "2", "1") == [("正文一", "标题一"), ("正文二", "标题二")]
    three = write("three.tsv", "国语\t古文\t今文")
    assert pairs([three], "2", "3") == [("古文", "今文")]
    with pytest.raises(UserError, match=r"three.tsv:1: a table without known names.*--text-field"):
        read_parallel([three])
    with pytest.raises(UserError, match=r"train.tsv:1: no such column, there are 2. Received: --text-field 2, .* 3"):
        read_parallel([path], "2", "3")
    with pytest.raises(UserError, match="number for all fields or for none"):
        read_parallel([path], "2", "title")
    with pytest.raises(UserError, match="counted from 1"):
        read_parallel([path], "0", "1")


def test_named_columns(write):
    path = write("news.csv", "headlines,text", '"A, B",long text', "C,more")
    assert pairs([path]) == [("long text", "A, B"), ("more", "C")]
    table = write("t.tsv", "key\ttitle\tother\tbody", "1\tt\to\tb")
    assert pairs([table]) == [("b", "t")]
    assert pairs([table], "other", "Title,Key,missing") == [("o", "t", "1")]
    with pytest.raises(UserError, match=r"t.tsv:1: .*key, title, other, body.*--text-field abstract"):
        read_parallel([table], "abstract", "title")
    short = write("short.tsv", "source\ttarget", "a\tb", "only")
    with pytest.raises(UserError, match=r"short.tsv:3: every row must have 2 columns. Received: 1"):
        read_parallel([short])


def test_json_objects(write):
    path = write(
        "dev.jsonl",
        {"id": "x-1", "body": "Hi Phillip", "subject": "Meeting", "ann0": "meeting 8/10", "ann1": "meeting"},
        {"body": "你好", "subject": "会议"},
    )
    records, _ = read_parallel([path], "", "subject,ann0,ann1")
    assert records == [
        {"id": "x-1", "text": "Hi Phillip", "targets": ["Meeting", "meeting 8/10", "meeting"]},
        {"id": "dev:2", "text": "你好", "targets": ["会议"]},
    ]
    lists = write("papers.json", [{"source": ["One.", "Two."], "target": ["short", "shorter", ""]}])
    assert pairs([lists]) == [("One.\nTwo.", "short", "shorter")]
    nested = write("nested.jsonl", {"translation": {"en": "dog", "de": "Hund"}})
    assert pairs([nested], "translation.de", "translation.en") == [("Hund", "dog")]
    alpaca = write(
        "a.json", [{"instruction": "Add", "input": "1 2", "output": "3"}, {"instruction": "Hi", "output": "Ho"}]
    )
    assert pairs([alpaca]) == [("Add\n1 2", "3"), ("Hi", "Ho")]


def test_instructions_are_read_whole(write):
    """With their input, or their context, and not from the `text` that repeats prompt and answer."""
    whole = {"instruction": "翻译", "input": "猫🐱", "output": "cat", "text": "翻译 猫🐱 cat"}
    dolly = {"instruction": "Who?", "context": "Lu Xun wrote it.", "response": "Lu Xun", "input": None}
    objects = write("a.jsonl", whole, dolly)
    records, report = read_parallel([objects])
    assert [(record["text"], record["targets"]) for record in records] == [
        ("翻译\n猫🐱", ["cat"]),
        ("Who?\nLu Xun wrote it.", ["Lu Xun"]),
    ]
    assert report.lines()[1] == "fields: instruction + context → response; instruction + input → output"
    table = write("a.csv", "id,instruction,input,output,text", "n-1,翻译,猫,cat,翻译 猫 cat", ",翻译,,none,")
    records, report = read_parallel([table])
    assert [(record["id"], record["text"]) for record in records] == [("n-1", "翻译\n猫"), ("a:3", "翻译")]
    assert report.lines()[1] == "fields: instruction + input → output"
    assert read_parallel([table], "input", "output")[1].fields == []


def test_a_system_text_comes_first_and_earlier_turns_are_not_lost(write):
    record = {"output": "诗", "instruction": "写", "system": "你是诗人", "history": []}
    assert pairs([write("a.jsonl", record)]) == [("你是诗人\n写", "诗")]
    path = write("b.jsonl", {**record, "history": [["hi", "ho"]]})
    with pytest.raises(
        UserError, match=r'b.jsonl:1: earlier turns are read from messages. Received: them in "history"'
    ):
        pairs([path])
    assert pairs([path], "instruction") == [("写", "诗")]


def test_a_question_is_read_with_its_context(write):
    record = {"question": "谁写的？", "context": "鲁迅写了它。", "answer": "鲁迅"}
    table = write("a.tsv", "\t".join(record), "\t".join(record.values()))
    for path in (write("a.jsonl", record), table):
        records, report = read_parallel([path])
        assert records[0]["text"] == "谁写的？\n鲁迅写了它。" and report.fields == ["question + context → answer"]
        assert pairs([path], "question") == [("谁写的？", "鲁迅")]
        assert pairs([path], "", "context") == [("谁写的？", "鲁迅写了它。")]


@pytest.mark.parametrize(
    ("names", "given", "rule"),
    [
        ("title content", ("", "content"), "source"),
        ("title content", ("title", ""), "target"),
        ("question answer", ("answer", ""), "target"),
        ("text summary", ("", "text"), "source"),
        ("text summary", ("text", "text"), "Source and target are two fields. Received: --text-field text"),
    ],
)
def test_source_and_target_are_never_the_same_field(write, names, given, rule):
    names = names.split()
    for path in (write("a.jsonl", dict.fromkeys(names, "x")), write("a.tsv", "\t".join(names), "x\ty")):
        with pytest.raises(UserError, match=rule):
            read_parallel([path], *given)
    instruction = write("b.jsonl", {"instruction": "Add", "input": "1 2", "output": "3"})
    assert pairs([instruction], "", "input") == [("Add", "1 2")]


def test_further_targets(write):
    path = write("nested.jsonl", {"t": {"en": "dog", "zh": "狗", "more": {"zh": "犬"}}})
    records, report = read_parallel([path], "t.en", "t.zh,t.more.zh,t.zh2")
    assert records[0]["targets"] == ["狗", "犬"] and report.lines()[1] == "no record has: t.zh2"
    table = write("t.tsv", "body\tsubject\tann0", "b\ts\ta")
    records, report = read_parallel([table], "", "subject,anno0,ann0")
    assert records[0]["targets"] == ["s", "a"] and report.absent == ["anno0"]


@pytest.mark.parametrize("header", ["summary\tmain body", "prompt\tcompletion", "正文\t提要"])
def test_a_header_that_is_half_known_is_refused(write, header):
    with pytest.raises(UserError, match=r"t.tsv:1: the first row must name the columns.*give the columns by number"):
        read_parallel([write("t.tsv", header, "a\tb")])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"body": "x"}, r"bad.jsonl:2: no key is known to hold the target.*keys body.*--target-field"),
        ({"subject": "x"}, r"bad.jsonl:2: no key is known to hold the source"),
        ({"body": 1, "subject": "x"}, r'bad.jsonl:2: key "body" must be a text. Received: 1'),
        ([1], r"bad.jsonl:2: no key is known to hold the source. Received: a list of 1"),
        ("{", r"bad.jsonl:2: must be valid JSON"),
        ({"id": "same", "body": "a", "subject": "b"}, r"Ids must be unique.*bad.jsonl:1 and .*bad.jsonl:2"),
    ],
)
def test_wrong_objects_are_refused_with_their_line(write, line, message):
    path = write("bad.jsonl", {"id": "same", "body": "b", "subject": "s"}, line)
    with pytest.raises(UserError, match=message):
        read_parallel([path])


def test_a_missing_key_and_numbers_for_json(write):
    path = write("a.jsonl", {"body": "b", "subject": "s"})
    with pytest.raises(UserError, match=r'a.jsonl:1: key "titel" is missing'):
        read_parallel([path], "body", "titel")
    with pytest.raises(UserError, match=r"a.jsonl:1: keys of JSON have names"):
        read_parallel([path], "1", "2")


def test_nothing_usable(write, tmp_path):
    (tmp_path / "empty.en").write_text("")
    with pytest.raises(UserError, match=r"must not be empty. Received: .*empty.en"):
        read_parallel([tmp_path / "empty.en", write("a.de", "x")])
    with pytest.raises(UserError, match=r"none of the 1 in .*a.tsv, first .*a.tsv:1: the target is empty"):
        read_parallel([write("a.tsv", "nothing\t")])
    with pytest.raises(UserError, match="must exist"):
        read_parallel([tmp_path / "missing.en"])


LINES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r\t\ufeff"), min_size=1).filter(str.strip), min_size=1
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(LINES)
def test_any_text_comes_back(tmp_path, lines):
    source, target, table = tmp_path / "a.x", tmp_path / "a.y", tmp_path / "a.tsv"
    source.write_text("\n".join(lines), encoding="utf-8", newline="")
    target.write_text("".join(line[::-1] + "\n" for line in lines), encoding="utf-8", newline="")
    expected = [(line.strip(), line[::-1].strip()) for line in lines]
    assert pairs([source, target]) == expected
    table.write_text("".join(f"{line}\t{line[::-1]}\n" for line in lines), encoding="utf-8", newline="")
    assert pairs([table], "1", "2") == expected


# --- conversations ----------------------------------------------------------------------------------------------------


def message(role, content):
    return {"role": role, "content": content}


def test_messages(write):
    path = write(
        "chat.jsonl",
        {
            "messages": [
                message("system", "Be brief."),
                message("user", "Hi "),
                message("assistant", "Hello 🙂"),
                message("user", "再见"),
                message("assistant", "再见！"),
                message("user", "unanswered"),
            ]
        },
        {
            "id": 7,
            "conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}],
            "system": "你是诗人",
        },
        {"messages": [message("user", "x"), message("assistant", " ")]},
        {"messages": []},
    )
    records, report = read_conversations([path])
    turns = ["Be brief.\nHi", "Hello 🙂", "再见", "再见！"]
    assert records == [
        {"id": "chat:1", "turns": turns, "targets": ["再见！"]},
        {"id": "7", "turns": ["你是诗人\n问", "答"], "targets": ["答"]},
    ]
    assert report.skipped == [(f"{path}:3", "a turn is empty"), (f"{path}:4", "there is no response")]
    assert report.lines()[0] == "conversations read: 4, kept: 2"


def test_prompts_with_responses(write):
    single = write("p.jsonl", {"prompt": "写一首诗", "response": "床前明月光"})
    chat = write("c.yml", "conversations:", "- - hi", "  - ho", "  - hu")
    lines = [write("q.en", "how?"), write("q.zh", "怎么？")]
    records, report = read_conversations([single, chat, *lines])
    assert sorted(tuple(record["turns"]) for record in records) == [
        ("hi", "ho"),
        ("ho", "hu"),
        ("how?", "怎么？"),
        ("写一首诗", "床前明月光"),
    ]
    assert report.read == report.kept == 4


def test_ids_of_conversations_tell_files_of_one_name_apart(write):
    chat = write("train.jsonl", {"messages": [message("user", "hi"), message("assistant", "ho")]})
    table = write("train.tsv", "你好\t你好！")
    turns = write("train.yml", "conversations:", "- - how", "  - so")
    records, report = read_conversations([chat, table, turns])
    assert [record["id"] for record in records] == [f"{chat}:1", f"{turns}:2", f"{table}:1"]
    assert report.headless == [(f"{table}:1", ["你好", "你好！"])]


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        (
            [message("assistant", "x")],
            r'c.jsonl:1.messages\[0\]: the role must be user or system.*Received: "assistant"',
        ),
        ([message("user", "x"), message("user", "y")], r"messages\[1\]: the role must be assistant here"),
        ([message("user", "x"), message("tool", "y")], r'messages\[1\].*Received: "tool"'),
        ([message("user", "x"), message("assistant", "y"), message("system", "z")], r"messages\[2\]: .*user here"),
        ([{"role": "user"}], r'messages\[0\]: key "content" is missing'),
        ("hi", r'c.jsonl:1: key "messages" must be a list'),
    ],
)
def test_wrong_conversations_are_refused(write, messages, rule):
    with pytest.raises(UserError, match=rule):
        read_conversations([write("c.jsonl", {"messages": messages})])

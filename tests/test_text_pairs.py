"""Pairs of texts: every form of file, wrong texts and scores, and what is refused, with its line."""

import gzip
import json

import pytest

from keras_llm.config import Config, FieldConfig
from keras_llm.data.text_pairs import read_text_pairs
from keras_llm.errors import UserError


def read(path, **fields):
    return read_text_pairs([path], Config(fields=FieldConfig(**fields)))


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def brief(records):
    return [(r["text"], r["pair"], r["negatives"], r.get("score")) for r in records]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", '下雨了，"快"跑\t开始下雨\nIt rains.\tRain 🙂 falls.\n'),
        ("a.txt", '\ufeff下雨了，"快"跑\t开始下雨 \n\nIt rains.\tRain 🙂 falls.\n'),
        ("a.tsv.gz", 'id\tsentence2\tsentence1\n1\t开始下雨\t下雨了，"快"跑\n2\tRain 🙂 falls.\tIt rains.\n'),
        ("a.csv", 'question,answer\n"下雨了，""快""跑",开始下雨\nIt rains.,Rain 🙂 falls.\n'),
        ("a.jsonl", '["下雨了，\\"快\\"跑", "开始下雨"]\n{"query": "It rains.", "pos": ["Rain 🙂 falls."]}\n'),
        ("a.json", '[{"text": "下雨了，\\"快\\"跑", "pair": "开始下雨"}, ["It rains.", "Rain 🙂 falls."]]'),
    ],
)
def test_every_form_gives_the_same_records(tmp_path, name, text):
    records, report = read(written(tmp_path, name, text))
    assert brief(records) == [('下雨了，"快"跑', "开始下雨", [], None), ("It rains.", "Rain 🙂 falls.", [], None)]
    assert report.lines()[0] == "pairs read: 2, kept: 2"
    assert records[0]["id"].startswith("a:")


def test_wrong_texts_and_scores(tmp_path):
    assert brief(read(written(tmp_path, "a.tsv", "a\tb\tc\n"))[0]) == [("a", "b", ["c"], None)]
    assert brief(read(written(tmp_path, "a.tsv", "a\tb\t0.5\nc\td\t1\n"))[0])[1] == ("c", "d", [], 1.0)
    path = written(tmp_path, "a.csv", "anchor,positive,negative_1,negative_2\na,b,c,d\ne,f,g,\n")
    assert brief(read(path)[0]) == [("a", "b", ["c", "d"], None), ("e", "f", ["g"], None)]
    lines = [{"query": "q", "pos": ["a", "b"], "neg": ["c", "d"]}, ["x", "y", "z", "w"]]
    records = read(written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines))))[0]
    assert brief(records) == [
        ("q", "a", ["c", "d"], None),
        ("q", "b", ["c", "d"], None),
        ("x", "y", ["z", "w"], None),
    ]
    assert len({record["id"] for record in records}) == 3
    assert brief(read(written(tmp_path, "b.jsonl", '["x", "y", 0.25]\n'))[0]) == [("x", "y", [], 0.25)]
    with pytest.raises(UserError, match="all pairs have a score or none. Received: 1 of 2"):
        read(written(tmp_path, "b.jsonl", '["x", "y", 0.25]\n["x", "y"]\n'))


@pytest.mark.parametrize(
    ("names", "expected", "told"),
    [
        (
            ["query", "document", "negative document"],
            ("a", "b", ["c"], None),
            "query + document (wrong: negative document)",
        ),
        (
            ["anchor", "hard_negatives", "positive"],
            ("a", "c", ["b"], None),
            "anchor + positive (wrong: hard_negatives)",
        ),
        (["问题", "答案", "负例1"], ("a", "b", ["c"], None), "问题 + 答案 (wrong: 负例1)"),
        (["query", "pos", "neg_scores"], ("a", "b", [], None), "query + pos"),
        (["sentence", "question", "id"], ("b", "a", [], None), "question + sentence"),
        (["问题", "编号", "上下文"], ("a", "c", [], None), "问题 + 上下文"),
        (["question1", "question2", "title"], ("a", "b", [], None), "question1 + question2"),
    ],
)
def test_texts_found_by_name_are_told(tmp_path, names, expected, told):
    table = written(tmp_path, "a.tsv", "\t".join(names) + "\na\tb\tc\n")
    lines = written(tmp_path, "b.jsonl", json.dumps(dict(zip(names, "abc", strict=True))) + "\n")
    for path in (table, lines):
        records, report = read(path)
        assert brief(records) == [expected]
        assert report.lines() == ["pairs read: 1, kept: 1", f"fields: {told}"]


@pytest.mark.parametrize("names", [("question", "context", "answer"), ("问题", "段落", "答案")])
def test_no_text_is_lost_without_a_word(tmp_path, names):
    table = written(tmp_path, "a.csv", ",".join(names) + "\na,b,c\n")
    lines = written(tmp_path, "b.jsonl", json.dumps(dict(zip(names, "abc", strict=True))) + "\n")
    for path in (table, lines):
        with pytest.raises(
            UserError, match=rf"{path.name}:1: .*Received: {', '.join(names)}\. Name the text with --text-f"
        ):
            read(path)
        records, report = read(path, text_field=names[0], pair_field=names[2])
        assert brief(records) == [("a", "c", [], None)] and report.fields == []


def test_a_label_of_words_is_no_score_unless_it_is_named(tmp_path):
    rows = [("下雨了", "有雨", "蕴含"), ("It rains.", "It is wet.", "entailment"), ("a", "b", "1")]
    for names in (("premise", "hypothesis", "label"), ("句子1", "句子2", "标签")):
        first, second, label = names
        table = written(tmp_path, "a.tsv", "\n".join("\t".join(row) for row in (names, *rows)))
        items = [dict(zip(names, row, strict=True)) for row in rows]
        lines = written(
            tmp_path, "b.jsonl", "\n".join(map(json.dumps, [{first: "x", second: "y", label: None}, *items]))
        )
        for path, more in ((table, []), (lines, [("x", "y", [], None)])):
            records, report = read(path)
            assert brief(records) == more + [(text, pair, [], None) for text, pair, _ in rows]
            assert report.fields[-1] == f"{first} + {second} (without {label}: its first value is no number)"
            with pytest.raises(UserError, match=rf"{path.name}:2: a score must be a number. Received: .*"):
                read(path, label_field=label)
        table = written(tmp_path, "a.tsv", "\n".join("\t".join(row) for row in (names, ("a", "b", "0.5"))))
        records, report = read(table)
        assert brief(records) == [("a", "b", [], 0.5)] and report.fields == [f"{first} + {second} → {label}"]
    with pytest.raises(UserError, match=r"c.tsv:3: a score must be a number. Received: \"neutral\""):
        read(written(tmp_path, "c.tsv", "text\tpair\tlabel\na\tb\t1\nc\td\tneutral\n"))


def test_a_list_is_read_whatever_stands_before_the_ending(tmp_path):
    path = tmp_path / "pairs.v2.json"
    path.write_text('[["下雨了", "开始下雨"]]', encoding="utf-8")
    assert [record["pair"] for record in read_text_pairs([path], Config())[0]] == ["开始下雨"]


def test_columns_by_name_or_number(tmp_path):
    path = written(tmp_path, "a.tsv", "好\tx\t棒\t3\n")
    assert brief(read(path, text_field="1", pair_field="3", label_field="4")[0]) == [("好", "棒", [], 3.0)]
    path = written(tmp_path, "b.tsv", "Left\tright\tgold\n好\t棒\t3\n")
    assert brief(read(path, text_field="left", pair_field="right", label_field="gold")[0]) == [("好", "棒", [], 3.0)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_field": "ratings"}, r"a\.tsv:1: a table has a header row.*--label-field, the score"),
        ({"text_field": "1", "pair_field": "2", "label_field": "rating"}, "Columns are named, or all are numbered"),
        ({"text_field": "1"}, "Columns are named, or all are numbered"),
    ],
)
def test_no_given_column_is_passed_over(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        read(written(tmp_path, "a.tsv", "text\tpair\trating\n好\t棒\t3\n"), **fields)


def test_empty_texts_are_left_out_and_reported(tmp_path):
    records, report = read(written(tmp_path, "a.tsv", "a\tb\n \tc\n"))
    assert len(records) == 1 and "a.tsv:2: a text is empty" in report.lines()[3]
    path = written(tmp_path, "b.jsonl", '{"query": "一", "pos": ["二"]}\n{"query": "x", "pos": [], "neg": ["z"]}\n')
    records, report = read(path)
    assert len(records) == 1 and report.read == 2 and report.skipped == [(f"{path}:2", "a text is empty")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "a\tb\nc\td\te\n", r"a\.tsv:2: every row must have 2 columns"),
        ("a.tsv", "text\tpair\tscore\na\tb\thigh\n", r"a\.tsv:2: a score must be a number. Received: .*high"),
        ("a.tsv", "a\tb\tc\td\n", "header row"),
        ("a.tsv", "alone\n", "header row"),
        ("a.tsv", "query\twebpage\tscore\na\tb\t0.9\n", r"a\.tsv:1: .*header row.*query, webpage, score"),
        ("a.tsv", "短句\t段落\t得分\na\tb\t0.9\n", r"a\.tsv:1: .*header row.*短句, 段落, 得分"),
        ("a.jsonl", '{"text": "a"}\n', r'a\.jsonl:1: key "pair" is missing'),
        ("a.jsonl", '{"text": "a", "pair": 3}\n', r"a\.jsonl:1"),
        ("a.jsonl", '"a"\n', r"a\.jsonl:1: must be an object"),
        ("a.pdf", "a\tb\n", "are read from"),
        ("a.tsv", " \t \n \tb\n", "At least one example"),
    ],
)
def test_bad_files_are_refused_with_their_line(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read(written(tmp_path, name, text))

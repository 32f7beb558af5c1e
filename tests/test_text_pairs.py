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

"""Labelled texts: every form of file, names and levels of labels, and what is refused, with its line."""

import gzip
import json

import pytest

from keras_llm.config import Config, FieldConfig, LabelConfig
from keras_llm.data.labelled import read_labelled
from keras_llm.errors import UserError


def read(path, **settings):
    config = Config(
        fields=FieldConfig(**{k: v for k, v in settings.items() if k.endswith("_field")}),
        labels=LabelConfig(**{k: v for k, v in settings.items() if not k.endswith("_field")}),
    )
    return read_labelled([path], config)


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def brief(records):
    return [(record["text"], record.get("pair"), record["labels"]) for record in records]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", 'sentence\tlabel\n"很好 ！\tpos\nbad 🙁\tneg\n'),
        ("a.tsv.gz", 'label\tid\ttext_a\npos\t1\t"很好 ！\nneg\t2\tbad 🙁\n'),
        ("a.csv", 'pos\ttext,Label\n"""很好 ！",pos\nbad 🙁,neg\n'.removeprefix("pos\t")),
        ("a.txt", '"很好 ！\tpos\nbad 🙁\tneg\n'),
        ("a.txt", '\ufeffpos "很好 ！\n\nneg bad 🙁\n'),
        ("a.txt", '__label__pos "很好 ！\n__label__neg bad 🙁\n'),
        ("a.jsonl", '{"text": "\\"很好 ！", "label": "pos"}\n{"sentence": "bad 🙁", "label": ["neg"]}\n'),
        ("a.json", '[{"text": "\\"很好 ！", "label": "pos"}, {"text": "bad 🙁", "label": "neg"}]'),
    ],
)
def test_every_form_gives_the_same_records(tmp_path, name, text):
    records, report = read(written(tmp_path, name, text))
    assert brief(records) == [('"很好 ！', None, ["pos"]), ("bad 🙁", None, ["neg"])]
    assert (report.read, report.kept, report.lines()[0]) == (2, 2, "texts read: 2, kept: 2")


def test_columns_by_name_or_number(tmp_path):
    path = written(tmp_path, "a.csv", '"3","title","the text"\n"4","other","再来"\n')
    assert brief(read(path, text_field="3", label_field="1")[0])[1] == ("再来", None, ["4"])
    path = written(tmp_path, "b.tsv", "body\tkind\tnote\nx\ty\tz\n")
    assert brief(read(path, text_field="body", label_field="kind", pair_field="note")[0]) == [("x", "z", ["y"])]


def test_pairs(tmp_path):
    path = written(tmp_path, "a.jsonl", json.dumps({"question1": "", "sentence1": "一", "sentence2": "二", "label": 1}))
    assert brief(read(path)[0]) == [("一", "二", ["1"])]


@pytest.mark.parametrize(
    ("names", "texts", "told"),
    [
        (["question_id", "question", "sentence", "label"], ("二", "三"), "question + sentence → label"),
        (["passage", "question", "id", "label"], ("二", "一"), "question + passage → label"),
        (["问题", "上下文", "编号", "标签"], ("一", "二"), "问题 + 上下文 → 标签"),
        (["premise", "hypothesis", "id", "label"], ("一", "二"), "premise + hypothesis → label"),
        (["question1", "question2", "title", "label"], ("一", "二"), "question1 + question2 → label"),
        (["句子2", "句子1", "来源", "标签"], ("二", "一"), "句子1 + 句子2 → 标签"),
        (["id", "review", "pair", "label"], ("二", "三"), "review + pair → label"),
        (["id", "topic", "text", "label"], ("三", None), "text → label"),
        (["编号", "内容", "来源", "情感"], ("二", None), "内容 → 情感"),
    ],
)
def test_texts_found_by_name_are_told(tmp_path, names, texts, told):
    values = ["一", "二", "三", "x"]
    table = written(tmp_path, "a.tsv", "\t".join(name.title() for name in names) + "\n" + "\t".join(values) + "\n")
    lines = written(tmp_path, "b.jsonl", json.dumps(dict(zip(names, values, strict=True))) + "\n")
    for path, said in ((table, told.title()), (lines, told)):
        records, report = read(path)
        assert brief(records) == [(*texts, ["x"])]
        assert report.lines() == ["texts read: 1, kept: 1", f"fields: {said}"]


@pytest.mark.parametrize(
    ("names", "candidates"),
    [
        (["title", "content", "label"], "title, content"),
        (["标题", "内容", "标签"], "标题, 内容"),
        (["label", "question", "context", "answer"], "question, context, answer"),
        (["text", "text_b", "sentence2", "label"], "text, text_b, sentence2"),
    ],
)
def test_no_text_is_lost_without_a_word(tmp_path, names, candidates):
    values = list("abcd"[: len(names)])
    table = written(tmp_path, "a.csv", ",".join(names) + "\n" + ",".join(values) + "\n")
    lines = written(tmp_path, "b.jsonl", json.dumps(dict(zip(names, values, strict=True))) + "\n")
    for path in (table, lines):
        with pytest.raises(
            UserError, match=rf"{path.name}:1: .* Received: {candidates}\. Name the text with --text-field"
        ):
            read(path)
        text, other = (name for name in names if name not in ("label", "标签", "text_b", "context"))
        found = dict(zip(names, values, strict=True))
        label = [found.get("label") or found["标签"]]
        records, report = read(path, text_field=text, pair_field=other)
        assert brief(records) == [(found[text], found[other], label)]
        assert report.fields == [f"{text} + {other} → {'标签' if '标签' in names else 'label'}"]


def test_a_named_text_or_label_decides(tmp_path):
    path = written(tmp_path, "a.tsv", "question\tsentence\ttitle\tlabel\na\tb\tc\tx\n")
    assert brief(read(path, text_field="sentence")[0]) == [("b", None, ["x"])]
    assert brief(read(path, text_field="sentence", pair_field="title")[0]) == [("b", "c", ["x"])]
    records, report = read(path, text_field="question", label_field="title")
    assert brief(records) == [("a", None, ["c"])] and report.fields == []
    path = written(tmp_path, "b.jsonl", '{"标题": "体育", "内容": "国足赢了"}\n')
    records, report = read(path, label_field="标题")
    assert brief(records) == [("国足赢了", None, ["体育"])] and report.fields == ["内容 → 标题"]


def test_each_way_a_record_was_read_is_told_once(tmp_path):
    lines = [{"text": "a", "label": "x"}, {"句子": "乙", "标签": "y"}, {"text": "c", "pair": None, "label": "x"}]
    report = read(written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines))))[1]
    assert report.lines()[1] == "fields: text → label; 句子 → 标签"


def test_a_header_is_known_in_both_languages_and_a_missing_one_is_told(tmp_path):
    assert brief(read(written(tmp_path, "a.csv", "utterance,intent\nhi,greet\n"))[0]) == [("hi", None, ["greet"])]
    assert brief(read(written(tmp_path, "a.tsv", "内容\t类别\n国足赢了\t体育\n"))[0]) == [("国足赢了", None, ["体育"])]
    records, report = read(written(tmp_path, "a.tsv", "国足赢了\t体育\nshares\tmoney\n"))
    assert len(records) == 2
    assert report.lines()[1] == f"{tmp_path / 'a.tsv'}:1: no header; the first row is an example: 国足赢了 | 体育"


def test_tabs_beside_the_labels_of_fasttext(tmp_path):
    path = written(tmp_path, "a.txt", "__label__体育\t国足赢了\nit rains\t__label__weather __label__news\n")
    assert brief(read(path, multi_label=True)[0]) == [
        ("国足赢了", None, ["体育"]),
        ("it rains", None, ["weather", "news"]),
    ]


def test_a_line_without_label_among_those_of_fasttext_has_none(tmp_path):
    path = written(tmp_path, "a.txt", "__label__好 很好\nThis film was bad\n__label__坏 bad\n")
    records = read(path, multi_label=True)[0]
    assert brief(records)[1] == ("This film was bad", None, [])
    with pytest.raises(UserError, match=r"a\.txt:2: a text has exactly one label.*Received: none"):
        read(path)


def test_several_labels_or_none(tmp_path):
    path = written(tmp_path, "a.tsv", "text\tlabels\nboth\tred|blue\nnone\t\ntwice\tred|red\n")
    assert [labels for _, _, labels in brief(read(path, multi_label=True)[0])] == [["red", "blue"], [], ["red"]]
    with pytest.raises(UserError, match=r"a\.tsv:2: a text has exactly one label.*red, blue"):
        read(path)


def test_numbers_get_names_and_levels_are_cut(tmp_path):
    names = written(tmp_path, "class.txt", "体育/足球\n体育/篮球\n财经\n")
    path = written(tmp_path, "a.txt", "一场比赛\t1\n股票\t财经\n")
    assert brief(read(path, label_names=str(names))[0])[0][2] == ["体育/篮球"]
    assert brief(read(path, label_names=str(names), separator="/", levels=1)[0]) == [
        ("一场比赛", None, ["体育"]),
        ("股票", None, ["财经"]),
    ]
    with pytest.raises(UserError, match=r"a\.txt:1: a label must be one of the 3 names of .*Received: '3'"):
        read(written(tmp_path, "a.txt", "x\t3\n"), label_names=str(names))
    # What a model was trained with stands in its config: the file may change or go.
    assert brief(read(written(tmp_path, "a.txt", "x\t1\n"), label_names="gone.txt", names=["负", "正"])[0])[0][2] == [
        "正"
    ]


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (
            "1\n2\n3\n",
            r"class.txt:1: a name that is a number could be another label's number. Received: '1' for label 0",
        ),
        ("负\n\n正\n", r"class.txt:2: .*Received: an empty line"),
        ("负\n负\n", r"class.txt:2: each label has one name. Received: '负' twice"),
    ],
)
def test_names_that_could_be_taken_for_other_labels_are_refused(tmp_path, names, rule):
    names, path = written(tmp_path, "class.txt", names), written(tmp_path, "a.tsv", "很好\t0\n")
    with pytest.raises(UserError, match=rule):
        read(path, label_names=str(names))
    for good in ("0\n1\n\n", "2019\n2020"):
        found, _ = read(path, label_names=str(written(tmp_path, "class.txt", good)))
        assert brief(found)[0][2] == [good.split()[0]]


def test_ids_of_files_with_one_name_differ(tmp_path):
    paths = []
    for language in ("zh", "en"):
        (tmp_path / language).mkdir()
        paths.append(written(tmp_path / language, "dev.tsv", "一\t1\n"))
    records, _ = read_labelled(paths, Config())
    assert [record["id"] for record in records] == [f"{path}:1" for path in paths]


def test_empty_texts_are_left_out_and_told(tmp_path):
    records, report = read(written(tmp_path, "a.tsv", "text\tlabel\n \ta\nx\tb\n"))
    assert brief(records) == [("x", None, ["b"])]
    assert report.skipped == [(f"{tmp_path / 'a.tsv'}:2", "the text is empty")]


@pytest.mark.parametrize(
    ("name", "text", "settings", "message"),
    [
        (
            "a.tsv",
            "text\tlabel\nx\tno\n",
            {"labels": ["yes", "noo"]},
            r"a\.tsv:2: a label must be one of yes, noo.*'noo'",
        ),
        ("a.tsv", "x\ty\tz\n", {}, r"a\.tsv:1: a table has a header row with a text and a label.*x, y, z"),
        ("a.tsv", "text\tlabel\nx\ty\tz\n", {}, r"a\.tsv:2: every row must have 2 columns.*Received: 3"),
        ("a.csv", 'text,label\n"x,y\n', {}, r"a\.csv:\d: rows must be a valid table"),
        ("a.tsv", "text\tlabel\nx\t\n", {}, r"a\.tsv:2: a text has exactly one label.*none"),
        ("a.jsonl", '{"text": "x"}', {}, r'a\.jsonl:1: key "label" is missing'),
        ("a.jsonl", '{"text": 1, "label": "y"}', {}, r"a\.jsonl:1 must be a text"),
        ("a.jsonl", '{"text": null, "label": "y"}', {}, r"a\.jsonl:1 must be a text. Received: null"),
        ("a.jsonl", '{"text": null, "pair": "x", "label": "y"}', {}, r"a\.jsonl:1 must be a text. Received: null"),
        ("a.jsonl", '{"text": "x", "label": 0.5}', {}, r"a\.jsonl:1: a label must be a text"),
        ("a.txt", "word\n", {}, r"a\.txt:1: a line is `label text`"),
        ("a.csv", "a,b\n", {"text_field": "3", "label_field": "1"}, r"a\.csv:1: columns are numbered from 1 to 2"),
        ("a.csv", "a,b\n", {"text_field": "1"}, "Columns are named, or all are numbered"),
        ("a.xml", "x", {}, r"Labelled texts are read from \.tsv"),
        (
            "a.jsonl",
            '{"text": "x", "label": "y"}\n{"text": "x", "pair": "z", "label": "y"}',
            {},
            "1 of 2 with a second",
        ),
    ],
)
def test_what_is_refused(tmp_path, name, text, settings, message):
    with pytest.raises(UserError, match=message):
        read(written(tmp_path, name, text), **settings)

"""Files with entities: columns in every scheme, JSON with offsets, what is mended, skipped and refused, with its line."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.data.conll import join
from keras_llm.data.entities import read_entities
from keras_llm.errors import UserError


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def brief(records):
    """Texts with their entities as parts of them."""
    return [
        (record["text"], [(record["text"][e["start"] : e["end"]], e["label"]) for e in record["entities"]])
        for record in records
    ]


CONLL = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
New NNP I-NP I-LOC
York NNP I-NP I-LOC
Boston NNP I-NP B-LOC
. . O O

🙂 X O O
李白 NNP I-NP I-PER
"""


def test_conll_2003(tmp_path):
    records, report = read_entities([written(tmp_path, "eng.train.gz", CONLL)])
    assert brief(records) == [
        ("EU rejects New York Boston .", [("EU", "ORG"), ("New York", "LOC"), ("Boston", "LOC")]),
        ("🙂李白", [("李白", "PER")]),
    ]
    assert [record["id"] for record in records] == ["eng:3", "eng:10"]
    assert report.lines() == ["texts read: 2, kept: 2; entities: 4 (LOC 2, ORG 1, PER 1)"]
    assert report.facts() == {"skipped": 0, "mended": 0}


@pytest.mark.parametrize(
    "text",
    [
        "我 O\n叫 O\n李 B-PER\n白 I-PER\n　 O\nＡ O\n1 O\n",
        "\ufeff我\tO\r\n叫\tO\r\n李\tB-PER\r\n白\tE-PER\r\n　\tO\r\nＡ\tO\r\n1\tO\r\n\t\r\n",
        "我0\tO\n叫0\tO\n李0\tB-PER\n白1\tI-PER\n　0\tO\nＡ0\tO\n10\tO\n",
    ],
    ids=["bio", "bmes with tabs", "weibo"],
)
def test_chinese_characters_stand_side_by_side(tmp_path, text):
    records, _ = read_entities([written(tmp_path, "a.txt", text)])
    assert brief(records) == [("我叫李白　Ａ1", [("李白", "PER")])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我\tO\n \tO\n李\tB-PER\n \tI-PER\n白\tI-PER\n \tO\r\n\t\n他\tO\n", ["我 李 白 ", "他"]),
        ("我\tO\n\tO\n李\tB-PER\n\tI-PER\n白\tI-PER\n\tO\n \n他\tO\n", ["我 李 白 ", "他"]),  # stripped files
        ("我 O\n O\n李 B-PER\n  I-PER\n白 I-PER\n   O\n\n 他 O \n", ["我 李 白 ", "他"]),
        ("我0\tO\n 0\tO\n李0\tB-PER\n 1\tI-PER\n白2\tI-PER\n 0\tO\n\n他0\tO\n", ["我 李 白 ", "他"]),
        (" \tX\tO\nI\tX\tO\n \tX\tO\nmet\tX\tO\nLi\tX\tB-PER\n \tX\tI-PER\nBai\tX\tI-PER\n", [" I met Li Bai"]),
    ],
    ids=["tabs", "nothing before the tab", "spaces", "numbers", "words"],
)
def test_a_blank_is_a_token(tmp_path, text, expected):
    records, report = read_entities([written(tmp_path, "a.txt", text)])
    assert [record["text"] for record in records] == expected
    (entity,) = records[0]["entities"]
    assert expected[0][entity["start"] : entity["end"]] in ("李 白", "Li Bai")
    assert report.mended == 0


def test_blanks_at_the_ends_of_entities_are_not_part_of_them(tmp_path):
    good = "李\tB-PER\n白\tI-PER\n\n" * 60
    path = written(tmp_path, "a.txt", good + " \tB-PER\n李\tI-PER\n白\tI-PER\n　\tI-PER\n\n我\tO\n \tB-LOC\n")
    records, report = read_entities([path])
    assert brief(records)[-2:] == [(" 李白　", [("李白", "PER")]), ("我 ", [])]
    assert report.mendings == [(f"{path}:181", 'white space around "李白"')]
    assert report.skipped == [(f"{path}:187", "an entity (LOC) is white space")]


def test_letters_in_a_file_of_characters_are_not_words(tmp_path):
    lines = "".join(f"{character} O\n" for character in "我用GPT写诗")
    assert read_entities([written(tmp_path, "a.bmes", lines)])[0][0]["text"] == "我用GPT写诗"
    words = "".join(f"{token} O\n" for token in ["我", "用", "iPhone", "1", "2", "在", "New", "York", "写", "诗"])
    assert read_entities([written(tmp_path, "b.bmes", words)])[0][0]["text"] == "我用iPhone12在New York写诗"
    english = "".join(f"{token} O\n" for token in "I wrote 诗 on a New Phone".split())
    assert read_entities([written(tmp_path, "c.conll", english)])[0][0]["text"] == "I wrote诗on a New Phone"
    assert join(["我们", "用", "GPT", "写诗", "Ada", "’s", "。"])[0] == "我们用GPT写诗Ada ’s。"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Zs", "Cc", "Zl", "Zp"]), min_size=1, max_size=4), min_size=1
    ),
    st.booleans(),
)
def test_tokens_stand_where_join_says(tokens, of_characters):
    text, starts = join(tokens, of_characters)
    assert [text[start : start + len(token)] for start, token in zip(starts, tokens, strict=True)] == tokens
    assert text.replace(" ", "") == "".join(tokens).replace(" ", "")


@pytest.mark.parametrize(
    "value",
    [
        {"entities": [{"start": 1, "end": 3, "label": "PER"}, {"start": 4, "end": 6, "type": "LOC"}]},
        {"label": [[4, 6, "LOC"], [1, 3, "PER"]]},
        {"label": {"PER": {"李白": [[1, 2]]}, "LOC": {"长安": [[4, 5]]}}},
    ],
    ids=["objects", "doccano", "cluener"],
)
@pytest.mark.parametrize("form", ["a.jsonl", "a.json", "list.json"])
def test_every_json_form(tmp_path, value, form):
    item = {"text": "诗李白在长安🙂", **value}
    text = json.dumps([item]) if form == "list.json" else json.dumps(item, ensure_ascii=False) + "\n\n"
    records, _ = read_entities([written(tmp_path, form, text)])
    assert brief(records) == [("诗李白在长安🙂", [("李白", "PER"), ("长安", "LOC")])]


def many(*entities, good=60):
    """A file in which a few of many entities are odd."""
    lines = [{"text": "Ada met Ada", "entities": [{"start": 0, "end": 3, "label": "PER"}]}] * good
    return "\n".join(map(json.dumps, [*lines, {"text": "the New York Times ", "entities": list(entities)}]))


def test_overlapping_ones_and_those_outside_are_skipped_and_told(tmp_path):
    text = many(
        {"start": 4, "end": 12, "label": "LOC"},
        {"start": 3, "end": 18, "label": "ORG"},
        {"start": 15, "end": 25, "label": "ORG"},
    )
    path = written(tmp_path, "a.jsonl", text)
    records, report = read_entities([path])
    assert brief(records)[-1] == ("the New York Times ", [("New York Times", "ORG")])
    assert report.skipped == [
        (f"{path}:61: entities[2]", "the entity 15 to 25 (ORG) is not within a text of 19"),
        (f"{path}:61: entities[0]", '"New York" (LOC) overlaps a longer one'),
    ]
    assert report.mendings == [(f"{path}:61: entities[1]", 'white space around "New York Times"')]
    assert report.mended == 1
    assert report.lines()[1:3] == ["mended: 1", f'  {path}:61: entities[1]: white space around "New York Times"']


def test_tags_that_cannot_be_are_mended_with_their_line(tmp_path):
    path = written(tmp_path, "a.txt", "我 B-PER\n们 I-PER\n\n" * 30 + "他 O\n们 I-PER\n")
    records, report = read_entities([path])
    assert brief(records)[-1] == ("他们", [("们", "PER")])
    assert report.mendings == [(f"{path}:92", "I-PER follows O")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "Ada B-PER\nmet\n", r"a.txt:2: a line has a token and, in its last column, a tag. Received: \"met\""),
        ("a.txt", "Ada NNP B-PER\nmet O\n", r"a.txt:2: every line must have as many columns as the first one, 3"),
        ("a.txt", "Ada B-PER\nmet VBD\n", r'a.txt:2: a tag is O or one of B-.* Received: "VBD"'),
        (
            "a.txt",
            "Ada I-PER\nmet E-PER\nher I-LOC\n" * 9,
            r"At most 5% .* Received: 18 of 18 in .*a.txt:1: I-PER comes first",
        ),
        ("a.txt", "-DOCSTART- O\n", "At least one example must be usable"),
        ("a.jsonl", '{"text": "a"}', r'a.jsonl:1: key "entities" is missing'),
        ("a.jsonl", '\n{"text": 5, "entities": []}', r'a.jsonl:2: key "text" must be a text'),
        ("a.jsonl", '{"text": "a", "entities": {"start": 0}}', r"a.jsonl:1: entities.start must be {surface"),
        ("a.jsonl", '{"text": "a", "entities": 5}', r"a.jsonl:1: entities must be a list of entities"),
        ("a.jsonl", '{"text": "a", "entities": [[0, 1]]}', r"entities\[0\] must be \[start, end, label\]"),
        (
            "a.jsonl",
            '{"text": "a", "entities": [{"start": 0.5, "end": 1, "label": "A"}]}',
            "start must be a whole number",
        ),
        ("a.jsonl", '{"text": "a", "entities": [{"start": 0, "end": 1}]}', r'entities\[0\]: key "label" is missing'),
        ("a.jsonl", '{"text": "a", "entities": [[0, 1, " "]]}', "a label must not be empty"),
        ("a.jsonl", '{"text": "李白", "label": {"PER": {"杜甫": [[0, 1]]}}}', 'must be "杜甫". Received: "李白"'),
        ("a.jsonl", '{"text": "a", "entities": []', "a.jsonl:1: must be valid JSON"),
        ("a.jsonl", '{"text": " ", "entities": []}', "none of the 1 in .*the text is empty"),
    ],
)
def test_what_is_refused(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read_entities([written(tmp_path, name, text)])


def test_a_label_must_be_known_where_labels_are_given(tmp_path):
    path = written(tmp_path, "a.txt", "Ada B-PER\n\nin O\nRome B-LOK\n")
    with pytest.raises(
        UserError, match=r"a.txt:4: a label must be one of LOC, PER. Received: 'LOK'. Did you mean 'LOC'"
    ):
        read_entities([path], ["LOC", "PER"])
    assert [r["entities"][0]["label"] for r in read_entities([path])[0]] == ["PER", "LOK"]


def test_ids_are_unique_over_files(tmp_path):
    one, two = (written(tmp_path, f"{name}", "Ada B-PER\n") for name in ("x.train", "x.dev"))
    assert [record["id"] for record in read_entities([one, two])[0]] == [f"{one}:1", f"{two}:1"]

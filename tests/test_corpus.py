"""A corpus: documents, cleaning, duplicates, a split that cannot leak, the report, and bad input."""

import gzip
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.config import CorpusConfig
from keras_llm.data import corpus as corpus_module
from keras_llm.data.cleaning import StopWords, clean
from keras_llm.data.corpus import Corpus, is_for_evaluation
from keras_llm.data.duplicates import ExactDuplicates, NearDuplicates, sequences_of
from keras_llm.errors import UserError

POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"


@pytest.fixture
def file(tmp_path):
    def write(text, name="a.txt"):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    return write


def test_documents_of_text(file):
    path = file(f"{POEM}\n\n  \nTo be,  \r\nor not\x00".replace("\x00", "\x07") + "\n")
    assert list(Corpus([path])) == [POEM, "To be,\nor not"]
    assert list(Corpus([path], CorpusConfig(document="line"))) == [*POEM.split("\n"), "To be,", "or not"]
    assert list(Corpus([path], CorpusConfig(document="file"))) == [f"{POEM}\n\n\nTo be,\nor not"]
    assert list(Corpus([path], CorpusConfig(clean=False)))[1] == "To be,  \nor not\x07"
    corpus = Corpus([path])
    assert list(corpus) == list(corpus)


def test_documents_of_json_lines(file):
    records = [{"text": POEM}, {"text": ["one ", "", "two"]}, {"text": None}, {"text": "a \ud800"}]
    path = file("\n".join(map(json.dumps, records)) + "\n\n", "a.jsonl.gz")
    corpus = Corpus([path])
    assert list(corpus) == [POEM, "one\n\ntwo", "a \ufffd"]
    assert corpus.report.dropped["empty"].examples == [f'{path}:3: ""']


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", ":2: must be valid JSON"),
        ('{"title": "a"}', ':2: key "text" is missing. Received: an object with the keys title'),
        ("[1]", ":2: must be an object"),
        ('{"text": 3}', ':2: key "text" must be a text. Received: 3'),
        ('{"text": ["a", 3]}', ':2: key "text" must be a text. Received: 3'),
    ],
)
def test_broken_records_are_named(file, line, said):
    path = file('{"text": "a"}\n' + line, "a.jsonl")
    with pytest.raises(UserError) as caught:
        list(Corpus([path]))
    assert f"{path}{said}" in str(caught.value)


def test_a_record_that_is_too_long_is_refused_and_a_text_is_cut(file, monkeypatch):
    monkeypatch.setattr(corpus_module, "LONGEST_RECORD", 1000)
    path = file(json.dumps({"text": "a"}) + "\n" + json.dumps({"text": "x" * 2000}), "a.jsonl")
    with pytest.raises(UserError, match="a.jsonl:2: a JSON record has at most 1,000 characters"):
        list(Corpus([path], CorpusConfig(max_characters=100)))
    path = file(json.dumps({"text": "Ja. " * 50}), "b.jsonl")
    corpus = Corpus([path], CorpusConfig(max_characters=100))
    assert list(corpus) == ["Ja. " * 24 + "Ja."] * 2
    assert "too long, cut into 2 documents: 1" in corpus.report.lines()


@pytest.mark.parametrize("document", ["line", "paragraph", "file"])
def test_a_huge_line_is_cut_and_reported(file, document):
    path = file("short\n\n" + "没有尽头的一行" * 1000)
    corpus = Corpus([path], CorpusConfig(document=document, max_characters=1000))
    texts = list(corpus)
    assert max(map(len, texts)) == 1000
    assert "".join("".join(texts).split()) == "short" + "没有尽头的一行" * 1000
    assert corpus.report.cut.documents == 1 and corpus.report.parts == len(texts) - (document != "file")
    line = {"file": 1}.get(document, 3)
    assert corpus.report.cut.examples[0].startswith(f"{path}:{line}: ")


@pytest.mark.parametrize("content", ["", "\n \n\u3000\n", "\x01\n\x02\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_an_empty_corpus_is_refused(file, content, name):
    path = file(content, name)
    with pytest.raises(
        UserError, match=r"A corpus must have at least one document. Received: none of the \d documents"
    ):
        list(Corpus([path]))


def test_short_documents_are_dropped_and_reported(file):
    corpus = Corpus([file("短\n\n  ab  \n\n足够长的句子")], CorpusConfig(min_characters=3))
    assert list(corpus) == ["足够长的句子"]
    dropped = corpus.report.dropped["shorter than 3 characters"]
    assert (dropped.documents, dropped.characters) == (2, 7)
    assert corpus.report.lines()[-3].startswith(
        "dropped, shorter than 3 characters: 2 documents, 7 characters, 9 bytes"
    )


def test_report_counts_every_document(file, tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    file("a b c\n\na b c\n\nd", "a.txt")
    file("a b c \n\n" + POEM, "b.txt")
    corpus = Corpus([tmp_path], CorpusConfig(deduplicate="exact"))
    assert list(corpus) == ["a b c", "d", POEM]
    report = corpus.report
    assert (report.files, report.passed_over) == (2, {".png": 1})
    assert (report.read.documents, report.kept.documents, report.train.documents) == (5, 3, 3)
    assert report.train.bytes == 6 + len(POEM.encode()) and report.train.characters == 6 + len(POEM)
    assert report.cleaned == 1
    same = report.dropped["the same as an earlier document"]
    assert same.examples == [f'{tmp_path}/a.txt:3: "a b c"', f'{tmp_path}/b.txt:1: "a b c "']
    assert "other files in the directories, passed over: .png (1)" in report.lines()


def test_a_changed_file_is_decided_anew(file):
    corpus = Corpus([file("a\n\na\n\nb")], CorpusConfig(deduplicate="exact"))
    assert list(corpus) == ["a", "b"] and corpus.report.read.documents == 3
    file("c\n\nb\n\nb\n\nb")
    assert list(corpus) == ["c", "b"] and corpus.report.read.documents == 4


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.sampled_from(["a b", "b", "甲乙", "丙 。", "C", "c "]), min_size=1, max_size=12))
def test_exact_duplicates(texts):
    exact = ExactDuplicates()
    assert [text for text in texts if not exact.repeats(text)] == list(dict.fromkeys(texts))


WORDS = [f"word{i}" for i in range(400)]
HAN = [chr(0x4E00 + i) for i in range(0, 4000, 10)]


@pytest.mark.parametrize(("units", "joint"), [(WORDS, " "), (HAN, "")])
@pytest.mark.parametrize("changes", [0, 1, 30])
def test_near_duplicates(units, joint, changes):
    """Of 200 units, one changed leaves a similarity of 0.97; 30 leave less than 0.5."""
    rng = random.Random(changes)
    for _ in range(20):
        text = rng.sample(units, 200)
        other = list(text)
        for i in range(changes):
            other[i * 6 + 5] = rng.choice(units)
        near = NearDuplicates(0.8)
        assert not near.repeats(joint.join(text))
        assert near.repeats(joint.join(other).upper() + "！") == (changes < 30)


@settings(max_examples=60, deadline=None)
@given(text=st.text(), other=st.text(max_size=3))
def test_a_text_is_always_near_itself(text, other):
    near = NearDuplicates(1.0)
    assert not near.repeats(text)
    near.repeats(other)
    assert near.repeats(text) == bool(sequences_of(text))


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text("abc 词语。\t", min_size=1, max_size=8), min_size=1, max_size=30),
    share=st.floats(0.1, 0.5),
    deduplicate=st.sampled_from(["none", "exact", "near"]),
    order=st.randoms(),
)
def test_no_document_is_on_both_sides(tmp_path_factory, texts, share, deduplicate, order):
    config = CorpusConfig(document="line", eval_share=share, deduplicate=deduplicate)
    path = tmp_path_factory.mktemp("split") / "a.txt"
    sides = []
    for _ in range(2):
        path.write_text("\n".join(["some text", *texts]), encoding="utf-8")
        corpus, parts = Corpus([path], config), {}
        for name in ("train", "eval"):
            try:
                parts[name] = list(corpus.part(name))
            except UserError as error:
                assert "needs a document" in str(error)
                parts[name] = []
        assert not {" ".join(t.split()) for t in parts["train"]} & {" ".join(t.split()) for t in parts["eval"]}
        assert sorted(parts["train"] + parts["eval"]) == sorted(corpus)
        assert corpus.report.eval.documents == len(parts["eval"]) and corpus.report.train.documents == len(
            parts["train"]
        )
        sides.append({text: name for name, part in parts.items() for text in part})
        order.shuffle(texts)
    assert all(sides[1].get(text, side) == side for text, side in sides[0].items())
    near = NearDuplicates(config.near_threshold)
    if deduplicate == "near":
        assert not any(near.repeats(text) for text in corpus)


def test_the_share_is_met():
    chosen = sum(is_for_evaluation(f"Document 第{i}篇", 0.1) for i in range(20_000))
    assert 1850 < chosen < 2150
    assert not any(is_for_evaluation(f"Document {i}", 0.0) for i in range(1000))


def test_parts(file):
    path = file("\n\n".join(f"文章 {i}" for i in range(50)))
    corpus = Corpus([path], CorpusConfig(eval_share=0.3))
    train, evaluation = corpus.part("train"), corpus.part("eval")
    assert list(train) == [text for text in corpus if text not in set(evaluation)]
    assert evaluation.amount.documents == len(list(evaluation)) and 5 < evaluation.amount.documents < 25
    assert "to evaluate on" in "\n".join(corpus.report.lines())
    with pytest.raises(UserError, match="The parts of a corpus are train, eval"):
        corpus.part("test")
    with pytest.raises(UserError, match="needs eval_share above 0"):
        Corpus([path]).part("eval")
    with pytest.raises(UserError, match="Each part of a corpus needs a document. Received: none for"):
        one = Corpus([file("one document", "one.txt")], CorpusConfig(eval_share=0.5))
        list(one.part("eval")), list(one.part("train"))


def test_scan_shows_its_progress(file, capsys):
    corpus = Corpus([file(POEM)])
    assert corpus.scan(show_progress=True).kept.documents == 1
    assert "Reading" in capsys.readouterr().err
    assert corpus.size == len(POEM.encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_characters": 0},
        {"max_characters": 0},
        {"min_characters": 20, "max_characters": 10},
        {"near_threshold": 0.4},
        {"eval_share": 0.6},
        {"eval_share": -0.1},
        {"document": "page"},
        {"deduplicate": "fuzzy"},
        {"stop_words": "fr"},
    ],
)
def test_wrong_settings_are_named(file, wrong):
    with pytest.raises(UserError, match=list(wrong)[0]):
        Corpus([file("a")], CorpusConfig(**wrong))


@given(text=st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("\t\n \x0b\x85\x00\u3000é长"))))
def test_cleaning_keeps_everything_that_can_be_seen(text):
    cleaned = clean(text)
    assert not set(cleaned) & {chr(c) for c in [*range(9), *range(11, 32), *range(127, 160)]}
    visible = [c for c in text if not c.isspace() and c.isprintable()]
    assert [c for c in cleaned if not c.isspace() and c.isprintable()] == visible
    assert all(line == line.rstrip() for line in cleaned.split("\n")) and clean(cleaned) == cleaned


def test_cleaning_by_hand():
    assert clean("a\tb\x0bc\x0cd\x85e\x00f \u3000\r\n\r g\r") == "a\tb\nc\nd\nef\n\n g"
    assert clean("👨\u200d👩\u200d👧，“全角”！") == "👨\u200d👩\u200d👧，“全角”！"


def test_stop_words(file):
    english, chinese = StopWords("en"), StopWords("zh")
    assert english.remove("I don’t know THE way, and you?\n  The end") == "know way, ?\nend"
    assert english.remove("目的 then 的") == "目的 的"
    assert chinese.remove("我们的目的是学习语言，了解你们。") == "目的学习语言，了解。"
    assert chinese.remove("the cat 了") == "the cat"
    own = file("Katze\n猫", "own.txt")
    assert StopWords(str(own)).remove("Die Katze sah die 猫 an") == "Die sah die an"
    corpus = Corpus([file("the cat\n\nand the\n\n我们 dog")], CorpusConfig(stop_words="en+zh"))
    assert list(corpus) == ["cat", "dog"] and corpus.report.dropped["empty"].documents == 1

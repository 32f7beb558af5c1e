"""The bundled bilingual data keeps its promises."""

import json
import re

from keras_llm.data.bundled import bundled
from keras_llm.data.readers import read_pairs, read_squad


def contexts(split):
    return [
        (path.name.split(".")[1], paragraph["context"])
        for path in bundled(split)
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
    ]


def test_size_and_languages():
    train, _ = read_squad(bundled("train"))
    dev, _ = read_squad(bundled("dev"))
    assert len(train) + len(dev) >= 400
    languages = [language for language, _ in contexts("train")]
    assert languages.count("zh") >= 40 and languages.count("en") >= 40
    for language, context in contexts("train"):
        assert bool(re.search(r"[\u4e00-\u9fff]", context)) == (language == "zh")


def test_offsets_are_right_as_written():
    for split in ("train", "dev"):
        records, report = read_squad(bundled(split))
        assert report.mended == 0 and report.skipped == []
        for record in records:
            for answer in record["answers"]:
                assert record["context"][answer["start"] :].startswith(answer["text"])


def test_evaluation_asks_about_the_same_paragraphs_in_other_words():
    assert contexts("train") == contexts("dev")
    train, dev = ({r["question"] for r in read_squad(bundled(split))[0]} for split in ("train", "dev"))
    assert not train & dev


def test_pairs_come_from_the_same_questions():
    records, _ = read_squad(bundled("train"))
    pairs, _ = read_pairs(bundled("train"))
    assert {r["question"] for r in records if not r["impossible"]} == {p["question"] for p in pairs}

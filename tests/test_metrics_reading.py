import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.metrics import cmrc_exact_match, cmrc_f1, evaluate_answers, evaluate_reading, exact_match, f1
from keras_llm.metrics.reading import between_scores

ORACLE = json.loads((Path(__file__).parent / "fixtures" / "reading_metrics.json").read_text(encoding="utf-8"))
METRICS = {"exact_match": exact_match, "f1": f1, "cmrc_exact_match": cmrc_exact_match, "cmrc_f1": cmrc_f1}

# Letters of both languages, marks, emoji and rare characters: what answers are made of.
ANSWERS = st.text(alphabet="ab the1.,'語言模型。，《》、！㐀𠮷😀 \u3000", max_size=12)
SCORES = st.floats(-5, 5).map(lambda score: round(score, 1))  # rounded, so that some are equal


def record(name, *answers, impossible=False):
    return {
        "id": name,
        "question": "?",
        "context": "",
        "answers": [{"text": answer, "start": 0} for answer in answers],
        "impossible": impossible,
    }


def predicted(answer, no_answer_score=0.0):
    return {"answer": answer, "score": 0.5, "no_answer_score": no_answer_score}


# SQuAD rules, by hand


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "overlap"),
    [
        ("The Transformer!", ["transformer"], 100, 100),
        ("an  LSTM\nnetwork", ["LSTM network"], 100, 100),
        ("long-term memory", ["longterm memory"], 100, 100),  # a hyphen vanishes, it does not part words
        ("theory", ["ory"], 0, 0),  # articles are whole words
        ("large language model", ["language model"], 0, 80),  # 2 of 3 and 2 of 2
        ("cat cat dog", ["cat dog dog"], 0, 100 * 2 / 3),  # each word counts as often as both have it: cat, dog
        ("deep network", ["shallow one", "network"], 0, 100 * 2 / 3),  # the best of the answers
        ("1997", ["in 1997", "1997"], 100, 100),
        ("语言模型", ["语言 模型"], 0, 0),  # Chinese without spaces is one word
        ("", ["1997"], 0, 0),
        ("", [], 100, 100),
        ("The.", [], 100, 100),  # nothing is left of it
        ("1997", [], 0, 0),
        ("1997", ["the", "1997"], 100, 100),  # an accepted answer without words is dropped beside another
        ("", ["the", "1997"], 0, 0),
    ],
)
def test_squad_by_hand(prediction, answers, exact, overlap):
    assert exact_match(prediction, answers) == exact
    assert f1(prediction, answers) == pytest.approx(overlap)


# CMRC rules, by hand


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "overlap"),
    [
        ("《红楼梦》。", ["红楼梦"], 100, 100),
        ("红楼梦的作者", ["红楼梦"], 0, 100 * 2 * 3 / (6 + 3)),
        ("型模言语", ["语言模型"], 0, 25),  # in order only one character is common
        ("语言的模型", ["语言模型"], 0, 100 * 2 * 2 / (5 + 4)),  # the run is contiguous: 语言 or 模型
        ("1997年", ["1998年"], 0, 50),  # a number is one segment
        ("提出了GPT-2模型", ["gpt2模型"], 0, 100 * 2 * 3 / (6 + 3)),  # case and hyphen make no difference
        ("LSTM network", ["lstm网络"], 0, 40),  # 1 of 2 and 1 of 3
        ("约1,000.5公里", ["1,000.5公里"], 0, 100 * 2 * 3 / (4 + 3)),  # 约 | 1,000.5 | 公 | 里
        ("50%的词", ["50 % 的词"], 0, 100),  # segments ignore white space, exact match does not
        (" 词向量 ", ["词向量"], 100, 100),
        ("词，向！量？", ["词向量"], 100, 100),
        ("【词】", ["词"], 0, 50),  # not on CMRC's list: 【, 词, 】 are three segments
        ("二〇〇八年", ["二〇一八年"], 0, 100 * 2 * 2 / (4 + 5)),  # 〇 is not in CMRC's range: 二 | 〇〇 | 八 | 年
        ("甲", ["乙", "甲"], 100, 100),
        ("", ["甲"], 0, 0),
        ("。", [], 100, 100),
        ("甲", [], 0, 0),
    ],
)
def test_cmrc_by_hand(prediction, answers, exact, overlap):
    assert cmrc_exact_match(prediction, answers) == exact
    assert cmrc_f1(prediction, answers) == pytest.approx(overlap)


# The independent oracle


@pytest.mark.parametrize("metric", METRICS)
def test_pairs_as_the_oracle(metric):
    for pair in ORACLE["pairs"]:
        value = METRICS[metric](pair["prediction"], pair["answers"])
        assert value == pytest.approx(pair[metric]), pair


def test_unanswerable_questions_as_the_oracle():
    case = ORACLE["unanswerable"]
    result = evaluate_reading(case["records"], case["predictions"], threshold=case["threshold"])
    assert {name: result[name] for name in case["expected"]} == pytest.approx(case["expected"])


# Properties


@settings(deadline=None)
@given(ANSWERS, ANSWERS)
def test_scores_are_bounded_symmetric_and_agree_with_exact_match(a, b):
    for exact, overlap in ((exact_match, f1), (cmrc_exact_match, cmrc_f1)):
        assert 0 <= overlap(a, [b]) <= 100
        assert overlap(a, [b]) == overlap(b, [a])
        assert exact(a, [b]) == exact(b, [a])
        assert exact(a, [b]) in (0, 100)
        assert exact(a, [b]) <= overlap(a, [b])


@settings(deadline=None)
@given(ANSWERS, st.lists(ANSWERS, max_size=3))
def test_an_accepted_answer_scores_100(answer, others):
    for metric in (cmrc_exact_match, cmrc_f1):
        assert metric(answer, [*others, answer]) == 100
    if f1("", [answer]) == 0:  # words are left after normalisation
        for metric in (exact_match, f1):
            assert metric(answer, [*others, answer]) == 100


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("语言模型注意力a1"), min_size=1), st.sampled_from("，。：？！“”；’《》·、「」（）－～『』")
)
def test_full_width_punctuation_is_ignored_by_cmrc(characters, mark):
    plain = "".join(characters)
    marked = mark + mark.join(characters) + mark
    assert cmrc_exact_match(marked, [plain]) == 100
    assert cmrc_f1(marked, [plain]) == 100


@settings(deadline=None)
@given(st.lists(st.tuples(ANSWERS, ANSWERS, st.booleans(), SCORES), min_size=1, max_size=8))
def test_best_thresholds_are_reached_and_not_surpassed(questions):
    records = [record(str(i), answer, impossible=i == 0 or no) for i, (answer, _, no, _) in enumerate(questions)]
    predictions = {str(i): predicted(answer, score) for i, (_, answer, _, score) in enumerate(questions)}
    best = evaluate_reading(records, predictions)
    reachable = [
        evaluate_reading(records, predictions, threshold=at)
        for at in [-math.inf, *(score for *_, score in questions), math.inf]
    ]
    for name, metric in (("best_exact", "exact_match"), ("best_f1", "f1"), ("best_cmrc_f1", "cmrc_f1")):
        assert best[name] == pytest.approx(max(result[metric] for result in reachable))
        assert evaluate_reading(records, predictions, threshold=best[f"{name}_threshold"])[metric] == pytest.approx(
            best[name]
        )


@given(SCORES, st.lists(SCORES, min_size=1, max_size=8))
def test_between_scores_parts_as_the_threshold_and_stands_clear_of_all(threshold, scores):
    clear = between_scores(threshold, scores)
    assert [score <= clear for score in scores] == [score <= threshold for score in scores]
    gaps = [b - a for a, b in itertools.pairwise(sorted({*scores})) if a <= threshold < b]
    assert min(abs(score - clear) for score in scores) == pytest.approx(gaps[0] / 2 if gaps else 1.0)


# Whole data sets


def test_answerable_questions_give_four_means_and_a_total():
    records = [record("en", "language model", "model"), record("zh", "语言模型"), record("extra", "LSTM")]
    predictions = {
        "en": predicted("the language models"),
        "zh": predicted("语言。"),
        "extra": predicted("LSTM"),
        "of another file": predicted("x"),
    }
    assert evaluate_reading(records, predictions) == {
        "exact_match": pytest.approx(100 / 3),
        "f1": pytest.approx((50 + 0 + 100) / 3),
        "cmrc_exact_match": pytest.approx(100 / 3),
        "cmrc_f1": pytest.approx((40 + 100 * 2 * 2 / (2 + 4) + 100) / 3),
        "total": 3,
    }


def test_unanswerable_questions_by_hand():
    records = [
        record("a", "cat"),
        record("b", "dog"),
        record("c", impossible=True),
        record("d", impossible=True),
    ]
    predictions = {
        "a": predicted("cat", 0.1),
        "b": predicted("dog", 0.4),
        "c": predicted("fish", 0.3),
        "d": predicted("bird", 0.9),
    }
    plain = evaluate_reading(records, predictions)
    assert plain["exact_match"] == 50
    assert (plain["has_answer_exact_match"], plain["has_answer_total"]) == (100, 2)
    assert (plain["no_answer_exact_match"], plain["no_answer_f1"], plain["no_answer_total"]) == (0, 0, 2)
    # Refusing d alone makes 3 of 4 right, and so does refusing b, c and d: of equally good thresholds the lowest.
    assert (plain["best_exact"], plain["best_exact_threshold"]) == (75, 0.1)
    assert (plain["best_f1"], plain["best_f1_threshold"]) == (75, 0.1)

    refused = evaluate_reading(records, predictions, threshold=0.4)
    assert (refused["exact_match"], refused["has_answer_f1"], refused["no_answer_cmrc_f1"]) == (75, 100, 50)
    assert refused["best_exact"] == 75


def test_equal_no_answer_scores_stand_or_fall_together():
    records = [record("a", "cat"), record("b", impossible=True), record("c", impossible=True)]
    predictions = {name: predicted("cat", 1.0) for name in "abc"}
    result = evaluate_reading(records, predictions)
    assert result["best_exact"] == pytest.approx(200 / 3)  # parting them, which no threshold can, would give 100


def test_the_threshold_of_chinese_answers_counts_characters():
    # By SQuAD's words a span with one character more is worth nothing, so its threshold refuses everything.
    records = [record("a", "1998年"), record("b", impossible=True), record("c", impossible=True)]
    predictions = {"a": predicted("在1998年。", 0.1), "b": predicted("在", 0.5), "c": predicted("年", 0.6)}
    best = evaluate_reading(records, predictions)
    assert best["best_f1"] == pytest.approx(200 / 3) and best["best_f1_threshold"] < 0.1
    assert best["best_cmrc_f1"] == pytest.approx(280 / 3) and best["best_cmrc_f1_threshold"] == 0.1


def test_refusing_everything_is_a_threshold_below_all_scores():
    records = [record("a", impossible=True), record("b", impossible=True)]
    predictions = {"a": predicted("x", -3.0), "b": predicted("y", 2.0)}
    result = evaluate_reading(records, predictions)
    assert result["best_f1"] == 100
    assert result["best_f1_threshold"] < -3
    assert not any(name.startswith("has_answer") for name in result)
    assert evaluate_reading(records, predictions, threshold=result["best_f1_threshold"])["f1"] == 100


def test_without_no_answer_scores_no_threshold_is_sought():
    result = evaluate_reading([record("a", impossible=True)], {"a": {"answer": ""}})
    assert result["no_answer_exact_match"] == 100
    assert not any(name.startswith("best") for name in result)


def test_metrics_are_json():
    result = evaluate_reading(
        [record("a", "甲"), record("b", impossible=True)], {"a": predicted("甲"), "b": predicted("")}
    )
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_closed_book_answers():
    records = [
        {"id": "1", "question": "谁提出了注意力机制？", "answer": "巴赫达瑙", "answers": ["巴赫达瑙", "Bahdanau"]},
        {"id": "2", "question": "When?", "answer": "in 2014", "answers": ["in 2014"]},
    ]
    assert evaluate_answers(records, {"1": "bahdanau。", "2": "2014"}) == {
        "exact_match": 0,
        "f1": pytest.approx(100 / 3),
        "cmrc_exact_match": 50,
        "cmrc_f1": pytest.approx((100 + 200 / 3) / 2),
        "total": 2,
    }


@pytest.mark.parametrize("evaluate", [evaluate_reading, evaluate_answers])
def test_mistakes(evaluate):
    with pytest.raises(UserError, match="at least one question. Received: none"):
        evaluate([], {})
    with pytest.raises(UserError, match="2 of 2 without one, the first is '问题1'"):
        evaluate([record("问题1", "a"), record("b", "b")], {})

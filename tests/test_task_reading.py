"""The reader's way from strings to strings: windows, labels and the best span, against plain Python."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_llm.presets import make_config
from keras_llm.tasks import make_task
from keras_llm.text import TOKENIZERS

TEXTS = [
    "注意力机制由 Bahdanau 等人在二〇一四年提出，用于机器翻译。",
    "The LSTM was introduced by Hochreiter and Schmidhuber in 1997; it has gates.",
    "Ａ ｂ！😀 naïve ﬁ 𠮷",
]


@pytest.fixture(scope="module", params=["wordpiece", "characters"])
def task(request):
    config = make_config("reading", "lstm", "tiny")
    config.text.tokenizer = request.param
    config.network.embedding_dim = config.network.hidden_dim = 8
    config.lengths.window_length, config.lengths.window_stride, config.lengths.max_answer_length = 12, 5, 4
    config.lengths.max_question_length = 6
    return make_task(config, TOKENIZERS[request.param].train(TEXTS, 400, "lowercase"))


def tokens(task, text):
    ids, starts, ends = task.tokenizer.encode_with_offsets(tf.constant([text.encode()]))
    return [x.to_list()[0] for x in (ids, starts, ends)]


def plain_windows(ids, length, stride):
    """First tokens of the windows, the textbook way."""
    first = [0]
    while first[-1] + length < len(ids):
        first.append(first[-1] + length - stride)
    return first


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from([*TEXTS, TEXTS[0] * 3, ""])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(text, text), min_size=1, max_size=4))
def test_windows_cover_every_token_in_order(task, pairs):
    questions, contexts = zip(*pairs, strict=True)
    found = task.windows(tf.constant([q.encode() for q in questions]), tf.constant([c.encode() for c in contexts]))
    found = {name: value.numpy() for name, value in found.items()}
    row = 0
    for example, (question, context) in enumerate(pairs):
        ids, starts, ends = tokens(task, context)
        for first in plain_windows(ids, 12, 5):
            assert found["example"][row] == example
            for name, values in (("context_ids", ids), ("starts", starts), ("ends", ends)):
                part = values[first : first + 12]
                assert found[name][row].tolist() == part + [0] * (found[name].shape[1] - len(part))
            q = tokens(task, question)[0][:6]
            assert found["question_ids"][row].tolist() == q + [0] * (found["question_ids"].shape[1] - len(q))
            row += 1
    assert row == len(found["example"])


def plain_answer(task, question, context):
    """The definition of answer and score, with loops over everything."""
    windows = {k: v.numpy() for k, v in task.windows(tf.constant([question]), tf.constant([context])).items()}
    spans, nothing = {}, []
    every = np.asarray(task.model({name: windows[name] for name in ("question_ids", "context_ids")}), "float64")
    for row, logits in enumerate(every):
        logs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        logs -= logits.max(-1, keepdims=True)
        nothing.append(logs[0, 0] + logs[1, 0])
        length = int((windows["ends"][row] > 0).sum())
        for start in range(length):
            for end in range(start, min(start + 4, length)):
                spans[row, start, end] = logs[0, start + 1] + logs[1, end + 1]
    total = sum(map(math.exp, spans.values())) + math.exp(min(nothing))
    (row, start, end), best = max(spans.items(), key=lambda item: item[1])
    source = context[windows["starts"][row, start] : windows["ends"][row, end]]
    return source.decode(), math.exp(best) / total, min(nothing) - best


@pytest.mark.parametrize("context", [TEXTS[0], TEXTS[1] * 2, TEXTS[2] + TEXTS[0], "，" * 40])
def test_answer_is_the_best_span_over_windows(task, context):
    question = "谁提出了 LSTM？"
    wanted, score, no_answer_score = plain_answer(task, question.encode(), context.encode())
    task.settings["no_answer_threshold"] = 1e9
    got = task.ask([{"question": question, "context": context}])[0]
    assert got["answer"] == wanted == context[got["start"] : got["end"]]
    assert got["score"] == pytest.approx(score, rel=1e-4)
    # A threshold just below turns it into no answer, with that answer's probability.
    task.settings["no_answer_threshold"] = no_answer_score - 1e-3
    got = task.ask([{"question": question, "context": context}])[0]
    assert (got["answer"], got["start"], got["end"]) == ("", -1, -1)
    assert got["score"] == pytest.approx(score * math.exp(no_answer_score), rel=1e-4)
    task.settings["no_answer_threshold"] = 1e9


def test_no_question_stands_on_the_threshold_that_is_found(task):
    # On it, sums in another order (another batch, an export) would decide whether there is an answer.
    records = [
        {"id": str(i), "question": "谁？", "context": text, "answers": [], "impossible": True}
        for i, text in enumerate(TEXTS)
    ]
    records[0] |= {"answers": [{"text": TEXTS[0], "start": 0}], "impossible": False}
    metrics = task.evaluate(records, tune=True)
    threshold = task.settings["no_answer_threshold"]
    scores = [row["no_answer_score"] for row in task.ask(records, function=task.trace(task.details))]
    assert min(abs(score - threshold) for score in scores) > 1e-5
    assert metrics["cmrc_f1"] == pytest.approx(metrics["best_cmrc_f1"])
    task.settings["no_answer_threshold"] = 1e9


def test_empty_strings_have_no_answer(task):
    for record in ({"question": "", "context": ""}, {"question": "what?", "context": "  \n"}):
        got = task.ask([record])[0]
        assert got["answer"].strip() == ""
        assert 0 <= got["score"] <= 1 + 1e-6
    assert task.ask([{"question": "", "context": TEXTS[1]}])[0]["answer"]


def test_batches_answer_as_single_requests_do(task):
    records = [{"question": "谁？", "context": c} for c in (TEXTS[0], "", TEXTS[1] * 5, TEXTS[2])]
    together = task.ask(records)
    for record, answer in zip(records, together, strict=True):
        alone = task.ask([record])[0]
        assert {**alone, "score": 0} == {**answer, "score": 0}
        assert alone["score"] == pytest.approx(answer["score"], abs=1e-5)


def test_labels_point_at_the_answer_in_each_window(task):
    context = TEXTS[1] * 2
    start = context.index("Hochreiter and Schmidhuber", 10)
    record = {"question": "who?", "context": context, "impossible": False}
    record["answers"] = [{"text": "Hochreiter and Schmidhuber", "start": start}]
    rows = list(task.prepare([record]))
    ids, starts, ends = tokens(task, context)
    held = 0
    for row, first in zip(rows, plain_windows(ids, 12, 5), strict=True):
        a, b = int(row["first"]) - 1, int(row["last"]) - 1
        if a < 0:
            assert b < 0
            continue
        held += 1
        assert (starts[first + a], ends[first + b]) == (start, start + len("Hochreiter and Schmidhuber"))
    whole = [
        f
        for f in plain_windows(ids, 12, 5)
        if starts[f] <= start and ends[min(f + 12, len(ids)) - 1] >= start + len("Hochreiter and Schmidhuber")
    ]
    assert held == len(whole)


def test_impossible_questions_are_labelled_zero(task):
    record = {"question": "谁？", "context": TEXTS[0], "answers": [], "impossible": True}
    assert all(row["first"] == row["last"] == 0 for row in task.prepare([record]))

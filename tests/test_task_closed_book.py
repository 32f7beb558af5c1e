"""Closed-book answers in every way of decoding: what the signatures of an export compute."""

import numpy as np
import pytest
import tensorflow as tf

from keras_llm.errors import UserError
from keras_llm.generation.decode import greedy
from keras_llm.presets import make_config
from keras_llm.tasks import make_task
from keras_llm.tasks.generating import cut
from keras_llm.text import TOKENIZERS

QUESTIONS = ["谁提出了注意力机制？", "When was the LSTM introduced?", "", "🙂"]
OFF = {
    "seed": 0,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "max_length": 100,
    "stop": "",
}


@pytest.fixture(scope="module", params=["lstm", "transformer"])
def task(request):
    config = make_config("closed_book", request.param, "tiny")
    config.network.embedding_dim, config.network.hidden_dim, config.network.feedforward_dim = 8, 8, 16
    config.network.num_layers, config.network.num_heads = 1, 2
    config.lengths.max_answer_length = 6
    texts = ["谁提出了注意力机制？Bahdanau 等人。", "The LSTM has gates; it was introduced in 1997. 🙂"] * 3
    task = make_task(config, TOKENIZERS["sentencepiece"].train(texts, 360))
    # Larger weights: an untrained model's distribution is too flat to tell choices apart.
    random = np.random.default_rng(0)
    task.model.set_weights([random.normal(size=w.shape) for w in task.model.get_weights()])
    return task


def asked(task, signature, **settings):
    values = {**OFF, "length_penalty": 1.0, **settings}
    return task.ask([{"question": question, **values} for question in QUESTIONS], signature=signature)


def test_temperature_zero_is_the_default_answer(task):
    expected = task.ask([{"question": question} for question in QUESTIONS])
    for row, want in zip(asked(task, "sample", temperature=0.0), expected, strict=True):
        assert row["answer"] == want["answer"] and row["score"] == pytest.approx(want["score"], rel=1e-4)


def test_one_request_with_some_settings(task):
    (expected,) = task.ask([{"question": QUESTIONS[1], **OFF, "seed": 3, "temperature": 0.5}], signature="sample")
    strings = {"question": QUESTIONS[1]}
    assert task.ask_one(strings, "sample", {"seed": "3", "temperature": "0.5"}) == expected
    assert (
        task.ask_one(strings, "beam", {"max_length": 1, "stop": "。"})["answer"]
        == asked(task, "beam", max_length=1)[1]["answer"]
    )
    for signature, settings, message in (
        ("best", {}, "one of serving_default, sample, beam. Received: 'best'"),
        ("sample", {"heat": "1"}, "one of max_length, min_length, .*top_p. Received: heat"),
        ("sample", {"top_k": "2.5"}, "The setting top_k must be int32. Received: '2.5'"),
        ("sample", {"seed": "3000000000"}, "The setting seed must be int32. Received: '3000000000'"),
        ("serving_default", {"seed": "1"}, "not known to this signature. Received: seed"),
    ):
        with pytest.raises(UserError, match=message):
            task.ask_one(strings, signature, settings)


def test_seeds_decide_and_the_batch_does_not(task):
    several = [asked(task, "sample", seed=seed) for seed in range(6)]
    assert len({tuple(row["answer"] for row in rows) for rows in several}) > 1
    assert [row["answer"] for row in several[3]] == [row["answer"] for row in asked(task, "sample", seed=3)]
    alone = task.ask([{"question": QUESTIONS[1], **OFF, "seed": 3}], signature="sample")[0]
    assert alone["answer"] == several[3][1]["answer"]


def test_the_proof_goes_through_every_value_and_through_pairs_of_them(task):
    signature = task.signatures["sample"]
    rows = [signature.example({"question": ""}, place) for place in range(96)]
    assert rows[0] == {"question": ""} | {name: values[0] for name, values in signature.settings.items()}
    for name, values in signature.settings.items():
        assert {row[name] for row in rows} == set(values), name
    assert len({(row["top_p"], row["min_length"], row["repetition_penalty"]) for row in rows}) == 8


def test_each_row_has_its_own_settings(task):
    rows = task.ask(
        [
            {"question": QUESTIONS[0], **OFF, "seed": seed, "max_length": length}
            for seed, length in [(0, 6), (0, 2), (1, 6)]
        ],
        signature="sample",
    )
    assert len(rows[1]["answer"]) < len(rows[0]["answer"])
    assert rows[2]["answer"] != rows[0]["answer"]


def test_the_score_of_a_shortened_answer_is_the_mean_of_its_tokens(task):
    """Without an end the end does not count."""
    question = tf.constant([QUESTIONS[0]])
    ids, log_probs = greedy(**task._loop(task.encode_source(question)))
    assert np.count_nonzero(ids) > 2
    (row,) = task.ask([{"question": QUESTIONS[0], **OFF, "temperature": 0.0, "max_length": 2}], signature="sample")
    assert row["score"] == pytest.approx(np.exp(np.mean(log_probs.numpy()[0, :2])), rel=1e-4)


def test_beams_find_what_is_at_least_as_probable_for_some_question(task):
    """Compared without length normalisation, where beam search maximises the plain sum."""

    def log_probability(row):
        length = len(task.tokenizer.encode(tf.constant([row["answer"]]))[0]) + 1
        return np.log(row["score"]) * min(length, 7)

    plain = task.ask([{"question": question} for question in QUESTIONS])
    beams = asked(task, "beam", length_penalty=0.0)
    better = [log_probability(b) - log_probability(g) for b, g in zip(beams, plain, strict=True)]
    assert max(better) > -1e-3
    assert all(0 < row["score"] <= 1 for row in beams)


def test_beam_score_is_the_mean_whatever_the_penalty(task):
    """One text, two penalties: the same score."""
    found = {}
    for penalty in (0.0, 1.0, 2.0):
        for question, row in zip(QUESTIONS, asked(task, "beam", length_penalty=penalty), strict=True):
            found.setdefault((question, row["answer"]), []).append(row["score"])
    assert any(len(scores) > 1 for scores in found.values())
    for scores in found.values():
        assert scores == pytest.approx([scores[0]] * len(scores), rel=1e-3)


def test_minimum_length_and_stop_strings(task):
    (long,) = task.ask([{"question": "🙂", **OFF, "temperature": 0.0, "min_length": 6}], signature="sample")
    assert len(long["answer"]) >= 2
    stop = long["answer"][1]
    rows = task.ask(
        [{"question": "🙂", **OFF, "temperature": 0.0, "min_length": 6, "stop": text} for text in (stop, "", "never")],
        signature="sample",
    )
    assert [row["answer"] for row in rows] == [
        long["answer"][: long["answer"].index(stop)],
        long["answer"],
        long["answer"],
    ]


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("一句。二句。", "。", "一句"),
        ("a.b.c", ".", "a"),
        ("a\nb|c", "b|", "a\n"),
        ("x\\y", "\\", "x"),
        ("[1] (2) {3}* ^$+?-", "{3}*", "[1] (2) "),
        ("no such", "🙂", "no such"),
        ("kept", "", "kept"),
        ("", "a", ""),
    ],
)
def test_cut(text, stop, left):
    found = cut(tf.constant([text, "other"]), tf.constant([stop, ""]))
    assert [value.decode() for value in found.numpy()] == [left, "other"]


def test_an_empty_batch_has_an_empty_answer(task):
    for name, signature in task.signatures.items():
        function = task.trace(signature.method, signature.inputs)
        empty = {key: tf.constant([], dtype) for key, dtype in signature.inputs.items()}
        assert function(**empty)["answer"].shape == (0,), name

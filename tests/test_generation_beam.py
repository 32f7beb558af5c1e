"""Beam search against Hugging Face (tests/fixtures/generation.json) and against the list of all texts."""

import itertools
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.errors import UserError
from keras_llm.generation.beam import beam_search
from keras_llm.generation.decode import greedy
from keras_llm.generation.logits import FORBIDDEN, Rules

ORACLE = json.loads((Path(__file__).parent / "fixtures" / "generation.json").read_text(encoding="utf-8"))
PAD, START, END = ORACLE["ids"]["pad"], ORACLE["ids"]["start"], ORACLE["ids"]["end"]
BEAMS = ORACLE["beams"]


def numpy(x):
    return ops.convert_to_numpy(x)


def by_two(table):
    """The next token depends on the last two, so a state that does not follow its beam is noticed."""
    table = ops.array(np.array(table, "float32"))

    def step(ids, state):
        before, (fixed, count) = state["before"], state["rest"]
        flat = ops.reshape(table, (-1, table.shape[-1]))
        logits = ops.take(flat, before * table.shape[1] + ids, axis=0)
        return logits, {"before": ids, "rest": (fixed, count + 1)}

    return step


def begin(starts):
    starts = ops.array(starts, dtype="int32")
    state = {"before": ops.zeros_like(starts), "rest": (ops.zeros_like(starts), ops.zeros((), "int32"))}
    return starts, state


CASES = {}
for case in BEAMS["cases"]:
    # JAX compiles each for seconds; one width is enough there.
    if case["num_beams"] == 3 or keras.backend.backend() != "jax":
        CASES.setdefault((case["num_beams"], "-".join(case["rules"]) or "plain"), []).append(case)


@pytest.mark.parametrize("key", CASES, ids=str)
def test_as_hugging_face(key):
    # All penalties in one batch: each row has its own.
    cases = CASES[key]
    starts, state = begin(BEAMS["starts"] * len(cases))
    rules = dict(cases[0]["rules"])
    if "repetition_penalty" in rules or "no_repeat_ngram_size" in rules:
        rules["prompt_ids"] = starts[:, None]  # theirs counts the start as used
    ids, scores = beam_search(
        by_two(BEAMS["table"]),
        starts,
        state,
        END,
        PAD,
        BEAMS["max_length"],
        cases[0]["num_beams"],
        ops.array(np.repeat([case["length_penalty"] for case in cases], len(BEAMS["starts"])), dtype="float32"),
        num_results=2,
        rules=Rules(**rules),
    )
    np.testing.assert_allclose(numpy(scores), np.concatenate([case["scores"] for case in cases]), rtol=1e-5)
    np.testing.assert_array_equal(numpy(ids), np.concatenate([case["ids"] for case in cases]))


V, T = 5, 4
TABLE = np.random.default_rng(2).normal(size=(V, V, V)).astype("float32") * 1.5


def every_text(start, limit, penalty, minimum=0):
    """All texts of at most `limit` tokens with their scores, best first."""
    log_probs = TABLE - np.log(np.exp(TABLE).sum(-1, keepdims=True))
    result = []
    for length in range(limit + 1):
        for text in itertools.product([t for t in range(V) if t != END], repeat=length):
            if length < limit and length < minimum:
                continue
            tokens = [0, start, *text] + [END] * (length < limit)
            total = sum(log_probs[a, b, c] for a, b, c in zip(tokens, tokens[1:], tokens[2:], strict=False))
            result.append((total / (len(tokens) - 2) ** penalty, [*text, *[PAD] * (T - length)]))
    return sorted(result, key=lambda pair: -pair[0])


@pytest.mark.parametrize("penalty", [0.0, 1.0, ops.array([-0.5, 0.6, 3.0])], ids=["0", "1", "own"])
@pytest.mark.parametrize("minimum", [0, 2])
def test_with_room_for_all_beginnings_it_finds_the_best_of_all_texts(penalty, minimum):
    starts, state = begin([1, 2, 3])
    rules = Rules(min_length=minimum)
    ids, scores = beam_search(by_two(TABLE), starts, state, END, PAD, T, V**T, penalty, 6, rules)
    penalties = np.broadcast_to(numpy(penalty), (3,))
    for row, start in enumerate([1, 2, 3]):
        expected = every_text(start, T, penalties[row], minimum)[:6]
        np.testing.assert_allclose(numpy(scores)[row], [score for score, _ in expected], rtol=1e-5)
        assert numpy(ids)[row].tolist() == [text for _, text in expected]


def test_a_text_may_end_in_several_ways():
    """Every way to end competes for itself."""
    ends, limit = (END, V - 1), 3
    log_probs = TABLE - np.log(np.exp(TABLE).sum(-1, keepdims=True))
    expected = []
    for length in range(limit + 1):
        for text in itertools.product([t for t in range(V) if t not in ends], repeat=length):
            for end in ends if length < limit else [None]:
                tokens = [0, 1, *text, *([] if end is None else [end])]
                total = sum(log_probs[a, b, c] for a, b, c in zip(tokens, tokens[1:], tokens[2:], strict=False))
                expected.append((total / (len(tokens) - 2), [*text, *[PAD] * (limit - length)]))
    expected = sorted(expected, key=lambda pair: -pair[0])[:6]
    ids, scores = beam_search(by_two(TABLE), *begin([1]), ends, PAD, limit, V**limit, 1.0, 6)
    np.testing.assert_allclose(numpy(scores)[0], [score for score, _ in expected], rtol=1e-5)
    assert numpy(ids)[0].tolist() == [text for _, text in expected]


def test_each_row_may_have_its_own_penalty_and_limits():
    penalties, limits, minima = [0.0, 2.0, 1.0], [2, 4, 0], [1, 3, 0]
    starts, state = begin([1, 2, 3])
    rules = Rules(max_length=ops.array(limits), min_length=ops.array(minima))
    ids, scores = beam_search(by_two(TABLE), starts, state, END, PAD, T, V**T, ops.array(penalties), 2, rules)
    for row, start in enumerate([1, 2]):
        expected = every_text(start, limits[row], penalties[row], minima[row])[:2]
        np.testing.assert_allclose(numpy(scores)[row], [score for score, _ in expected], rtol=1e-5)
        assert numpy(ids)[row].tolist() == [text for _, text in expected]
    assert (numpy(ids)[2] == PAD).all()
    np.testing.assert_array_equal(numpy(scores)[2], np.float32([FORBIDDEN] * 2))


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_gives_what_each_row_gives_alone(beams):
    step = by_two(TABLE)
    starts = [1, 3, 4]
    ids, scores = beam_search(step, *begin(starts), END, PAD, 12, beams, 0.8)
    for row, start in enumerate(starts):
        alone_ids, alone_scores = beam_search(step, *begin([start]), END, PAD, 12, beams, 0.8)
        np.testing.assert_array_equal(numpy(ids)[row], numpy(alone_ids)[0])
        np.testing.assert_allclose(numpy(scores)[row], numpy(alone_scores)[0], rtol=1e-6)


def test_it_finds_what_greedy_misses():
    table = np.full((4, 4), -50.0)
    table[0, [2, 3]] = np.log([0.6, 0.4])
    table[2, [0, 1, 3]] = np.log([0.4, 0.3, 0.3])
    table[3, 1] = 0.0

    def step(ids, state):
        return ops.take(ops.array(table.astype("float32")), ids, axis=0), state

    ids, scores = beam_search(step, ops.array([0]), (), 1, 0, 3, num_beams=2, length_penalty=0.0)
    assert numpy(ids).tolist() == [[[3, 0, 0]]]
    np.testing.assert_allclose(numpy(scores), [[np.log(0.4)]], atol=1e-5)
    assert numpy(greedy(step, ops.array([0]), (), 1, 0, 3)[0])[0, 0] == 2


def test_fewer_texts_than_asked_for():
    # Only "2, end" and "end" are possible.
    table = np.full((3, 3), FORBIDDEN, "float32")
    table[0, [1, 2]] = np.log([0.3, 0.7])
    table[2, 1] = 0.0

    def step(ids, state):
        return ops.take(ops.array(table), ids, axis=0), state

    ids, scores = beam_search(step, ops.array([0]), (), 1, 0, 4, 4, 0.0, num_results=3)
    assert numpy(ids)[0, :2].tolist() == [[2, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(numpy(scores)[0, :2], np.log([0.7, 0.3]), atol=1e-5)
    assert numpy(scores)[0, 2] == np.float32(FORBIDDEN)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="counts the turns of an eager loop")
def test_the_search_stops_when_no_open_beam_can_win():
    turns = []
    table = np.zeros((4, 4), "float32")
    table[:, END] = 1.0

    def step(ids, state):
        turns.append(1)
        return ops.take(ops.array(table), ids, axis=0), state

    beam_search(step, ops.array([1, 3]), (), END, PAD, 50, 2, length_penalty=0.0)
    assert len(turns) == 1
    # Of longer texts, up to 50 tokens, the score could still rise.
    beam_search(step, ops.array([1, 3]), (), END, PAD, 50, 2, length_penalty=3.0)
    assert len(turns) > 10


def test_a_state_untouched_by_step_is_repeated_once_and_not_moved():
    moved = []
    take = ops.take

    def step(ids, state):
        return ops.take(ops.array(TABLE[0]), ids, axis=0), {**state, "mine": ids}

    def spy(x, *args, **kwargs):
        moved.append(tuple(x.shape))
        return take(x, *args, **kwargs)

    from keras_llm.generation import beam

    class Spied:
        def __getattr__(self, name):
            return spy if name == "take" else getattr(ops, name)

    original, beam.ops = beam.ops, Spied()
    try:
        state = {"memory": ops.zeros((2, 3, 7)), "mine": ops.zeros((2,), "int32")}
        beam_search(step, ops.array([1, 2]), state, END, PAD, 5, 3, 0.0)
    finally:
        beam.ops = original
    assert (2, 3, 7) in moved and (6, 3, 7) not in moved


@pytest.mark.parametrize("settings", [{"num_beams": 0}, {"num_beams": 2, "num_results": 3}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match="Received"):
        beam_search(by_two(TABLE), *begin([1]), END, PAD, 4, **settings)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a TensorFlow graph")
def test_one_graph_serves_any_batch_with_growing_caches(tmp_path):
    import tensorflow as tf

    def step(ids, state):
        # All tokens so far, in a cache that grows; the logits depend on all of them.
        cache = tf.concat([state["cache"], ids[:, None]], axis=1)
        weights = tf.cast(tf.range(1, tf.shape(cache)[1] + 1), "float32")
        mixed = tf.reduce_sum(tf.gather(tf.constant(TABLE[0]), cache) * weights[None, :, None], axis=1)
        return mixed / tf.reduce_sum(weights), {"cache": cache}

    def search(start_ids, length_penalty, min_length):
        empty = tf.zeros([tf.shape(start_ids)[0], tf.reduce_sum(start_ids[:0])], tf.int32)
        rules = Rules(min_length=min_length, no_repeat_ngram_size=2)
        ids, scores = beam_search(
            step, start_ids, {"cache": empty}, END, PAD, 6, 3, length_penalty, num_results=2, rules=rules
        )
        return {"ids": ids, "scores": scores}

    function = tf.function(
        search,
        input_signature=[
            tf.TensorSpec([None], tf.int32, name="start_ids"),
            tf.TensorSpec([], tf.float32, name="length_penalty"),
            tf.TensorSpec([], tf.int32, name="min_length"),
        ],
        autograph=False,
    )
    graph = function.get_concrete_function().graph.as_graph_def()
    used = {node.op for node in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    assert not [op for op in used if op.startswith(("Xla", "PyFunc", "EagerPyFunc"))]
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"), signatures={"beam": function})
    loaded = tf.saved_model.load(str(tmp_path / "m")).signatures["beam"]
    for starts, penalty, minimum in (([1], 0.0, 0), ([1, 3, 4], 1.5, 3), ([], 1.0, 0)):
        arguments = tf.constant(starts, tf.int32), tf.constant(penalty), tf.constant(minimum)
        found = loaded(start_ids=arguments[0], length_penalty=arguments[1], min_length=arguments[2])
        eager = search(*arguments)
        assert found["ids"].shape == (len(starts), 2, 6)
        np.testing.assert_array_equal(found["ids"].numpy(), eager["ids"].numpy())
        np.testing.assert_allclose(found["scores"].numpy(), eager["scores"].numpy(), rtol=1e-5)

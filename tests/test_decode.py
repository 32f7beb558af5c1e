"""The decode loop over a step function that is only a table: no model is needed to know what must come out."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.generation.decode import best, greedy
from keras_llm.generation.logits import Rules

PAD, START, END = 0, 2, 3


def numpy(x):
    return ops.convert_to_numpy(x)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


# Row i holds the logits after token i: 2 -> 5 -> 4 -> 3 (the end); 6 -> 6 -> 6 ... for ever.
TABLE = np.random.default_rng(0).normal(size=(8, 8)).astype("float32")
for before, after in {2: 5, 5: 4, 4: END, 6: 6, 7: END}.items():
    TABLE[before, after] = 5.0


def by_table(ids, state):
    return ops.take(ops.array(TABLE), ids, axis=0), state


def test_rows_end_on_their_own():
    ids, log_probs = greedy(by_table, ops.array([2, 6, 7]), (), END, PAD, 5)
    assert numpy(ids).tolist() == [[5, 4, 0, 0, 0], [6, 6, 6, 6, 6], [0, 0, 0, 0, 0]]
    scores = log_softmax(TABLE)
    expected = [[scores[2, 5], scores[5, 4], scores[4, 3], 0, 0], [scores[6, 6]] * 5, [scores[7, 3], 0, 0, 0, 0]]
    np.testing.assert_allclose(numpy(log_probs), expected, atol=1e-5)
    assert keras.backend.standardize_dtype(ids.dtype) == "int32"
    assert keras.backend.standardize_dtype(log_probs.dtype) == "float32"


def test_a_row_may_end_in_several_ways():
    ids, log_probs = greedy(by_table, ops.array([2, 6, 7]), (), (END, 4), PAD, 5)
    assert numpy(ids).tolist() == [[5, 0, 0, 0, 0], [6, 6, 6, 6, 6], [0, 0, 0, 0, 0]]
    scores = log_softmax(TABLE)
    np.testing.assert_allclose(numpy(log_probs)[0], [scores[2, 5], scores[5, 4], 0, 0, 0], atol=1e-5)
    one, _ = greedy(by_table, ops.array([2, 6, 7]), (), (END,), PAD, 5)
    np.testing.assert_array_equal(numpy(one), numpy(greedy(by_table, ops.array([2, 6, 7]), (), END, PAD, 5)[0]))
    # Rules forbid all of them.
    ids, _ = greedy(by_table, ops.array([2]), (), (END, 4), PAD, 5, Rules(min_length=3))
    assert not set(numpy(ids)[0, :3].tolist()) & {PAD, END, 4}


def test_the_loop_stops_when_all_rows_have_ended():
    def counting(ids, steps):
        return ops.take(ops.array(TABLE), ids, axis=0), steps + 1

    counted = []

    def spy(ids, state):
        logits, state = counting(ids, state)
        counted.append(state)
        return logits, state

    if keras.backend.backend() == "jax":
        # The body is traced once: count in the state, which decode does not return, by ending the table early.
        import jax

        jax.jit(lambda: greedy(spy, ops.array([2, 7]), ops.zeros((), "int32"), END, PAD, 1000))()
        assert len(counted) <= 2
    else:
        greedy(spy, ops.array([2, 7]), ops.zeros((), "int32"), END, PAD, 1000)
        assert len(counted) == 3


def test_state_may_be_any_nest():
    def step(ids, state):
        seen = state["seen"] + ops.one_hot(ids, 8, dtype="float32")
        count, (flags,) = state["more"]
        # A token that has been seen is not taken again.
        logits = ops.take(ops.array(TABLE), ids, axis=0) - 100.0 * seen
        return logits, {"seen": seen, "more": (count + 1, (flags,))}

    state = {"seen": ops.zeros((1, 8)), "more": (ops.zeros((), "int32"), (ops.ones((1, 3)),))}
    ids, _ = greedy(step, ops.array([6]), state, -1, -1, 7)
    current, left, expected = 6, set(range(8)), []
    for _ in range(7):
        left.discard(current)
        current = max(left, key=lambda token: TABLE[current, token])
        expected.append(current)
    assert numpy(ids)[0].tolist() == expected


def test_half_precision_logits_are_scored_in_float32():
    def step(ids, state):
        return ops.cast(ops.take(ops.array(TABLE), ids, axis=0), "float16"), state

    ids, log_probs = greedy(step, ops.array([2]), (), END, PAD, 4)
    assert numpy(ids).tolist() == [[5, 4, 0, 0]]
    np.testing.assert_allclose(numpy(log_probs)[0, 0], log_softmax(TABLE)[2, 5], atol=2e-3)


def test_best_takes_the_first_of_equals_and_its_log_probability():
    ids, scores = best(ops.array([[1.0, 3.0, 3.0, 0.0], [0.0, 0.0, -1.0, -1.0]]))
    assert numpy(ids).tolist() == [1, 0]
    expected = [log_softmax(np.array([1.0, 3, 3, 0]))[1], log_softmax(np.array([0.0, 0, -1, -1]))[0]]
    np.testing.assert_allclose(numpy(scores), expected, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a TensorFlow graph")
def test_one_graph_serves_any_batch_without_xla(tmp_path):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="start_ids")], autograph=False)
    def decode(start_ids):
        ids, log_probs = greedy(by_table, start_ids, {"none": tf.zeros([tf.shape(start_ids)[0], 1])}, END, PAD, 5)
        return {"ids": ids, "log_probs": log_probs}

    graph = decode.get_concrete_function().graph.as_graph_def()
    used = {node.op for node in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    assert not [op for op in used if op.startswith("Xla") or op in ("PyFunc", "EagerPyFunc")]
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"), signatures={"serving_default": decode})
    loaded = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"]
    for start in ([2], [2, 6, 7], []):
        found = loaded(tf.constant(start, tf.int32))["ids"].numpy()
        eager, _ = greedy(by_table, ops.array(start, dtype="int32"), (), END, PAD, 5)
        np.testing.assert_array_equal(found, numpy(eager))

"""Sampling against the exact distribution of all texts, and what a seed promises."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.generation.decode import draw, greedy, sample
from keras_llm.generation.logits import Rules
from keras_llm.generation.noise import threefry, uniforms

PAD, END = 0, 1
V, T = 5, 3
TABLE = np.random.default_rng(11).normal(size=(V, V)).astype("float32")


def numpy(x):
    return ops.convert_to_numpy(x)


def by_table(ids, state):
    return ops.take(ops.array(TABLE), ids, axis=0), state


def left(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Probabilities of a row after the filters: a NumPy twin that sorts and cuts token by token."""
    logits = logits / temperature
    order = np.argsort(-logits)
    kept = order[: top_k or None]
    p = np.exp(logits[kept] - logits.max())
    p /= p.sum()
    kept = [token for i, token in enumerate(kept) if p[:i].sum() < top_p]
    p = np.exp(logits[kept] - logits.max())
    kept = [token for token, share in zip(kept, p, strict=True) if share >= min_p]
    result = np.zeros_like(logits)
    result[kept] = np.exp(logits[kept] - logits.max())
    return result / result.sum()


def every_text(start, **filters):
    """All texts of at most T tokens -> probability."""
    result = {}
    for length in range(T + 1):
        for text in itertools.product([t for t in range(V) if t != END], repeat=length):
            tokens = [start, *text] + [END] * (length < T)
            steps = [left(TABLE[a], **filters)[b] for a, b in zip(tokens, tokens[1:], strict=False)]
            result[(*text, *[PAD] * (T - length))] = result.get((*text, *[PAD] * (T - length)), 0) + np.prod(steps)
    return result


SETTINGS = [
    {},
    {"temperature": 0.6},
    {"top_k": 2},
    {"top_p": 0.7},
    {"min_p": 0.4},
    {"temperature": 1.8, "top_k": 4, "top_p": 0.85, "min_p": 0.1},
]


@pytest.mark.parametrize("filters", SETTINGS, ids=str)
def test_texts_come_as_often_as_they_are_probable(filters):
    rows = 20_000
    starts = ops.full((rows,), 2, "int32")
    ids, _ = sample(by_table, starts, (), END, PAD, T, seed=ops.arange(rows), **filters)
    expected = every_text(2, **filters)
    assert abs(sum(expected.values()) - 1) < 1e-5
    texts, counts = np.unique(numpy(ids), axis=0, return_counts=True)
    found = {tuple(text): count for text, count in zip(texts.tolist(), counts.tolist(), strict=True)}
    assert not [text for text in found if expected[text] == 0]
    common = [text for text in expected if expected[text] * rows >= 5]
    rare = rows - sum(found.get(text, 0) for text in common)
    observed = np.array([found.get(text, 0) for text in common] + [rare])
    share = np.array([expected[text] for text in common])
    wanted = rows * np.append(share, max(1 - share.sum(), 1e-9))
    degrees = len(common) if wanted[-1] > 5 else len(common) - 1
    terms = (observed - wanted) ** 2 / wanted
    statistic = terms.sum() if wanted[-1] > 5 else terms[:-1].sum()
    # Mean and deviation of chi-square; the seeds are fixed, so this passes always or never.
    assert statistic < degrees + 4 * np.sqrt(2 * degrees), (statistic, degrees)


@pytest.mark.parametrize("form", ["scalar", "own"])
def test_settings_known_only_at_run_time_give_the_same_texts(form):
    rows = 50
    starts, seeds = ops.full((rows,), 3, "int32"), ops.arange(rows)
    for filters in SETTINGS[:1] + SETTINGS[-1:]:
        full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | filters
        tensors = {
            name: ops.full(() if form == "scalar" else (rows,), value, "int32" if name == "top_k" else "float32")
            for name, value in full.items()
        }
        expected, expected_log_probs = sample(by_table, starts, (), END, PAD, 5, seeds, **filters)
        found, log_probs = sample(by_table, starts, (), END, PAD, 5, seeds, **tensors)
        np.testing.assert_array_equal(numpy(found), numpy(expected))
        np.testing.assert_allclose(numpy(log_probs), numpy(expected_log_probs), rtol=1e-5)


def test_a_batch_gives_what_each_row_gives_alone():
    starts, seeds, temperatures = [2, 3, 4], [5, 5, -9], [0.7, 1.0, 3.0]
    ids, log_probs = sample(
        by_table, ops.array(starts), (), END, PAD, 9, ops.array(seeds), ops.array(temperatures, dtype="float32")
    )
    for row in range(3):
        alone = sample(by_table, ops.array(starts[row : row + 1]), (), END, PAD, 9, seeds[row], temperatures[row])
        np.testing.assert_array_equal(numpy(ids)[row], numpy(alone[0])[0])
        np.testing.assert_allclose(numpy(log_probs)[row], numpy(alone[1])[0], rtol=1e-5)


def test_a_seed_is_a_text_and_another_seed_is_another():
    flat = np.zeros((8, 8), "float32")
    flat[:, END] = -50.0

    def step(ids, state):
        return ops.take(ops.array(flat), ids, axis=0), state

    def texts(seed):
        return numpy(sample(step, ops.full((2,), 3, "int32"), (), END, PAD, 16, seed)[0])

    first = texts(1)
    np.testing.assert_array_equal(first, texts(1))
    np.testing.assert_array_equal(first[0], first[1])  # equal requests
    assert (texts(2)[0] != first[0]).any()
    own = texts(ops.array([1, 2]))
    np.testing.assert_array_equal(own[0], first[0])
    assert (own[0] != own[1]).any()


def test_a_longer_text_begins_like_a_shorter_one():
    starts = ops.array([2, 3, 4])
    short = sample(by_table, starts, (), -1, PAD, 4, ops.array([1, 2, 3]))[0]
    long = sample(by_table, starts, (), -1, PAD, 9, ops.array([1, 2, 3]))[0]
    np.testing.assert_array_equal(numpy(short), numpy(long)[:, :4])


@pytest.mark.parametrize("zero", [0, 0.0, "tensor", "own"])
def test_temperature_zero_is_greedy(zero):
    starts = ops.array([2, 3, 4])
    rules = Rules(no_repeat_ngram_size=1)
    temperature = {"tensor": ops.zeros(()), "own": ops.zeros((3,))}.get(zero, zero)
    expected = greedy(by_table, starts, (), END, PAD, 4, rules)
    found = sample(by_table, starts, (), END, PAD, 4, 3, temperature, rules=rules)
    np.testing.assert_array_equal(numpy(found[0]), numpy(expected[0]))
    np.testing.assert_allclose(numpy(found[1]), numpy(expected[1]), rtol=1e-5)


def test_log_probabilities_are_the_models_own():
    ids, log_probs = sample(by_table, ops.array([2]), (), -1, PAD, 4, 7, temperature=2.0, top_k=3)
    tokens = [2, *numpy(ids)[0].tolist()]
    raw = TABLE - np.log(np.exp(TABLE).sum(1, keepdims=True))
    np.testing.assert_allclose(numpy(log_probs)[0], [raw[a, b] for a, b in itertools.pairwise(tokens)], atol=1e-5)


def test_draw_never_gives_a_token_without_probability():
    logits = ops.array([[-1e30, 0.0, -1e30, 0.0, -1e30]] * 4)
    numbers = ops.array([0.0, 0.4999, 0.5, 1 - 2.0**-24])
    assert numpy(draw(logits, numbers)).tolist() == [1, 1, 3, 3]


# The generator


@pytest.mark.parametrize(
    "key, counter, expected",
    [  # the known answers published with Random123
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_words(key, counter, expected):
    def words(pair):
        return tuple(ops.convert_to_tensor(np.array([word], "uint32")) for word in pair)

    assert tuple(int(numpy(word)[0]) for word in threefry(words(key), words(counter))) == expected


def test_uniforms_are_uniform_and_the_same_everywhere():
    found = numpy(uniforms(ops.arange(2000), 50))
    assert found.shape == (2000, 50) and found.min() >= 0 and found.max() < 1
    for numbers in (found, found.T):  # along seeds and along places
        for row in numbers[:50]:
            bins = np.histogram(row, 8, (0, 1))[0]
            assert ((bins - len(row) / 8) ** 2 / (len(row) / 8)).sum() < 35  # 7 degrees of freedom: 1 in 90,000
    assert abs(np.corrcoef(found[:-1].ravel(), found[1:].ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(found[:, :-1].ravel(), found[:, 1:].ravel())[0, 1]) < 0.015
    # The same numbers on every backend and machine: a seed is worth keeping.
    assert (numpy(uniforms(1, 3)) * 2**24).tolist() == [[11810215.0, 968296.0, 169705.0]]


def test_a_seed_counts_by_its_low_32_bits():
    expected = numpy(uniforms(ops.array([-5], dtype="int32"), 4))
    for seed in (-5, 2**32 - 5, 2**32 * 7 - 5, np.int64(-5)):
        np.testing.assert_array_equal(numpy(uniforms(seed, 4)), expected)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a TensorFlow graph")
@pytest.mark.parametrize("shape", [[], [None]], ids=["scalars", "rows"])
def test_one_graph_takes_the_settings_as_inputs(tmp_path, shape):
    import tensorflow as tf

    types = {
        "seed": tf.int32,
        "temperature": tf.float32,
        "top_k": tf.int32,
        "top_p": tf.float32,
        "min_p": tf.float32,
        "repetition_penalty": tf.float32,
        "no_repeat_ngram_size": tf.int32,
        "min_length": tf.int32,
        "max_length": tf.int32,
    }

    def generate(start_ids, **settings):
        names = ("repetition_penalty", "no_repeat_ngram_size", "min_length", "max_length")
        rules = Rules(**{name: settings.pop(name) for name in names}, forbidden_ids=(4,), prompt_ids=start_ids[:, None])
        state = {"none": tf.zeros([tf.shape(start_ids)[0], 1])}
        ids, log_probs = sample(by_table, start_ids, state, END, PAD, 6, **settings, rules=rules)
        return {"ids": ids, "log_probs": log_probs}

    function = tf.function(generate, autograph=False)
    signature = {name: tf.TensorSpec(shape, dtype, name=name) for name, dtype in types.items()}
    concrete = function.get_concrete_function(start_ids=tf.TensorSpec([None], tf.int32, name="start_ids"), **signature)
    graph = concrete.graph.as_graph_def()
    used = {node.op for node in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    assert not [op for op in used if op.startswith(("Xla", "PyFunc", "EagerPyFunc", "Assert"))]
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"), signatures={"sample": concrete})
    loaded = tf.saved_model.load(str(tmp_path / "m")).signatures["sample"]
    for starts in ([2], [2, 3, 2], []):
        for values in (
            (1, 1.0, 0, 1.0, 0.0, 1.0, 0, 0, 6),
            (7, 0.0, 0, 1.0, 0.0, 1.5, 2, 1, 4),
            (9, 1.7, 3, 0.9, 0.1, 1.2, 0, 3, 5),
        ):
            rows = [] if not shape else [len(starts)]
            inputs = {name: tf.fill(rows, tf.cast(v, types[name])) for name, v in zip(types, values, strict=True)}
            starting = tf.constant(starts, tf.int32)
            found, eager = loaded(start_ids=starting, **inputs), generate(starting, **inputs)
            assert found["ids"].shape == (len(starts), 6)
            np.testing.assert_array_equal(found["ids"].numpy(), eager["ids"].numpy())
            np.testing.assert_allclose(found["log_probs"].numpy(), eager["log_probs"].numpy(), rtol=1e-5)

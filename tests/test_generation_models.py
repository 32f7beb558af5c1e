"""Sampling and beam search over the real encoder-decoders, whose states hold caches, an encoded source and a position."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.generation.beam import beam_search
from keras_llm.generation.decode import greedy, sample
from keras_llm.generation.logits import Rules
from keras_llm.models import MODELS

PAD, START, END = 0, 2, 3
SMALL = {"embedding_dim": 8, "hidden_dim": 8, "num_layers": 1}
KINDS = {
    "lstm": SMALL,
    "transformer": {**SMALL, "num_heads": 4, "num_kv_heads": 2, "feedforward_dim": 16, "positions": "rotary"},
}
SOURCES = np.array([[5, 6, 7, 8, 3], [9, 3, 0, 0, 0], [4, 4, 3, 0, 0]], "int32")
LENGTH = 6


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    keras.utils.set_random_seed(4)
    model = MODELS["closed_book", request.param](12, ModelConfig(**KINDS[request.param]))
    model({"source_ids": ops.array(SOURCES), "target_ids": ops.array(SOURCES)})
    for weight in model.weights:  # untrained models say the same of all sources
        weight.assign(weight.value * 3)
    return model


def begin(model, sources):
    sources = ops.array(sources)
    return ops.full((len(sources),), START, "int32"), model.start(sources, LENGTH)


def search(model, sources):
    rules = Rules(min_length=2, no_repeat_ngram_size=2, forbidden_ids=(PAD,))
    starts, state = begin(model, sources)
    found = beam_search(model.step, starts, state, END, PAD, LENGTH, 3, 0.7, num_results=3, rules=rules)
    return [ops.convert_to_numpy(x) for x in found]


def log_probs(model, source, text):
    """Of each token of a text and its end, all at once."""
    target = np.array([[START, *text, *[PAD] * (LENGTH - len(text))]], "int32")  # one shape: JAX compiles each anew
    logits = model({"source_ids": source[None], "target_ids": target})
    table = ops.convert_to_numpy(ops.log_softmax(logits, axis=-1))[0]
    wanted = [*text, END][:LENGTH]
    return table[np.arange(len(wanted)), wanted]


def test_beam_scores_are_those_of_the_whole_text(model):
    ids, scores = search(model, SOURCES)
    assert len({tuple(row) for row in ids[:, 0].tolist()}) > 1
    for row, source in enumerate(SOURCES):
        assert len({tuple(text) for text in ids[row].tolist()}) == 3
        for text, score in zip(ids[row].tolist(), scores[row], strict=True):
            each = log_probs(model, source, [token for token in text if token != PAD])
            np.testing.assert_allclose(score, each.sum() / len(each) ** 0.7, rtol=1e-4)
        assert (np.diff(scores[row]) <= 0).all()


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="compiles for minutes")
def test_beams_in_a_batch_of_unequal_lengths_are_those_of_each_alone(model):
    ids, scores = search(model, SOURCES)
    for row, source in enumerate(SOURCES):
        alone_ids, alone_scores = search(model, source[source != PAD][None])
        np.testing.assert_array_equal(ids[row], alone_ids[0])
        np.testing.assert_allclose(scores[row], alone_scores[0], rtol=1e-4)


SEEDS = np.array([3, 4, 5], "int32")


def texts(model, sources, seeds):
    rules = Rules(forbidden_ids=(PAD,))
    start = begin(model, sources)
    found = sample(model.step, *start, END, PAD, LENGTH, ops.array(seeds), temperature=1.5, top_p=0.9, rules=rules)
    return [ops.convert_to_numpy(x) for x in found]


def test_log_probabilities_of_samples_are_those_of_the_whole_text(model):
    ids, scores = texts(model, SOURCES, SEEDS)
    for row, source in enumerate(SOURCES):
        each = log_probs(model, source, [token for token in ids[row].tolist() if token != PAD])
        np.testing.assert_allclose(scores[row][: len(each)], each, rtol=1e-4, atol=1e-5)
        assert not scores[row][len(each) :].any()


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="compiles for minutes")
def test_samples_in_a_batch_of_unequal_lengths_are_those_of_each_alone(model):
    ids, scores = texts(model, SOURCES, SEEDS)
    for row, source in enumerate(SOURCES):
        alone_ids, alone_scores = texts(model, source[source != PAD][None], SEEDS[row : row + 1])
        np.testing.assert_array_equal(ids[row], alone_ids[0])
        np.testing.assert_allclose(scores[row], alone_scores[0], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a TensorFlow graph")
def test_all_strategies_in_one_saved_model(model, tmp_path):
    import tensorflow as tf

    def begin(source_ids):
        return tf.fill([tf.shape(source_ids)[0]], START), model.start(source_ids, LENGTH)

    def serving_default(source_ids):
        ids, log_probs = greedy(model.step, *begin(source_ids), END, PAD, LENGTH)
        return {"ids": ids, "log_probs": log_probs}

    def sampled(source_ids, seed, temperature):
        ids, log_probs = sample(model.step, *begin(source_ids), END, PAD, LENGTH, seed, temperature)
        return {"ids": ids, "log_probs": log_probs}

    def beam(source_ids, length_penalty):
        ids, scores = beam_search(model.step, *begin(source_ids), END, PAD, LENGTH, 3, length_penalty)
        return {"ids": ids[:, 0], "scores": scores[:, 0]}

    source = tf.TensorSpec([None, None], tf.int32, name="source_ids")
    rows = [
        tf.TensorSpec([None], dtype, name=name) for name, dtype in [("seed", tf.int32), ("temperature", tf.float32)]
    ]
    number = tf.TensorSpec([], tf.float32, name="length_penalty")
    functions = {
        "serving_default": tf.function(serving_default, input_signature=[source], autograph=False),
        "sample": tf.function(sampled, input_signature=[source, *rows], autograph=False),
        "beam": tf.function(beam, input_signature=[source, number], autograph=False),
    }
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=functions)
    loaded = tf.saved_model.load(str(tmp_path / "m")).signatures
    used = set()
    for function in loaded.values():
        graph = function.graph.as_graph_def()
        used |= {node.op for node in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    assert not [op for op in used if op.startswith(("Xla", "PyFunc", "EagerPyFunc", "Assert", "Ragged"))]
    for sources in (SOURCES, SOURCES[1:2, :2], SOURCES[:0]):
        inputs = {
            "serving_default": (tf.constant(sources),),
            "sample": (tf.constant(sources), tf.range(len(sources)), tf.fill([len(sources)], 0.8)),
            "beam": (tf.constant(sources), tf.constant(0.5)),
        }
        names = {"sample": ["seed", "temperature"], "beam": ["length_penalty"], "serving_default": []}
        eager = {"serving_default": serving_default, "sample": sampled, "beam": beam}
        for name, function in loaded.items():
            values = dict(zip(["source_ids", *names[name]], inputs[name], strict=True))
            found = function(**values)
            if not len(sources):
                assert found["ids"].shape == (0, LENGTH)
                continue
            expected = eager[name](*inputs[name])
            np.testing.assert_array_equal(found["ids"].numpy(), expected["ids"].numpy())

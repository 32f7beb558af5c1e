"""The pointer-generator head against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.layers.copying import PointerGenerator

B, T, S, D, V = 2, 3, 5, 4, 7


def numpy_twin(logits, gates, weights, source_ids):
    written = np.exp(logits - logits.max(-1, keepdims=True))
    written /= written.sum(-1, keepdims=True)
    copied = np.zeros_like(written)
    for b in range(B):
        for s in range(S):
            copied[b, :, source_ids[b, s]] += weights[b, :, s]
    return gates * written + (1 - gates) * copied


def parts():
    random = np.random.default_rng(0)
    logits = random.normal(size=(B, T, V)).astype("float32")
    features = random.normal(size=(B, T, D)).astype("float32")
    weights = random.dirichlet(np.ones(S), (B, T)).astype("float32")
    return logits, features, weights, np.array([[1, 6, 1, 3, 1], [2, 2, 2, 2, 0]], "int32")


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_it_mixes_what_is_written_and_what_is_copied(policy):
    keras.utils.set_random_seed(0)
    logits, features, weights, source_ids = parts()
    head = PointerGenerator(dtype=policy)
    found = head(*map(ops.array, (logits, features, weights, source_ids)))
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    kernel, bias = (ops.convert_to_numpy(weight) for weight in head.gate.weights)
    expected = numpy_twin(logits, 1 / (1 + np.exp(-(features @ kernel + bias))), weights, source_ids)
    probabilities = np.exp(ops.convert_to_numpy(found))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6 if policy == "float32" else 5e-3)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


def test_a_gate_that_is_open_or_shut_leaves_one_of_them():
    logits, features, weights, source_ids = parts()
    for bias, of_the_source in ((60.0, False), (-60.0, True)):
        head = PointerGenerator()
        head.build(logits.shape, features.shape)
        head.gate.set_weights([np.zeros((D, 1), "float32"), np.array([bias], "float32")])
        found = ops.convert_to_numpy(head(*map(ops.array, (logits, features, weights, source_ids))))
        expected = numpy_twin(logits, float(not of_the_source), weights, source_ids)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(np.exp(found), expected, atol=1e-6)


def test_its_example_is_right():
    weights, source_ids = ops.array([[[0.75, 0.25]]]), ops.array([[2, 1]])
    found = PointerGenerator()(ops.zeros((1, 1, 3)), ops.zeros((1, 1, 4)), weights, source_ids)
    np.testing.assert_allclose(np.exp(ops.convert_to_numpy(found))[0, 0], [1 / 6, 7 / 24, 13 / 24], atol=1e-6)

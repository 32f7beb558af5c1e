"""The encoder that fills gaps: heads against a NumPy twin, both directions seen, padding unseen, gradients everywhere."""

import functools
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.models.transformer_masked_lm import TransformerMaskedLanguageModel

V = 19
TINY = {"embedding_dim": 8, "num_layers": 2, "num_heads": 2, "feedforward_dim": 12, "dropout": 0.0, "context_length": 6}
MODELS = {
    "rotary": {"num_kv_heads": 1, "activation": "swiglu"},
    "bert": {"positions": "learned", "norm": "layer", "norm_first": False},
    "sinusoidal": {"positions": "sinusoidal"},
}


@functools.cache
def build(name, next_sentence=True):
    keras.utils.set_random_seed(0)
    model = TransformerMaskedLanguageModel(V, ModelConfig(**{**TINY, **MODELS[name]}), next_sentence=next_sentence)
    model.build()
    random = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(weight + 0.3 * random.normal(size=weight.shape).astype("float32"))
    return model


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def some(rows=2, length=6, seed=0):
    random = np.random.default_rng(seed)
    return {
        "token_ids": random.integers(4, V, (rows, length)).astype("int32"),
        "segment_ids": np.repeat([[0, 1]], length // 2, axis=1).repeat(rows, axis=0).astype("int32"),
        "mask_positions": np.array([[1, 3, 0]] * rows, "int32"),
    }


def called(model, inputs):
    return {name: array(value) for name, value in model(inputs).items()}


@pytest.mark.parametrize("name", MODELS)
def test_heads_are_what_they_should_be_over_the_encoders_vectors(name):
    model, inputs = build(name), some()
    states, found = array(model.encoder(inputs)), called(model, inputs)
    picked = np.take_along_axis(states, inputs["mask_positions"][..., None], 1)
    erf = np.vectorize(math.erf)
    x = picked @ weight(model, "transform/kernel") + weight(model, "transform/bias")
    x = x * (0.5 * (1 + erf(x / np.sqrt(2))))
    if MODELS[name].get("norm") == "layer":
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x = x * weight(model, "transform_norm/scale") + weight(model, "transform_norm/shift")
    else:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight(model, "transform_norm/scale")
    wanted = x @ array(model.embedding.embeddings).T + array(model.bias)
    np.testing.assert_allclose(found["tokens"], wanted, atol=2e-4)
    pooled = np.tanh(states[:, 0] @ weight(model, "pool/kernel") + weight(model, "pool/bias"))
    np.testing.assert_allclose(
        found["next"], pooled @ weight(model, "judge/kernel") + weight(model, "judge/bias"), atol=2e-4
    )


def weight(model, path):
    return array(next(w for w in model.weights if w.path.endswith(f"/{path}")))


@pytest.mark.parametrize("name", MODELS)
def test_padding_is_not_seen_and_both_directions_are(name):
    model, inputs = build(name), some(1)
    whole = called(model, inputs)
    padded = {key: np.pad(value, ((0, 0), (0, 3))) for key, value in inputs.items() if key != "mask_positions"}
    found = called(model, {**padded, "mask_positions": inputs["mask_positions"]})
    for head in whole:
        np.testing.assert_allclose(found[head], whole[head], atol=2e-5)
    for place in (0, 2, 5):  # before and behind the masks at 1 and 3
        changed = {**inputs, "token_ids": inputs["token_ids"].copy()}
        changed["token_ids"][0, place] = 4 + (changed["token_ids"][0, place] - 3) % (V - 4)
        assert np.abs(called(model, changed)["tokens"][0, :2] - whole["tokens"][0, :2]).max(-1).min() > 1e-4
    other = {**inputs, "segment_ids": 1 - inputs["segment_ids"]}
    assert np.abs(called(model, other)["next"] - whole["next"]).max() > 1e-4


def test_without_pairs_there_is_one_head():
    model, inputs = build("rotary", next_sentence=False), some()
    assert set(called(model, inputs)) == {"tokens"}
    names = {w.path.split("/")[1] for w in model.weights}
    assert not names & {"segments", "pool", "judge"} and "transform" in names


def test_attention_to_draw():
    found = build("bert").attention(some(1))
    assert found["axes"] == ("token_ids", "token_ids") and found["weights"].shape == (6, 6)
    np.testing.assert_allclose(found["weights"].sum(-1), 1, atol=1e-5)
    assert np.triu(found["weights"], 1).max() > 0.01  # to the right, too


def test_every_weight_learns():
    keras.utils.set_random_seed(0)
    model = TransformerMaskedLanguageModel(V, ModelConfig(**TINY, norm_first=False, positions="learned", norm="layer"))
    model.build()
    losses = {name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in ("tokens", "next")}
    model.compile("sgd", loss=losses, jit_compile=keras.backend.backend() == "jax")
    before = {w.path: array(w) for w in model.trainable_weights}
    inputs = some(4, seed=3)
    labels = {"tokens": inputs["mask_positions"] + 7, "next": np.array([0, 1, 1, 0])}
    weights = {"tokens": np.ones((4, 3), "float32"), "next": np.ones(4, "float32")}
    first = model.train_on_batch(inputs, labels, weights)
    for _ in range(10):
        last = model.train_on_batch(inputs, labels, weights)
    assert np.ravel(last)[0] < np.ravel(first)[0]
    assert all(np.abs(array(w) - before[w.path]).max() > 0 for w in model.trainable_weights)

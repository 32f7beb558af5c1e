"""Causal language models: steps equal the whole, packed documents equal separate ones, long texts are scored in windows."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.models.feedforward_lm import FeedForwardLanguageModel
from keras_llm.models.lstm_lm import LSTMAttentionLanguageModel, LSTMLanguageModel
from keras_llm.models.transformer_lm import TransformerLanguageModel

V = 19
CONTEXT = 6
TINY = {
    "embedding_dim": 8,
    "hidden_dim": 12,
    "num_layers": 2,
    "num_heads": 2,
    "feedforward_dim": 12,
    "dropout": 0.0,
    "context_length": CONTEXT,
    "order": 4,
}
MODELS = {
    "feedforward": (FeedForwardLanguageModel, {}),
    "feedforward direct": (FeedForwardLanguageModel, {"direct_connections": True, "tied": False}),
    "lstm": (LSTMLanguageModel, {}),
    "lstm untied": (LSTMLanguageModel, {"tied": False, "num_layers": 1}),
    "lstm attention": (LSTMAttentionLanguageModel, {"num_layers": 1}),
    "transformer rotary": (TransformerLanguageModel, {"num_kv_heads": 1, "activation": "swiglu"}),
    "transformer learned": (TransformerLanguageModel, {"positions": "learned", "norm": "layer", "tied": False}),
    "transformer like GPT-2": (
        TransformerLanguageModel,
        {"positions": "learned", "norm": "layer", "activation": "gelu_tanh", "scale_embedding": False},
    ),
    "transformer like Qwen3": (
        TransformerLanguageModel,
        {
            "num_kv_heads": 1,
            "head_dim": 6,
            "activation": "swiglu",
            "qk_norm": True,
            "norm_epsilon": 1e-6,
            "rotary_base": 1e6,
            **dict.fromkeys(["qkv_bias", "output_bias", "feedforward_bias", "scale_embedding"], False),
        },
    ),
    "transformer sinusoidal": (TransformerLanguageModel, {"positions": "sinusoidal", "norm_first": False}),
}
# Texts are scored where they are read: in TensorFlow graphs.
scoring = pytest.mark.skipif(keras.backend.backend() == "jax", reason="texts are scored on TensorFlow")
TRANSFORMERS = [name for name in MODELS if name.startswith("transformer")]


@functools.cache
def build(name, **changes):
    keras.utils.set_random_seed(0)
    kind, settings = MODELS[name]
    model = kind(V, ModelConfig(**{**TINY, **settings, **changes}))
    model.build()
    # Larger weights than the initial ones: tokens then differ clearly, and no test passes because all is nearly zero.
    random = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(weight + 0.3 * random.normal(size=weight.shape).astype("float32"))
    return model


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def some_ids(rows, length, seed=0):
    return np.random.default_rng(seed).integers(4, V, (rows, length)).astype("int32")


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def log_probs(logits, labels):
    return np.take_along_axis(log_softmax(array(logits)), labels[..., None], -1)[..., 0]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_steps_equal_the_whole(name, count):
    model, ids = build(name), some_ids(2, 5)
    whole = array(model({"token_ids": ids}))
    assert whole.shape == (2, 5, V)
    prompt = np.where(np.arange(3) < count, ids[:, :3], 7).astype("int32")  # what stands behind `count` does not matter
    state = model.start(ops.convert_to_tensor(prompt), ops.convert_to_tensor(count), 5)
    for t in range(count, 5):
        logits, state = model.step(ops.convert_to_tensor(ids[:, t]), state)
        np.testing.assert_allclose(array(logits), whole[:, t], atol=2e-5)


@pytest.mark.parametrize("name", ["feedforward", "feedforward direct", *TRANSFORMERS])
def test_packed_documents_equal_separate_ones(name):
    model = build(name)
    first, second = some_ids(1, 3, 1), some_ids(1, 2, 2)
    packed = {
        "token_ids": np.concatenate([first, second], 1),
        "segment_ids": np.array([[0, 0, 0, 1, 1]], "int32"),
        "positions": np.array([[0, 1, 2, 0, 1]], "int32"),
    }
    found = array(model(packed))
    np.testing.assert_allclose(found[:, :3], array(model({"token_ids": first})), atol=2e-5)
    np.testing.assert_allclose(found[:, 3:], array(model({"token_ids": second})), atol=2e-5)


@scoring
@pytest.mark.parametrize("name", MODELS)
def test_a_short_text_is_scored_as_the_whole(name):
    model, ids = build(name), some_ids(3, CONTEXT + 1)
    wanted = log_probs(model({"token_ids": ids[:, :-1]}), ids[:, 1:])
    np.testing.assert_allclose(array(model.log_probs(ops.convert_to_tensor(ids))), wanted, atol=2e-5)


@scoring
@pytest.mark.parametrize("length", [8, 13, 21])
@pytest.mark.parametrize("name", ["lstm attention", *TRANSFORMERS])
def test_a_long_text_is_scored_in_windows_that_share_half(name, length):
    model, ids = build(name), some_ids(2, length)
    wanted, half = np.zeros((2, length - 1)), CONTEXT // 2
    # Predictions half * i ... half * i + half - 1 come from a window of CONTEXT tokens that ends there.
    for first in range(0, length - 1, half):
        start = max(first - half, 0)
        end = min(first + half, length - 1)
        logits = model({"token_ids": ids[:, start:end]})
        wanted[:, first:end] = log_probs(logits, ids[:, start + 1 : end + 1])[:, first - start :]
    np.testing.assert_allclose(array(model.log_probs(ops.convert_to_tensor(ids))), wanted, atol=3e-5)


@scoring
def test_a_feed_forward_model_scores_every_token_from_all_it_can_see():
    model, ids = build("feedforward"), some_ids(2, 17)
    wanted = log_probs(model({"token_ids": ids[:, :-1]}), ids[:, 1:])
    np.testing.assert_allclose(array(model.log_probs(ops.convert_to_tensor(ids))), wanted, atol=2e-5)


@scoring
@pytest.mark.parametrize("name", ["lstm", "lstm untied"])
def test_an_lstm_scores_every_token_from_all_before(name):
    model, ids = build(name), some_ids(2, 150)
    wanted = log_probs(model({"token_ids": ids[:, :-1]}), ids[:, 1:])
    np.testing.assert_allclose(array(model.log_probs(ops.convert_to_tensor(ids))), wanted, atol=5e-5)


def test_an_lstm_carries_its_state_from_batch_to_batch():
    keras.utils.set_random_seed(0)
    model = LSTMLanguageModel(V, ModelConfig(**TINY))
    model.build()
    before = len(model.weights)
    model.carry(2)
    assert len(model.weights) == before + 4
    ids, keep = some_ids(2, 12), np.ones(2, "float32")
    whole = array(model({"token_ids": ids}))
    parts = [
        array(model({"token_ids": ids[:, t : t + 4], "keep": keep * (t > 0)}, training=True)) for t in range(0, 12, 4)
    ]
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=2e-5)
    # A row that does not go on begins anew, the other goes on.
    both = array(model({"token_ids": ids[:, :4], "keep": np.array([0, 1], "float32")}, training=True))
    np.testing.assert_allclose(both[0], whole[0, :4], atol=2e-5)
    assert np.abs(both[1] - whole[1, :4]).max() > 1e-3


def test_a_transformer_writes_on_when_its_context_is_full():
    """With one block, the newest token sees what it would see of the last C tokens alone: rotary positions are relative."""
    model, ids = build("transformer rotary", num_layers=1), some_ids(1, 2 * CONTEXT + 3)
    state = model.start(ops.convert_to_tensor(ids[:, :2]), 2, 100)
    for t in range(2, ids.shape[1]):
        logits, state = model.step(ops.convert_to_tensor(ids[:, t]), state)
        seen = ids[:, max(t + 1 - CONTEXT, 0) : t + 1]
        np.testing.assert_allclose(array(logits), array(model({"token_ids": seen}))[:, -1], atol=3e-5)


def test_what_blocks_add_is_initialised_smaller_the_more_there_are():
    stds = []
    for layers in (1, 4):
        keras.utils.set_random_seed(0)
        model = TransformerLanguageModel(V, ModelConfig(**{**TINY, "num_layers": layers, "embedding_dim": 32}))
        model.build()
        stds.append(array(model.blocks[0].feedforward.outer.kernel).std())
    assert stds[1] == pytest.approx(stds[0] / 2, rel=0.15)


def test_attention_to_draw():
    found = build("transformer rotary").attention({"token_ids": some_ids(1, 4)})
    assert found["axes"] == ("token_ids", "token_ids")
    np.testing.assert_allclose(found["weights"].sum(-1), 1, atol=1e-5)
    assert np.triu(found["weights"], 1).max() < 1e-6

"""Transformer blocks against NumPy twins and KerasHub's layers with copied weights."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.layers.embedding import positions_of
from keras_llm.layers.transformer import FeedForward, TransformerBlock, normalisation

not_on_jax = pytest.mark.skipif(keras.backend.backend() == "jax", reason="importing keras_hub loads TensorFlow")


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def with_weights(layer, *shapes):
    layer.build(*shapes)
    layer.set_weights([0.4 * normal(*w.shape, seed=i) + (w.shape == (8,)) for i, w in enumerate(layer.weights)])
    return layer


def dense(layer):
    """The weights of a Linear as those of a Dense: [D, F], [F]."""
    kernel = array(layer.kernel)
    return kernel.T if layer.transposed else kernel, array(layer.bias) if layer.use_bias else 0.0


MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], bool)


def test_layer_norm_equals_its_formula():
    norm = with_weights(normalisation("layer"), (None, None, 8))
    x = 3 + 2 * normal(2, 5, 8)
    scale, shift = (array(w) for w in norm.weights)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + shift
    np.testing.assert_allclose(array(norm(ops.array(x))), expected, atol=1e-5)


def test_rms_norm_equals_its_formula():
    norm = with_weights(normalisation("rms"), (None, None, 8))
    x = 3 + 2 * normal(2, 5, 8)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * array(norm.weights[0])
    np.testing.assert_allclose(array(norm(ops.array(x))), expected, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms_of_large_float16_numbers_do_not_overflow(norm):
    x = 300 * normal(2, 5, 8)  # squares pass 65504, float16's end
    y = normalisation(norm, dtype="mixed_float16")(ops.cast(ops.array(x), "float16"))
    expected = array(normalisation(norm)(ops.array(x)))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    np.testing.assert_allclose(array(y), expected, atol=5e-3)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms_have_an_epsilon(norm):
    layer = with_weights(normalisation(norm, epsilon=0.25), (None, None, 8))
    x = 0.5 * normal(2, 5, 8)
    mean, shift = (x.mean(-1, keepdims=True), array(layer.weights[1])) if norm == "layer" else (0.0, 0.0)
    expected = (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 0.25) * array(layer.weights[0]) + shift
    np.testing.assert_allclose(array(layer(ops.array(x))), expected, atol=1e-5)
    assert type(layer).from_config(layer.get_config()).epsilon == 0.25


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "swiglu"])
def test_feed_forward_equals_its_formula(activation, use_bias):
    layer = with_weights(FeedForward(6, activation, use_bias), (None, None, 8))
    assert len(layer.weights) == (4 if use_bias else 2)
    x = normal(2, 3, 8)
    (inner, inner_bias), (outer, outer_bias) = dense(layer.inner), dense(layer.outer)
    hidden = x @ inner + inner_bias
    if activation == "gelu":
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    elif activation == "gelu_tanh":
        hidden = hidden * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    elif activation == "relu":
        hidden = np.maximum(hidden, 0)
    else:
        gate, up = np.split(hidden, 2, -1)
        hidden = gate / (1 + np.exp(-gate)) * up
    np.testing.assert_allclose(array(layer(ops.array(x))), hidden @ outer + outer_bias, atol=1e-5)


def block_twin(block, x, memory=None):
    """The order of norms, parts and residual paths, over the block's own parts."""

    def call(part, *inputs, **kwargs):
        return array(part(*(ops.array(i) for i in inputs), **kwargs))

    parts = [(block.self_norm, lambda x: call(block.self_attention, x, causal=block.causal))]
    if block.cross_attention:
        parts.append((block.memory_norm, lambda x: call(block.memory_attention, x, memory)))
    parts.append((block.feedforward_norm, lambda x: call(block.feedforward, x)))
    for norm, part in parts:
        x = x + part(call(norm, x)) if block.norm_first else call(norm, x + part(x))
    return x


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("cross_attention", [False, True])
def test_a_block_joins_its_parts_in_order(norm_first, cross_attention):
    block = TransformerBlock(2, 8, 6, norm_first=norm_first, cross_attention=cross_attention, causal=cross_attention)
    block = with_weights(block, (None, None, 8))
    x, memory = normal(2, 5, 8), normal(2, 3, 8, seed=1)
    y = block(ops.array(x), memory=ops.array(memory) if cross_attention else None)
    np.testing.assert_allclose(array(y), block_twin(block, x, memory), atol=1e-4)


def hub_weights(block, names):
    """Our weights in the order and shapes of KerasHub's sub-layers."""
    width, heads = block.hidden_dim, block.num_heads

    def attention(layer, fused):
        kernels, biases = [], []
        for part, sizes in fused:
            kernels += np.split(array(part.kernel), sizes, -1)
            biases += np.split(array(part.bias), sizes, -1)
        weights = []
        for kernel, bias in zip(kernels, biases, strict=True):
            weights += [kernel.reshape(width, heads, -1), bias.reshape(heads, -1)]
        output = layer.output_projection
        return [*weights, array(output.kernel).reshape(heads, -1, width), array(output.bias)]

    found = {
        "self": attention(block.self_attention, [(block.self_attention.qkv_projection, 3)]),
        "self_norm": block.self_norm.get_weights(),
        "inner": dense(block.feedforward.inner),
        "outer": dense(block.feedforward.outer),
        "feedforward_norm": block.feedforward_norm.get_weights(),
    }
    if block.cross_attention:
        cross = block.memory_attention
        found["memory"] = attention(cross, [(cross.query_projection, 1), (cross.kv_projection, 2)])
        found["memory_norm"] = block.memory_norm.get_weights()
    return [w for name in names for w in found[name]]


@not_on_jax
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_keras_hub_encoder_agrees(norm_first, activation):
    keras_hub = pytest.importorskip("keras_hub")
    block = TransformerBlock(2, 8, 6, norm="layer", norm_first=norm_first, activation=activation)
    block = with_weights(block, (None, None, 8))
    oracle = keras_hub.layers.TransformerEncoder(
        6, 2, activation=activation, normalize_first=norm_first, layer_norm_epsilon=1e-5
    )
    x = ops.array(normal(2, 5, 8))
    oracle(x)
    oracle.set_weights(hub_weights(block, ["self", "self_norm", "feedforward_norm", "inner", "outer"]))
    np.testing.assert_allclose(array(block(x)), array(oracle(x)), atol=1e-4)
    mask = ops.array(MASK)
    ours, theirs = array(block(x, mask=mask)), array(oracle(x, padding_mask=mask))
    np.testing.assert_allclose(ours[MASK], theirs[MASK], atol=1e-4)


@not_on_jax
@pytest.mark.parametrize("norm_first", [False, True])
def test_keras_hub_decoder_agrees(norm_first):
    keras_hub = pytest.importorskip("keras_hub")
    block = TransformerBlock(2, 8, 6, norm="layer", norm_first=norm_first, cross_attention=True, causal=True)
    block = with_weights(block, (None, None, 8))
    oracle = keras_hub.layers.TransformerDecoder(
        6, 2, activation="gelu", normalize_first=norm_first, layer_norm_epsilon=1e-5
    )
    x, memory, mask = ops.array(normal(2, 4, 8)), ops.array(normal(2, 5, 8, seed=1)), ops.array(MASK)
    oracle(x, memory)
    names = ["self", "self_norm", "memory", "memory_norm", "inner", "outer", "feedforward_norm"]
    oracle.set_weights(hub_weights(block, names))
    expected = oracle(x, memory, encoder_padding_mask=mask)
    np.testing.assert_allclose(array(block(x, memory=memory, memory_mask=mask)), array(expected), atol=1e-4)


@pytest.mark.parametrize("cross_attention", [False, True])
def test_step_by_step_with_a_cache_equals_the_whole(cross_attention):
    block = TransformerBlock(
        4, 8, 6, num_kv_heads=2, activation="swiglu", rotary=True, causal=True, cross_attention=cross_attention
    )
    block = with_weights(block, (None, None, 8))
    x = ops.array(normal(2, 4, 8))
    memory, mask = (ops.array(normal(2, 5, 8, seed=1)), ops.array(MASK)) if cross_attention else (None, None)
    whole = array(block(x, memory=memory, memory_mask=mask))
    cache = block.new_cache(x, 4, memory)
    for t in range(4):
        y, cache = block(x[:, t : t + 1], memory_mask=mask, cache=cache, position=t)
        np.testing.assert_allclose(array(y)[:, 0], whole[:, t], atol=1e-4)


def test_padding_in_the_middle_changes_no_value():
    block = with_weights(TransformerBlock(2, 8, 6, rotary=True), (None, None, 8))
    x = normal(1, 4, 8)
    alone = array(block(ops.array(x)))
    padded = np.concatenate([x[:, :2], 9 * normal(1, 3, 8), x[:, 2:], 9 * normal(1, 1, 8)], axis=1)
    mask = ops.array([[1, 1, 0, 0, 0, 1, 1, 0]], "bool")
    y = array(block(ops.array(padded), mask=mask, positions=positions_of(mask)))
    np.testing.assert_allclose(y[:, [0, 1, 5, 6]], alone, atol=1e-5)


def test_return_weights_are_those_of_the_memory():
    block = with_weights(TransformerBlock(2, 8, 6, cross_attention=True, causal=True), (None, None, 8))
    x, memory, mask = ops.array(normal(2, 3, 8)), ops.array(normal(2, 5, 8)), ops.array(MASK)
    y, weights = block(x, memory=memory, memory_mask=mask, return_weights=True)
    np.testing.assert_allclose(array(y), array(block(x, memory=memory, memory_mask=mask)), atol=1e-6)
    assert weights.shape == (2, 2, 3, 5)
    np.testing.assert_allclose(array(weights).sum(-1), 1.0, atol=1e-5)
    assert (array(weights)[1, :, :, 2:] == 0).all()
    (
        _,
        weights,
    ) = TransformerBlock(2, 8, 6)(x, return_weights=True)
    assert weights.shape == (2, 2, 3, 3)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_keeps_float32_weights_and_near_values(policy):
    exact = with_weights(TransformerBlock(2, 8, 6, rotary=True, causal=True), (None, None, 8))
    half = TransformerBlock(2, 8, 6, rotary=True, causal=True, dtype=policy)
    half.build((None, None, 8))
    half.set_weights(exact.get_weights())
    assert {keras.backend.standardize_dtype(w.dtype) for w in half.weights} == {"float32"}
    x, mask = ops.array(normal(2, 5, 8)), ops.array(MASK)
    y = half(x, mask=mask)
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    expected = array(exact(x, mask=mask))
    assert np.abs(array(y) - expected).max() < 0.03 * np.abs(expected).max()


def test_dropout_acts_while_training_only():
    block = TransformerBlock(2, 8, 6, dropout=0.5)
    x = ops.array(normal(2, 5, 8))
    np.testing.assert_array_equal(array(block(x)), array(block(x, training=False)))
    assert np.abs(array(block(x, training=True)) - array(block(x))).max() > 1e-3


@pytest.mark.parametrize("wrong", [{"norm": "batch"}, {"activation": "tanh"}])
def test_unknown_kinds_are_refused(wrong):
    with pytest.raises(ValueError, match=f"Received: {next(iter(wrong))}="):
        TransformerBlock(2, 8, 6, **wrong)


@pytest.mark.parametrize("cross_attention", [False, True])
def test_a_block_comes_back_from_its_config(cross_attention):
    block = TransformerBlock(
        4,
        8,
        6,
        num_kv_heads=2,
        activation="swiglu",
        norm="layer",
        norm_first=False,
        cross_attention=cross_attention,
        causal=True,
        rotary={"base": 50.0},
        dropout=0.1,
        norm_epsilon=1e-3,
        head_dim=6,
        qkv_bias=False,
        output_bias=False,
        feedforward_bias=False,
        qk_norm=True,
    )
    again = TransformerBlock.from_config(block.get_config())
    assert again.get_config() == block.get_config()
    x = ops.array(normal(2, 4, 8))
    memory = x if cross_attention else None
    y = block(x, memory=memory)
    again(x, memory=memory)
    again.set_weights(block.get_weights())
    np.testing.assert_array_equal(array(again(x, memory=memory)), array(y))

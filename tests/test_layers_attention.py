"""Additive and dot attention; multi-head and grouped-query attention, whole and with a cache."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.layers import cache
from keras_llm.layers.attention import AdditiveAttention, DotAttention
from keras_llm.layers.embedding import RotaryEmbedding, positions_of
from keras_llm.layers.multi_head_attention import MultiHeadAttention


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


MASK = np.array([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]], bool)


def weights_of(layer, *shapes):
    """Builds the layer and gives it weights that are not zero anywhere, biases included."""
    layer.build(*shapes)
    layer.set_weights([0.5 * normal(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    return layer


def test_additive_attention_equals_its_formula():
    layer = weights_of(AdditiveAttention(3), (None, None, 4), (None, None, 6))
    query, memory = normal(2, 3, 4), normal(2, 5, 6, seed=1)
    context, weights = layer(ops.array(query), ops.array(memory), mask=ops.array(MASK))
    w, u, b, v = (
        array(x)
        for x in (
            layer.query_projection.kernel,
            layer.key_projection.kernel,
            layer.key_projection.bias,
            layer.score,
        )
    )
    scores = np.tanh((query @ w)[:, :, None] + (memory @ u + b)[:, None]) @ v
    expected = softmax(np.where(MASK[:, None], scores[..., 0], -np.inf))
    np.testing.assert_allclose(array(weights), expected, atol=1e-6)
    np.testing.assert_allclose(array(context), expected @ memory, atol=1e-5)


@pytest.mark.parametrize("kind", ["dot", "general"])
def test_dot_attention_equals_its_formula(kind):
    width = 4 if kind == "dot" else 6
    layer = weights_of(DotAttention(kind), (None, None, 4), (None, None, width))
    query, memory = normal(2, 3, 4), normal(2, 5, width, seed=1)
    context, weights = layer(ops.array(query), ops.array(memory), mask=ops.array(MASK))
    keys = memory if kind == "dot" else memory @ array(layer.key_projection.kernel)
    expected = softmax(np.where(MASK[:, None], query @ keys.transpose(0, 2, 1), -np.inf))
    np.testing.assert_allclose(array(weights), expected, atol=1e-6)
    np.testing.assert_allclose(array(context), expected @ memory, atol=1e-5)


@pytest.mark.parametrize("layer", [AdditiveAttention(3), DotAttention("general")])
def test_projected_keys_can_be_reused(layer):
    query, memory = ops.array(normal(2, 3, 4)), ops.array(normal(2, 5, 6))
    context, _ = layer(query, memory)
    again, _ = layer(query, memory, keys=layer.keys(memory))
    np.testing.assert_allclose(array(again), array(context), atol=1e-6)


def test_dot_attention_refuses_unequal_widths_and_unknown_kinds():
    with pytest.raises(ValueError, match='Use kind="general"'):
        DotAttention("dot")(ops.zeros((1, 2, 4)), ops.zeros((1, 2, 6)))
    with pytest.raises(ValueError, match="Received: kind='cosine'"):
        DotAttention("cosine")


def linear(layer, x):
    """A product of matrices in NumPy, its kernel kept either way."""
    kernel = array(layer.kernel)
    y = x @ (kernel.T if layer.transposed else kernel)
    return y + array(layer.bias) if layer.use_bias else y


def attention_twin(layer, x, memory=None, mask=None, causal=False, positions=None):
    """NumPy, one head at a time -> y, weights."""
    x = np.asarray(x, "float32")
    d, heads, kv_heads = layer.head_dim, layer.num_heads, layer.num_kv_heads
    if layer.cross:
        q = linear(layer.query_projection, x)
        k, v = np.split(linear(layer.kv_projection, memory), 2, -1)
    else:
        q, k, v = np.split(linear(layer.qkv_projection, x), [heads * d, (heads + kv_heads) * d], -1)
    q, k, v = (part.reshape(*part.shape[:2], -1, d) for part in (q, k, v))
    if layer.qk_norm:
        scales = array(layer.query_norm.scale), array(layer.key_norm.scale)
        q, k = (
            part / np.sqrt((part**2).mean(-1, keepdims=True) + layer.norm_epsilon) * scale
            for part, scale in zip((q, k), scales, strict=True)
        )
    if layer.rotary:
        positions = np.arange(x.shape[1])[None] if positions is None else positions
        rotate = RotaryEmbedding(d, **(layer.rotary if isinstance(layer.rotary, dict) else {}))
        q, k = (array(rotate(ops.array(part), ops.array(positions))) for part in (q, k))
    seen = np.ones((x.shape[0], x.shape[1], k.shape[1]), bool)
    if mask is not None:
        seen = seen & mask[:, None]
    if causal:
        seen = seen & np.tri(x.shape[1], k.shape[1], dtype=bool)
    outputs, weights = [], []
    for head in range(heads):
        group = head // (heads // kv_heads)
        scores = q[:, :, head] @ k[:, :, group].transpose(0, 2, 1) / np.sqrt(d)
        weights.append(softmax(np.where(seen, scores, -1e30)))
        outputs.append(weights[-1] @ v[:, :, group])
    return linear(layer.output_projection, np.concatenate(outputs, -1)), np.stack(weights, 1)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("rotary", [False, True])
def test_self_attention_equals_its_formula(kv_heads, rotary):
    layer = weights_of(MultiHeadAttention(4, kv_heads, rotary=rotary), (None, None, 16))
    x = normal(2, 5, 16)
    for mask, causal in itertools.product((None, MASK), (False, True)):
        y, weights = layer(
            ops.array(x), mask=None if mask is None else ops.array(mask), causal=causal, return_weights=True
        )
        expected, expected_weights = attention_twin(layer, x, mask=mask, causal=causal)
        np.testing.assert_allclose(array(weights), expected_weights, atol=1e-5)
        np.testing.assert_allclose(array(y), expected, atol=1e-4)


PRETRAINED = {
    "Llama": {"qkv_bias": False, "output_bias": False, "rotary": {"base": 500.0}},
    "Qwen2": {"output_bias": False, "rotary": {"base": 500.0}},
    "Qwen3": {"qkv_bias": False, "output_bias": False, "qk_norm": True, "norm_epsilon": 1e-2, "rotary": True},
    "narrow heads": {"head_dim": 2, "qk_norm": True},
    "wide heads": {"head_dim": 10, "rotary": {"base": 50.0, "scaling": {"kind": "linear", "factor": 2.0}}},
}


@pytest.mark.parametrize("name", PRETRAINED)
def test_attention_of_pretrained_families_equals_its_formula(name):
    layer = weights_of(MultiHeadAttention(4, 2, **PRETRAINED[name]), (None, None, 16))
    x = ops.array(normal(2, 5, 16))
    expected, expected_weights = attention_twin(layer, array(x), mask=MASK, causal=True)
    y, weights = layer(x, mask=ops.array(MASK), causal=True, return_weights=True)
    np.testing.assert_allclose(array(weights), expected_weights, atol=1e-5)
    np.testing.assert_allclose(array(y), expected, atol=1e-4)
    whole, cache = array(layer(x, causal=True)), layer.new_cache(x, 5)
    for position in range(5):
        y, cache = layer(x[:, position : position + 1], causal=True, cache=cache, position=position)
        np.testing.assert_allclose(array(y)[:, 0], whole[:, position], atol=1e-5)


def test_cross_attention_equals_its_formula_and_takes_a_projected_memory():
    layer = weights_of(MultiHeadAttention(4, 2, cross=True), (None, None, 16), (None, None, 6))
    x, memory = normal(2, 3, 16), normal(2, 5, 6, seed=1)
    y, weights = layer(ops.array(x), ops.array(memory), mask=ops.array(MASK), return_weights=True)
    expected, expected_weights = attention_twin(layer, x, memory, mask=MASK)
    np.testing.assert_allclose(array(weights), expected_weights, atol=1e-5)
    np.testing.assert_allclose(array(y), expected, atol=1e-4)
    projected = layer.project_memory(ops.array(memory))
    np.testing.assert_allclose(array(layer(ops.array(x), projected, mask=ops.array(MASK))), array(y), atol=1e-6)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_keras_attention_agrees_with_copied_weights(kv_heads):
    layer = weights_of(MultiHeadAttention(4, kv_heads), (None, None, 16))
    if kv_heads == 4:
        oracle = keras.layers.MultiHeadAttention(4, 4)
    else:
        oracle = keras.layers.GroupQueryAttention(4, 4, kv_heads)
    x = ops.array(normal(2, 5, 16))
    oracle.build((None, None, 16), (None, None, 16))
    ends = [16, 16 + 4 * kv_heads]
    kernels = np.split(array(layer.qkv_projection.kernel), ends, -1)
    biases = np.split(array(layer.qkv_projection.bias), ends, -1)
    copied = []
    for kernel, bias in zip(kernels, biases, strict=True):
        copied += [kernel.reshape(16, -1, 4), bias.reshape(-1, 4)]
    copied += [array(layer.output_projection.kernel).reshape(4, 4, 16), array(layer.output_projection.bias)]
    oracle.set_weights(copied)
    mask = ops.array(MASK)
    for causal in (False, True):
        expected = oracle(x, x, use_causal_mask=causal, attention_mask=mask[:, None, :])
        np.testing.assert_allclose(array(layer(x, mask=mask, causal=causal)), array(expected), atol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 1])
@pytest.mark.parametrize("rotary", [False, True])
def test_step_by_step_with_a_cache_equals_the_whole(kv_heads, rotary):
    layer = weights_of(MultiHeadAttention(4, kv_heads, rotary=rotary), (None, None, 16))
    x = ops.array(normal(2, 6, 16))
    whole = array(layer(x, causal=True))
    cache = layer.new_cache(x, 6)
    # A prompt of three tokens at once, then one by one.
    y, cache = layer(x[:, :3], causal=True, cache=cache, position=0)
    np.testing.assert_allclose(array(y), whole[:, :3], atol=1e-5)
    for position in range(3, 6):
        y, cache = layer(x[:, position : position + 1], causal=True, cache=cache, position=position)
        np.testing.assert_allclose(array(y)[:, 0], whole[:, position], atol=1e-5)


def compiled(function):
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, autograph=False)


@pytest.mark.parametrize("run", [lambda function: function, compiled], ids=["eager", "compiled"])
def test_a_cache_that_is_still_needed_is_not_written_over(run):
    def write_thrice(x):
        # Two caches without tokens are equal: a graph may make one of them.
        keys, values = (cache.empty(x, 2, 5, 4, "float32") for _ in range(2))
        first = cache.write(keys, x, 1)
        return (
            keys,
            values,
            first,
            cache.write(first, 2 * x, 3),
            cache.write(values, 3 * x, ops.cast(ops.sum(x[:0]), "int32")),
        )

    x = normal(3, 2, 2, 4)
    keys, values, first, second, other = (array(found) for found in run(write_thrice)(ops.array(x)))
    expected = np.zeros((3, 2, 5, 4), "float32")
    np.testing.assert_array_equal(keys, expected)
    np.testing.assert_array_equal(values, expected)
    expected[:, :, 1:3] = x
    np.testing.assert_array_equal(first, expected)
    expected[:, :, 3:] = 2 * x
    np.testing.assert_array_equal(second, expected)
    np.testing.assert_array_equal(other[:, :, :2], 3 * x)
    assert not other[:, :, 2:].any()


def test_a_cache_with_a_mask_hides_padding_in_front():
    layer = weights_of(MultiHeadAttention(2, rotary=True), (None, None, 8))
    x = normal(1, 5, 8)
    mask = np.array([[0, 0, 1, 1, 1]], bool)
    alone = array(layer(ops.array(x[:, 2:]), causal=True))
    inputs, mask_ = ops.array(x), ops.array(mask)
    positions = positions_of(mask_)
    cache = layer.new_cache(inputs, 5)
    _, cache = layer(inputs[:, :4], mask=mask_, causal=True, cache=cache, position=0, positions=positions[:, :4])
    y, _ = layer(inputs[:, 4:], mask=mask_, causal=True, cache=cache, position=4, positions=positions[:, 4:])
    np.testing.assert_allclose(array(y)[0, 0], alone[0, -1], atol=1e-5)


@pytest.mark.parametrize("rotary", [False, True])
def test_more_padding_changes_no_value(rotary):
    layer = weights_of(MultiHeadAttention(2, rotary=rotary), (None, None, 8))
    x = normal(1, 4, 8)
    alone = array(layer(ops.array(x)))
    # Padding in the middle (a padded question before its context) and at the end, filled with large numbers.
    padded = np.concatenate([x[:, :2], 50 * normal(1, 3, 8), x[:, 2:], 50 * normal(1, 2, 8)], axis=1)
    mask = ops.array([[1, 1, 0, 0, 0, 1, 1, 0, 0]], "bool")
    y = array(layer(ops.array(padded), mask=mask, positions=positions_of(mask)))
    np.testing.assert_allclose(y[:, [0, 1, 5, 6]], alone, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_row_of_padding_only_gives_numbers(policy):
    x = ops.array(normal(2, 3, 8))
    mask = ops.array([[1, 1, 1], [0, 0, 0]], "bool")
    for y in (
        MultiHeadAttention(2, rotary=True, dtype=policy)(x, mask=mask, causal=True),
        AdditiveAttention(4, dtype=policy)(x, x, mask=mask)[0],
        DotAttention(dtype=policy)(x, x, mask=mask)[0],
    ):
        assert np.isfinite(array(y)).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_keeps_float32_weights_and_near_values(policy):
    exact = weights_of(MultiHeadAttention(4, 2, rotary=True), (None, None, 16))
    half = MultiHeadAttention(4, 2, rotary=True, dtype=policy)
    half.build((None, None, 16))
    half.set_weights(exact.get_weights())
    x, mask = ops.array(normal(2, 5, 16)), ops.array(MASK)
    y, weights = half(x, mask=mask, causal=True, return_weights=True)
    assert {keras.backend.standardize_dtype(w.dtype) for w in half.weights} == {"float32"}
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(weights.dtype) == "float32"
    expected = array(exact(x, mask=mask, causal=True))
    assert np.abs(array(y) - expected).max() < 0.03 * np.abs(expected).max()


def test_large_scores_do_not_overflow_in_float16():
    layer = MultiHeadAttention(1, dtype="mixed_float16")
    layer.build((None, None, 4))
    layer.set_weights([20 * normal(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    y, weights = layer(ops.array(normal(1, 6, 4)), causal=True, return_weights=True)
    assert np.isfinite(array(weights)).all()
    np.testing.assert_allclose(array(weights).sum(-1), 1.0, atol=1e-5)


def test_dropout_acts_while_training_only():
    layer = MultiHeadAttention(2, dropout=0.5)
    x = ops.array(normal(2, 8, 8))
    np.testing.assert_array_equal(array(layer(x)), array(layer(x, training=False)))
    assert np.abs(array(layer(x, training=True)) - array(layer(x))).max() > 1e-3


def test_bad_head_counts_are_refused():
    with pytest.raises(ValueError, match="num_heads=4, num_kv_heads=3"):
        MultiHeadAttention(4, 3)
    with pytest.raises(ValueError, match="width=10, num_heads=4"):
        MultiHeadAttention(4)(ops.zeros((1, 2, 10)))
    with pytest.raises(ValueError, match="self-attention"):
        MultiHeadAttention(4, cross=True, rotary=True)
    with pytest.raises(ValueError, match="self-attention"):
        MultiHeadAttention(4, cross=True, qk_norm=True)


def test_each_projection_starts_within_its_own_glorot_limit():
    layer = MultiHeadAttention(8, 1)
    layer.build((None, None, 64))
    query, key, value = np.split(array(layer.qkv_projection.kernel), [64, 72], -1)
    for kernel in (query, key, value):
        limit = np.sqrt(6 / (64 + kernel.shape[1]))
        assert 0.95 * limit < np.abs(kernel).max() <= limit


@pytest.mark.parametrize(
    "layer",
    [
        MultiHeadAttention(4, 2, rotary=True, dropout=0.1, qkv_bias=False),
        MultiHeadAttention(4, 2, rotary={"base": 9.0}, head_dim=4, output_bias=False, qk_norm=True, norm_epsilon=0.1),
        AdditiveAttention(3),
        DotAttention("general"),
    ],
)
def test_a_layer_comes_back_from_its_config(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    x = ops.array(normal(2, 3, 8))
    inputs = (x,) if isinstance(layer, MultiHeadAttention) else (x, x)
    layer(*inputs), again(*inputs)
    again.set_weights(layer.get_weights())
    for one, other in zip(keras.tree.flatten(layer(*inputs)), keras.tree.flatten(again(*inputs)), strict=True):
        np.testing.assert_array_equal(array(one), array(other))

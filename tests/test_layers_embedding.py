"""Token embedding with its tied head, and the kinds of positions."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.layers.embedding import (
    LearnedPositions,
    RelativePositions,
    RotaryEmbedding,
    SinusoidalPositions,
    TokenEmbedding,
    frequencies,
    positions_of,
    scaled,
)

not_on_jax = pytest.mark.skipif(keras.backend.backend() == "jax", reason="importing keras_hub loads TensorFlow")


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_positions_of_count_real_tokens_only():
    mask = ops.array([[1, 1, 0, 1, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    assert ops.convert_to_numpy(positions_of(mask)).tolist() == [[0, 1, 1, 2, 2], [0, 0, 0, 1, 2], [0, 0, 0, 0, 0]]
    assert ops.convert_to_numpy(positions_of(ops.cast(mask, "bool"))).tolist()[0] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("scale", [False, True])
def test_embedding_looks_up_and_scores_with_one_matrix(scale):
    embed = TokenEmbedding(7, 4, scale=scale)
    ids = np.array([[1, 6, 0], [2, 2, 3]])
    x = array(embed(ops.array(ids)))
    matrix = array(embed.embeddings)
    np.testing.assert_allclose(x, matrix[ids] * (2.0 if scale else 1.0), rtol=1e-6)
    assert len(embed.weights) == 1
    state = normal(2, 3, 4)
    np.testing.assert_allclose(array(embed.logits(ops.array(state))), state @ matrix.T, rtol=1e-5, atol=1e-6)
    assert embed(ops.array([1, 2])).shape == (2, 4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_embedding_in_half_precision_keeps_float32_weights_and_logits(policy):
    embed = TokenEmbedding(7, 4, dtype=policy)
    x = embed(ops.array([[1, 2]]))
    assert keras.backend.standardize_dtype(x.dtype) == policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(embed.embeddings.dtype) == "float32"
    assert keras.backend.standardize_dtype(embed.logits(x).dtype) == "float32"


def test_learned_positions_add_the_vector_of_the_position():
    layer = LearnedPositions(5, 4)
    x = normal(2, 3, 4)
    y = array(layer(ops.array(x)))
    vectors = array(layer.vectors)
    np.testing.assert_allclose(y, x + vectors[None, :3], rtol=1e-6)
    positions = np.array([[4, 0, 0], [2, 3, 9]])  # 9 lies beyond the last vector and shares it
    y = array(layer(ops.array(x), ops.array(positions)))
    np.testing.assert_allclose(y, x + vectors[np.minimum(positions, 4)], rtol=1e-6)


def test_sinusoidal_positions_are_those_of_the_paper():
    dim, length = 6, 50
    y = array(SinusoidalPositions(dim)(ops.zeros((1, length, dim))))[0]
    for position in (0, 1, 17, 49):
        for i in range(dim // 2):
            angle = position / 10000 ** (2 * i / dim)
            assert y[position, 2 * i] == pytest.approx(np.sin(angle), abs=1e-5)
            assert y[position, 2 * i + 1] == pytest.approx(np.cos(angle), abs=1e-5)


def test_sinusoidal_positions_take_position_ids():
    layer = SinusoidalPositions(8)
    whole = array(layer(ops.zeros((1, 9, 8))))
    picked = array(layer(ops.zeros((2, 2, 8)), ops.array([[3, 8], [0, 5]])))
    np.testing.assert_allclose(picked, whole[0][np.array([[3, 8], [0, 5]])], atol=1e-6)


def rotate_twin(x, positions, base=10000.0):
    """NumPy, one pair at a time: x [B, T, H, d], positions [B, T]."""
    y, half = np.empty_like(x), x.shape[-1] // 2
    for b, t in np.ndindex(*positions.shape):
        for i in range(half):
            angle = positions[b, t] * base ** (-i / half)
            first, second = x[b, t, :, i], x[b, t, :, i + half]
            y[b, t, :, i] = first * np.cos(angle) - second * np.sin(angle)
            y[b, t, :, i + half] = second * np.cos(angle) + first * np.sin(angle)
    return y


@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_rotary_turns_pairs_by_their_position(base):
    x = normal(2, 4, 3, 6)
    positions = np.array([[0, 1, 2, 3], [5, 5, 0, 40]])
    layer = RotaryEmbedding(6, base=base)
    np.testing.assert_allclose(
        array(layer(ops.array(x), ops.array(positions))), rotate_twin(x, positions, base), atol=1e-5
    )
    np.testing.assert_allclose(
        array(layer(ops.array(x))), array(layer(ops.array(x), ops.array([[0, 1, 2, 3]]))), atol=1e-6
    )


def test_rotary_positions_stretched_for_longer_texts():
    """Llama 3.1: pair by pair, as its technical report says it."""
    base, factor, low, high, original = 10000.0, 8.0, 1.0, 4.0, 64
    llama3 = {
        "kind": "llama3",
        "factor": factor,
        "low_frequency_factor": low,
        "high_frequency_factor": high,
        "original_length": original,
    }
    turning = []
    for i in range(4):
        plain = base ** (-2 * i / 8)
        wavelength = 2 * np.pi / plain
        if wavelength < original / high:
            turning.append(plain)
        elif wavelength > original / low:
            turning.append(plain / factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            turning.append((1 - smooth) * plain / factor + smooth * plain)
    np.testing.assert_allclose(scaled(frequencies(8, base), llama3), turning, rtol=1e-12)
    assert turning[0] == 1.0 and turning[3] == pytest.approx(1e-3 / 8)  # both ends are among the four
    x, positions = normal(1, 1, 1, 8), ops.array([[24]])
    first, second = np.split(x[0, 0, 0], 2)
    angles = 24 * np.array(turning)
    turned = [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    found = array(RotaryEmbedding(8, base, llama3)(ops.array(x), positions))[0, 0, 0]
    np.testing.assert_allclose(found, np.concatenate(turned), atol=1e-5)
    linear = RotaryEmbedding(8, base, {"kind": "linear", "factor": 8.0})
    np.testing.assert_allclose(
        array(linear(ops.array(x), positions)),
        array(RotaryEmbedding(8, base)(ops.array(x), ops.array([[3]]))),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="yarn"):
        RotaryEmbedding(8, scaling={"kind": "yarn", "factor": 2.0})


def test_rotary_scores_depend_on_distance_only():
    layer = RotaryEmbedding(8)
    q, k = ops.array(normal(1, 1, 1, 8)), ops.array(normal(1, 1, 1, 8, seed=1))

    def score(i, j):
        return float(array(ops.sum(layer(q, ops.array([[i]])) * layer(k, ops.array([[j]])))))

    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-4)
    assert score(3, 1) != pytest.approx(score(4, 1), abs=1e-3)


def test_rotary_keeps_neighbours_apart_at_far_positions_in_half_precision():
    layer = RotaryEmbedding(8, dtype="mixed_bfloat16")
    x = ops.cast(ops.array(normal(1, 2, 1, 8)), "bfloat16")
    far = array(layer(x, ops.array([[1000, 1001]])))
    exact = rotate_twin(array(x), np.array([[1000, 1001]]))
    np.testing.assert_allclose(far, exact, atol=0.04)


@not_on_jax
def test_keras_hub_agrees_on_rotary_and_sines():
    keras_hub = pytest.importorskip("keras_hub")
    x = normal(2, 5, 3, 8)
    expected = array(keras_hub.layers.RotaryEmbedding(sequence_axis=1, feature_axis=-1)(ops.array(x)))
    np.testing.assert_allclose(array(RotaryEmbedding(8)(ops.array(x))), expected, atol=1e-5)
    x = normal(2, 5, 8)
    expected = x + array(keras_hub.layers.SinePositionEncoding()(ops.array(x)))
    np.testing.assert_allclose(array(SinusoidalPositions(8)(ops.array(x))), expected, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_relative_positions_look_up_the_distance(policy):
    both = RelativePositions(2, buckets=8, max_distance=5, bidirectional=True, dtype=policy)
    back = RelativePositions.from_config({**both.get_config(), "bidirectional": False})
    places, table = ops.arange(7), np.arange(16.0).reshape(8, 2)
    for layer in (both, back):
        layer.build()
        layer.embeddings.assign(table)
    reach = [0, 1, 2, 2, 3, 3, 3]  # four buckets a direction: 0, 1, 2 to 3, from 4 on
    wanted = [[reach[q - k] if k <= q else 4 + reach[k - q] for k in range(7)] for q in range(7)]
    y = both(places, places)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_array_equal(array(y), np.moveaxis(table[np.array(wanted)], -1, 0))
    # Eight buckets, four of them with one distance each; keys behind the query are hidden and have that of distance 0.
    np.testing.assert_array_equal(array(back(places[6:], places))[0, 0], 2 * np.array([7, 7, 4, 3, 2, 1, 0]))
    np.testing.assert_array_equal(array(back(places[2:3], places))[1, 0], 2 * np.array([2, 1, 0, 0, 0, 0, 0]) + 1)
    with pytest.raises(ValueError, match="max_distance more than half"):
        RelativePositions(2, buckets=8, max_distance=4)


@pytest.mark.parametrize("layer", [SinusoidalPositions, RotaryEmbedding])
def test_odd_widths_are_refused(layer):
    with pytest.raises(ValueError, match="must be even"):
        layer(7)


@pytest.mark.parametrize(
    "layer",
    [
        TokenEmbedding(9, 4, scale=True),
        LearnedPositions(6, 4),
        SinusoidalPositions(4, base=50.0),
        RotaryEmbedding(4, base=50.0, scaling={"kind": "linear", "factor": 3.0}),
    ],
)
def test_a_layer_comes_back_from_its_config(layer):
    config = layer.get_config()
    again = type(layer).from_config(config)
    assert again.get_config() == config
    x = ops.array([[1, 2]]) if isinstance(layer, TokenEmbedding) else ops.array(normal(1, 2, 1, 4)[..., 0, :])
    x = x[:, :, None, :] if isinstance(layer, RotaryEmbedding) else x
    y = layer(x)
    again(x)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(array(again(x)), array(y))

"""Linear against Keras' Dense, with its weights the one way and the other round."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.layers.linear import Linear, reshape


@pytest.mark.parametrize("width, units", [(6, 8), (6, 6), (8, 6)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_linear_equals_dense(width, units, use_bias):
    x = np.random.default_rng(0).normal(size=(2, 3, width)).astype("float32")
    layer, dense = Linear(units, use_bias=use_bias), keras.layers.Dense(units, use_bias=use_bias)
    layer.build(x.shape)
    dense.build(x.shape)
    kernel, *bias = dense.get_weights()
    bias = [b + 0.5 for b in bias]
    dense.set_weights([kernel, *bias])
    layer.set_weights([kernel.T if width > units else kernel, *bias])
    assert layer.transposed == (width > units)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(dense(x)), atol=1e-6)


def test_linear_lays_its_output_out():
    x = np.random.default_rng(0).normal(size=(2, 3, 6)).astype("float32")
    layer = Linear((2, 5))
    y = ops.convert_to_numpy(layer(x))
    twin = (x @ ops.convert_to_numpy(layer.kernel)).reshape(2, 3, 2, 5)
    np.testing.assert_allclose(y, twin, atol=1e-6)
    assert layer.compute_output_shape((None, None, 6)) == (None, None, 2, 5)


@pytest.mark.parametrize("width, units", [(300, 100), (100, 300)])
def test_weights_start_as_those_of_dense_do(width, units):
    limit = np.sqrt(6 / (width + units))
    layer = Linear(units)
    layer.build((None, None, width))
    kernel = ops.convert_to_numpy(layer.kernel)
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    # An initialiser that asks for fan-in gets D, whichever way the weights lie.
    layer = Linear(units, kernel_initializer=keras.initializers.LecunUniform(seed=0))
    layer.build((None, None, width))
    limit = np.sqrt(3 / width)
    assert 0.99 * limit < np.abs(ops.convert_to_numpy(layer.kernel)).max() <= limit


def test_a_layer_comes_back_from_its_config():
    layer = Linear((2, 3), use_bias=False, dtype="mixed_bfloat16")
    again = Linear.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.sizes, again.use_bias, again.compute_dtype) == ((2, 3), False, "bfloat16")


def test_reshape_infers_the_one_unknown_size():
    model_input = keras.Input((None, 6))
    assert reshape(model_input, (*ops.shape(model_input)[:2], 2, 3)).shape == (None, None, 2, 3)
    np.testing.assert_array_equal(ops.convert_to_numpy(reshape(ops.arange(12), (2, 6))), np.arange(12).reshape(2, 6))

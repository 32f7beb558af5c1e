"""The LSTM stack against a NumPy twin, Keras' LSTM and its own steps; its hand-written gradient against Keras' own."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.layers.recurrent import LSTMCell, LSTMStack


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# Right-padded, with padding in the middle and at the end, all padding, whole.
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], bool)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cell_twin(weights, x, h, c):
    """NumPy: x [D], h and c [U]."""
    kernel, recurrent, bias = weights
    into, forget, out, candidate = np.split(x @ kernel + h @ recurrent + bias, 4)
    c = sigmoid(forget) * c + sigmoid(into) * np.tanh(candidate)
    return sigmoid(out) * np.tanh(c), c


def layer_twin(weights, x, mask, h, c, backwards):
    """NumPy, one row and one step at a time: x [B, T, D] -> y, h, c."""
    y = np.zeros((*x.shape[:2], h.shape[1]), "float32")
    h, c = h.copy(), c.copy()
    for b in range(len(x)):
        for t in reversed(range(x.shape[1])) if backwards else range(x.shape[1]):
            if mask[b, t]:
                h[b], c[b] = cell_twin(weights, x[b, t], h[b], c[b])
                y[b, t] = h[b]
    return y, h, c


def stack_twin(stack, x, mask, state=None):
    weights = [array(w) for w in stack.weights]
    layers = 2 if stack.bidirectional else 1
    states = []
    for layer in range(stack.num_layers):
        outputs = []
        for direction in range(layers):
            own, weights = weights[:3], weights[3:]
            zeros = np.zeros((len(x), stack.units), "float32")
            h, c = (zeros, zeros) if state is None else (np.split(s, layers, -1)[direction] for s in state[layer])
            outputs.append(layer_twin(own, x, mask, h, c, direction == 1))
        x, h, c = (np.concatenate(parts, -1) for parts in zip(*outputs, strict=True))
        states.append((h, c))
    return x, states


def with_weights(stack, width):
    stack.build((None, None, width))
    stack.set_weights([0.6 * normal(*w.shape, seed=i) for i, w in enumerate(stack.weights)])
    return stack


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_stack_equals_its_twin(bidirectional, masked, begun):
    stack = with_weights(LSTMStack(3, num_layers=2, bidirectional=bidirectional), 5)
    x = normal(4, 6, 5)
    state = [(normal(4, stack.width, seed=2 * i), normal(4, stack.width, seed=2 * i + 1)) for i in range(2)]
    y, after = stack(
        ops.array(x),
        mask=ops.array(MASK) if masked else None,
        initial_state=tuple((ops.array(h), ops.array(c)) for h, c in state) if begun else None,
        return_state=True,
    )
    expected, states = stack_twin(stack, x, MASK if masked else np.ones_like(MASK), state if begun else None)
    np.testing.assert_allclose(array(y), expected, atol=1e-5)
    for (h, c), (expected_h, expected_c) in zip(after, states, strict=True):
        np.testing.assert_allclose(array(h), expected_h, atol=1e-5)
        np.testing.assert_allclose(array(c), expected_c, atol=1e-5)


def keras_lstm(cell, width, backwards):
    """Keras' layer with the same weights; its gates come in the order input, forget, candidate, output."""
    lstm = keras.layers.LSTM(cell.units, return_sequences=True, zero_output_for_mask=True, go_backwards=backwards)
    lstm.build((None, None, width))
    weights = []
    for w in cell.get_weights():
        into, forget, out, candidate = np.split(w, 4, -1)
        weights.append(np.concatenate([into, forget, candidate, out], -1))
    lstm.set_weights(weights)
    return lstm


def compiled(function):
    """Eager JAX would compile the loops anew at every call."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def gradients(function, *tensors):
    """Of the sum of squares of `function(*tensors)`, on either backend."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(lambda *args: ops.sum(function(*args) ** 2), argnums=tuple(range(len(tensors))))(*tensors)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = ops.sum(function(*tensors) ** 2)
    return tape.gradient(loss, tensors)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_keras_lstm_agrees_on_outputs_and_gradients(backwards, masked):
    cell = LSTMCell(3)
    cell.build((None, None, 5))
    cell.set_weights([0.6 * normal(*w.shape, seed=i) for i, w in enumerate(cell.weights)])
    lstm = keras_lstm(cell, 5, backwards)
    real = ops.array(MASK if masked else np.ones_like(MASK))
    x = ops.array(normal(4, 6, 5))
    weights = [ops.array(w) for w in cell.get_weights()]

    def ours(x, *weights):
        state = (ops.zeros((4, 3)), ops.zeros((4, 3)))
        mask = ops.expand_dims(ops.transpose(real), -1) if masked else None
        inputs = ops.transpose(x, (1, 0, 2))
        (y, _), _ = cell.stateless_call(list(weights), [], inputs, state, mask=mask, backwards=backwards)
        return ops.transpose(y, (1, 0, 2))

    def theirs(x, *weights):
        order = np.concatenate([np.arange(6), np.arange(9, 12), np.arange(6, 9)])
        weights = [ops.take(w, order, axis=-1) for w in weights]
        state = [v.value for v in lstm.non_trainable_variables]
        y, _ = lstm.stateless_call(weights, state, x, mask=real)
        return ops.flip(y, axis=1) if backwards else y

    np.testing.assert_allclose(array(ours(x, *weights)), array(theirs(x, *weights)), atol=1e-5)
    own, expected = gradients(ours, x, *weights), gradients(theirs, x, *weights)
    for one, other in zip(own, expected, strict=True):
        np.testing.assert_allclose(array(one), array(other), atol=2e-5)


def test_gradients_reach_first_states_and_pass_dropout_factors():
    """Against finite differences, through the last states, with padding and recurrent dropout."""
    cell = LSTMCell(2)
    cell.build((None, None, 3))
    cell.set_weights([0.8 * normal(*w.shape, seed=i) for i, w in enumerate(cell.weights)])
    x, h, c = normal(5, 2, 3), normal(2, 2, seed=1), normal(2, 2, seed=2)
    mask, kept = (
        ops.array([[[1], [1]], [[1], [0]], [[1], [1]], [[1], [0]], [[0], [0]]], "bool"),
        [[2.0, 0.0], [0.0, 2.0]],
    )

    @compiled
    def result(x, h, c):
        y, (h, c) = cell(x, (h, c), mask=mask, kept=ops.array(kept))
        return ops.concatenate([ops.reshape(y, (-1,)), ops.reshape(h, (-1,)), ops.reshape(2 * c, (-1,))])

    def loss(*tensors):
        return float(np.square(array(result(*[ops.array(t) for t in tensors])).astype("float64")).sum())

    found = gradients(result, *(ops.array(t) for t in (x, h, c)))
    for number, tensor in enumerate((x, h, c)):
        for place in list(np.ndindex(*tensor.shape))[::3]:
            moved = [t.copy() for t in (x, h, c)]
            moved[number][place] += 1e-2
            above = loss(*moved)
            moved[number][place] -= 2e-2
            slope = (above - loss(*moved)) / 2e-2
            assert array(found[number])[place] == pytest.approx(slope, abs=2e-2, rel=2e-2)


def test_steps_equal_the_whole_sequence():
    stack = with_weights(LSTMStack(3, num_layers=2), 5)
    x = ops.array(normal(2, 4, 5))
    whole, last = stack(x, return_state=True)
    zeros = ops.zeros((2, 3))
    state = ((zeros, zeros), (zeros, zeros))
    for t in range(4):
        y, state = stack.step(x[:, t], state)
        np.testing.assert_allclose(array(y), array(whole)[:, t], atol=1e-6)
    for one, other in zip(keras.tree.flatten(state), keras.tree.flatten(last), strict=True):
        np.testing.assert_allclose(array(one), array(other), atol=1e-6)
    with pytest.raises(ValueError, match="bidirectional=True"):
        LSTMStack(3, bidirectional=True).step(x[:, 0], state)


def test_more_padding_changes_no_value():
    stack = with_weights(LSTMStack(3, num_layers=2, bidirectional=True), 5)
    x = normal(2, 4, 5)
    y, state = stack(ops.array(x), return_state=True)
    padded = np.concatenate([x, 9 * normal(2, 3, 5)], axis=1)
    mask = np.repeat([[1, 1, 1, 1, 0, 0, 0]], 2, axis=0)
    more, more_state = stack(ops.array(padded), mask=ops.array(mask), return_state=True)
    np.testing.assert_allclose(array(more)[:, :4], array(y), atol=1e-6)
    np.testing.assert_array_equal(array(more)[:, 4:], 0.0)
    for one, other in zip(keras.tree.flatten(state), keras.tree.flatten(more_state), strict=True):
        np.testing.assert_allclose(array(one), array(other), atol=1e-6)


def test_forget_gates_start_open_and_recurrent_kernels_orthogonal():
    cell = LSTMCell(4)
    cell.build((None, None, 3))
    np.testing.assert_array_equal(array(cell.bias), [0] * 4 + [1] * 4 + [0] * 8)
    for part in np.split(array(cell.recurrent_kernel), 4, -1):
        np.testing.assert_allclose(part @ part.T, np.eye(4), atol=1e-5)


def test_dropout_keeps_one_mask_for_all_steps():
    keras.utils.set_random_seed(0)
    stack = LSTMStack(40, num_layers=2, dropout=0.5)
    seen = []
    stack.cells[1][0].call, plain = (
        (lambda x, *a, **k: seen.append(array(x)) or plain(x, *a, **k)),
        stack.cells[1][0].call,
    )
    x = ops.array(normal(3, 7, 5))
    stack(x, training=True)
    gone = seen[0] == 0  # [T, B, U]
    assert 0.3 < gone.mean() < 0.7
    assert (gone == gone[:1]).all()
    np.testing.assert_array_equal(array(stack(x)), array(stack(x, training=False)))


def test_recurrent_dropout_acts_while_training_only():
    keras.utils.set_random_seed(0)
    stack = LSTMStack(8, recurrent_dropout=0.5)
    x = ops.array(normal(2, 5, 3))
    dropped, plain = array(stack(x, training=True)), array(stack(x))
    np.testing.assert_allclose(dropped[:, 0], plain[:, 0], atol=1e-6)  # the first step has no state to drop from
    assert np.abs(dropped[:, 1:] - plain[:, 1:]).max() > 1e-3


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_keeps_float32_weights_and_cells(policy):
    exact = with_weights(LSTMStack(6, num_layers=2, bidirectional=True), 5)
    half = LSTMStack(6, num_layers=2, bidirectional=True, dtype=policy)
    half.build((None, None, 5))
    half.set_weights(exact.get_weights())
    assert {keras.backend.standardize_dtype(w.dtype) for w in half.weights} == {"float32"}
    x, mask = ops.array(normal(4, 6, 5)), ops.array(MASK)
    y, state = half(x, mask=mask, return_state=True)
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(state[0][1].dtype) == "float32"
    np.testing.assert_allclose(array(y), array(exact(x, mask=mask)), atol=0.05)


def test_half_precision_cells_add_up_small_steps():
    # 400 steps of +1/512 sum to 0.78; a bfloat16 cell would stop growing at 0.5, where its spacing is 1/256.
    cell = LSTMCell(1, dtype="mixed_bfloat16")
    cell.build((None, None, 1))
    cell.set_weights([np.zeros((1, 4)), np.zeros((1, 4)), np.array([30, 30, 30, np.arctanh(1 / 512)])])
    _, (_, c) = cell(ops.zeros((400, 1, 1)), (ops.zeros((1, 1)), ops.zeros((1, 1))))
    assert array(c)[0, 0] == pytest.approx(400 / 512, rel=0.01)


def test_a_stack_comes_back_from_its_config():
    stack = LSTMStack(3, num_layers=2, bidirectional=True, dropout=0.1, recurrent_dropout=0.2)
    again = LSTMStack.from_config(stack.get_config())
    assert again.get_config() == stack.get_config()
    x = ops.array(normal(2, 4, 5))
    stack(x), again(x)
    again.set_weights(stack.get_weights())
    np.testing.assert_array_equal(array(again(x)), array(stack(x)))

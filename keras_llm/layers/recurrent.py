"""Recurrent layers: a stack of LSTM layers, in one or both directions, whole sequences or step by step.

Shapes: B batch, T length, D input width, U units, and W = U, or 2 U when bidirectional.

The loop over time holds only what must wait for the step before it. The inputs' products are made before the loop for
all steps at once, and the gradients of the matrices after it: hence the gradient written by hand in `_lstm`.
"""

import keras
from keras import ops

# A gate's sum at padding: its sigmoid is exactly 1 (or, negated, 0), and half precision can hold it.
OPEN = 1e4


class LSTMStack(keras.layers.Layer):
    """LSTM layers one on the other. The forget gates' biases start at 1; padding changes neither states nor outputs.

    Args:
        units: U, of each layer and direction.
        num_layers: how many.
        bidirectional: read in both directions; the outputs of both are concatenated.
        dropout: share of each layer's inputs but the first's dropped while training, the same units at every time step.
        recurrent_dropout: share of the recurrent state dropped while training, the same units at every time step.

    Call:
        x: [B, T, D].
        mask: bool [B, T], true at real tokens. Outputs at padding are zeros.
        initial_state: a tuple with (h, c), each [B, W], for every layer; zeros when left out.
        return_state: also return the last states, in the same form.

    Returns:
        y [B, T, W], or (y, state). Cells c are float32 whatever the dtype policy is: small sums would stall in half precision.

    Example:

    >>> stack = LSTMStack(8, num_layers=2, bidirectional=True)
    >>> y, state = stack(keras.ops.ones((1, 5, 4)), return_state=True)
    >>> y.shape, len(state), state[0][0].shape
    (TensorShape([1, 5, 16]), 2, TensorShape([1, 16]))

    Reference: Hochreiter and Schmidhuber 1997; Jozefowicz et al. 2015 (forget bias); Gal and Ghahramani 2016,
    https://arxiv.org/abs/1512.05287 (dropout with one mask for all steps).
    """

    def __init__(self, units, num_layers=1, bidirectional=False, dropout=0.0, recurrent_dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        directions = ("forward", "backward") if bidirectional else ("forward",)
        self.cells = [
            [LSTMCell(units, dtype=self.dtype_policy, name=f"layer_{layer}_{direction}") for direction in directions]
            for layer in range(num_layers)
        ]
        self.drop = keras.layers.Dropout(dropout, noise_shape=(None, 1, None), dtype=self.dtype_policy, name="dropout")
        self.drop_state = keras.layers.Dropout(recurrent_dropout, dtype=self.dtype_policy, name="recurrent_dropout")

    @property
    def width(self):
        """W, the width of the outputs."""
        return self.units * (2 if self.bidirectional else 1)

    def build(self, x_shape):
        for cells in self.cells:
            for cell in cells:
                cell.build(x_shape)
            x_shape = (*x_shape[:-1], self.width)

    def call(self, x, mask=None, initial_state=None, return_state=False, training=None):
        batch = ops.shape(x)[0]
        x = ops.transpose(x, (1, 0, 2))  # [T, B, D]
        if mask is not None:
            mask = ops.expand_dims(ops.transpose(ops.cast(mask, "bool")), -1)  # [T, B, 1]
        states = []
        for number, cells in enumerate(self.cells):
            if number:
                x = ops.transpose(self.drop(ops.transpose(x, (1, 0, 2)), training=training), (1, 0, 2))
            if initial_state is None:
                before = [(ops.zeros((batch, self.units)),) * 2] * len(cells)
            else:
                before = zip(*[ops.split(part, len(cells), axis=-1) for part in initial_state[number]], strict=True)
            outputs, last = [], []
            for cell, state, backwards in zip(cells, before, (False, True), strict=False):
                kept = None
                if training and self.recurrent_dropout:
                    kept = self.drop_state(ops.ones((batch, self.units), self.compute_dtype), training=True)
                y, state = cell(x, state, mask=mask, kept=kept, backwards=backwards)
                outputs.append(y)
                last.append(state)
            x = _join(outputs)
            states.append(tuple(_join(parts) for parts in zip(*last, strict=True)))
        y = ops.transpose(x, (1, 0, 2))
        return (y, tuple(states)) if return_state else y

    def step(self, x, state):
        """One token further: x [B, D] and the states of every layer -> y [B, U] and the new states."""
        if self.bidirectional:
            raise ValueError("step needs a stack that reads in one direction. Received: bidirectional=True.")
        after = []
        for (cell,), before in zip(self.cells, state, strict=True):
            x, c = cell.step(x, before)
            after.append((x, c))
        return x, tuple(after)

    def compute_mask(self, *args, **kwargs):
        return None  # Masks are passed explicitly; Keras' implicit ones end here.

    def get_config(self):
        config = {
            "units": self.units,
            "num_layers": self.num_layers,
            "bidirectional": self.bidirectional,
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
        }
        return {**super().get_config(), **config}


class LSTMCell(keras.layers.Layer):
    """One LSTM layer in one direction. The columns of its weights are the gates input, forget, output and the candidate.

    Args:
        units: U.

    Call:
        x: [T, B, D], time first.
        state: (h, c), each [B, U].
        mask: bool [T, B, 1].
        kept: dropout factors [B, U] on the recurrent state, the same at every step.
        backwards: begin at the last step.

    Returns:
        y [T, B, U], zeros where masked, and the last (h, c).

    Example:

    >>> y, (h, c) = LSTMCell(4)(keras.ops.ones((5, 1, 3)), (keras.ops.zeros((1, 4)), keras.ops.zeros((1, 4))))
    >>> y.shape, h.shape
    (TensorShape([5, 1, 4]), TensorShape([1, 4]))
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, x_shape):
        units = self.units

        def orthogonal(shape, dtype=None):
            parts = [keras.initializers.Orthogonal()((units, units), dtype=dtype) for _ in range(4)]
            return ops.concatenate(parts, axis=1)

        def remember(shape, dtype=None):
            return ops.concatenate(
                [ops.zeros((units,), dtype), ops.ones((units,), dtype), ops.zeros((2 * units,), dtype)]
            )

        self.kernel = self.add_weight(name="kernel", shape=(x_shape[-1], 4 * units), initializer="glorot_uniform")
        self.recurrent_kernel = self.add_weight(
            name="recurrent_kernel", shape=(units, 4 * units), initializer=orthogonal
        )
        self.bias = self.add_weight(name="bias", shape=(4 * units,), initializer=remember)

    def call(self, x, state, mask=None, kept=None, backwards=False):
        z = self._inputs(x)  # [T, B, 4 U]
        h, c = ops.cast(state[0], self.compute_dtype), ops.cast(state[1], "float32")
        if mask is not None:
            # A closed input gate and an open forget gate carry c over padding; in the loop only h is left to hold.
            opened, neither = ops.full((self.units,), OPEN, z.dtype), ops.zeros((self.units,), z.dtype)
            z = ops.where(mask, z, ops.concatenate([-opened, opened, -opened, neither]))
        y, h, c = _lstm(z, self._recurrent(), h, c, mask, kept, backwards)
        if mask is not None:
            y = y * ops.cast(mask, y.dtype)
        return y, (h, c)

    def step(self, x, state):
        """x [B, D] and (h, c) -> the new (h, c)."""
        h, c = ops.cast(state[0], self.compute_dtype), ops.cast(state[1], "float32")
        h, c, _ = _cell(self._inputs(x) + ops.matmul(h, self._recurrent()), c)
        return ops.cast(h, self.compute_dtype), c

    def _inputs(self, x):
        # Outside of `__call__` Keras does not cast weights to the compute dtype.
        kernel, bias = (ops.cast(weight, self.compute_dtype) for weight in (self.kernel, self.bias))
        return ops.matmul(ops.cast(x, self.compute_dtype), kernel) + bias

    def _recurrent(self):
        return ops.cast(self.recurrent_kernel, self.compute_dtype)

    def compute_mask(self, *args, **kwargs):
        return None

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def _cell(z, c):
    """Sums of the gates [B, 4 U], c [B, U] -> h, c and the opened gates, in float32."""
    units = c.shape[-1]
    sums, candidate = ops.split(ops.cast(z, "float32"), [3 * units], axis=-1)
    gates, candidate = ops.sigmoid(sums), ops.tanh(candidate)
    into, forget, out = ops.split(gates, 3, axis=-1)
    c = forget * c + into * candidate
    return out * ops.tanh(c), c, ops.concatenate([gates, candidate], axis=-1)


def _lstm(z, recurrent, h, c, mask, kept, backwards):
    """The loop: sums from the inputs z [T, B, 4 U], recurrent [U, 4 U], h and c [B, U] -> y [T, B, U], last h, last c.

    The gradient runs a second loop, from the last step to the first, over the gates that the first one kept. What a
    step needs goes in as one tensor: `keras.ops.scan` refuses several of unknown length on TensorFlow.
    """
    units, dtype = c.shape[-1], h.dtype

    # Optional tensors are arguments too: JAX does not let a custom gradient close over traced values.
    @ops.custom_gradient
    def run(z, recurrent, h, c, *optional):
        first_h, first_c = h, c
        optional, nothing = list(optional), [None] * len(optional)
        real = optional.pop(0) if mask is not None else None
        factors = optional.pop(0) if kept is not None else None

        def forward(carry, z):
            h, c, _ = carry
            new, c, gates = _cell(z + ops.matmul(h if factors is None else h * factors, recurrent), c)
            new = ops.cast(new, dtype)
            if real is not None:
                new = ops.where(z[:, units : units + 1] < OPEN / 2, new, h)
            return (new, c, gates), (new, c, gates)

        start = (h, c, ops.zeros_like(z[0], "float32"))
        (h, c, _), (y, cells, gates) = ops.scan(forward, start, z, reverse=backwards)

        def gradient(*upstream):
            # TensorFlow gives three arguments, JAX one tuple.
            dy, dh, dc = upstream if len(upstream) == 3 else upstream[0]
            h_before, c_before = _shift(y, first_h, backwards), _shift(cells, first_c, backwards)
            record = [ops.cast(dy, "float32"), gates, cells, c_before]
            if real is not None:
                record.append(1.0 - ops.cast(real, "float32"))
            ends = [units, 4 * units, 5 * units, 6 * units, 7 * units]
            transposed = ops.transpose(recurrent)

            def backward(carry, record):
                dh, dc, _ = carry
                dy, sigmoids, candidate, c, c_before, *padding = ops.split(
                    record, ends[: len(ends) - (real is None)], -1
                )
                into, forget, out = ops.split(sigmoids, 3, axis=-1)
                dh = dh + dy
                squashed, through = ops.tanh(c), dh * out
                dc = dc + through - through * squashed * squashed
                opened = ops.concatenate([dc * candidate, dc * c_before, dh * squashed], axis=-1)
                proposed = dc * into * (1 - candidate * candidate)
                dz = ops.concatenate([opened * (sigmoids - sigmoids * sigmoids), proposed], axis=-1)
                dz = ops.cast(dz, dtype)
                back = ops.matmul(dz, transposed)
                back = ops.cast(back if factors is None else back * factors, "float32")
                return (back + dh * padding[0] if padding else back, dc * forget, dz), (dh, dc, dz)

            start = (ops.cast(dh, "float32"), dc, ops.zeros_like(z[0]))
            (dh, dc, _), (_, _, dz) = ops.scan(backward, start, ops.concatenate(record, axis=-1), reverse=not backwards)
            if factors is not None:
                h_before = h_before * factors
            rows = ops.transpose(ops.reshape(h_before, (-1, units)))  # [U, T B]
            drecurrent = ops.matmul(rows, ops.reshape(dz, (-1, 4 * units)))
            return dz, drecurrent, ops.cast(dh, dtype), dc, *nothing

        return (y, h, c), gradient

    return run(z, recurrent, h, c, *[tensor for tensor in (mask, kept) if tensor is not None])


def _shift(steps, first, backwards):
    """What each step found: steps [T, B, U] of results -> the result of the step before, `first` for the first one."""
    if backwards:
        return ops.concatenate([steps[1:], first[None]], axis=0)
    return ops.concatenate([first[None], steps[:-1]], axis=0)


def _join(parts):
    return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

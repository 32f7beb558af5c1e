"""Recurrent layers: a stack of LSTM layers, in one or both directions, whole sequences or step by step.

Shapes: B batch, T length, D input width, U units, and W = U, or 2 U when bidirectional.
"""

import keras
from keras import ops


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
        y [B, T, W], or (y, state).

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
        self.lstms = [
            [
                keras.layers.LSTM(
                    units,
                    return_sequences=True,
                    return_state=True,
                    zero_output_for_mask=True,
                    go_backwards=direction == "backward",
                    recurrent_dropout=recurrent_dropout,
                    dtype=self.dtype_policy,
                    name=f"layer_{layer}_{direction}",
                )
                for direction in directions
            ]
            for layer in range(num_layers)
        ]
        self.drop = keras.layers.Dropout(dropout, noise_shape=(None, 1, None), dtype=self.dtype_policy, name="dropout")

    @property
    def width(self):
        """W, the width of the outputs."""
        return self.units * (2 if self.bidirectional else 1)

    def build(self, x_shape):
        for layer in self.lstms:
            for lstm in layer:
                lstm.build(x_shape)
            x_shape = (*x_shape[:-1], self.width)

    def call(self, x, mask=None, initial_state=None, return_state=False, training=None):
        if mask is not None:
            mask = ops.cast(mask, "bool")
        states = []
        for number, layer in enumerate(self.lstms):
            if number:
                x = self.drop(x, training=training)
            before = [None] * len(layer)
            if initial_state is not None:
                parts = [ops.split(ops.cast(s, self.compute_dtype), len(layer), axis=-1) for s in initial_state[number]]
                before = list(zip(*parts, strict=True))
            outputs, hs, cs = [], [], []
            for lstm, start in zip(layer, before, strict=True):
                y, h, c = lstm(x, mask=mask, initial_state=start, training=training)
                outputs.append(ops.flip(y, axis=1) if lstm.go_backwards else y)
                hs.append(h)
                cs.append(c)
            x = _join(outputs)
            states.append((_join(hs), _join(cs)))
        return (x, tuple(states)) if return_state else x

    def step(self, x, state):
        """One token further: x [B, D] and the states of every layer -> y [B, U] and the new states."""
        if self.bidirectional:
            raise ValueError("step needs a stack that reads in one direction. Received: bidirectional=True.")
        after = []
        for (lstm,), (h, c) in zip(self.lstms, state, strict=True):
            x, (h, c) = lstm.cell(x, [h, c])
            after.append((h, c))
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


def _join(parts):
    return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

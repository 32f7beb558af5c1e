"""Matrix products over the rows of a sequence, and reshapes, made for decoding.

A decoding step is many small operations over few rows: every operation that only computes a shape is one too many, and each
product runs at the speed at which its weights come from memory.

Shapes: B batch, T length, D width, F output width.
"""

import math

import keras
from keras import ops


class Linear(keras.layers.Layer):
    """y = x W + b over [B, T, D], as one product of matrices with the bias added to [B, T, F] afterwards.

    TensorFlow would fuse product and bias into a kernel that rearranges the matrix at every call: a fifth slower for the few
    rows of a decoding step. Likewise W is kept as [F, D] where D > F: long rows stream from memory up to twice as fast.

    Args:
        sizes: F, or the sizes it is laid out in: (heads, d) gives [B, T, heads, d].
        use_bias: add b, at first zeros.
        kernel_initializer: of W as [D, F].

    Example:

    >>> Linear((2, 4))(keras.ops.ones((1, 3, 6))).shape
    TensorShape([1, 3, 2, 4])
    """

    def __init__(self, sizes, use_bias=True, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        self.units = math.prod(self.sizes)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.adapter = []

    def build(self, x_shape):
        width = x_shape[-1]
        self.transposed = width > self.units
        if self.transposed:
            self.kernel = self.add_weight(
                name="kernel",
                shape=(self.units, width),
                initializer=lambda shape, dtype=None: ops.transpose(
                    self.kernel_initializer((width, self.units), dtype=dtype)
                ),
            )
        else:
            self.kernel = self.add_weight(name="kernel", shape=(width, self.units), initializer=self.kernel_initializer)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def adapt(self, rank):
        """Freezes W and adds to it a trainable product of two narrow matrices, at first zero: W + A B, A [D, r], B [r, F].

        Reference: Hu et al. 2021, https://arxiv.org/abs/2106.09685 (LoRA, with alpha = r).
        """
        width = self.kernel.shape[1 if self.transposed else 0]
        self.kernel.trainable = False
        if self.use_bias:
            self.bias.trainable = False
        self._tracker.unlock()  # as Keras' own enable_lora does: the layer is built already
        self.adapter = [
            self.add_weight(name="adapter_in", shape=(width, rank), initializer="he_uniform"),
            self.add_weight(name="adapter_out", shape=(rank, self.units), initializer="zeros"),
        ]
        self._tracker.lock()

    def reset_adapter(self):
        """Makes what `adapt` added 0 again."""
        self.adapter[1].assign(ops.zeros_like(self.adapter[1]))

    @property
    def merged_kernel(self):
        """The kernel's value with what `adapt` added to it."""
        if not self.adapter:
            return self.kernel.value
        added = ops.matmul(*self.adapter)
        return self.kernel.value + (ops.transpose(added) if self.transposed else added)

    def call(self, x):
        batch, length, width = ops.shape(x)
        # TensorFlow's graph optimiser and XLA both take the transposition into the product.
        kernel = ops.transpose(self.kernel) if self.transposed else self.kernel
        rows = ops.reshape(x, (-1, width))
        y = ops.matmul(rows, kernel)
        if self.adapter:
            into, out = self.adapter
            y = y + ops.matmul(ops.matmul(rows, into), out)
        y = reshape(y, (batch, length, self.units))
        if self.use_bias:
            y = ops.add(y, self.bias)
        return reshape(y, (batch, length, *self.sizes)) if len(self.sizes) > 1 else y

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], *self.sizes)

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        config = {"sizes": self.sizes, "use_bias": self.use_bias, "kernel_initializer": initializer}
        return {**super().get_config(), **config}


def reshape(x, shape):
    """`keras.ops.reshape`, where a single size that is only known at run time is left to be inferred.

    Example:

    >>> reshape(keras.ops.ones((2, 6)), (2, 3, 2)).shape
    TensorShape([2, 3, 2])
    """
    unknown = [place for place, size in enumerate(shape) if not isinstance(size, int)]
    if len(unknown) == 1:
        shape = [-1 if place in unknown else size for place, size in enumerate(shape)]
    return ops.reshape(x, shape)

"""What a token looks like: its characters, read by a convolution.

Shapes: B batch, T tokens, C bytes of a token, F width.
"""

import keras
from keras import ops

BYTES = 256


class CharacterFeatures(keras.layers.Layer):
    """A vector for each token from its bytes: embedding, convolution, the largest value of each filter.

    Bytes rather than characters: of Latin script they are the same, nothing is unknown, and there is no second vocabulary.

    Args:
        dim: F, of the bytes' vectors and of the result.
        kernel_size: bytes seen at once.
        dropout: on the bytes' vectors, while training.

    Call: int [B, T, C], bytes + 1, 0 behind the token's end -> [B, T, F]; zeros where there is no byte.

    Example:

    >>> CharacterFeatures(8)(keras.ops.ones((1, 5, 12), "int32")).shape
    TensorShape([1, 5, 8])

    Reference: Ma and Hovy 2016, https://arxiv.org/abs/1603.01354.
    """

    def __init__(self, dim, kernel_size=3, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.kernel_size, self.dropout = dim, kernel_size, dropout
        policy = {"dtype": self.dtype_policy}
        self.convolution = keras.layers.Conv1D(dim, kernel_size, padding="same", name="convolution", **policy)
        self.drop = keras.layers.Dropout(dropout, name="dropout", **policy)

    def build(self, input_shape=None):
        self.embeddings = self.add_weight(
            name="embeddings", shape=(BYTES + 1, self.dim), initializer=keras.initializers.RandomUniform(-0.3, 0.3)
        )
        self.convolution.build((None, None, self.dim))

    def call(self, ids, training=None):
        tokens, length = ops.shape(ids)[1:]
        ids = ops.reshape(ids, (-1, length))
        real = ops.expand_dims(ids > 0, -1)
        x = ops.take(ops.convert_to_tensor(self.embeddings), ids, axis=0)
        x = ops.where(real, self.drop(x, training=training), 0)
        x = self.convolution(x)  # [B T, C, F]
        x = ops.max(ops.where(real, x, -1e4), axis=1)
        x = ops.where(real[:, 0], x, 0)
        return ops.reshape(x, (-1, tokens, self.dim))

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "kernel_size": self.kernel_size, "dropout": self.dropout}

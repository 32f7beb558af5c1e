"""The reader on a pretrained encoder: question and context as one text in, the span that answers out.

Shapes: B batch, Q question length with its frame, T context length, D width, V vocabulary.
"""

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.models.encoders import OnEncoder, TransformerEncoder


class EncoderReader(OnEncoder):
    """A Transformer encoder reads the question, its end, the context and an end; one layer scores each token as the first and
    as the last of the answer, and the start in front of the question as "no answer".

    Args:
        vocabulary_size: V.
        config: the encoder's shape; `pad_id`; `segments`: question and context are told apart by segments.
        dtype: a dtype policy, passed to every layer.

    Call: {"question_ids": int [B, Q], each in its frame of start and end, "context_ids": int [B, T]} -> logits float32
        [B, 2, T + 1]. Rows: 0 start, 1 end (inclusive). Columns: 0 no answer, t + 1 context token t. Padding is -1e9.

    Example:

    >>> model = EncoderReader(100, ModelConfig(embedding_dim=8, num_layers=2, num_heads=2, feedforward_dim=16))
    >>> ids = keras.ops.ones((2, 5), "int32")
    >>> model({"question_ids": ids, "context_ids": ids}).shape
    TensorShape([2, 2, 6])

    Reference: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 4.2.
    """

    heads = ("head",)

    def __init__(self, vocabulary_size, config: ModelConfig, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size, self.config = vocabulary_size, config
        policy = {"dtype": self.dtype_policy}
        self.encoder = TransformerEncoder(vocabulary_size, config, segments=config.segments, name="encoder", **policy)
        self.drop = keras.layers.Dropout(config.dropout, name="dropout", **policy)
        self.head = keras.layers.Dense(2, name="head", **policy)

    def build(self, input_shape=None):
        self.encoder.build()
        self.head.build((None, None, self.encoder.width))

    def call(self, inputs, training=None):
        question, context = inputs["question_ids"], inputs["context_ids"]
        x = self.encoder(joined(question, context, self.config.pad_id), training=training)
        scores = ops.cast(self.head(self.drop(x, training=training)), "float32")  # [B, Q + T + 1, 2]
        scores = ops.concatenate([scores[:, :1], scores[:, ops.shape(question)[1] : -1]], axis=1)
        real = ops.pad(ops.not_equal(context, self.config.pad_id), [[0, 0], [1, 0]], constant_values=True)
        return ops.where(ops.expand_dims(real, 1), ops.transpose(scores, (0, 2, 1)), -1e9)

    def attention(self, inputs):
        """Where the first example's context tokens looked in the question: weights [T, Q] and the names of the axes."""
        question, context = inputs["question_ids"], inputs["context_ids"]
        weights = self.encoder.attention(joined(question, context, self.config.pad_id))["weights"]
        length = question.shape[1]
        return {"weights": weights[length:-1, :length], "axes": ("context_ids", "question_ids")}


def joined(question, context, pad_id=0):
    """Question and context as one text; the padding between them is none of it.

    Args:
        question: int [B, Q], each in its frame.
        context: int [B, T].
        pad_id: the id of padding.

    Returns:
        `token_ids` int [B, Q + T + 1], the last of them what closes the question again, and `segment_ids`, 1 from the context
        on.
    """
    length = ops.sum(ops.cast(ops.not_equal(question, pad_id), "int32"), axis=1, keepdims=True)
    end = ops.take_along_axis(question, length - 1, axis=1)
    second = ops.concatenate([context, end], axis=1)
    segments = ops.concatenate([ops.zeros_like(question), ops.ones_like(second)], axis=1)
    return {"token_ids": ops.concatenate([question, second], axis=1), "segment_ids": segments}

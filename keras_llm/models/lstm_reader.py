"""The BiLSTM reader: a question and a context in, the span that answers out.

Shapes: B batch, T context length, Q question length, D embedding width, U units, V vocabulary.
"""

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.embedding import TokenEmbedding
from keras_llm.layers.reading import (
    NUM_MATCH_FEATURES,
    AlignedQuestion,
    QuestionContextAttention,
    SpanPointer,
    match_features,
)
from keras_llm.layers.recurrent import LSTMStack

PAD = 0


class LSTMReader(keras.Model):
    """One bidirectional LSTM reads question and context; attention flows between them; a stack of bidirectional LSTMs
    reads the context again, now knowing the question; a pointer chooses start and end.

    Beside its embedding a token carries its match features, and a context token the question aligned to it.

    Args:
        vocabulary_size: V. Id 0 is padding.
        config: uses embedding_dim, hidden_dim, num_layers (of the second reading) and dropout.
        dtype: a dtype policy, passed to every layer.

    Call: {"question_ids": int [B, Q], "context_ids": int [B, T]} -> logits float32 [B, 2, T + 1].
        Rows: 0 start, 1 end (inclusive). Columns: 0 no answer, t + 1 context token t. Padding is -1e9.

    Example:

    >>> model = LSTMReader(100, ModelConfig(embedding_dim=8, hidden_dim=8, num_layers=1))
    >>> ids = keras.ops.ones((2, 5), "int32")
    >>> model({"question_ids": ids, "context_ids": ids}).shape
    TensorShape([2, 2, 6])

    Reference: Seo et al. 2016, https://arxiv.org/abs/1611.01603 (attention flow); Chen et al. 2017,
    https://arxiv.org/abs/1704.00051 (features, pointers).
    """

    def __init__(self, vocabulary_size, config: ModelConfig, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size = vocabulary_size
        self.config = config
        units, policy = config.hidden_dim, {"dtype": self.dtype_policy}
        self.embedding = TokenEmbedding(vocabulary_size, config.embedding_dim, name="embedding", **policy)
        self.align = AlignedQuestion(config.embedding_dim, name="align", **policy)
        self.encoder = LSTMStack(units, bidirectional=True, name="encoder", **policy)
        self.attend = QuestionContextAttention(units, name="attention", **policy)
        self.second_reading = [
            LSTMStack(units, bidirectional=True, name=f"second_reading_{n}", **policy) for n in range(config.num_layers)
        ]
        self.point = SpanPointer(name="point", **policy)
        # One mask for all tokens of a text: a dropped unit is missing everywhere, not guessed from its neighbours.
        self.drop = keras.layers.Dropout(config.dropout, noise_shape=(None, 1, None), name="dropout", **policy)
        # Whole tokens are dropped, too: what they are is then told by their surroundings and their matches.
        self.drop_tokens = keras.layers.Dropout(
            config.dropout / 2, noise_shape=(None, None, 1), name="drop_tokens", **policy
        )

    def build(self, input_shape=None):
        dim, units, layers = self.config.embedding_dim, self.config.hidden_dim, self.config.num_layers
        states = (None, None, 2 * units)
        self.embedding.build()
        self.align.build((None, None, dim))
        self.encoder.build((None, None, 2 * dim + NUM_MATCH_FEATURES))
        self.attend.build(states)
        for n, stack in enumerate(self.second_reading):
            stack.build(states if n else (None, None, units + NUM_MATCH_FEATURES))
        self.point.build((None, None, 2 * units * layers), states)

    def call(self, inputs, training=None):
        return self._read(inputs, training)[0]

    def attention(self, inputs):
        """Where the first example's context tokens looked in the question: weights [T, Q] and the names of the axes."""
        _, weights = self._read(inputs, training=False)
        return {"weights": ops.convert_to_numpy(weights[0]), "axes": ("context_ids", "question_ids")}

    def _read(self, inputs, training):
        question_ids, context_ids = inputs["question_ids"], inputs["context_ids"]
        question_mask, context_mask = ops.not_equal(question_ids, PAD), ops.not_equal(context_ids, PAD)
        question = self._embed(question_ids, training)  # [B, Q, D]
        context = self._embed(context_ids, training)  # [B, T, D]
        aligned = self.align(context, question, question_mask)  # [B, T, D]
        question_features = match_features(question_ids, context_ids, context_ids)
        context_features = ops.cast(match_features(context_ids, question_ids, context_ids), context.dtype)
        # The question is aligned to itself, so that one encoder fits both texts.
        question = ops.concatenate([question, question, ops.cast(question_features, question.dtype)], axis=-1)
        context = ops.concatenate([context, aligned, context_features], axis=-1)

        question = self.drop(self.encoder(question, mask=question_mask, training=training), training=training)
        context = self.drop(self.encoder(context, mask=context_mask, training=training), training=training)
        x, weights = self.attend(context, question, context_mask, question_mask)  # [B, T, U], [B, T, Q]
        x = ops.concatenate([x, context_features], axis=-1)
        layers = []
        for stack in self.second_reading:
            x = stack(self.drop(x, training=training), mask=context_mask, training=training)  # [B, T, 2 U]
            layers.append(x)
        x = self.drop(ops.concatenate(layers, axis=-1), training=training)  # [B, T, 2 U num_layers]
        return self.point(x, question, context_mask, question_mask), weights

    def _embed(self, ids, training):
        x = self.drop_tokens(self.embedding(ids), training=training)
        return self.drop(x, training=training)

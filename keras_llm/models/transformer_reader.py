"""The Transformer reader: a question and a context in, the span that answers out.

Shapes: B batch, T context length, Q question length, N either of them, D width, V vocabulary.
"""

import keras
from keras import ops

from keras_llm.config import LEARNED_LENGTH, ModelConfig
from keras_llm.layers.embedding import LearnedPositions, SinusoidalPositions, TokenEmbedding, positions_of
from keras_llm.layers.reading import (
    NUM_MATCH_FEATURES,
    AlignedQuestion,
    QuestionContextAttention,
    SpanPointer,
    match_features,
)
from keras_llm.layers.transformer import normalisation
from keras_llm.models.blocks import transformer_block

PAD = 0
KERNEL_SIZE = 5


class ConvolutionBlock(keras.layers.Layer):
    """x + dropout(relu(convolution(norm(x)))): what a token means beside its nearest neighbours.

    Trained from scratch on some ten thousand questions, attention alone does not find out what stands side by side.

    Args:
        dim: D.
        kernel_size: tokens seen at once, odd.
        norm: "layer" | "rms".
        dropout: on what is added, while training.

    Call:
        x: [B, N, D].
        mask: bool [B, N], true at real tokens; padding counts as zeros.

    Returns: [B, N, D].

    Example:

    >>> ConvolutionBlock(8)(keras.ops.ones((1, 5, 8)), keras.ops.ones((1, 5), "bool")).shape
    TensorShape([1, 5, 8])

    Reference: Yu et al. 2018, QANet, https://arxiv.org/abs/1804.09541.
    """

    def __init__(self, dim, kernel_size=KERNEL_SIZE, norm="rms", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.kernel_size = kernel_size
        self.norm_kind = norm
        self.dropout = dropout
        policy = {"dtype": self.dtype_policy}
        self.norm = normalisation(norm, name="norm", **policy)
        self.convolution = keras.layers.Conv1D(
            dim, kernel_size, padding="same", activation="relu", name="convolution", **policy
        )
        self.drop = keras.layers.Dropout(dropout, name="dropout", **policy)

    def build(self, x_shape, mask_shape=None):
        self.norm.build((None, None, self.dim))
        self.convolution.build((None, None, self.dim))

    def call(self, x, mask, training=None):
        real = ops.cast(mask, x.dtype)[..., None]
        return x + self.drop(self.convolution(self.norm(x) * real), training=training)

    def get_config(self):
        config = {"dim": self.dim, "kernel_size": self.kernel_size, "norm": self.norm_kind, "dropout": self.dropout}
        return {**super().get_config(), **config}


class TransformerReader(keras.Model):
    """A convolution and a Transformer block read question and context; attention flows between them; further such pairs
    read the context again, now knowing the question; a pointer chooses start and end.

    Beside its embedding a token carries its match features, and a context token the question aligned to it.

    Args:
        vocabulary_size: V. Id 0 is padding.
        config: uses all fields but hidden_dim and attention. num_layers counts all blocks: one stands before the
            attention flow, the others, at least one, after it.
        dtype: a dtype policy, passed to every layer.

    Call: {"question_ids": int [B, Q], "context_ids": int [B, T]} -> logits float32 [B, 2, T + 1].
        Rows: 0 start, 1 end (inclusive). Columns: 0 no answer, t + 1 context token t. Padding is -1e9.

    Example:

    >>> model = TransformerReader(100, ModelConfig(embedding_dim=8, num_layers=2, num_heads=2, feedforward_dim=16))
    >>> ids = keras.ops.ones((2, 5), "int32")
    >>> model({"question_ids": ids, "context_ids": ids}).shape
    TensorShape([2, 2, 6])

    Reference: Yu et al. 2018, QANet, https://arxiv.org/abs/1804.09541; Seo et al. 2016, https://arxiv.org/abs/1611.01603
    (attention flow); Chen et al. 2017, https://arxiv.org/abs/1704.00051 (features, pointers).
    """

    def __init__(self, vocabulary_size, config: ModelConfig, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size = vocabulary_size
        self.config = config
        dim, policy = config.embedding_dim, {"dtype": self.dtype_policy}
        self.embedding = TokenEmbedding(vocabulary_size, dim, name="embedding", **policy)
        self.align = AlignedQuestion(dim, name="align", **policy)
        self.project = keras.layers.Dense(dim, name="project", **policy)
        if config.positions == "learned":
            self.place = LearnedPositions(LEARNED_LENGTH, dim, name="positions", **policy)
        elif config.positions == "sinusoidal":
            self.place = SinusoidalPositions(dim, name="positions", **policy)
        else:
            self.place = None  # rotary: inside the blocks
        self.encoder = self._pair("encoder")
        self.attend = QuestionContextAttention(dim, name="attention", **policy)
        self.second_reading = [self._pair(f"second_reading_{n}") for n in range(max(config.num_layers - 1, 1))]
        self.norm = normalisation(config.norm, epsilon=config.norm_epsilon, name="norm", **policy)
        self.point = SpanPointer(name="point", **policy)
        # One mask for all tokens of a text: a dropped unit is missing everywhere, not guessed from its neighbours.
        self.drop = keras.layers.Dropout(config.dropout, noise_shape=(None, 1, None), name="dropout", **policy)

    def _pair(self, name):
        config, policy = self.config, {"dtype": self.dtype_policy}
        convolution = ConvolutionBlock(
            config.embedding_dim, norm=config.norm, dropout=config.dropout, name=f"{name}_convolution", **policy
        )
        return [convolution, transformer_block(config, name=f"{name}_block", **policy)]

    def build(self, input_shape=None):
        dim = self.config.embedding_dim
        states = (None, None, dim)
        self.embedding.build()
        self.align.build(states)
        self.project.build((None, None, 2 * dim + NUM_MATCH_FEATURES))
        if self.place is not None:
            self.place.build(states)
        for convolution, block in (self.encoder, *self.second_reading):
            convolution.build(states)
            block.build(states)
        self.attend.build(states)
        self.norm.build(states)
        self.point.build(states, states)

    def call(self, inputs, training=None):
        return self._read(inputs, training)[0]

    def attention(self, inputs):
        """Where the first example's context tokens looked in the question: weights [T, Q] and the names of the axes."""
        _, weights = self._read(inputs, training=False)
        return {"weights": ops.convert_to_numpy(weights[0]), "axes": ("context_ids", "question_ids")}

    def _read(self, inputs, training):
        question_ids, context_ids = inputs["question_ids"], inputs["context_ids"]
        question_mask, context_mask = ops.not_equal(question_ids, PAD), ops.not_equal(context_ids, PAD)
        question = self.drop(self.embedding(question_ids), training=training)  # [B, Q, D]
        context = self.drop(self.embedding(context_ids), training=training)  # [B, T, D]
        aligned = self.align(context, question, question_mask)  # [B, T, D]
        # The question is aligned to itself, so that one encoder fits both texts.
        question = self._enter(
            question, question, match_features(question_ids, context_ids, context_ids), question_mask
        )
        context = self._enter(context, aligned, match_features(context_ids, question_ids, context_ids), context_mask)

        question = self._pass(self.encoder, question, question_mask, training)
        context = self._pass(self.encoder, context, context_mask, training)
        x, weights = self.attend(context, question, context_mask, question_mask)  # [B, T, D], [B, T, Q]
        x = context + self.drop(x, training=training)
        for pair in self.second_reading:
            x = self._pass(pair, x, context_mask, training)
        x = self.drop(self.norm(x), training=training)
        return self.point(x, question, context_mask, question_mask), weights

    def _enter(self, embedded, aligned, features, mask):
        """Embeddings twice [B, N, D] and features [B, N, 5] -> [B, N, D]."""
        x = self.project(ops.concatenate([embedded, aligned, ops.cast(features, embedded.dtype)], axis=-1))
        return x if self.place is None else self.place(x, positions_of(mask))

    def _pass(self, pair, x, mask, training):
        convolution, block = pair
        x = convolution(x, mask, training=training)
        return block(x, mask=mask, positions=positions_of(mask), training=training)

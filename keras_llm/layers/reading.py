"""What a reader is made of, whatever encodes its tokens: match features, question-context attention, a span pointer.

Shapes: B batch, T context length, Q question length, D width of the states, F = 5 match features.
Masks are true at real tokens.
"""

import keras
from keras import ops

# Far below any score, far above float32's overflow.
HIDDEN = -1e9
NUM_MATCH_FEATURES = 5


def masked_softmax(scores, mask):
    """Softmax over the last axis among the places where `mask` is true, in float32 whatever the dtype of `scores`."""
    # Below HIDDEN, which a real score may be: the best of a question without tokens.
    return ops.softmax(ops.where(mask, ops.cast(scores, "float32"), 2 * HIDDEN), axis=-1)


def match_features(ids, other_ids, context_ids):
    """What the ids alone say about each token: does it, alone and with its neighbours, stand in the other text too?

    A reader trained on little text learns from these long before it learns what words mean.

    Args:
        ids: int [B, N], the question or the context; 0 is padding.
        other_ids: int [B, M], the other of the two.
        context_ids: int [B, T], whose counts say how rare a token is here.

    Returns:
        float32 [B, N, 5]: the token is in the other text; together with the token after it; together with the token
        before it; the first divided by the token's count in the context; one over that count (at least 1).

    Example:

    >>> question, context = keras.ops.array([[7, 8, 0]]), keras.ops.array([[5, 7, 8, 5]])
    >>> keras.ops.convert_to_numpy(match_features(context, question, context))[0, :, :3].astype(int).tolist()
    [[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]]

    Reference: Chen et al. 2017, https://arxiv.org/abs/1704.00051 (exact match).
    """
    equal = _equal(ids, other_ids)  # [B, N, M]
    match = ops.max(equal, axis=-1, initial=0.0)
    # [B, N - 1]: ids n and n + 1 stand side by side there too
    pair = ops.max(equal[:, :-1, :-1] * equal[:, 1:, 1:], axis=-1, initial=0.0)
    count = ops.maximum(ops.sum(_equal(ids, context_ids), axis=-1), 1.0)
    following = ops.pad(pair, [[0, 0], [0, 1]])
    preceding = ops.pad(pair, [[0, 0], [1, 0]])
    return ops.stack([match, following, preceding, match / count, 1.0 / count], axis=-1)


class AlignedQuestion(keras.layers.Layer):
    """For each context token the question's embeddings, weighted by how alike they are: a soft match.

    Args:
        units: width of the space in which embeddings are compared.

    Call:
        context: [B, T, D], embeddings.
        question: [B, Q, D].
        question_mask: bool [B, Q].

    Returns: [B, T, D].

    Example:

    >>> align = AlignedQuestion(8)
    >>> align(keras.ops.ones((1, 5, 4)), keras.ops.ones((1, 3, 4)), keras.ops.ones((1, 3), "bool")).shape
    TensorShape([1, 5, 4])

    Reference: Chen et al. 2017, https://arxiv.org/abs/1704.00051, section 3.2 (aligned question embedding).
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.compare = keras.layers.Dense(units, activation="relu", dtype=self.dtype_policy, name="compare")

    def build(self, context_shape, question_shape=None, question_mask_shape=None):
        self.compare.build(context_shape)

    def call(self, context, question, question_mask):
        scores = ops.matmul(self.compare(context), ops.transpose(self.compare(question), (0, 2, 1)))  # [B, T, Q]
        weights = masked_softmax(scores, question_mask[:, None, :])
        return ops.matmul(ops.cast(weights, question.dtype), question)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class QuestionContextAttention(keras.layers.Layer):
    """Attention flow: every context token looks at the question, and the question at the context.

    The score of context state c and question state q is w1·c + w2·q + (w3 ∘ c)·q.

    Args:
        units: width of the output.

    Call:
        context: [B, T, D].
        question: [B, Q, D].
        context_mask: bool [B, T].
        question_mask: bool [B, Q].

    Returns:
        fused [B, T, units], and each context token's attention over the question, weights float32 [B, T, Q].

    Example:

    >>> attend, real = QuestionContextAttention(6), keras.ops.ones((1, 5), "bool")
    >>> fused, weights = attend(keras.ops.ones((1, 5, 4)), keras.ops.ones((1, 3, 4)), real, real[:, :3])
    >>> fused.shape, weights.shape
    (TensorShape([1, 5, 6]), TensorShape([1, 5, 3]))

    Reference: Seo et al. 2016, https://arxiv.org/abs/1611.01603.
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        policy = {"dtype": self.dtype_policy}
        self.score_context = keras.layers.Dense(1, use_bias=False, name="score_context", **policy)
        self.score_question = keras.layers.Dense(1, use_bias=False, name="score_question", **policy)
        self.fuse = keras.layers.Dense(units, activation="relu", name="fuse", **policy)

    def build(self, context_shape, question_shape=None, context_mask_shape=None, question_mask_shape=None):
        width = context_shape[-1]
        self.score_context.build(context_shape)
        self.score_question.build(context_shape)
        self.fuse.build((*context_shape[:-1], 4 * width))
        # Scaled as attention is, so that the first weights are soft.
        self.scale = self.add_weight(name="scale", shape=(width,), initializer=keras.initializers.Constant(width**-0.5))

    def call(self, context, question, context_mask, question_mask):
        scores = ops.matmul(
            context * ops.convert_to_tensor(self.scale), ops.transpose(question, (0, 2, 1))
        )  # [B, T, Q]
        scores = scores + self.score_context(context) + ops.transpose(self.score_question(question), (0, 2, 1))
        weights = masked_softmax(scores, question_mask[:, None, :])
        asked = ops.matmul(ops.cast(weights, question.dtype), question)  # [B, T, D]: the question as each token sees it
        real = ops.where(question_mask[:, None, :], ops.cast(scores, "float32"), HIDDEN)
        best = ops.max(real, axis=-1, initial=HIDDEN)  # [B, T]
        important = masked_softmax(best, context_mask)[:, None, :]
        told = ops.matmul(ops.cast(important, context.dtype), context)  # [B, 1, D]: the context as the question sees it
        return self.fuse(ops.concatenate([context, asked, context * asked, context * told], axis=-1)), weights

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class SpanPointer(keras.layers.Layer):
    """Points at the first and the last token of the answer, or at no answer.

    The question's states are summed up by attention; a bilinear score against the summary points at the start; the end
    is scored against the summary and the softly chosen start.

    Call:
        context: [B, T, D], states that know the question.
        question: [B, Q, E].
        context_mask: bool [B, T].
        question_mask: bool [B, Q].

    Returns:
        logits float32 [B, 2, T + 1]: row 0 start, row 1 end (inclusive); column 0 no answer, column t + 1 context
        token t, -1e9 at padding.

    Example:

    >>> real = keras.ops.ones((1, 5), "bool")
    >>> SpanPointer()(keras.ops.ones((1, 5, 4)), keras.ops.ones((1, 3, 6)), real, real[:, :3]).shape
    TensorShape([1, 2, 6])

    Reference: Chen et al. 2017, https://arxiv.org/abs/1704.00051 (bilinear pointers); Wang et al. 2017, R-Net
    (question summary; an end that follows the start).
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Logits decide between neighbours by small differences: half precision is too coarse for them.
        policy = {"dtype": "float32"}
        self.weigh = keras.layers.Dense(1, name="weigh", **policy)
        self.start_bias = keras.layers.Dense(1, name="start_bias", **policy)
        self.end_bias = keras.layers.Dense(1, name="end_bias", **policy)
        self.no_answer = keras.layers.Dense(2, name="no_answer", **policy)

    def build(self, context_shape, question_shape, context_mask_shape=None, question_mask_shape=None):
        width, question_width = context_shape[-1], question_shape[-1]
        policy = {"dtype": "float32"}
        self.start_query = keras.layers.Dense(width, name="start_query", **policy)
        self.end_query = keras.layers.Dense(width, name="end_query", **policy)
        self.follow = keras.layers.Dense(question_width, activation="tanh", name="follow", **policy)
        self.weigh.build(question_shape)
        self.start_bias.build(context_shape)
        self.end_bias.build(context_shape)
        self.start_query.build((None, question_width))
        self.follow.build((None, question_width + width))
        self.end_query.build((None, question_width))
        self.no_answer.build((None, question_width + width))

    def call(self, context, question, context_mask, question_mask):
        context, question = ops.cast(context, "float32"), ops.cast(question, "float32")
        asked = _pool(masked_softmax(self.weigh(question)[..., 0], question_mask), question)  # [B, E]
        start = self._score(context, self.start_query(asked)) + self.start_bias(context)[..., 0]  # [B, T]
        begun = _pool(masked_softmax(start, context_mask), context)  # [B, D]
        follow = self.follow(ops.concatenate([asked, begun], axis=-1))
        end = self._score(context, self.end_query(follow)) + self.end_bias(context)[..., 0]
        # No lower than -1, so that a text of padding only has something, too.
        highest = ops.max(ops.where(context_mask[..., None], context, HIDDEN), axis=1, initial=-1.0)  # [B, D]
        nothing = self.no_answer(ops.concatenate([asked, highest], axis=-1))  # [B, 2]
        places = ops.where(context_mask[:, None, :], ops.stack([start, end], axis=1), HIDDEN)  # [B, 2, T]
        return ops.concatenate([nothing[..., None], places], axis=-1)

    def _score(self, context, query):
        return ops.matmul(context, query[..., None])[..., 0] * context.shape[-1] ** -0.5


def _equal(ids, other_ids):
    """1.0 where two real ids are equal, float32 [B, N, M]."""
    same = ops.equal(ids[:, :, None], other_ids[:, None, :])
    return ops.cast(ops.logical_and(same, ops.not_equal(ids, 0)[:, :, None]), "float32")


def _pool(weights, states):
    """Weights [B, N], states [B, N, D] -> [B, D]."""
    return ops.matmul(weights[:, None, :], states)[:, 0]

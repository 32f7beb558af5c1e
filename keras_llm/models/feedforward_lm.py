"""The feed-forward language model: the next token from the vectors of the last n - 1, side by side.

Shapes: B batch, T length, n order, D embedding width, U hidden units, V vocabulary.
"""

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.embedding import TokenEmbedding
from keras_llm.layers.linear import Linear
from keras_llm.models.scoring import log_probs_in_windows

PAD = 0


class FeedForwardLanguageModel(keras.Model):
    """Concatenated embeddings of the n - 1 tokens before, a tanh layer, and scores of all tokens.

    Where a text has fewer tokens before, padding stands in their place.

    Args:
        vocabulary_size: V. Id 0 is padding.
        config: uses order, embedding_dim, hidden_dim, dropout, tied (the output head is the embedding's matrix, behind a
            layer from U to D), direct_connections (also connect the embeddings to the output) and context_length.
        dtype: a dtype policy, passed to every layer.

    Call: {"token_ids": int [B, T], "segment_ids": int [B, T] or absent} -> logits float32 [B, T, V], of the next tokens.
    Tokens of other segments are padding.

    Example:

    >>> model = FeedForwardLanguageModel(100, ModelConfig(order=3, embedding_dim=8, hidden_dim=16))
    >>> model({"token_ids": keras.ops.ones((2, 5), "int32")}).shape
    TensorShape([2, 5, 100])

    Reference: Bengio et al. 2003, "A neural probabilistic language model",
    https://www.jmlr.org/papers/v3/bengio03a.html.
    """

    def __init__(self, vocabulary_size, config: ModelConfig, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size, self.config = vocabulary_size, config
        self.seen = config.order - 1
        policy = {"dtype": self.dtype_policy}
        self.embedding = TokenEmbedding(vocabulary_size, config.embedding_dim, scale=True, name="embedding", **policy)
        self.hidden = Linear(config.hidden_dim, name="hidden", **policy)
        self.project = Linear(config.embedding_dim, name="project", **policy) if config.tied else None
        self.head = None if config.tied else Linear(vocabulary_size, name="head", **policy)
        self.direct = None
        if config.direct_connections:
            self.direct = Linear(vocabulary_size, use_bias=False, name="direct", **policy)
        self.drop = keras.layers.Dropout(config.dropout, name="dropout", **policy)

    def build(self, input_shape=None):
        self.embedding.build()
        context = (None, None, self.seen * self.config.embedding_dim)
        self.hidden.build(context)
        for layer in (self.project, self.head):
            if layer is not None:
                layer.build((None, None, self.config.hidden_dim))
        if self.direct is not None:
            self.direct.build(context)

    def call(self, inputs, training=None):
        ids, segments = inputs["token_ids"], inputs.get("segment_ids")
        contexts = []
        for back in reversed(range(self.seen)):
            before = _shift(ids, back)
            if segments is not None and back:
                before = ops.where(_shift(segments + 1, back) == segments + 1, before, PAD)
            contexts.append(before)
        return self._predict(ops.stack(contexts, axis=-1), training)

    def start(self, ids, count, length):
        """What `step` needs after the first `count` columns of ids [B, P]: the n - 1 tokens before, int32 [B, n - 1]."""
        before = ops.zeros((ops.shape(ids)[0], self.seen), "int32")
        padded = ops.concatenate([before, ops.cast(ids, "int32")], axis=1)
        return ops.take(padded, count + ops.arange(self.seen), axis=1)

    def step(self, ids, state):
        """The next token's logits float32 [B, V] after `ids` int [B], and the new state."""
        state = ops.concatenate([state[:, 1:], ops.expand_dims(ids, 1)], axis=1)
        return self._predict(ops.expand_dims(state, 1), False)[:, 0], state

    def log_probs(self, ids):
        """Log-probability of each token of ids [B, T] but the first, given those before it: float32 [B, T - 1]."""
        context = max(self.config.context_length, 2 * self.seen)
        return log_probs_in_windows(self, ids, context, overlap=self.seen)

    def _predict(self, contexts, training):
        """Tokens before [B, T, n - 1] -> logits [B, T, V]."""
        batch, length = ops.shape(contexts)[:2]
        x = ops.reshape(self.embedding(contexts), (batch, length, self.seen * self.config.embedding_dim))
        x = self.drop(x, training=training)
        y = self.drop(ops.tanh(self.hidden(x)), training=training)
        if self.head is None:
            logits = self.embedding.logits(self.project(y))
        else:
            logits = ops.cast(self.head(y), "float32")
        return logits if self.direct is None else logits + ops.cast(self.direct(x), "float32")


def _shift(values, back):
    """Values [B, T] moved `back` places to the right, padding before them."""
    if not back:
        return values
    length = ops.shape(values)[1]
    return ops.pad(values, ((0, 0), (back, 0)))[:, :length]

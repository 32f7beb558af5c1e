"""The Transformer decoder as a language model (GPT-like).

Shapes: B batch, T length, D width, C context, V vocabulary.
"""

import math

import keras
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.embedding import LearnedPositions, SinusoidalPositions, TokenEmbedding
from keras_llm.layers.linear import Linear
from keras_llm.layers.normalization import normalisation
from keras_llm.models.blocks import transformer_block
from keras_llm.models.scoring import log_probs_in_windows


class TransformerLanguageModel(keras.Model):
    """Embedding and positions, causal Transformer blocks, and scores of all tokens.

    Text longer than C is read through a window: generation keeps the keys and values of the last C tokens, scoring goes in
    windows that share half of their tokens.

    Args:
        vocabulary_size: V. No id is special: what stands behind a text does not reach it.
        config: uses context_length (C), embedding_dim, scale_embedding, positions, num_layers, norm, norm_first, tied, dropout,
            and what `transformer_block` uses.
        dtype: a dtype policy, passed to every layer.

    Call: {"token_ids": int [B, T], "segment_ids" and "positions": int [B, T] or absent} -> logits float32 [B, T, V], of the next
    tokens. Tokens see only tokens of their own segment, so that packed documents are as good as separate ones.

    Example:

    >>> model = TransformerLanguageModel(100, ModelConfig(embedding_dim=8, num_heads=2, num_layers=1, feedforward_dim=16))
    >>> model({"token_ids": keras.ops.ones((2, 5), "int32")}).shape
    TensorShape([2, 5, 100])

    Reference: Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2; also the smaller first values
    of what each block adds); Touvron et al. 2023, https://arxiv.org/abs/2302.13971 (rotary positions, RMSNorm, SwiGLU).
    """

    def __init__(self, vocabulary_size, config: ModelConfig, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size, self.config = vocabulary_size, config
        width, policy = config.embedding_dim, {"dtype": self.dtype_policy}
        self.embedding = TokenEmbedding(
            vocabulary_size, width, scale=config.scale_embedding, name="embedding", **policy
        )
        self.positions = None
        if config.positions == "learned":
            self.positions = LearnedPositions(config.context_length, width, name="positions", **policy)
        elif config.positions == "sinusoidal":
            self.positions = SinusoidalPositions(width, name="positions", **policy)
        self.blocks = [
            transformer_block(config, causal=True, name=f"block_{i}", **policy) for i in range(config.num_layers)
        ]
        self.norm = None
        if config.norm_first:
            self.norm = normalisation(config.norm, epsilon=config.norm_epsilon, name="norm", **policy)
        self.head = None if config.tied else Linear(vocabulary_size, use_bias=False, name="head", **policy)
        self.drop = keras.layers.Dropout(config.dropout, name="dropout", **policy)

    def build(self, input_shape=None):
        shape = (None, None, self.config.embedding_dim)
        self.embedding.build()
        for layer in (self.positions, self.norm, self.head, *self.blocks):
            if layer is not None:
                layer.build(shape)
        # The sum over all blocks starts as large as what a single one adds.
        for block in self.blocks:
            for linear in (block.self_attention.output_projection, block.feedforward.outer):
                linear.kernel.assign(linear.kernel / math.sqrt(2 * len(self.blocks)))

    def call(self, inputs, training=None):
        positions, segments = inputs.get("positions"), inputs.get("segment_ids")
        x = self._embed(inputs["token_ids"], positions, training)
        for block in self.blocks:
            x = block(x, positions=positions, segment_ids=segments, training=training)
        return self._logits(x)

    def start(self, ids, count, length):
        """What `step` needs after the first `count` columns of ids [B, P], P <= C: each block's cache of at most C tokens."""
        room = ops.maximum(ops.minimum(length, self.config.context_length), ops.shape(ids)[1])
        x, caches = self._embed(ids, None, False), []
        for block in self.blocks:
            # What is written behind the first `count` places is written anew before anything looks at it.
            x, cache = block(x, cache=block.new_cache(ids, room), position=0)
            caches.append(cache)
        return {"caches": tuple(caches), "position": ops.cast(count, "int32")}

    def step(self, ids, state):
        """The next token's logits float32 [B, V] after `ids` int [B], and the new state."""
        position, caches = state["position"], []
        x = self._embed(ops.expand_dims(ids, 1), position, False)
        for block, cache in zip(self.blocks, state["caches"], strict=True):
            x, cache = block(x, cache=cache, position=position)
            caches.append(cache)
        return self._logits(x)[:, 0], {"caches": tuple(caches), "position": position + 1}

    def log_probs(self, ids):
        """Log-probability of each token of ids [B, T] but the first, given at least C / 2 before it where there are as many:
        float32 [B, T - 1]."""
        context = self.config.context_length
        return log_probs_in_windows(self, ids, context, overlap=context // 2)

    def attention(self, inputs):
        """Where the first example's tokens looked in the last block, mean of the heads: weights [T, T], names of the axes."""
        x = self._embed(inputs["token_ids"], inputs.get("positions"), False)
        for block in self.blocks:
            x, weights = block(
                x, positions=inputs.get("positions"), segment_ids=inputs.get("segment_ids"), return_weights=True
            )
        return {"weights": ops.convert_to_numpy(ops.mean(weights[0], axis=0)), "axes": ("token_ids", "token_ids")}

    def _embed(self, ids, positions, training):
        x = self.embedding(ids)
        if self.positions is not None:
            x = self.positions(x, positions)
        return self.drop(x, training=training)

    def _logits(self, x):
        x = x if self.norm is None else self.norm(x)
        return self.embedding.logits(x) if self.head is None else ops.cast(self.head(x), "float32")

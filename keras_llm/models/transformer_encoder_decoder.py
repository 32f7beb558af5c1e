"""The Transformer encoder-decoder: a question in, an answer out.

Shapes: B batch, S source length, T target length, D width, H heads, V vocabulary.
"""

import keras
from keras import ops

from keras_llm.config import LEARNED_LENGTH, ModelConfig
from keras_llm.layers.embedding import LearnedPositions, SinusoidalPositions, TokenEmbedding, positions_of
from keras_llm.layers.transformer import TransformerBlock, normalisation

PAD = 0


class TransformerEncoderDecoder(keras.Model):
    """Blocks read the source in both directions; causal blocks with attention to the source write the target. Source
    and target share one embedding, which is also the output head.

    Args:
        vocabulary_size: V. Id 0 is padding.
        config: uses all fields but hidden_dim and attention.
        dtype: a dtype policy, passed to every layer.

    Call: {"source_ids": int [B, S], "target_ids": int [B, T]} -> logits float32 [B, T, V]. Target ids begin with the start id.

    Example:

    >>> model = TransformerEncoderDecoder(100, ModelConfig(embedding_dim=8, num_layers=1, feedforward_dim=16))
    >>> ids = keras.ops.ones((2, 5), "int32")
    >>> model({"source_ids": ids, "target_ids": ids}).shape
    TensorShape([2, 5, 100])

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
    """

    def __init__(self, vocabulary_size, config: ModelConfig, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size = vocabulary_size
        self.config = config
        width, policy = config.embedding_dim, {"dtype": self.dtype_policy}
        # Unit-variance vectors: as large as the positions that are added to them.
        self.embedding = TokenEmbedding(vocabulary_size, width, scale=True, name="embedding", **policy)
        self.positions = None
        if config.positions == "learned":
            self.positions = LearnedPositions(LEARNED_LENGTH, width, name="positions", **policy)
        elif config.positions == "sinusoidal":
            self.positions = SinusoidalPositions(width, name="positions", **policy)
        block = {
            "num_heads": config.num_heads,
            "num_kv_heads": config.num_kv_heads,
            "hidden_dim": width,
            "feedforward_dim": config.feedforward_dim,
            "activation": config.activation,
            "norm": config.norm,
            "norm_first": config.norm_first,
            "rotary": config.positions == "rotary",
            "dropout": config.dropout,
            **policy,
        }
        layers = range(config.num_layers)
        self.encoder = [TransformerBlock(name=f"encoder_{i}", **block) for i in layers]
        self.decoder = [
            TransformerBlock(causal=True, cross_attention=True, name=f"decoder_{i}", **block) for i in layers
        ]
        self.encoder_norm = normalisation(config.norm, name="encoder_norm", **policy) if config.norm_first else None
        self.decoder_norm = normalisation(config.norm, name="decoder_norm", **policy) if config.norm_first else None
        self.drop = keras.layers.Dropout(config.dropout, name="dropout", **policy)

    def build(self, input_shape=None):
        shape = (None, None, self.config.embedding_dim)
        self.embedding.build()
        for layer in (self.positions, self.encoder_norm, self.decoder_norm, *self.encoder, *self.decoder):
            if layer is not None:
                layer.build(shape)

    def call(self, inputs, training=None):
        memory, mask = self._encode(inputs["source_ids"], training)
        x = self._embed(inputs["target_ids"], None, training)
        for block in self.decoder:
            # Padding comes last in a target and is not scored: causality hides it, no mask is needed.
            x = block(x, memory=memory, memory_mask=mask, training=training)
        return self._logits(x)

    def start(self, source_ids, max_length):
        """What `step` needs to begin: each decoder block's keys and values of the source, and its empty cache."""
        memory, mask = self._encode(source_ids, training=False)
        return {
            "caches": tuple(block.new_cache(source_ids, max_length, memory) for block in self.decoder),
            "mask": mask,
            "position": ops.zeros((), "int32"),
        }

    def step(self, ids, state):
        """The next token's logits float32 [B, V] after `ids` int [B], and the new state."""
        position, caches = state["position"], []
        x = self._embed(ops.expand_dims(ids, 1), position, False)  # [B, 1, D]
        for block, cache in zip(self.decoder, state["caches"], strict=True):
            x, cache = block(x, memory_mask=state["mask"], cache=cache, position=position)
            caches.append(cache)
        return self._logits(x)[:, 0], {**state, "caches": tuple(caches), "position": position + 1}

    def attention(self, inputs):
        """Where the first example's target looked in the last block, mean of the heads: weights [T, S], names of the axes."""
        memory, mask = self._encode(inputs["source_ids"], False)
        x = self._embed(inputs["target_ids"], None, False)
        for block in self.decoder:
            x, weights = block(x, memory=memory, memory_mask=mask, return_weights=True)
        return {"weights": ops.convert_to_numpy(ops.mean(weights[0], axis=0)), "axes": ("target_ids", "source_ids")}

    def _embed(self, ids, positions, training):
        x = self.embedding(ids)
        if self.positions is not None:
            x = self.positions(x, positions)
        return self.drop(x, training=training)

    def _encode(self, source_ids, training):
        mask = ops.not_equal(source_ids, PAD)
        positions = positions_of(mask)
        x = self._embed(source_ids, positions, training)
        for block in self.encoder:
            x = block(x, mask=mask, positions=positions, training=training)
        return (x if self.encoder_norm is None else self.encoder_norm(x)), mask

    def _logits(self, x):
        return self.embedding.logits(x if self.decoder_norm is None else self.decoder_norm(x))

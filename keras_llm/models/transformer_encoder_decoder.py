"""The Transformer encoder-decoder: a question in, an answer out.

Shapes: B batch, S source length, T target length, D width, H heads, V vocabulary.
"""

import keras
from keras import ops

from keras_llm.config import LEARNED_LENGTH, ModelConfig
from keras_llm.layers.copying import PointerGenerator
from keras_llm.layers.embedding import (
    LearnedPositions,
    RelativePositions,
    SinusoidalPositions,
    TokenEmbedding,
    positions_of,
)
from keras_llm.layers.linear import Linear
from keras_llm.layers.multi_head_attention import MultiHeadAttention
from keras_llm.layers.normalization import normalisation
from keras_llm.models.blocks import transformer_block

PAD = 0


class TransformerEncoderDecoder(keras.Model):
    """Blocks read the source in both directions; causal blocks with attention to the source write the target. Source
    and target share one embedding, which is also the output head unless the config gives the model one of its own.

    Args:
        vocabulary_size: V. Id 0 is padding.
        config: uses all fields of Transformers.
        dtype: a dtype policy, passed to every layer.

    Call: {"source_ids": int [B, S], "target_ids": int [B, T]} -> logits float32 [B, T, V]. Target ids begin with the start id.

    Example:

    >>> model = TransformerEncoderDecoder(100, ModelConfig(embedding_dim=8, num_layers=1, feedforward_dim=16))
    >>> ids = keras.ops.ones((2, 5), "int32")
    >>> model({"source_ids": ids, "target_ids": ids}).shape
    TensorShape([2, 5, 100])

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Raffel et al. 2020, https://arxiv.org/abs/1910.10683
    (relative positions).
    """

    def __init__(self, vocabulary_size, config: ModelConfig, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.vocabulary_size = vocabulary_size
        self.config = config
        width, policy = config.embedding_dim, {"dtype": self.dtype_policy}
        # Unit-variance vectors: as large as the positions that are added to them.
        self.embedding = TokenEmbedding(
            vocabulary_size, width, scale=config.scale_embedding, name="embedding", **policy
        )
        self.positions = None
        if config.positions == "learned":
            self.positions = LearnedPositions(LEARNED_LENGTH, width, name="positions", **policy)
        elif config.positions == "sinusoidal":
            self.positions = SinusoidalPositions(width, name="positions", **policy)
        layers, decoder_layers = config.num_layers, config.num_decoder_layers or config.num_layers
        self.encoder = [transformer_block(config, name=f"encoder_{i}", **policy) for i in range(layers)]
        self.decoder = [
            transformer_block(config, causal=True, cross_attention=True, name=f"decoder_{i}", **policy)
            for i in range(decoder_layers)
        ]
        self.encoder_norm = self.decoder_norm = None
        if config.norm_first:
            norm = {"norm": config.norm, "epsilon": config.norm_epsilon, **policy}
            self.encoder_norm = normalisation(name="encoder_norm", **norm)
            self.decoder_norm = normalisation(name="decoder_norm", **norm)
        self.encoder_positions = self.decoder_positions = None
        if config.positions == "relative":  # one for all blocks of a stack
            relative = {"buckets": config.relative_buckets, "max_distance": config.relative_distance, **policy}
            self.encoder_positions = RelativePositions(
                config.num_heads, bidirectional=True, name="encoder_positions", **relative
            )
            self.decoder_positions = RelativePositions(config.num_heads, name="decoder_positions", **relative)
        self.head = None if config.tied else Linear(vocabulary_size, use_bias=False, name="head", **policy)
        self.look_back = self.copy = None
        if config.copy:  # with one head of its own, whose weights are those of what is copied
            self.look_back = MultiHeadAttention(1, cross=True, name="look_back", **policy)
            self.copy = PointerGenerator(name="copy", **policy)
        self.drop = keras.layers.Dropout(config.dropout, name="dropout", **policy)

    def build(self, input_shape=None):
        shape = (None, None, self.config.embedding_dim)
        self.embedding.build()
        layers = (self.positions, self.encoder_norm, self.decoder_norm, *self.encoder, *self.decoder)
        for layer in (*layers, self.encoder_positions, self.decoder_positions, self.head, self.look_back):
            if layer is not None:
                layer.build(shape)
        if self.copy is not None:
            self.copy.build((None, None, self.vocabulary_size), (None, None, 2 * self.config.embedding_dim))

    def call(self, inputs, training=None):
        memory, mask = self._encode(inputs["source_ids"], training)
        source = self._source(inputs["source_ids"], memory, mask)
        x, bias = self._embed(inputs["target_ids"], None, training), _bias(self.decoder_positions, inputs["target_ids"])
        for block in self.decoder:
            # Padding comes last in a target and is not scored: causality hides it, no mask is needed.
            x = block(x, memory=memory, memory_mask=mask, bias=bias, training=training)
        return self._logits(x, source)

    def start(self, source_ids, max_length):
        """What `step` needs to begin: each decoder block's keys and values of the source, and its empty cache."""
        memory, mask = self._encode(source_ids, training=False)
        return {
            "caches": tuple(block.new_cache(source_ids, max_length, memory) for block in self.decoder),
            "source": self._source(source_ids, memory, mask),
            "position": ops.zeros((), "int32"),
        }

    def step(self, ids, state):
        """The next token's logits float32 [B, V] after `ids` int [B], and the new state."""
        position, caches_before, caches = state["position"], state["caches"], []
        x, bias = self._embed(ops.expand_dims(ids, 1), position, False), None  # [B, 1, D]
        if self.decoder_positions is not None:
            room = ops.shape(caches_before[0]["self"]["key"])[2]
            bias = self.decoder_positions(ops.expand_dims(position, 0), ops.arange(room))
        for block, cache in zip(self.decoder, caches_before, strict=True):
            x, cache = block(x, memory_mask=state["source"]["mask"], bias=bias, cache=cache, position=position)
            caches.append(cache)
        return self._logits(x, state["source"])[:, 0], {**state, "caches": tuple(caches), "position": position + 1}

    def attention(self, inputs):
        """Where the first example's target looked in the last block, mean of the heads: weights [T, S], names of the axes."""
        memory, mask = self._encode(inputs["source_ids"], False)
        x, bias = self._embed(inputs["target_ids"], None, False), _bias(self.decoder_positions, inputs["target_ids"])
        for block in self.decoder:
            x, weights = block(x, memory=memory, memory_mask=mask, bias=bias, return_weights=True)
        return {"weights": ops.convert_to_numpy(ops.mean(weights[0], axis=0)), "axes": ("target_ids", "source_ids")}

    def _embed(self, ids, positions, training):
        x = self.embedding(ids)
        if self.positions is not None:
            x = self.positions(x, positions)
        return self.drop(x, training=training)

    def _encode(self, source_ids, training):
        mask = ops.not_equal(source_ids, PAD)
        positions = positions_of(mask)
        x, bias = self._embed(source_ids, positions, training), _bias(self.encoder_positions, source_ids)
        for block in self.encoder:
            x = block(x, mask=mask, positions=positions, bias=bias, training=training)
        return (x if self.encoder_norm is None else self.encoder_norm(x)), mask

    def _source(self, source_ids, memory, mask):
        """What the head needs of the source, besides what the blocks do."""
        if self.copy is None:
            return {"mask": mask}
        return {"mask": mask, "ids": source_ids, "projected": self.look_back.project_memory(memory)}

    def _logits(self, x, source):
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        scaled = x * self.config.embedding_dim**-0.5 if self.config.scale_head else x
        logits = self.embedding.logits(scaled) if self.head is None else ops.cast(self.head(scaled), "float32")
        if self.copy is None:
            return logits
        found, weights = self.look_back(x, memory=source["projected"], mask=source["mask"], return_weights=True)
        return self.copy(logits, ops.concatenate([x, found], axis=-1), weights[:, 0], source["ids"])


def _bias(positions, ids):
    """What relative positions add to the scores of ids [B, T] among themselves; None where there are none."""
    if positions is None:
        return None
    # Places in the row, the same for all rows: padding comes last, what stands before it is not shifted.
    places = ops.arange(ops.shape(ids)[1])
    return positions(places, places)

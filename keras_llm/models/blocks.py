"""Transformer blocks as a config describes them."""

from keras_llm.config import ModelConfig
from keras_llm.layers.transformer import TransformerBlock


def transformer_block(config: ModelConfig, **arguments):
    """A block of a config's width, heads, feed-forward part, normalisation, biases, positions and dropout.

    Args:
        config: uses embedding_dim, num_heads, num_kv_heads, head_dim, feedforward_dim, activation, norm, norm_first,
            norm_epsilon, qkv_bias, output_bias, feedforward_bias, qk_norm, scale_attention, positions, the fields that begin
            with rotary, and dropout.
        arguments: of `TransformerBlock`, besides those: what the model makes of it.

    Example:

    >>> transformer_block(ModelConfig(embedding_dim=8, num_heads=2), causal=True, name="block_0").head_dim
    0
    """
    return TransformerBlock(
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        hidden_dim=config.embedding_dim,
        feedforward_dim=config.feedforward_dim,
        activation=config.activation,
        norm=config.norm,
        norm_first=config.norm_first,
        norm_epsilon=config.norm_epsilon,
        qkv_bias=config.qkv_bias,
        output_bias=config.output_bias,
        feedforward_bias=config.feedforward_bias,
        qk_norm=config.qk_norm,
        scaled=config.scale_attention,
        rotary=rotary_arguments(config) if config.positions == "rotary" else False,
        dropout=config.dropout,
        **arguments,
    )


def rotary_arguments(config: ModelConfig) -> dict:
    """A config's rotary positions as arguments of `RotaryEmbedding`."""
    scaling = None
    if config.rotary_scaling != "none":
        scaling = {"kind": config.rotary_scaling, "factor": config.rotary_factor}
    if config.rotary_scaling == "llama3":
        scaling |= {
            "low_frequency_factor": config.rotary_low_frequency_factor,
            "high_frequency_factor": config.rotary_high_frequency_factor,
            "original_length": config.rotary_original_length,
        }
    return {"base": config.rotary_base, "scaling": scaling}

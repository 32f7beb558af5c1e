"""What KerasHub's layers and arguments are called by Hugging Face, family by family."""

from __future__ import annotations

from typing import Any

BLOCK = r"transformer_layer_(\d+)/"

ENCODER = {
    r"(?:embeddings/)?token_embedding": "embeddings.word_embeddings",
    r"(?:embeddings/)?position_embedding": "embeddings.position_embeddings",
    r"segment_embedding": "embeddings.token_type_embeddings",
    r"embeddings_layer_norm": "embeddings.LayerNorm",
    BLOCK + r"self_attention_layer/(query|key|value)": r"encoder.layer.\1.attention.self.\2",
    BLOCK + r"self_attention_layer/attention_output": r"encoder.layer.\1.attention.output.dense",
    BLOCK + r"self_attention_layer_norm": r"encoder.layer.\1.attention.output.LayerNorm",
    BLOCK + r"feedforward_intermediate_dense": r"encoder.layer.\1.intermediate.dense",
    BLOCK + r"feedforward_output_dense": r"encoder.layer.\1.output.dense",
    BLOCK + r"feedforward_layer_norm": r"encoder.layer.\1.output.LayerNorm",
    r"pooled_dense": "pooler.dense",
}
LLAMA = {
    r"token_embedding": "model.embed_tokens",
    r"sequence_output_layernorm": "model.norm",
    BLOCK + r"self_attention/(q)uery": r"model.layers.\1.self_attn.\2_proj",
    BLOCK + r"self_attention/(k)ey": r"model.layers.\1.self_attn.\2_proj",
    BLOCK + r"self_attention/(v)alue": r"model.layers.\1.self_attn.\2_proj",
    BLOCK + r"self_attention/attention_output": r"model.layers.\1.self_attn.o_proj",
    BLOCK + r"self_attention/query_dense_layernorm": r"model.layers.\1.self_attn.q_norm",
    BLOCK + r"self_attention/key_dense_layernorm": r"model.layers.\1.self_attn.k_norm",
    BLOCK + r"self_attention_layernorm": r"model.layers.\1.input_layernorm",
    BLOCK + r"feedforward_layernorm": r"model.layers.\1.post_attention_layernorm",
    BLOCK + r"feedforward_gate_dense": r"model.layers.\1.mlp.gate_proj",
    BLOCK + r"feedforward_intermediate_dense": r"model.layers.\1.mlp.up_proj",
    BLOCK + r"feedforward_output_dense": r"model.layers.\1.mlp.down_proj",
}
# model_type -> a layer's path, a regular expression -> what Hugging Face calls it.
NAMES: dict[str, dict[str, str]] = {
    "bert": {
        **ENCODER,
        r"mlm_head/intermediate_dense": "cls.predictions.transform.dense",
        r"mlm_head/intermediate_layer_norm": "cls.predictions.transform.LayerNorm",
        r"mlm_head": "cls.predictions",
    },
    "roberta": {
        **ENCODER,
        r"mlm_head/intermediate_dense": "lm_head.dense",
        r"mlm_head/intermediate_layer_norm": "lm_head.layer_norm",
        r"mlm_head": "lm_head",
    },
    "gpt2": {
        r"(?:embeddings/)?token_embedding": "wte",
        r"(?:embeddings/)?position_embedding": "wpe",
        r"layer_norm": "ln_f",
        BLOCK + r"self_attention/(query|key|value)": r"h.\1.attn.\2",
        BLOCK + r"self_attention/attention_output": r"h.\1.attn.c_proj",
        BLOCK + r"self_attention_layer_norm": r"h.\1.ln_1",
        BLOCK + r"feedforward_layer_norm": r"h.\1.ln_2",
        BLOCK + r"feedforward_intermediate_dense": r"h.\1.mlp.c_fc",
        BLOCK + r"feedforward_output_dense": r"h.\1.mlp.c_proj",
    },
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), LLAMA),
}


def encoder_config(values: dict, length: int) -> dict[str, Any]:
    return {
        "hidden_size": values["hidden_dim"],
        "num_hidden_layers": values["num_layers"],
        "num_attention_heads": values["num_heads"],
        "intermediate_size": values["intermediate_dim"],
        "vocab_size": values["vocabulary_size"],
        "hidden_dropout_prob": values["dropout"],
    }


def bert_config(values: dict, length: int) -> dict[str, Any]:
    return encoder_config(values, length) | {
        "hidden_act": "gelu_pytorch_tanh",  # as Google's own code, and unlike Hugging Face's
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": values["max_sequence_length"],
        "type_vocab_size": values["num_segments"],
    }


def roberta_config(values: dict, length: int) -> dict[str, Any]:
    return encoder_config(values, length) | {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": values["max_sequence_length"] + 2,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    }


def gpt2_config(values: dict, length: int) -> dict[str, Any]:
    return {
        "n_embd": values["hidden_dim"],
        "n_layer": values["num_layers"],
        "n_head": values["num_heads"],
        "n_inner": values["intermediate_dim"],
        "n_positions": values["max_sequence_length"],
        "vocab_size": values["vocabulary_size"],
        "resid_pdrop": values["dropout"],
    }


def llama_config(values: dict, length: int) -> dict[str, Any]:
    window = values.get("sliding_window_size", values.get("sliding_window"))
    stretch = values.get("rope_position_scaling_factor", values.get("rope_scaling_factor", 1.0))
    rotary: dict[str, Any] = {"rope_theta": float(values["rope_max_wavelength"])}
    if stretch != 1.0:
        rotary |= {"rope_type": "linear", "factor": float(stretch)}
    if values.get("rope_frequency_adjustment_factor"):
        rotary |= {
            "rope_type": "llama3",
            "factor": float(values["rope_frequency_adjustment_factor"]),
            "low_freq_factor": float(values["rope_low_freq_factor"]),
            "high_freq_factor": float(values["rope_high_freq_factor"]),
            "original_max_position_embeddings": values["rope_pretraining_sequence_length"],
        }
    return {
        "hidden_size": values["hidden_dim"],
        "num_hidden_layers": values["num_layers"],
        "num_attention_heads": values["num_query_heads"],
        "num_key_value_heads": values["num_key_value_heads"],
        "head_dim": values.get("head_dim") or values["hidden_dim"] // values["num_query_heads"],
        "intermediate_size": values["intermediate_dim"],
        "vocab_size": values["vocabulary_size"],
        "rms_norm_eps": values["layer_norm_epsilon"],
        "attention_dropout": float(values["dropout"]),
        "max_position_embeddings": min(length, window or length),  # up to there a window changes nothing
        "sliding_window": window,
        "rope_parameters": rotary,
    }


def t5_config(values: dict, length: int) -> dict[str, Any]:
    activation = values["activation"]
    activation = (activation.get("config") or activation) if isinstance(activation, dict) else activation
    name = str(activation).rpartition(">")[2].rpartition(".")[2]
    gated = {"gelu_approximate": "gated-gelu", "silu": "gated-silu", "swish": "gated-silu"}
    return {
        "d_model": values["hidden_dim"],
        "d_ff": values["intermediate_dim"],
        "d_kv": values["key_value_dim"] or values["hidden_dim"] // values["num_heads"],
        "num_layers": values["num_layers"],
        "num_heads": values["num_heads"],
        "vocab_size": values["vocabulary_size"],
        "layer_norm_epsilon": values["layer_norm_epsilon"],
        "dropout_rate": values["dropout"],
        "feed_forward_proj": gated.get(name, f"gated-{name}") if values["use_gated_activation"] else name,
        "tie_word_embeddings": values["tie_embedding_weights"],
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


# KerasHub's backbone -> model_type, and its arguments as Hugging Face calls them.
CONFIGS = {
    "BertBackbone": ("bert", bert_config),
    "RobertaBackbone": ("roberta", roberta_config),
    "GPT2Backbone": ("gpt2", gpt2_config),
    "LlamaBackbone": ("llama", llama_config),
    "Llama3Backbone": ("llama", llama_config),
    "MistralBackbone": ("mistral", llama_config),
    "QwenBackbone": ("qwen2", llama_config),
    "Qwen3Backbone": ("qwen3", llama_config),
    "T5Backbone": ("t5", t5_config),
}

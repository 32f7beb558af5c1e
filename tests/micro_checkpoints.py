"""Microscopic checkpoints with random weights, saved by `transformers`, and tokenizers trained here."""

import json

import torch
import transformers
from hub_presets import TEXTS, train_byte_pair

SIZES = {
    "vocab_size": 432,
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 100.0,
}
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
# name -> class of the config, its values, splitting, special tokens (the first ends a text where nothing else is said)
CHECKPOINTS = {
    "gpt2": ("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}, "gpt2", ["<|endoftext|>"]),
    "gpt2 untied, exact gelu": (
        "GPT2",
        {
            "n_embd": 16,
            "n_layer": 1,
            "n_head": 2,
            "n_inner": 12,
            "n_positions": 48,
            "activation_function": "gelu",
            "tie_word_embeddings": False,
        },
        "gpt2",
        ["<|endoftext|>"],
    ),
    "llama": ("Llama", {"num_key_value_heads": 2}, "llama3", LLAMA),
    "llama tied, biases, scaled": (
        "Llama",
        {
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 6,
            "rope_parameters": LLAMA3,
        },
        "llama3",
        LLAMA,
    ),
    "qwen2": (
        "Qwen2",
        {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0}},
        "qwen2",
        QWEN,
    ),
    "qwen2 tied": ("Qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": True}, "qwen2", QWEN),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}, "qwen2", QWEN),
}


def save(name, folder, **saving):
    """Writes a checkpoint; returns the model."""
    family, values, splitting, special = CHECKPOINTS[name]
    if family == "GPT2":
        values = {"vocab_size": SIZES["vocab_size"], **values}
        start, ends = 0, [0]
    else:
        values = {**SIZES, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, **values}
        start, ends = (0, [1, 2]) if family == "Llama" else (None, [2, 0])
    config = getattr(transformers, f"{family}Config")(
        **values, bos_token_id=start, eos_token_id=ends[0], pad_token_id=None
    )
    torch.manual_seed(0)
    heads = {"GPT2": transformers.GPT2LMHeadModel}
    model = heads.get(family, getattr(transformers, f"{family}ForCausalLM", None))(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    model.save_pretrained(folder, **saving)
    tokenizer = train_byte_pair(splitting, special=special)
    if family == "Llama":
        from tokenizers.processors import TemplateProcessing

        begin = special[0]
        tokenizer.post_processor = TemplateProcessing(
            f"{begin} $A", f"{begin} $A {begin} $B", [(begin, tokenizer.token_to_id(begin))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": special[0],
        "clean_up_tokenization_spaces": False,
    }
    if family != "Qwen2" and family != "Qwen3":
        settings["bos_token"] = special[0]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


__all__ = ["CHECKPOINTS", "TEXTS", "save"]

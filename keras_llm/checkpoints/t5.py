"""T5's checkpoints (Raffel et al. 2020, https://arxiv.org/abs/1910.10683), those of T5 v1.1, and mT5's (Xue et al. 2021,
https://arxiv.org/abs/2010.11934): relative positions, RMSNorm before each part, no biases, attention that is not scaled.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from keras_llm.checkpoints.decoders import refuse_misfit
from keras_llm.checkpoints.described import Described
from keras_llm.checkpoints.files import Checkpoint, read_json
from keras_llm.checkpoints.table import Entry, linear, same
from keras_llm.checkpoints.unigrams import read_unigram, write_unigram
from keras_llm.config import SENTINELS, Config, LengthConfig, ModelConfig, TokenizerConfig
from keras_llm.errors import UserError
from keras_llm.text.unigram import original

HEAD, WORDS = "lm_head.weight", "shared.weight"
TIED = {HEAD: WORDS, **{f"{stack}.embed_tokens.weight": WORDS for stack in ("encoder", "decoder")}}
# Old files hold relative positions between target and source, which T5 never had a use for.
IGNORED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
# feed_forward_proj -> activation, and what is derived from it: dense_act_fn, is_gated_act.
FEEDFORWARDS = {
    "relu": ("relu", "relu", False),
    "gated-gelu": ("geglu_tanh", "gelu_new", True),
    "gated-silu": ("swiglu", "silu", True),
}
LENGTH = 512  # tokens of the texts that T5 was pretrained on
ANSWER = 128  # tokens: nothing in a checkpoint says how long its texts are


def CANONICAL(name: str) -> str:
    """One name everywhere."""
    return name


def read_config(described: dict, folder: Path) -> Config:
    """The config of the run that a config.json describes, and the tensors beside it; UserError for what is not supported."""
    values = Described(described, folder / "config.json")
    layers = values.take("num_layers", int)
    decoder_layers = values.take("num_decoder_layers", int, layers)
    feedforward = values.choose("feed_forward_proj", {name: name for name in FEEDFORWARDS}, _feedforward(described))
    activation, function, is_gated = FEEDFORWARDS[feedforward]
    values.must("dense_act_fn", function)
    values.must("is_gated_act", is_gated)
    tied, scale_head = _head(values, folder)
    length = values.take("n_positions", int, LENGTH)
    network = ModelConfig(
        embedding_dim=values.take("d_model", int),
        num_layers=layers,
        num_decoder_layers=0 if decoder_layers == layers else decoder_layers,
        num_heads=values.take("num_heads", int),
        head_dim=values.take("d_kv", int),
        feedforward_dim=values.take("d_ff", int),
        activation=activation,
        norm="rms",
        norm_epsilon=values.take("layer_norm_epsilon", float, 1e-6),
        positions="relative",
        relative_buckets=values.take("relative_attention_num_buckets", int, 32),
        relative_distance=values.take("relative_attention_max_distance", int, 128),
        context_length=length,
        tied=tied,
        scale_head=scale_head,
        scale_embedding=False,
        scale_attention=False,
        dropout=values.take("dropout_rate", float, 0.1),
        qkv_bias=False,
        output_bias=False,
        feedforward_bias=False,
    )
    size = values.take("vocab_size", int)
    values.must("is_encoder_decoder", True)
    values.must("is_decoder", False)
    values.ignore("classifier_dropout")
    # How texts are written where nobody says it.
    values.ignore("max_length", "min_length", "num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size")
    values.finish()
    for name in ("config.json", "generation_config.json"):
        if (folder / name).exists():
            said = Described(read_json(folder / name), folder / name)
            for id_, role in enumerate(("pad_token_id", "eos_token_id")):
                said.must(role, id_, [id_])
            said.must("decoder_start_token_id", 0)
    return Config(
        kind="seq2seq",
        model="transformer",
        text=TokenizerConfig("unigram", size),
        network=network,
        lengths=LengthConfig(max_source_length=length, max_answer_length=ANSWER),
    )


def read_tokenizer(folder: Path, config: Config):
    """The tokenizer beside the weights."""
    family = read_json(folder / "config.json")["model_type"]
    return read_unigram(folder, config, extra_ids=SENTINELS if family == "t5" else 0)


def table(config: Config, vocabulary_size: int) -> list[Entry]:
    """Which tensor is which weight."""
    network = config.network
    width, inner, heads = network.embedding_dim, network.feedforward_dim, network.num_heads * head_dim(network)
    is_gated = any(activation == network.activation and gated for activation, _, gated in FEEDFORWARDS.values())
    entries = [same("embedding/embeddings", WORDS)]
    if not network.tied:
        entries.append(linear("head/kernel", HEAD, outputs=[vocabulary_size]))
    blocks = {"encoder": network.num_layers, "decoder": network.num_decoder_layers or network.num_layers}
    for stack, count in blocks.items():
        positions = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        entries.append(same(f"{stack}_positions/embeddings", positions))
        entries.append(same(f"{stack}_norm/scale", f"{stack}.final_layer_norm.weight"))
        for i in range(count):
            ours, theirs = f"{stack}_{i}", f"{stack}.block.{i}.layer"
            attention = f"{theirs}.0.SelfAttention"
            parts = [f"{attention}.{part}.weight" for part in "qkv"]
            entries.append(same(f"{ours}/self_norm/scale", f"{theirs}.0.layer_norm.weight"))
            entries.append(linear(f"{ours}/self_attention/query_key_value/kernel", *parts, outputs=[heads] * 3))
            entries.append(linear(f"{ours}/self_attention/output/kernel", f"{attention}.o.weight", outputs=[width]))
            if stack == "decoder":
                attention, memory = f"{theirs}.1.EncDecAttention", f"{ours}/memory_attention"
                parts = [f"{attention}.{part}.weight" for part in "kv"]
                entries.append(same(f"{ours}/memory_norm/scale", f"{theirs}.1.layer_norm.weight"))
                entries.append(linear(f"{memory}/query/kernel", f"{attention}.q.weight", outputs=[heads]))
                entries.append(linear(f"{memory}/key_value/kernel", *parts, outputs=[heads] * 2))
                entries.append(linear(f"{memory}/output/kernel", f"{attention}.o.weight", outputs=[width]))
            last = f"{theirs}.{2 if stack == 'decoder' else 1}"
            parts = [f"{last}.DenseReluDense.{part}.weight" for part in (("wi_0", "wi_1") if is_gated else ("wi",))]
            outer = f"{last}.DenseReluDense.wo.weight"
            entries.append(same(f"{ours}/feedforward_norm/scale", f"{last}.layer_norm.weight"))
            entries.append(linear(f"{ours}/feedforward/inner/kernel", *parts, outputs=[inner] * len(parts)))
            entries.append(linear(f"{ours}/feedforward/outer/kernel", outer, outputs=[width]))
    return entries


def write_config(config: Config, tokenizer) -> dict[str, Any]:
    """The config.json of a run; UserError where T5 has no such model."""
    network = config.network
    names = {activation: name for name, (activation, _, _) in FEEDFORWARDS.items()}
    off = ("qkv_bias", "output_bias", "feedforward_bias", "qk_norm", "scale_attention", "scale_embedding", "copy")
    refuse_misfit(
        config,
        "T5",
        positions=("relative",),
        norm=("rms",),
        norm_first=(True,),
        activation=tuple(names),
        num_kv_heads=(0, network.num_heads),
        scale_head=(network.tied,),
        **dict.fromkeys(off, (False,)),
    )
    if tokenizer.kind != "unigram":
        raise UserError(
            f"A model of T5's form has the tokenizer it came with. Received: a run with {tokenizer.kind}. "
            "It has no Hugging Face form."
        )
    # Their tensors and numbers are the same. What mT5 has of sentinels is in its SentencePiece model.
    family = "t5" if network.tied or original(tokenizer.model)[1] else "mt5"
    return {
        "architectures": [f"{'MT5' if family == 'mt5' else 'T5'}ForConditionalGeneration"],
        "model_type": family,
        "d_model": network.embedding_dim,
        "d_kv": head_dim(network),
        "d_ff": network.feedforward_dim,
        "num_layers": network.num_layers,
        "num_decoder_layers": network.num_decoder_layers or network.num_layers,
        "num_heads": network.num_heads,
        "relative_attention_num_buckets": network.relative_buckets,
        "relative_attention_max_distance": network.relative_distance,
        "feed_forward_proj": names[network.activation],
        "layer_norm_epsilon": network.norm_epsilon,
        "dropout_rate": network.dropout,
        "n_positions": network.context_length,
        "tie_word_embeddings": network.tied,
        "is_encoder_decoder": True,
        "vocab_size": tokenizer.vocabulary_size,
        "pad_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.end_id,
        "decoder_start_token_id": tokenizer.start_id,
        "dtype": "float32",
    }


def write_tokenizer(directory: Path, tokenizer, config: Config) -> None:
    """The tokenizer's files."""
    write_unigram(directory, tokenizer, config.network.context_length)


def head_dim(network: ModelConfig) -> int:
    """d, the width of a head."""
    return network.head_dim or network.embedding_dim // network.num_heads


def _feedforward(described: dict) -> str:
    """What a config.json means that does not name the feed-forward part."""
    return "gated-gelu" if described["model_type"] == "mt5" else "relu"


def _head(values: Described, folder: Path) -> tuple[bool, bool]:
    """Whether the head is the embedding, and whether what enters it is divided by the root of its width.

    T5 v1.0 has both, T5 v1.1 and mT5 neither: `tie_word_embeddings` said both until transformers 5, which always writes true and
    ties where there is no other head among the tensors.
    """
    is_t5 = values.values["model_type"] == "t5"
    said = values.take("tie_word_embeddings", bool, True)
    scaled = is_t5 and values.take("scale_decoder_outputs", bool, said)
    older = re.match(r"[0-4]\.", str(values.values.get("transformers_version")))
    if not is_t5 and older and values.values.get("tie_word_embeddings"):
        raise UserError(
            f"{values.path}: mT5 has a head apart from its embedding. Received: tie_word_embeddings = true. "
            "Choose another checkpoint."
        )
    return said and (scaled or HEAD not in Checkpoint(folder)), scaled

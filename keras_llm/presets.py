"""Recommended values for every kind of model in a few sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_llm.config import Config, nearest
from keras_llm.errors import UserError

GPT_LIKE = {"positions": "rotary", "norm": "rms", "activation": "gelu", "dropout": 0.1}

BERT_LIKE = {"positions": "learned", "norm": "layer", "norm_first": False, "activation": "gelu", "dropout": 0.1}

WRITERS = ("seq2seq", "generation")

# A line feed tells where a prompt ends; comparing texts for all of a large set would take longer than an epoch.
RESPONSES = {"prompt": "{text}\n", "metric": "loss", "max_judged": 200}

RECURRENT_CHAT = {
    "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
    "network": {"embedding_dim": 256, "hidden_dim": 256, "num_layers": 2, "context_length": 256, "dropout": 0.2},
    "lengths": {"max_answer_length": 80},
    "writing": RESPONSES,
    "training": {"epochs": 10, "batch_size": 32, "learning_rate": 2e-3},
}

# Of translations, as the published small models for data of this size.
TRANSLATION = {"epochs": 40, "batch_tokens": 4096, "label_smoothing": 0.1, "ema": 0.999}

# Recommended values: preset -> (kind, model) -> section -> field. "tiny" is for tests and the demo.
PRESETS: dict[str, dict[tuple[str, str], dict[str, dict[str, Any]]]] = {
    "tiny": {
        ("reading", "lstm"): {
            "text": {"vocabulary_size": 4000, "unicode_policy": "lowercase"},
            "network": {"embedding_dim": 64, "hidden_dim": 64, "num_layers": 1, "dropout": 0.2},
            "training": {"epochs": 30, "batch_size": 16, "learning_rate": 3e-3, "clip_norm": 5.0},
        },
        ("reading", "transformer"): {
            "text": {"vocabulary_size": 4000, "unicode_policy": "lowercase"},
            "network": {"embedding_dim": 64, "num_layers": 2, "num_heads": 4, "feedforward_dim": 128},
            "training": {"epochs": 30, "batch_size": 16, "learning_rate": 1e-3, "clip_norm": 5.0},
        },
        ("closed_book", "lstm"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {"embedding_dim": 64, "hidden_dim": 96, "num_layers": 1, "dropout": 0.0},
            "training": {"epochs": 60, "batch_size": 16, "learning_rate": 5e-3},
        },
        ("closed_book", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {"embedding_dim": 96, "num_layers": 2, "num_heads": 4, "feedforward_dim": 192, "dropout": 0.0},
            "training": {"epochs": 60, "batch_size": 16, "learning_rate": 2e-3},
        },
        ("seq2seq", "lstm"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {"embedding_dim": 64, "hidden_dim": 96, "num_layers": 1, "dropout": 0.1},
            "training": {"epochs": 30, "batch_size": 16, "learning_rate": 5e-3},
        },
        ("seq2seq", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {"embedding_dim": 64, "num_layers": 2, "num_heads": 4, "feedforward_dim": 128, "dropout": 0.1},
            "training": {"epochs": 30, "batch_size": 16, "learning_rate": 3e-3},
        },
        ("generation", "lstm"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {"embedding_dim": 128, "hidden_dim": 128, "num_layers": 1, "context_length": 128},
            "writing": RESPONSES,
            "training": {"epochs": 30, "batch_size": 16, "learning_rate": 3e-3},
        },
        ("generation", "lstm_attention"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {"embedding_dim": 128, "hidden_dim": 128, "num_layers": 1, "context_length": 128},
            "writing": RESPONSES,
            "training": {"epochs": 30, "batch_size": 16, "learning_rate": 3e-3},
        },
        ("generation", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {
                **GPT_LIKE,
                "embedding_dim": 128,
                "num_layers": 4,
                "feedforward_dim": 512,
                "context_length": 128,
            },
            "writing": RESPONSES,
            "training": {"epochs": 30, "batch_size": 16, "learning_rate": 2e-3},
        },
        ("embedding", "lstm"): {
            "text": {"vocabulary_size": 4000, "unicode_policy": "lowercase"},
            "network": {"embedding_dim": 64, "hidden_dim": 64, "num_layers": 1, "dropout": 0.0},
            "training": {"epochs": 20, "batch_size": 16, "learning_rate": 3e-3},
        },
        ("embedding", "transformer"): {
            "text": {"vocabulary_size": 4000, "unicode_policy": "lowercase"},
            "network": {"embedding_dim": 64, "num_layers": 1, "num_heads": 4, "feedforward_dim": 128, "dropout": 0.0},
            "training": {"epochs": 20, "batch_size": 16, "learning_rate": 1e-3},
        },
        ("classification", "lstm"): {
            "text": {"vocabulary_size": 4000, "unicode_policy": "lowercase"},
            "network": {"embedding_dim": 64, "hidden_dim": 64, "num_layers": 1, "dropout": 0.2, "pooling": "max"},
            "training": {"epochs": 10, "batch_size": 32, "learning_rate": 3e-3},
        },
        ("classification", "transformer"): {
            "text": {"vocabulary_size": 4000, "unicode_policy": "lowercase"},
            "network": {"embedding_dim": 64, "num_layers": 2, "num_heads": 4, "feedforward_dim": 128},
            "training": {"epochs": 10, "batch_size": 32, "learning_rate": 1e-3},
        },
        ("tagging", "lstm"): {
            "text": {"vocabulary_size": 4000},
            "network": {"embedding_dim": 64, "hidden_dim": 64, "num_layers": 1, "dropout": 0.2, "context_length": 128},
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 5e-3, "clip_norm": 5.0},
        },
        ("tagging", "transformer"): {
            "text": {"vocabulary_size": 4000},
            "network": {
                "embedding_dim": 64,
                "num_layers": 2,
                "num_heads": 4,
                "feedforward_dim": 128,
                "context_length": 128,
            },
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 2e-3},
        },
        ("causal_lm", "ngram"): {"network": {"order": 3}},
        ("causal_lm", "feedforward"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {"embedding_dim": 64, "hidden_dim": 128, "context_length": 64, "order": 5},
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 2e-3},
        },
        ("causal_lm", "lstm"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {"embedding_dim": 128, "hidden_dim": 128, "num_layers": 1, "context_length": 64},
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 3e-3},
        },
        ("causal_lm", "lstm_attention"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {"embedding_dim": 128, "hidden_dim": 128, "num_layers": 1, "context_length": 128},
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 3e-3},
        },
        # About a million parameters.
        ("causal_lm", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {
                **GPT_LIKE,
                "embedding_dim": 128,
                "num_layers": 4,
                "feedforward_dim": 512,
                "context_length": 64,
            },
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 2e-3},
        },
        ("masked_lm", "transformer"): {
            "text": {"tokenizer": "wordpiece", "vocabulary_size": 2000},
            "network": {
                **GPT_LIKE,
                "embedding_dim": 128,
                "num_layers": 2,
                "feedforward_dim": 256,
                "context_length": 64,
            },
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 2e-3},
        },
        ("span_corruption", "lstm"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {"embedding_dim": 128, "hidden_dim": 128, "num_layers": 1, "context_length": 64},
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 3e-3},
        },
        ("span_corruption", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 2000},
            "network": {
                **GPT_LIKE,
                "embedding_dim": 128,
                "num_layers": 2,
                "feedforward_dim": 256,
                "context_length": 64,
            },
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 2e-3},
        },
    },
    # For models that start from pretrained ones, whose shape they take.
    "finetune": {
        (kind, model): {
            # A reader's question and window together; where there is a checkpoint, that says it.
            "network": {"dropout": 0.1, **({"context_length": 512} if model == "transformer_encoder" else {})},
            **(
                {"lengths": {"max_answer_length": 80}, "text": {"tokenizer": "sentencepiece"}}
                if kind in WRITERS
                else {}
            ),
            **({"writing": RESPONSES} if kind == "generation" else {}),
            "training": {
                "epochs": 3,
                "batch_size": 32,
                "learning_rate": 1e-4 if model.startswith("transformer") else 1e-3,
                "schedule": "linear",
                "warmup": 0.1,
                "beta_2": 0.999,
            },
        }
        for kind in ("classification", "tagging", "reading", *WRITERS)
        for model in (
            "lstm",
            "transformer",
            {"generation": "lstm_attention", "reading": "transformer_encoder"}.get(kind),
        )
        if model
    }
    | {
        ("embedding", model): {
            "network": {"dropout": 0.1},
            "training": {
                "epochs": 1,
                "batch_size": 64,
                "learning_rate": 5e-5 if model == "transformer" else 5e-4,
                "schedule": "linear",
                "warmup": 0.1,
                "beta_2": 0.999,
            },
        }
        for model in ("lstm", "transformer")
    }
    # Further pretraining (Gururangan et al. 2020, https://arxiv.org/abs/2004.10964), for batches a desk has room for.
    | {
        (kind, model): {
            "network": {"dropout": 0.1},
            "text": {"tokenizer": "wordpiece" if kind == "masked_lm" else "sentencepiece"},
            "training": {
                "epochs": 3,
                "batch_size": 8 if (kind, model) == ("causal_lm", "transformer") else 32,
                "learning_rate": 1e-4 if model == "transformer" else 1e-3,
                "schedule": "linear",
                "warmup": 0.1,
                "beta_2": 0.999,
            },
        }
        for kind, models in (
            ("causal_lm", ("lstm", "lstm_attention", "transformer")),
            ("masked_lm", ("transformer",)),
            ("span_corruption", ("lstm", "transformer")),
        )
        for model in models
    },
    "small": {
        ("embedding", "lstm"): {
            "text": {"vocabulary_size": 16000, "unicode_policy": "lowercase"},
            "network": {"embedding_dim": 128, "hidden_dim": 128, "num_layers": 1, "dropout": 0.2, "pooling": "max"},
            "training": {"epochs": 5, "batch_size": 128, "learning_rate": 1e-3, "beta_2": 0.999},
        },
        ("embedding", "transformer"): {
            "text": {"vocabulary_size": 16000, "unicode_policy": "lowercase"},
            "network": {"embedding_dim": 128, "num_layers": 2, "num_heads": 4, "feedforward_dim": 512},
            "training": {"epochs": 5, "batch_size": 128, "learning_rate": 5e-4, "beta_2": 0.999},
        },
        ("classification", "lstm"): {
            "text": {"vocabulary_size": 16000, "unicode_policy": "lowercase"},
            "network": {"embedding_dim": 128, "hidden_dim": 128, "num_layers": 1, "dropout": 0.4, "pooling": "max"},
            "training": {"epochs": 6, "batch_size": 64, "learning_rate": 1e-3, "beta_2": 0.999},
        },
        ("classification", "transformer"): {
            "text": {"vocabulary_size": 16000, "unicode_policy": "lowercase"},
            "network": {"embedding_dim": 128, "num_layers": 2, "num_heads": 4, "feedforward_dim": 512, "dropout": 0.3},
            "training": {"epochs": 6, "batch_size": 64, "learning_rate": 5e-4, "beta_2": 0.999},
        },
        # Capitals tell names from other words: the text stays as it is written.
        ("tagging", "lstm"): {
            "text": {"vocabulary_size": 8000},
            "network": {
                "embedding_dim": 128,
                "hidden_dim": 128,
                "num_layers": 1,
                "dropout": 0.5,
                "token_dropout": 0.1,
            },
            "training": {"epochs": 20, "batch_size": 32, "learning_rate": 3e-3, "beta_2": 0.999, "clip_norm": 5.0},
        },
        ("tagging", "transformer"): {
            "text": {"vocabulary_size": 8000},
            "network": {"embedding_dim": 128, "num_layers": 3, "num_heads": 4, "feedforward_dim": 512, "dropout": 0.3},
            "training": {"epochs": 20, "batch_size": 32, "learning_rate": 1e-3, "beta_2": 0.999},
        },
        ("causal_lm", "ngram"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {"order": 5},
        },
        ("causal_lm", "feedforward"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {"embedding_dim": 128, "hidden_dim": 512, "context_length": 64, "order": 6, "dropout": 0.2},
            "training": {"epochs": 10, "batch_size": 32, "learning_rate": 1e-3},
        },
        # The classic small set-up: two layers of 200.
        ("causal_lm", "lstm"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {"embedding_dim": 200, "hidden_dim": 200, "num_layers": 2, "context_length": 35, "dropout": 0.2},
            "training": {"epochs": 13, "batch_size": 20, "learning_rate": 4e-3, "beta_2": 0.999},
        },
        ("causal_lm", "lstm_attention"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {
                "embedding_dim": 256,
                "hidden_dim": 256,
                "num_layers": 2,
                "context_length": 256,
                "dropout": 0.2,
            },
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 2e-3},
        },
        # 11 million parameters in the blocks.
        ("causal_lm", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {**GPT_LIKE, "embedding_dim": 384, "num_layers": 6, "num_heads": 6, "feedforward_dim": 1536},
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 1e-3},
        },
        # 3 million parameters in the blocks.
        ("masked_lm", "transformer"): {
            "text": {"tokenizer": "wordpiece", "vocabulary_size": 8000},
            "network": {
                **GPT_LIKE,
                "embedding_dim": 256,
                "num_layers": 4,
                "feedforward_dim": 1024,
                "context_length": 128,
            },
            "training": {"epochs": 10, "batch_size": 32, "learning_rate": 1e-3},
        },
        ("span_corruption", "lstm"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {"embedding_dim": 256, "hidden_dim": 256, "num_layers": 2, "context_length": 128},
            "training": {"epochs": 10, "batch_size": 32, "learning_rate": 2e-3},
        },
        ("span_corruption", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {
                **GPT_LIKE,
                "embedding_dim": 256,
                "num_layers": 4,
                "feedforward_dim": 1024,
                "context_length": 128,
            },
            "training": {"epochs": 10, "batch_size": 32, "learning_rate": 1e-3},
        },
        ("reading", "lstm"): {
            # Capitals tell names from other words, and pieces of a small vocabulary stand in unseen texts, too.
            "text": {"vocabulary_size": 8000, "unicode_policy": "identity"},
            "network": {"embedding_dim": 128, "hidden_dim": 128, "num_layers": 2, "dropout": 0.45},
            "training": {"epochs": 8, "batch_size": 32, "learning_rate": 2e-3, "ema": 0.999, "clip_norm": 5.0},
        },
        ("reading", "transformer"): {
            "text": {"vocabulary_size": 8000, "unicode_policy": "identity"},
            "network": {"embedding_dim": 128, "num_layers": 4, "num_heads": 4, "feedforward_dim": 256, "dropout": 0.3},
            "training": {"epochs": 8, "batch_size": 32, "learning_rate": 1e-3, "ema": 0.999, "clip_norm": 5.0},
        },
        ("seq2seq", "lstm"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {"embedding_dim": 256, "hidden_dim": 256, "num_layers": 1, "dropout": 0.4},
            "lengths": {"max_answer_length": 80},
            "training": {**TRANSLATION, "epochs": 25, "learning_rate": 2e-3},
        },
        # The Transformer-Tiny of Wu et al. 2021 for Multi30k, with today's blocks.
        ("seq2seq", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {
                **GPT_LIKE,
                "embedding_dim": 128,
                "num_layers": 4,
                "num_heads": 4,
                "feedforward_dim": 256,
                "dropout": 0.3,
            },
            "lengths": {"max_answer_length": 80},
            "training": {**TRANSLATION, "learning_rate": 3e-3},
        },
        ("generation", "lstm"): RECURRENT_CHAT,
        ("generation", "lstm_attention"): RECURRENT_CHAT,
        # The shape of causal_lm's, so that one can start from the other.
        ("generation", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {**GPT_LIKE, "embedding_dim": 384, "num_layers": 6, "num_heads": 6, "feedforward_dim": 1536},
            "lengths": {"max_answer_length": 80},
            "writing": RESPONSES,
            "training": {"epochs": 5, "batch_size": 16, "learning_rate": 3e-4},
        },
        # The classic small set-up: embedding 128, two LSTM layers of 256.
        ("closed_book", "lstm"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {"embedding_dim": 128, "hidden_dim": 256, "num_layers": 2, "dropout": 0.1},
            "training": {"epochs": 40, "batch_size": 64, "learning_rate": 2e-3},
        },
        ("closed_book", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 8000},
            "network": {"embedding_dim": 256, "num_layers": 3, "num_heads": 4, "feedforward_dim": 512, "dropout": 0.1},
            "training": {"epochs": 40, "batch_size": 64, "learning_rate": 1e-3},
        },
    },
    "medium": {
        # The medium LSTM of Zaremba et al. 2014.
        ("causal_lm", "lstm"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 16000},
            "network": {"embedding_dim": 650, "hidden_dim": 650, "num_layers": 2, "context_length": 35, "dropout": 0.5},
            "training": {"epochs": 39, "batch_size": 20, "learning_rate": 2e-3, "beta_2": 0.999},
        },
        # 25 million parameters in the blocks.
        ("causal_lm", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 16000},
            "network": {
                **GPT_LIKE,
                "embedding_dim": 512,
                "num_layers": 8,
                "num_heads": 8,
                "feedforward_dim": 2048,
                "context_length": 512,
            },
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 6e-4},
        },
    },
    "bert_small": {
        # 13 million parameters in the blocks: BERT-small of Turc et al. 2019.
        ("masked_lm", "transformer"): {
            "text": {"tokenizer": "wordpiece", "vocabulary_size": 30522},
            "network": {
                **BERT_LIKE,
                "embedding_dim": 512,
                "num_layers": 4,
                "num_heads": 8,
                "feedforward_dim": 2048,
                "context_length": 512,
            },
            "training": {"epochs": 10, "batch_size": 32, "learning_rate": 5e-4, "schedule": "linear"},
        },
    },
    "minilm": {
        # 11 million parameters in the blocks: the shape of MiniLM-L6-H384.
        ("masked_lm", "transformer"): {
            "text": {"tokenizer": "wordpiece", "vocabulary_size": 30522},
            "network": {
                **BERT_LIKE,
                "embedding_dim": 384,
                "num_layers": 6,
                "num_heads": 12,
                "feedforward_dim": 1536,
                "context_length": 512,
            },
            "training": {"epochs": 10, "batch_size": 32, "learning_rate": 5e-4, "schedule": "linear"},
        },
    },
    "gpt2": {
        # 124 million parameters, the smallest GPT-2.
        ("causal_lm", "transformer"): {
            "text": {"tokenizer": "sentencepiece", "vocabulary_size": 50257},
            "network": {
                "embedding_dim": 768,
                "num_layers": 12,
                "num_heads": 12,
                "feedforward_dim": 3072,
                "context_length": 1024,
                "positions": "learned",
                "norm": "layer",
                "activation": "gelu",
                "dropout": 0.1,
            },
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 6e-4},
        },
    },
}


def make_config(kind: str, model: str, preset: str = "small") -> Config:
    """The defaults with a preset's recommended values over them.

    Raises:
        UserError: the preset, kind or model does not exist.

    Example:

    >>> make_config("closed_book", "lstm", "small").network.hidden_dim
    256
    """
    if preset not in PRESETS:
        raise UserError(f"A preset is one of {', '.join(PRESETS)}. Received: {preset!r}.{nearest(preset, PRESETS)}")
    models = dict.fromkeys(m for pairs in PRESETS.values() for k, m in pairs if k == kind)
    if models and model not in models:
        raise UserError(f"{kind} is trained with the model {' or '.join(models)}. Received: {model!r}.")
    recommended = PRESETS[preset].get((kind, model))
    if recommended is None:
        pairs = ", ".join(f"{k}+{m}" for k, m in PRESETS[preset])
        raise UserError(f"The preset {preset!r} exists for {pairs}. Received: {kind}+{model}. Choose one of these.")
    config = Config(kind=kind, model=model, preset=preset)
    for section, values in recommended.items():
        setattr(config, section, dataclasses.replace(getattr(config, section), **values))
    return config

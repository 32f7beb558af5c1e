"""Microscopic BERTs and RoBERTas with random weights, saved by `transformers`, and what starts from them."""

import json

import keras
import tokenizers
import torch
import transformers
from hub_presets import train_byte_pair, word_pieces

from keras_llm.presets import make_config
from keras_llm.tasks import make_task
from keras_llm.training.start import adopt, architecture, open_start, refuse_changes, start_weights
from keras_llm.validation import validate

PIECES = word_pieces()
BERT = {
    "vocab_size": len(PIECES),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
ROBERTA = {
    "vocab_size": 426,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 34,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}


def save_bert(folder, name, **values):
    """Writes a checkpoint; returns the model."""
    model = _save(folder, name, transformers.BertConfig(**{**BERT, **values}))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return model


def save_roberta(folder, name, **values):
    """Writes a checkpoint; returns the model."""
    model = _save(folder, name, transformers.RobertaConfig(**{**ROBERTA, **values}))
    save_roberta_tokenizer(folder)
    return model


def save_roberta_tokenizer(folder, prefix_space=False):
    """As roberta-base has it: byte pairs of GPT-2's way, the mask last."""
    tokenizer = train_byte_pair("gpt2", size=425, special=["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, prefix_space)
    tokenizer.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": prefix_space})
    )


def fine_tuned(folder, kind, context_length=32, pooling="mean", **labels):
    """A task that starts from a checkpoint or a run, as finetune.py makes it; its new weights are the same in each test."""
    keras.utils.set_random_seed(0)
    start = open_start(folder)
    config = adopt(make_config(kind, architecture(kind, start.config), "finetune"), start.config)
    config.network.context_length, config.network.pooling = context_length, pooling
    refuse_changes(config, start.config)
    for name, value in labels.items():
        setattr(config.labels, name, value)
    config.lengths.max_question_length, config.lengths.window_length, config.lengths.window_stride = 6, 16, 4
    config.training.batch_size = 2
    task = make_task(validate(config), start.tokenizer())
    new = start_weights(task, start)[1:]  # a line, unless everything was there
    assert not any("encoder" in line for line in new)
    return task


def _save(folder, name, config):
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    return model

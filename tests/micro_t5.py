"""Microscopic T5 checkpoints with random weights, saved by `transformers`, and SentencePiece models trained here."""

import io
import json

import sentencepiece
import torch
import transformers
from generated_texts import generated_texts

SIZES = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
SIZES |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
# name -> class, further values, extra_ids, bytes as a fallback, head of its own
CHECKPOINTS = {
    "t5": ("T5", {}, 100, False, False),
    "t5 v1.1": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, 100, False, True),
    "mt5": ("MT5", {"num_decoder_layers": 1}, 0, True, True),
    "mt5 tied": ("MT5", {"feed_forward_proj": "gated-silu"}, 0, True, False),
}


def train_unigram(byte_fallback):
    """A SentencePiece model as T5's was made: NFKC, padding 0, end 1, unknown 2."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(generated_texts(400, seed=1)),
        model_writer=model,
        model_type="unigram",
        vocab_size=1300 if byte_fallback else 1000,
        hard_vocab_limit=False,
        character_coverage=0.98,  # so that some characters have no piece
        byte_fallback=byte_fallback,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def save(name, folder):
    """Writes a checkpoint; returns the model."""
    family, values, extra_ids, byte_fallback, has_head = CHECKPOINTS[name]
    model = train_unigram(byte_fallback)
    (folder / "spiece.model").write_bytes(model)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": extra_ids, "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "<pad>"}))
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    config = getattr(transformers, f"{family}Config")(vocab_size=pieces + extra_ids + 12, **SIZES, **values)
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    if has_head:  # transformers 5 ties them until a checkpoint says otherwise
        theirs.lm_head.weight = torch.nn.Parameter(torch.randn(theirs.lm_head.weight.shape))
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    theirs.save_pretrained(folder, max_shard_size="40KB")  # so that they are several files
    return theirs


__all__ = ["CHECKPOINTS", "save", "train_unigram"]

"""KerasHub's presets as runs: microscopic models saved by KerasHub give the same numbers here."""

import io
import json

import hub_presets
import keras_hub
import numpy as np
import pytest
import sentencepiece
from hub_presets import CLASSIC, LLAMA, ROBERTA, TEXTS, byte_pair, joined

from keras_llm.checkpoints.importing import import_checkpoint, open_checkpoint
from keras_llm.errors import UserError
from keras_llm.run import load
from keras_llm.training.start import open_start, started

models = keras_hub.models
draw = np.random.default_rng(0)
IDS = draw.integers(5, 59, (2, 9)).astype("int32")
PADDING = np.ones_like(IDS)


def byte_fallback():
    """SentencePiece as Llama has it: byte pairs, and bytes for what they do not know."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=400, model_type="bpe", byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    return model.getvalue()


def llama():
    return joined("Llama", "CausalLM", models.LlamaTokenizer(byte_fallback()), LLAMA)


def mistral():
    sizes = {**LLAMA, "head_dim": 6, "sliding_window": 24, "rope_scaling_factor": 2.0}
    return joined("Mistral", "CausalLM", models.MistralTokenizer(byte_fallback()), sizes)


def llama3():
    task = hub_presets.llama3()
    adjusted = {"rope_frequency_adjustment_factor": 8.0, "rope_low_freq_factor": 1.0, "rope_high_freq_factor": 4.0}
    adjusted |= {"rope_pretraining_sequence_length": 16}
    return joined("Llama3", "CausalLM", task.preprocessor.tokenizer, {**LLAMA, **adjusted})


def roberta(task="MaskedLM", **options):
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert set(special) > set(ROBERTA)
    return joined("Roberta", task, models.RobertaTokenizer(**byte_pair("gpt2", special)), CLASSIC, **options)


def t5(**sizes):
    tokenizer = models.T5Tokenizer(hub_presets.sentence_pieces(pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, **sizes}
    return joined("T5", "Seq2SeqLM", tokenizer, sizes)


def gated_t5():
    approximate = keras_hub.src.utils.keras_utils.gelu_approximate
    return t5(activation=approximate, key_value_dim=6, tie_embedding_weights=False)


DECODERS = {
    "gpt2": hub_presets.gpt2,
    "llama": llama,
    "llama3": llama3,
    "mistral": mistral,
    "qwen2": hub_presets.qwen2,
    "qwen3": hub_presets.qwen3,
}


def save(task, folder):
    task.save_to_preset(folder)
    return task


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_give_the_logits_of_keras_hub(name, tmp_path):
    theirs = save(DECODERS[name](), tmp_path / "preset")
    import_checkpoint(tmp_path / "preset", tmp_path / "run", say=lambda line: None)
    task = load(tmp_path / "run")
    wanted = np.asarray(theirs({"token_ids": IDS, "padding_mask": PADDING}))
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(task.model({"token_ids": IDS}), wanted, atol=1e-4)
    tokenizer = theirs.preprocessor.tokenizer
    for text in ("What is a language model?", "什么是语言模型？🙂"):
        assert task.tokenizer.encode([text]).to_list()[0] == np.asarray(tokenizer(text)).tolist()
    ends = {tokenizer.end_token_id, getattr(tokenizer, "end_token2_id", None)} - {None}
    assert set(task.tokenizer.end_ids) == ends
    assert task.config.text.prompt_start == (tokenizer.start_token_id is not None)
    if task.config.text.prompt_start:
        assert task.tokenizer.start_id == tokenizer.start_token_id


@pytest.mark.parametrize("make", [hub_presets.bert, roberta], ids=["bert", "roberta"])
@pytest.mark.parametrize("fills", [False, True], ids=["body", "head"])
def test_encoders_give_the_numbers_of_keras_hub(make, fills, tmp_path):
    theirs = save(make("MaskedLM") if fills else make("TextClassifier", num_classes=2), tmp_path)
    task = open_checkpoint(tmp_path)
    assert task.config.kind == ("masked_lm" if fills else "embedding")
    backbone = theirs.backbone
    x = {"token_ids": IDS, "padding_mask": PADDING}
    segments = {"segment_ids": draw.integers(0, 2, IDS.shape).astype("int32")} if make is hub_presets.bert else {}
    if not fills:
        found = backbone(x | segments)
        wanted = found["sequence_output"] if isinstance(found, dict) else found
        np.testing.assert_allclose(task.model.encoder({"token_ids": IDS, **segments}), wanted, atol=1e-4)
        return
    places = np.array([[1, 4], [0, 7]], "int32")
    wanted = np.asarray(theirs(x | segments | {"mask_positions": places}))
    found = task.model({"token_ids": IDS, "mask_positions": places, **segments})["tokens"]
    # KerasHub's head of BERT has the exact GELU and another epsilon than the body.
    near = {"atol": 1e-4} if make is roberta else {"rtol": 0.03, "atol": 0.01}
    np.testing.assert_allclose(found, wanted, **near)


@pytest.mark.parametrize("make", [lambda: t5(use_gated_activation=False), gated_t5], ids=["t5", "t5 v1.1"])
def test_t5_gives_the_logits_of_keras_hub(make, tmp_path):
    theirs = save(make(), tmp_path)
    task = open_checkpoint(tmp_path)
    mask = {"encoder_padding_mask": PADDING, "decoder_padding_mask": PADDING}
    target = IDS[:, ::-1].copy()
    wanted = theirs({"encoder_token_ids": IDS, "decoder_token_ids": target, **mask})
    np.testing.assert_allclose(task.model({"source_ids": IDS, "target_ids": target}), wanted, atol=1e-4)
    text = "What is a language model?"
    ids = np.asarray(theirs.preprocessor.tokenizer(text)).tolist()
    assert task.tokenizer.encode([text]).to_list()[0] == ids


def test_fine_tuning_starts_from_a_preset(tmp_path):
    save(hub_presets.bert(), tmp_path)
    assert started(tmp_path).kind == "embedding"
    start = open_start(tmp_path)
    assert start.tokenizer().vocabulary_size == start.arrays["encoder/embedding/embeddings"].shape[0] == 59


def test_what_is_refused(tmp_path):
    save(hub_presets.t5(), tmp_path / "gated")
    with pytest.raises(UserError, match="feed_forward_proj is supported as .*'gated-relu'") as caught:
        open_checkpoint(tmp_path / "gated")
    assert str(caught.value).startswith(str(tmp_path / "gated" / "config.json"))
    save(hub_presets.distil_bert(num_classes=2), tmp_path / "distil")
    with pytest.raises(UserError, match="backbone is one of BertBackbone, .* Received: DistilBertBackbone"):
        open_checkpoint(tmp_path / "distil")
    save(hub_presets.bert(), tmp_path / "torn")
    whole = (tmp_path / "torn" / "model.weights.h5").read_bytes()
    (tmp_path / "torn" / "model.weights.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="KerasHub must be able to read .*torn as a Backbone"):
        import_checkpoint(tmp_path / "torn", tmp_path / "run", say=lambda line: None)
    assert not (tmp_path / "run").exists()
    config = json.loads((tmp_path / "gated" / "config.json").read_text())
    assert config["registered_name"] == "keras_hub>T5Backbone"

"""Config: priorities, strict JSON, values that cannot work."""

import dataclasses
import json
import math

import pytest

from keras_llm.command_line import recommended, seconds
from keras_llm.config import Config, FieldConfig, LabelConfig, differences, from_json, to_json
from keras_llm.errors import UserError
from keras_llm.presets import PRESETS, make_config
from keras_llm.validation import validate


@pytest.mark.parametrize(("preset", "pair"), [(preset, pair) for preset in PRESETS for pair in PRESETS[preset]])
def test_presets_are_valid_and_survive_json(preset, pair):
    config = validate(make_config(*pair, preset))
    assert from_json(to_json(config)) == config


def test_classic_small_set_up_is_the_closed_book_lstm():
    network = make_config("closed_book", "lstm", "small").network
    assert (network.embedding_dim, network.num_layers, network.hidden_dim) == (128, 2, 256)


def test_flags_over_file_over_preset_over_default(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"kind": "reading", "model": "lstm", "network": {"hidden_dim": 77}}))
    config = recommended(["--config", str(path), "--preset", "tiny"], "closed_book", "transformer")
    assert (config.kind, config.model, config.preset) == ("reading", "lstm", "tiny")
    assert config.network.hidden_dim == 77  # the file's
    assert (
        config.network.embedding_dim == PRESETS["tiny"]["reading", "lstm"]["network"]["embedding_dim"]
    )  # the preset's
    assert config.network.num_heads == Config().network.num_heads  # the default
    assert recommended([f"--config={path}", "--kind", "closed_book"], "reading", "lstm").kind == "closed_book"
    assert recommended([f"--config={path}"], "reading", "lstm", "finetune").preset == "finetune"
    path.write_text('{"preset": "tiny", "network": {"hidden_dim": 77}}')
    shape = {"hidden_dim": 5, "num_layers": 6}  # what a start brings lies between preset and file
    config = recommended(
        [f"--config={path}"],
        "reading",
        "lstm",
        "finetune",
        lambda config: dataclasses.replace(config, network=dataclasses.replace(config.network, **shape)),
    )
    assert (config.preset, config.network.hidden_dim, config.network.num_layers) == ("tiny", 77, 6)
    assert config.training == make_config("reading", "lstm", "tiny").training


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json:1"),
        ("[]", "object"),
        ('{"kindd": "reading"}', "Did you mean 'kind'"),
        ('{"training": {"epoch": 3}}', "Did you mean 'epochs'"),
        ('{"training": {"epochs": "3"}}', "type int"),
        ('{"training": {"epochs": true}}', "type int"),
        ('{"training": {"precision": "bfloat16"}}', "mixed_bfloat16"),
    ],
)
def test_strict_json(text, message):
    with pytest.raises(UserError, match=message):
        from_json(text)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("training", {"epochs": 0}, "epochs"),
        ("training", {"warmup": 1.0}, "warmup"),
        ("training", {"clip_norm": -1.0}, "clip_norm"),
        ("lengths", {"window_stride": 320}, "window_stride"),
        ("network", {"num_heads": 5}, "multiple of num_heads"),
        ("network", {"embedding_dim": 100}, r"quotient even .*Use num_heads 1 or 2 or 5 or 10 or 25 or 50\."),
        ("network", {"embedding_dim": 99}, "Make embedding_dim even"),
        ("network", {"num_kv_heads": 3}, "multiple of num_kv_heads"),
        ("network", {"num_decoder_layers": -1}, "num_decoder_layers"),
        ("network", {"positions": "relative"}, "Relative positions are for encoder-decoders"),
        ("text", {"tokenizer": "sentencepiece"}, "byte offsets"),
        ("training", {"label_smoothing": 0.1}, "label_smoothing"),
        ("training", {"seed": -1}, "seed must be at least 0 .*Received: -1"),
        ("training", {"seed": 2**32}, "seed must be .*below"),
        ("training", {"freeze_layers": 1}, "freeze_layers=1 without a start"),
        ("training", {"layer_decay": 0.8}, "layer_decay=0.8 for reading with transformer"),
        ("training", {"lora_rank": 4}, "lora_rank=4 without a start"),
        ("training", {"learning_rate": math.nan}, "learning_rate must be greater than 0. Received: nan"),
        ("training", {"weight_decay": math.inf}, "weight_decay must not be negative, nor infinite. Received: inf"),
        ("network", {"num_kv_heads": -2}, "num_kv_heads must not be negative. Received: -2"),
        ("network", {"head_dim": -4}, "head_dim must not be negative. Received: -4"),
        ("network", {"rotary_factor": 0.0}, "rotary_factor must be greater than 0"),
        ("network", {"norm_epsilon": -1.0}, "norm_epsilon must be greater than 0"),
        (
            "network",
            {"rotary_scaling": "llama3", "rotary_high_frequency_factor": 1.0},
            "rotary_high_frequency_factor must be more .*Received: 1.0 and 1.0",
        ),
    ],
)
def test_values_that_cannot_work(section, values, message):
    config = make_config("reading", "transformer")
    setattr(config, section, dataclasses.replace(getattr(config, section), **values))
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize(
    ("kind", "section", "name"),
    [
        ("seq2seq", "lengths", "max_answer_length"),
        ("closed_book", "lengths", "max_question_length"),
        ("span_corruption", "network", "context_length"),
        ("reading", "lengths", "window_length"),
    ],
)
def test_learned_positions_end(kind, section, name):
    """Those beyond would share a vector."""
    config = make_config(kind, "transformer")
    config.network.positions = "learned"
    setattr(getattr(config, section), name, 1023)
    validate(config)
    setattr(getattr(config, section), name, 1024)
    with pytest.raises(UserError, match=f"Learned positions end at 1024: {name} must be below. Received: 1024"):
        validate(config)
    config.network.positions = "rotary"
    validate(config)


def test_heads_must_fit_wherever_there_are_blocks():
    config = make_config("reading", "transformer_encoder", "finetune")
    config.network.embedding_dim = 130
    with pytest.raises(UserError, match="multiple of num_heads.*embedding_dim=130, num_heads=4"):
        validate(config)
    config.network.positions, config.network.num_heads = "learned", 26  # of width 5
    validate(config)
    config.network.positions, config.network.head_dim = "rotary", 5
    with pytest.raises(UserError, match="head_dim must be even for rotary positions. Received: 5"):
        validate(config)
    config.network.head_dim = 6
    validate(config)
    config.network.positions, config.network.embedding_dim = "sinusoidal", 129
    with pytest.raises(UserError, match="embedding_dim must be even for sinusoidal positions. Received: 129"):
        validate(config)


@pytest.mark.parametrize("kind", ["causal_lm", "masked_lm", "embedding"])
def test_tokens_a_batch_are_refused_where_nothing_obeys_them(kind):
    config = make_config(kind, "transformer")
    config.training.batch_tokens = 4096
    with pytest.raises(UserError, match=f"batch_tokens is for reading, .* 4096 for {kind}"):
        validate(config)


@pytest.mark.parametrize("kind", ["reading", "seq2seq", "generation", "embedding"])
@pytest.mark.parametrize(
    "setting", [{"class_weights": "balanced"}, {"focal_gamma": 2.0}, {"multi_label": True}, {"levels": 1}]
)
def test_settings_of_classifiers_are_refused_where_nothing_obeys_them(kind, setting):
    config = make_config(kind, "transformer")
    config.labels = LabelConfig(**setting)
    with pytest.raises(UserError, match=f"{next(iter(setting))} is for classification. Received: it for {kind}"):
        validate(config)


@pytest.mark.parametrize(
    ("kind", "section", "values", "message"),
    [
        ("classification", "lengths", {"max_text_length": 64}, "max_text_length is for embedding"),
        ("causal_lm", "lengths", {"max_text_length": 64}, "max_text_length is for embedding"),
        ("classification", "labels", {"crf": False}, "crf is for tagging"),
        ("classification", "labels", {"scheme": "bio"}, "scheme is for tagging"),
        ("embedding", "labels", {"labels": ["a", "b"]}, "labels is for classification and tagging"),
        ("tagging", "embedding", {"temperature": 0.1}, "temperature is for embedding"),
        ("reading", "embedding", {"normalise": False}, "normalise is for embedding"),
        ("classification", "fields", {"target_field": "类别"}, "target_field is for seq2seq and generation"),
        ("seq2seq", "fields", {"label_field": "subject"}, "label_field is for classification and embedding"),
        (
            "tagging",
            "fields",
            {"text_field": "句子"},
            "text_field is for classification and embedding and seq2seq and generation",
        ),
        ("causal_lm", "masking", {"mask_share": 0.4}, "mask_share is for masked_lm and span_corruption"),
        ("span_corruption", "masking", {"segmentation": "jieba"}, "segmentation is for masked_lm"),
        ("masked_lm", "masking", {"span_length": 5.0}, "span_length is for span_corruption"),
        ("tagging", "writing", {"num_beams": 2}, "num_beams is for seq2seq and generation"),
        ("generation", "network", {"copy": True}, "copy is for closed_book and seq2seq and span_corruption"),
    ],
)
def test_settings_of_other_kinds_are_refused(kind, section, values, message):
    config = make_config(kind, "transformer")
    setattr(config, section, dataclasses.replace(getattr(config, section), **values))
    with pytest.raises(UserError, match=rf"{message}\. Received: it for {kind}\. Leave it out"):
        validate(config)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'small'"):
        make_config("reading", "lstm", "smal")


def test_fields_are_laid_over_others_but_numbers_and_names_are_not_mixed():
    named, numbered = FieldConfig("正文", "", "类别", "subject,ann0"), FieldConfig("1", "2", "3", "2,3")
    assert FieldConfig().over(named) == named and FieldConfig().over(numbered) == numbered
    assert FieldConfig(text_field="body").over(named) == FieldConfig("body", "", "类别", "subject,ann0")
    assert FieldConfig("body", "", "kind").over(numbered) == FieldConfig("body", "", "kind")
    assert FieldConfig(text_field="4").over(numbered) == FieldConfig("4", "2", "3", "2,3")
    assert FieldConfig(text_field="4").over(named) == FieldConfig("4")


def test_differences_name_the_fields():
    assert differences(make_config("reading", "lstm"), make_config("reading", "lstm")) == []
    other = make_config("reading", "lstm")
    other.training.epochs = 99
    epochs = make_config("reading", "lstm").training.epochs
    assert differences(make_config("reading", "lstm"), other) == [f"training.epochs: {epochs} → 99"]


@pytest.mark.parametrize(("text", "value"), [("90m", 5400), ("1h30m", 5400), ("45s", 45), ("600", 600), ("1.5h", 5400)])
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "-5m", "m", "1h 30m x"])
def test_durations_refused(text):
    with pytest.raises(UserError):
        seconds(text)

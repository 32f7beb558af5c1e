"""Which kinds of models obey which settings, and that no other kind is given them."""

from __future__ import annotations

from keras_llm.config import Config, EmbeddingConfig, WritingConfig
from keras_llm.errors import UserError

# Settings that only some kinds know -> these kinds.
OBEYED = {
    "fields": {
        "text_field": ("classification", "embedding", "seq2seq", "generation"),
        **dict.fromkeys(("pair_field", "label_field"), ("classification", "embedding")),
        "target_field": ("seq2seq", "generation"),
    },
    "network": {"copy": ("closed_book", "seq2seq", "span_corruption")},
    "labels": {
        "labels": ("classification", "tagging"),
        **dict.fromkeys(
            ("label_names", "multi_label", "separator", "levels", "class_weights", "focal_gamma"), ("classification",)
        ),
        **dict.fromkeys(("scheme", "crf"), ("tagging",)),
    },
    "lengths": {"max_text_length": ("embedding",)},
    "masking": {
        "mask_share": ("masked_lm", "span_corruption"),
        **dict.fromkeys(("whole_words", "segmentation", "next_sentence"), ("masked_lm",)),
        "span_length": ("span_corruption",),
    },
    "embedding": dict.fromkeys(vars(EmbeddingConfig()), ("embedding",)),
    "writing": dict.fromkeys(vars(WritingConfig()), ("seq2seq", "generation")),
}


def refuse_settings_of_other_kinds(config: Config) -> None:
    """What a kind would not obey must be as it is by default. Shapes of networks, but for `copy`, and most lengths are left
    out: presets and pretrained models bring them along."""
    defaults = Config()
    for section, fields in OBEYED.items():
        for name, kinds in fields.items():
            is_changed = getattr(getattr(config, section), name) != getattr(getattr(defaults, section), name)
            if is_changed and config.kind not in kinds:
                raise UserError(f"{name} is for {' and '.join(kinds)}. Received: it for {config.kind}. Leave it out.")

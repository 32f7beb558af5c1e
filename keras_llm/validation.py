"""What settings of a run cannot work, refused with the field's name before anything is read or trained."""

from __future__ import annotations

import collections
import math

from keras_llm.config import (
    LEARNED_LENGTH,
    SENTINELS,
    WITHOUT_OFFSETS,
    Config,
    TrainingConfig,
)
from keras_llm.errors import UserError
from keras_llm.generation.bounds import DECODING, check_setting
from keras_llm.settings_of_kinds import refuse_settings_of_other_kinds

# kind and model -> what decides how many positions they need
READ_AT_ONCE = {
    ("seq2seq", "transformer"): ("max_source_length", "max_answer_length"),
    ("closed_book", "transformer"): ("max_question_length", "max_answer_length"),
    ("span_corruption", "transformer"): ("context_length", "max_answer_length"),
    ("reading", "transformer"): ("max_question_length", "window_length"),
}
BATCHED_BY_TOKENS = ("reading", "classification", "tagging", "seq2seq", "closed_book", "generation")


def validate(config: Config) -> Config:
    """Refuses values that cannot work, with the field's name. Returns the config."""
    network, lengths, training = config.network, config.lengths, config.training
    positive = {
        "vocabulary_size": config.text.vocabulary_size,
        "embedding_dim": network.embedding_dim,
        "hidden_dim": network.hidden_dim,
        "num_layers": network.num_layers,
        "num_heads": network.num_heads,
        "feedforward_dim": network.feedforward_dim,
        "context_length": network.context_length,
        "pair_ends": config.text.pair_ends,
        "order": network.order,
        "min_count": network.min_count,
        "max_question_length": lengths.max_question_length,
        "max_answer_length": lengths.max_answer_length,
        "max_source_length": lengths.max_source_length,
        "window_length": lengths.window_length,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "evaluate_every": training.evaluate_every,
        "accumulate": training.accumulate,
        "rotary_base": network.rotary_base,
        "rotary_factor": network.rotary_factor,
        "norm_epsilon": network.norm_epsilon,
    }
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise UserError(f"{name} must be greater than 0. Received: {value}. Give a positive number.")
    shares = {
        "dropout": network.dropout,
        "recurrent_dropout": network.recurrent_dropout,
        "token_dropout": network.token_dropout,
        "ema": training.ema,
        "label_smoothing": training.label_smoothing,
        "warmup": training.warmup,
        "beta_2": training.beta_2,
    }
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} must be at least 0 and below 1. Received: {value}.")
    switched = "weight_decay clip_norm patience steps evaluate_steps batch_tokens freeze_layers lora_rank"
    for name in switched.split():
        if not 0 <= getattr(training, name) < math.inf:
            received = getattr(training, name)
            raise UserError(f"{name} must not be negative, nor infinite. Received: {received}. Use 0 to switch it off.")
    for name in ("freeze_layers", "lora_rank"):
        if getattr(training, name) and not config.start:
            raise UserError(
                f"{name} keeps weights as they were trained before, and from scratch they are random. "
                f"Received: {name}={getattr(training, name)} without a start. Name one with --from, or leave it out."
            )
    if training.lora_rank and not config.model.startswith("transformer"):
        raise UserError(
            "lora_rank adds to the blocks of Transformers. "
            f"Received: lora_rank={training.lora_rank} for model {config.model}. Leave it out."
        )
    if not 0 <= training.seed < 2**32:
        raise UserError(f"seed must be at least 0 and below 2^32. Received: {training.seed}.")
    if not 0 < training.layer_decay <= 1:
        raise UserError(f"layer_decay must be above 0 and at most 1. Received: {training.layer_decay}.")
    if training.freeze_layers > network.num_layers:
        raise UserError(
            "freeze_layers must not exceed num_layers. "
            f"Received: freeze_layers={training.freeze_layers}, num_layers={network.num_layers}."
        )
    if config.kind == "reading" and config.model in ("lstm", "transformer"):
        _validate_side_by_side(config)
    if not 0 <= lengths.window_stride < lengths.window_length:
        raise UserError(
            "window_stride must be at least 0 and below window_length: neighbouring windows share that many tokens. "
            f"Received: window_stride={lengths.window_stride}, window_length={lengths.window_length}."
        )
    if config.model.startswith("transformer"):
        _validate_heads(config)
        if network.positions == "relative":
            _validate_relative(config)
        if network.positions == "learned":
            _validate_learned(config)
    if network.num_decoder_layers < 0:
        raise UserError(
            f"num_decoder_layers must not be negative. Received: {network.num_decoder_layers}. "
            "Use 0 for as many blocks as the encoder has."
        )
    for name in ("num_kv_heads", "head_dim"):
        if getattr(network, name) < 0:
            received = getattr(network, name)
            raise UserError(
                f"{name} must not be negative. Received: {received}. Use 0 for what the other settings say."
            )
    low, high = network.rotary_low_frequency_factor, network.rotary_high_frequency_factor
    if network.rotary_scaling == "llama3" and not 0 < low < high < math.inf:
        raise UserError(
            "rotary_high_frequency_factor must be more than rotary_low_frequency_factor, and this more than 0. "
            f"Received: {high} and {low}."
        )
    if network.num_kv_heads and network.num_heads % network.num_kv_heads:
        raise UserError(
            "num_heads must be a multiple of num_kv_heads. "
            f"Received: num_heads={network.num_heads}, num_kv_heads={network.num_kv_heads}."
        )
    if config.kind == "reading" and config.text.tokenizer in WITHOUT_OFFSETS:
        raise UserError(
            f"A reader needs a tokenizer with byte offsets. Received: tokenizer={config.text.tokenizer}. "
            "Use wordpiece, characters, words or byte_pair."
        )
    frame = lengths.max_question_length + lengths.window_length + 2 + config.text.pair_ends
    if config.model == "transformer_encoder" and frame > network.context_length:
        raise UserError(
            "Question and window are read as one text of at most context_length tokens, with "
            f"{2 + config.text.pair_ends} tokens around them. Received: "
            f"max_question_length={lengths.max_question_length}, window_length={lengths.window_length}, "
            f"context_length={network.context_length}. Make windows shorter."
        )
    if config.kind == "reading" and training.label_smoothing:
        raise UserError(
            "A reader's classes are the tokens of the context, most of them far from any answer: "
            "label_smoothing must be 0. "
            f"Received: {training.label_smoothing}."
        )
    writes = config.kind in ("closed_book", "seq2seq", "generation")
    # Chinese models of GPT-2's shape come with BERT's tokenizer.
    irreversible = (
        ("wordpiece", "words") if config.kind == "generation" and config.start else ("wordpiece", "words", "bert")
    )
    if writes and config.text.tokenizer in irreversible:
        raise UserError(
            f"A model that writes needs a reversible tokenizer. Received: tokenizer={config.text.tokenizer}. "
            "Use sentencepiece, characters or byte_pair."
        )
    if network.freeze_embeddings and not network.vectors:
        raise UserError(
            "freeze_embeddings keeps an embedding as the word vectors have it. Received: no vectors. "
            "Name a run or file with vectors, or leave the embedding free."
        )
    if network.vectors and config.model == "ngram":
        raise UserError("An n-gram model has no embedding. Received: vectors for one. Leave vectors out.")
    if training.batch_tokens and config.kind not in BATCHED_BY_TOKENS:
        raise UserError(
            f"batch_tokens is for {', '.join(BATCHED_BY_TOKENS)}. "
            f"Received: {training.batch_tokens} for {config.kind}. Give batch_size."
        )
    if config.kind in ("causal_lm", "generation"):
        _validate_language_model(config)
    if config.kind in ("seq2seq", "generation"):
        _validate_writing(config)
    refuse_settings_of_other_kinds(config)
    if config.kind == "classification":
        _validate_classification(config)
    if config.kind == "tagging":
        _validate_tagging(config)
    if config.kind == "embedding":
        _validate_embedding(config)
    if config.kind == "masked_lm":
        _validate_masked_lm(config)
    if config.kind == "span_corruption":
        _validate_span_corruption(config)
    return config


def _validate_heads(config: Config) -> None:
    network, width = config.network, config.network.embedding_dim
    step = 2 if network.positions == "rotary" else 1  # numbers are turned in pairs
    if network.head_dim:
        if network.head_dim % step:
            raise UserError(
                f"head_dim must be even for rotary positions. Received: {network.head_dim}. Use an even one."
            )
    elif width % (step * network.num_heads):
        fitting = [heads for heads in range(1, width + 1) if width % (step * heads) == 0]
        rule = "a multiple of num_heads" + (", and their quotient even for rotary positions" if step == 2 else "")
        use = f"Use num_heads {' or '.join(map(str, fitting[:8]))}." if fitting else "Make embedding_dim even."
        raise UserError(
            f"embedding_dim must be {rule}. Received: embedding_dim={width}, num_heads={network.num_heads}. {use}"
        )
    if network.positions == "sinusoidal" and width % 2:  # a sine and a cosine each
        raise UserError(f"embedding_dim must be even for sinusoidal positions. Received: {width}. Use an even one.")


def _validate_side_by_side(config: Config) -> None:
    """These readers have two stacks, one behind the other, and nothing pretrained: no layer is known by its number alone."""
    training, others = config.training, TrainingConfig()
    for name in ("freeze_layers", "layer_decay", "lora_rank"):
        value = getattr(training, name)
        if value != getattr(others, name):
            raise UserError(
                f"{name} is for models that start from a pretrained encoder. Received: {name}={value} for reading with "
                f"{config.model}. Leave it out, or use --model transformer_encoder."
            )


def _validate_relative(config: Config) -> None:
    network = config.network
    if config.kind not in ("closed_book", "span_corruption", "seq2seq"):
        raise UserError(
            f"Relative positions are for encoder-decoders. Received: positions=relative, kind={config.kind}. "
            "Use rotary or learned ones."
        )
    if network.relative_buckets < 4 or network.relative_distance <= network.relative_buckets // 2:
        raise UserError(
            "relative_buckets must be at least 4, and relative_distance more than half of it. "
            f"Received: {network.relative_buckets} and {network.relative_distance}."
        )


def _validate_learned(config: Config) -> None:
    """Positions from `LEARNED_LENGTH` on would all have the last one's vector."""
    lengths = {**vars(config.lengths), "context_length": config.network.context_length}
    for name in READ_AT_ONCE.get((config.kind, config.model), ()):
        if (length := lengths[name]) >= LEARNED_LENGTH:
            raise UserError(
                f"Learned positions end at {LEARNED_LENGTH}: {name} must be below. Received: {length}. Use rotary positions "
                "for longer texts."
            )


def _validate_language_model(config: Config) -> None:
    network, longest = config.network, config.lengths.max_answer_length
    if config.model == "feedforward" and network.order < 2:
        raise UserError(f"A feed-forward language model sees order - 1 tokens: order >= 2. Received: {network.order}.")
    if config.model == "lstm_attention" and network.hidden_dim % (2 * network.num_heads):
        raise UserError(
            "hidden_dim must be a multiple of 2 * num_heads. "
            f"Received: hidden_dim={network.hidden_dim}, num_heads={network.num_heads}."
        )
    if config.model == "transformer" and network.positions == "learned" and longest >= network.context_length:
        raise UserError(
            "Learned positions end with the context: max_answer_length must be below context_length. "
            f"Received: max_answer_length={longest}, context_length={network.context_length}. Use rotary positions to "
            "write on beyond it."
        )


def _validate_writing(config: Config) -> None:
    writing = config.writing
    if writing.prompt.count("{text}") != 1:
        raise UserError(
            'prompt must hold "{text}" once, where the source comes. '
            f'Received: {writing.prompt!r}. Write for example "summarise: {{text}}".'
        )
    if config.text.tokenizer == "bert" and not writing.prompt.partition("{text}")[2].strip():
        raise UserError(
            "The tokenizer of this model drops white space: prompt must say in words where the response begins. "
            f'Received: {writing.prompt!r}. Write for example "问：{{text}}答：".'
        )
    if writing.max_judged < 0:
        raise UserError(f"max_judged must not be negative. Received: {writing.max_judged}. 0 judges all examples.")
    for name in DECODING:
        check_setting(name, getattr(writing, name))


def _validate_classification(config: Config) -> None:
    labels = config.labels
    twice = [name for name, count in collections.Counter(labels.labels).items() if count > 1]
    if twice:
        raise UserError(f"A label has one place among the outputs. Received: {twice[0]!r} twice in labels.")
    if labels.multi_label and labels.class_weights != "none":
        raise UserError(
            "class_weights are for texts with one label. Received: it with multi_label. Leave one of them out."
        )
    if labels.focal_gamma < 0 or labels.levels < 0:
        raise UserError(
            "focal_gamma and levels must not be negative. "
            f"Received: focal_gamma={labels.focal_gamma}, levels={labels.levels}. Use 0 to switch them off."
        )
    if labels.levels and not labels.separator:
        raise UserError(
            f"levels counts the parts of labels between separators. Received: levels={labels.levels} without a separator. "
            "Name it with --separator."
        )
    if labels.focal_gamma and config.training.label_smoothing:
        raise UserError(
            "Focal loss and label smoothing pull in opposite directions: use one of them. "
            f"Received: focal_gamma={labels.focal_gamma}, label_smoothing={config.training.label_smoothing}."
        )


def _validate_tagging(config: Config) -> None:
    network = config.network
    if config.text.tokenizer in WITHOUT_OFFSETS:
        raise UserError(
            f"A tagger needs a tokenizer with offsets. Received: tokenizer={config.text.tokenizer}. Use wordpiece, characters or "
            "words."
        )
    if network.context_length < 8:
        raise UserError(f"A tagger reads windows of context_length >= 8. Received: {network.context_length}.")
    if network.character_dim < 0 or (network.character_dim and config.model != "lstm"):
        raise UserError(
            "character_dim is the width of what an lstm tagger reads of a token's characters; 0: nothing. "
            f"Received: character_dim={network.character_dim}, model={config.model}."
        )
    if config.labels.crf and config.training.label_smoothing:
        raise UserError(
            "A conditional random field is trained on whole sequences of tags: label_smoothing must be 0. "
            f"Received: {config.training.label_smoothing}. Leave one of them out."
        )


def _validate_embedding(config: Config) -> None:
    embedding, longest, context = config.embedding, config.lengths.max_text_length, config.network.context_length
    if embedding.temperature <= 0:
        raise UserError(f"temperature must be greater than 0. Received: {embedding.temperature}. 0.05 is usual.")
    if embedding.negatives < 0:
        raise UserError(f"negatives must not be negative. Received: {embedding.negatives}. Use 0 to leave them out.")
    if longest and not 2 < longest <= context:
        raise UserError(
            f"max_text_length must be above 2, at most context_length, or 0. Received: {longest}, context_length={context}."
        )
    if config.training.label_smoothing:
        raise UserError(
            "Contrastive learning has one right text in a batch: label_smoothing must be 0. "
            f"Received: {config.training.label_smoothing}."
        )


def _validate_masked_lm(config: Config) -> None:
    masking, length = config.masking, config.network.context_length
    if config.text.tokenizer not in ("wordpiece", "bert", "byte_pair"):
        raise UserError(
            f"Masked language modelling needs a tokenizer with a mask token. Received: tokenizer={config.text.tokenizer}. "
            "Use wordpiece."
        )
    if not 0 < masking.mask_share < 1:
        raise UserError(f"mask_share must be above 0 and below 1. Received: {masking.mask_share}.")
    if length < 8:
        raise UserError(f"Two sentences and three special tokens need context_length >= 8. Received: {length}.")
    if masking.segmentation == "jieba" and not masking.whole_words:
        raise UserError(
            "segmentation says which characters are hidden together, so it needs whole_words. "
            "Received: segmentation=jieba without whole_words. Leave one of them out."
        )


def _validate_span_corruption(config: Config) -> None:
    masking, length = config.masking, config.network.context_length
    if config.text.tokenizer not in ("sentencepiece", "characters", "byte_pair"):
        raise UserError(
            f"Span corruption writes text and needs a reversible tokenizer. Received: tokenizer={config.text.tokenizer}. "
            "Use sentencepiece, characters or byte_pair."
        )
    # More would leave fewer visible tokens than spans to keep apart.
    if not 0 < masking.mask_share <= 0.5:
        raise UserError(f"mask_share of span corruption must be above 0, at most 0.5. Received: {masking.mask_share}.")
    if masking.span_length < 1:
        raise UserError(f"span_length must be at least 1. Received: {masking.span_length}.")
    if length * masking.mask_share > SENTINELS * masking.span_length:
        raise UserError(
            f"A row has at most {SENTINELS} spans: context_length * mask_share / span_length must not exceed it. Received: "
            f"{length} * {masking.mask_share} / {masking.span_length}. Give a shorter context or longer spans."
        )

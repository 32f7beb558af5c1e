"""Every setting of a run: a few small dataclasses, and strict JSON.

Priority: what the user gives > what the preset recommends (`presets.py`) > the default here. The merged config is printed and
kept in the run.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from typing import Any, Literal, get_args, get_origin, get_type_hints

from keras_llm.errors import UserError

Kind = Literal[
    "reading",
    "closed_book",
    "causal_lm",
    "masked_lm",
    "span_corruption",
    "classification",
    "tagging",
    "embedding",
    "seq2seq",
    "generation",
]
Architecture = Literal["ngram", "feedforward", "lstm", "lstm_attention", "transformer", "transformer_encoder"]

LEARNED_LENGTH = (
    1024  # positions with a vector of their own in an encoder-decoder or a reader whose positions are learned
)
WITHOUT_OFFSETS = ("sentencepiece", "sentencepiece_bpe", "unigram")  # tokenizers that do not tell where a token stands
SENTINELS = 100  # marks of hidden spans that a model of kind span_corruption knows, as in T5


@dataclasses.dataclass
class TokenizerConfig:
    """How text becomes ids."""

    tokenizer: Literal[
        "wordpiece", "sentencepiece", "characters", "words", "byte_pair", "bert", "sentencepiece_bpe", "unigram"
    ] = "wordpiece"
    """Which tokenizer is trained on the user's text; "bert", "sentencepiece_bpe" and "unigram" come with a checkpoint only.
    Reading needs byte offsets: any but sentencepiece, sentencepiece_bpe and unigram."""
    vocabulary_size: int = 8000
    """Upper limit; a small text gives fewer pieces."""
    unicode_policy: Literal["identity", "nfc", "nfkc", "lowercase"] = "identity"
    """The one unicode policy. "lowercase" also strips accents; a reader's answers stay as written in the source."""
    prompt_start: bool = True
    """causal_lm: a prompt begins with the start id, as documents do. An imported checkpoint says what it was made for."""
    pair_ends: int = 1
    """End ids between the two texts that an encoder reads as one. RoBERTa has two, and no segments to tell them apart."""


@dataclasses.dataclass
class ModelConfig:
    """The shape of the network. Fields an architecture has no use for are ignored by it."""

    embedding_dim: int = 128
    """Width of the token embedding; a Transformer's width D."""
    hidden_dim: int = 256
    """Units of each LSTM layer and direction."""
    num_layers: int = 2
    """LSTM layers or Transformer blocks (each of encoder and decoder)."""
    num_heads: int = 4
    """Attention heads H."""
    num_kv_heads: int = 0
    """Key/value heads of grouped-query attention; 0 means as many as num_heads."""
    feedforward_dim: int = 512
    """Width inside the feed-forward part of a Transformer block."""
    dropout: float = 0.1
    """Dropout between layers while training."""
    positions: Literal["learned", "sinusoidal", "rotary", "relative"] = "rotary"
    """How a Transformer knows the order of tokens; "relative", T5's way, is for encoder-decoders."""
    norm: Literal["layer", "rms"] = "rms"
    """Normalisation of a Transformer block."""
    norm_first: bool = True
    """Normalise before (GPT-2 and later) or after (2017, BERT) each part of a block."""
    activation: Literal["gelu", "gelu_tanh", "relu", "swiglu", "geglu_tanh"] = "gelu"
    """Inside the feed-forward part. "gelu_tanh" is the approximation that GPT-2 was trained with; "swiglu" and "geglu_tanh" are
    gated."""
    attention: Literal["additive", "dot"] = "additive"
    """Decoder-to-encoder attention of the LSTM encoder-decoder."""
    copy: bool = False
    """Encoder-decoders: a token may also be copied from the source (pointer-generator): titles, summaries, names."""
    context_length: int = 256
    """Tokens a model is pretrained on at once; more than that a Transformer never sees."""
    order: int = 5
    """Order n of an n-gram model; a feed-forward language model sees the n - 1 tokens before."""
    min_count: int = 1
    """n-grams of order 3 and more that occur less often are dropped from an n-gram model."""
    direct_connections: bool = False
    """Feed-forward language model: also connect the embeddings to the output, around the hidden layer."""
    recurrent_dropout: float = 0.0
    """LSTM language models: dropout on the recurrent state, the same units at every step."""
    tied: bool = True
    """The output head is the embedding's matrix (language models, Transformer encoder-decoders)."""
    vectors: str = ""
    """Word vectors that the embedding starts from: a run of train_word_vectors.py, or a word2vec or GloVe file."""
    freeze_embeddings: bool = False
    """Keep the embedding as the word vectors have it."""
    segments: bool = False
    """An encoder tells the first text of a pair from the second; on whenever it is trained on pairs that one end parts."""
    pad_id: int = 0
    """Id of padding, which encoders do not look at. It is 0 but for checkpoints whose tokenizer has it elsewhere (RoBERTa)."""
    pooling: Literal["mean", "max", "first"] = "mean"
    """How an encoder's vectors become one for the text: of all tokens, or that of the first one through a tanh layer (BERT)."""
    character_dim: int = 0
    """tagging with lstm: width of a vector made from each token's characters, beside its embedding; 0: none."""
    token_dropout: float = 0.0
    """tagging, classification: share of tokens read as the unknown one while training: the rest must tell what they are."""
    scale_embedding: bool = True
    """Transformers that write: multiply the embedding's vectors by the root of their width."""
    scale_head: bool = False
    """Transformer encoder-decoders: divide what enters the output head by the root of its width, as T5 does."""
    norm_epsilon: float = 1e-5
    """Added to the variance in a Transformer's normalisations."""
    head_dim: int = 0
    """Width of an attention head; 0 means embedding_dim / num_heads."""
    qkv_bias: bool = True
    """Biases of the queries', keys' and values' projection."""
    output_bias: bool = True
    """Bias of the projection behind the attention."""
    feedforward_bias: bool = True
    """Biases of the feed-forward part."""
    qk_norm: bool = False
    """Normalise every head's queries and keys (root mean square), as Qwen3 does."""
    scale_attention: bool = True
    """Divide attention scores by the root of the head's width; T5 does not."""
    num_decoder_layers: int = 0
    """Transformer encoder-decoders: blocks of the decoder; 0 means as many as num_layers."""
    relative_buckets: int = 32
    """Relative positions: so many kinds of distances are told apart; an encoder has half of them for each direction."""
    relative_distance: int = 128
    """Relative positions: distances from here on are all alike."""
    rotary_base: float = 10000.0
    """Rotary positions: the slowest pair turns once in 2π times this many tokens."""
    rotary_scaling: Literal["none", "linear", "llama3"] = "none"
    """How rotary positions were stretched for longer texts: not, all alike, or the slow ones only (Llama 3.1)."""
    rotary_factor: float = 1.0
    """By how much they were stretched."""
    rotary_low_frequency_factor: float = 1.0
    """llama3: pairs that turn less often than this in rotary_original_length tokens are stretched in full."""
    rotary_high_frequency_factor: float = 4.0
    """llama3: pairs that turn more often than this are left as they are."""
    rotary_original_length: int = 8192
    """llama3: the context length before stretching."""


@dataclasses.dataclass
class LengthConfig:
    """Limits in tokens. Questions and answers are cut at their limit, contexts are split into overlapping windows."""

    max_question_length: int = 48
    """Longer questions lose their end."""
    max_answer_length: int = 40
    """Longest span a reader gives, longest text any other model writes."""
    max_source_length: int = 256
    """seq2seq: longer sources lose their end."""
    window_length: int = 320
    """Context tokens a reader sees at once."""
    window_stride: int = 128
    """Tokens two neighbouring windows share."""
    max_text_length: int = 0
    """embedding: longer texts lose their end; 0: as many tokens as context_length."""


@dataclasses.dataclass
class FieldConfig:
    """Which column or key of files with examples holds what: its name, or its number from 1 in a file without header."""

    text_field: str = ""
    """The text; empty: the one of text, sentence, content, review … that is there."""
    pair_field: str = ""
    """The second text of a pair; empty: the one of pair, text_b, sentence2 … that is there, or none."""
    label_field: str = ""
    """The label or labels; empty: the first of label, labels, class, category … that is there."""
    target_field: str = ""
    """seq2seq, generation: what is to be written for the text; further fields after commas are accepted, too, where a record
    has them; empty: the first of target, translation, summary, title … that is there."""

    def over(self, others: FieldConfig) -> FieldConfig:
        """These fields where they are given, else the others. Columns are named, or all are numbered: of the others only those
        in the same way as the given ones stay, for they are of files without a header, or with one.

        Example:

        >>> FieldConfig(text_field="内容", label_field="类别").over(FieldConfig("1", "2", "3", "title")).pair_field
        ''
        """
        given = {name: value for name, value in vars(self).items() if value}
        numbered = {_is_numbered(value) for value in given.values()}
        kept = {name: v for name, v in vars(others).items() if not numbered or _is_numbered(v) in numbered}
        return FieldConfig(**kept | given)


def _is_numbered(fields: str) -> bool:
    return all(field.strip().isdecimal() for field in fields.split(","))


@dataclasses.dataclass
class LabelConfig:
    """What is chosen from, and how much each choice counts while training."""

    labels: list[str] = dataclasses.field(default_factory=list)
    """Names of the labels, in the order of the outputs; empty: all that the training data has, sorted."""
    label_names: str = ""
    """File with the labels' names, one a line: the first is the name of label 0 of the data, and so on."""
    names: list[str] = dataclasses.field(default_factory=list)
    """classification: what that file held when the model was trained."""
    multi_label: bool = False
    """classification: a text may have several labels, or none."""
    pair: bool = False
    """classification: texts come in pairs; set by the training data."""
    separator: str = ""
    """classification: what stands between the levels of hierarchical labels, e.g. "/"; each level is scored, too."""
    levels: int = 0
    """classification: how many levels of hierarchical labels are learned; 0: all."""
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced": rare labels count more, in inverse proportion to their number."""
    focal_gamma: float = 0.0
    """Above 0: examples that are easy already count less (focal loss); 2 is usual."""
    scheme: Literal["bio", "bioes"] = "bioes"
    """tagging: the tags a model gives; whatever scheme the data is written in."""
    crf: bool = True
    """tagging: learn which tags follow each other (conditional random field)."""


@dataclasses.dataclass
class EmbeddingConfig:
    """How texts become vectors (kind embedding), and how that is learned from pairs."""

    normalise: bool = True
    """Vectors have length 1: their products are cosines."""
    temperature: float = 0.05
    """Cosines are divided by this before the softmax over the batch: the smaller, the more the nearest wrong texts count."""
    negatives: int = 1
    """Of each pair's wrong texts, where the data has any, so many are learned from at once."""
    positive_score: float = 1.0
    """Of scored pairs those of at least this score are learned from."""


@dataclasses.dataclass
class CorpusConfig:
    """How files become documents."""

    document: Literal["file", "paragraph", "line"] = "paragraph"
    """What a document is in a text file: all of it, a part between blank lines, or a line. In JSONL: a record."""
    field: str = "text"
    """Key of a JSONL record that holds its text: a string, or a list of strings, which become its lines."""
    clean: bool = True
    """Remove control characters other than tab and line feed, and white space at the ends of lines."""
    min_characters: int = 1
    """Shorter documents are dropped."""
    max_characters: int = 1_000_000
    """Longer documents are cut, where possible between paragraphs, lines or sentences."""
    deduplicate: Literal["none", "exact", "near"] = "none"
    """Documents that repeat an earlier one are dropped: "exact" the same text, "near" also one that shares most of its
    word or character sequences."""
    near_threshold: float = 0.8
    """Share of sequences (Jaccard similarity) from which on "near" takes two documents for the same."""
    stop_words: str = ""
    """Remove frequent words, for models that count words: "en", "zh", "en+zh", or a file with a word a line."""
    eval_share: float = 0.0
    """Share of the documents, 0 to 0.5, kept for evaluation: chosen by their text, the same whatever the order."""


@dataclasses.dataclass
class MaskingConfig:
    """What is hidden from a model that learns to fill it in (kinds masked_lm and span_corruption)."""

    mask_share: float = 0.15
    """Share of the tokens that are predicted."""
    whole_words: bool = True
    """masked_lm: all pieces of a word are hidden together."""
    segmentation: Literal["none", "jieba"] = "none"
    """masked_lm: what a Chinese word is: "none", a character; "jieba", what jieba says (pip install jieba)."""
    next_sentence: bool = True
    """masked_lm: pairs of texts, of which the model also says whether the second one follows the first."""
    span_length: float = 3.0
    """span_corruption: mean length of the spans that are hidden."""


@dataclasses.dataclass
class WritingConfig:
    """What models of kind seq2seq and generation read and write, and how that is judged."""

    prompt: str = "{text}"
    """What the model reads: "{text}" stands for the source (generation: for each prompt), e.g. "summarise: {text}"."""
    metric: Literal["bleu", "rouge", "exact", "loss"] = "bleu"
    """Which metric decides which weights are best: BLEU, ROUGE-L, exact match, or the mean loss of the targets' tokens."""
    target_language: Literal["auto", "en", "zh"] = "auto"
    """How BLEU finds words: "zh" Chinese by character, "en" (any language with spaces) by word, "auto" as the targets are."""
    num_beams: int = 5
    """Beams of the signature `beam` and of the evaluation of a trained model; 1: greedy."""
    length_penalty: float = 1.0
    """Of the evaluation's beams: above 0 favours long texts, below 0 short ones. Requests for `beam` give their own."""
    no_repeat_ngram_size: int = 0
    """Of the evaluation's beams: no run of so many tokens comes twice; 0: it may. Requests for `beam` give their own."""
    beams_while_training: bool = False
    """Evaluate with beams while training, too; otherwise greedily, which takes a fraction of the time."""
    max_judged: int = 0
    """While training, texts are written and compared for so many examples, spread over the data, the loss is of all; 0: for all.
    evaluate.py always takes all."""


@dataclasses.dataclass
class TrainingConfig:
    """How the weights are found."""

    epochs: int = 10
    """Passes over the training data."""
    steps: int = 0
    """Batches to train on, whatever part of an epoch or how many epochs that is; 0: `epochs` decides. With `accumulate` rounded
    up to whole updates."""
    batch_size: int = 32
    """Examples (for readers: windows) a step."""
    batch_tokens: int = 0
    """Tokens a step, padding among them, in place of batch_size; 0: batch_size. Not for models of corpora and of vectors."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "rsqrt", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup: float = 0.05
    """Share of all steps in which the learning rate rises from zero."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay; embeddings, biases and normalisation are left out."""
    beta_2: float = 0.98
    """Adam's memory of squared gradients. Small batches of text need a longer one, 0.999: a rare word's row is else pushed as far
    by the many steps without it as by the few with it."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 switches clipping off."""
    ema: float = 0.0
    """Momentum of a moving average of the weights, which is then what is evaluated and kept; 0 switches it off."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over all classes."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras dtype policy; mixed_float16 adds dynamic loss scaling."""
    patience: int = 0
    """Stop after this many evaluations without a better one; 0 never stops early."""
    evaluate_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    evaluate_steps: int = 0
    """Batches between evaluations; 0: `evaluate_every` decides."""
    seed: int = 0
    """Of initial weights, order and dropout."""
    accumulate: int = 1
    """Batches whose gradients are averaged for one update. Steps count batches: 1,000 steps with 4 are 250 updates."""
    freeze_layers: int = 0
    """Fine-tuning: so many of the lowest blocks or layers keep their weights, and the embeddings with them; 0: none."""
    layer_decay: float = 1.0
    """Fine-tuning: each layer learns at this share of the rate of the one above it; the embeddings are the lowest."""
    lora_rank: int = 0
    """Fine-tuning: only small additions of this rank to the blocks' matrices are trained, and the heads; merged when saved."""


@dataclasses.dataclass
class Config:
    """Everything that decides what a run becomes."""

    kind: Kind = "reading"
    """What the model does: "reading" finds the answer in a context, "closed_book" writes it from memory, "causal_lm" writes on,
    "masked_lm" and "span_corruption" fill gaps, "classification" chooses labels, "tagging" finds entities, "embedding" makes
    vectors, "seq2seq" writes one text for another, "generation" responses to prompts."""
    model: Architecture = "transformer"
    """The network behind it."""
    preset: str = "small"
    """Name of the recommended values this config started from."""
    start: str = ""
    """The run or checkpoint that tokenizer, shape and first weights came from; empty: from scratch."""
    corpus: CorpusConfig = dataclasses.field(default_factory=CorpusConfig)
    fields: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    labels: LabelConfig = dataclasses.field(default_factory=LabelConfig)
    text: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    network: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    lengths: LengthConfig = dataclasses.field(default_factory=LengthConfig)
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
    writing: WritingConfig = dataclasses.field(default_factory=WritingConfig)
    embedding: EmbeddingConfig = dataclasses.field(default_factory=EmbeddingConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def has_segments(config: Config) -> bool:
    """Whether an encoder has vectors for the first and the second text of a pair. What is trained on pairs that one end parts
    has them whatever `network.segments` says; two ends tell the texts apart by themselves."""
    follows = config.kind == "masked_lm" and config.masking.next_sentence
    is_pair = config.kind == "classification" and config.labels.pair and config.text.pair_ends == 1
    return config.network.segments or follows or is_pair


def to_json(config: Any) -> str:
    """The config as JSON text, two spaces a level, keys in the order of the dataclass."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, where: str = "config.json", base: Config | None = None) -> Config:
    """Reads what `to_json` wrote; every key must be known and every value of its field's type.

    Args:
        text: a JSON object; it may name some of the fields only.
        where: the file's name, for messages.
        base: the config whose values stand where the text names none. Default: the defaults.

    Raises:
        UserError: broken JSON, an unknown key (with the nearest known one) or a value of the wrong type.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}:{error.lineno}: not valid JSON ({error.msg}). Mend the file or train anew.") from None
    return _fill(base or Config(), values, where)


def differences(old: Config, new: Config) -> list[str]:
    """The fields in which two configs differ, as "section.field: old → new"."""

    def flat(value, prefix=""):
        for name, item in value.items():
            if isinstance(item, dict):
                yield from flat(item, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", item

    before, after = dict(flat(dataclasses.asdict(old))), dict(flat(dataclasses.asdict(new)))
    return [f"{name}: {before[name]} → {after[name]}" for name in before if before[name] != after[name]]


def nearest(name: str, known) -> str:
    """A hint for a misspelt name, or nothing.

    Example:

    >>> nearest("lstn", ["lstm", "transformer"])
    " Did you mean 'lstm'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _fill(base, values: Any, where: str):
    if not isinstance(values, dict):
        raise UserError(f"{where}: a JSON object is expected. Received: {type(values).__name__}.")
    hints = get_type_hints(type(base))
    filled = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"{where}: unknown key {key!r}.{nearest(key, hints)} Known: {', '.join(hints)}.")
        filled[key] = _checked(hints[key], getattr(base, key), value, f"{where}: {key}")
    return dataclasses.replace(base, **filled)


def _checked(hint, base, value, where: str):
    if dataclasses.is_dataclass(hint):
        return _fill(base, value, where)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            choices = get_args(hint)
            close = nearest(str(value), choices)
            raise UserError(f"{where} is one of {', '.join(choices)}. Received: {value!r}.{close}")
        return value
    if get_origin(hint) is list:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{where} must be a list of texts. Received: {value!r}.")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where} must be of type {hint.__name__}. Received: {value!r}.")
    return value

"""Microscopic KerasHub models with random weights and tokenizers trained here, saved as presets."""

import io
import json

import keras
import keras_hub
import sentencepiece
import tokenizers

from keras_llm.text.splitting import SPLITTINGS

TEXTS = [
    "What is a language model? It gives each text a probability.",
    "The attention mechanism was proposed in 2014, didn't you know?\n\n  It's used everywhere now.",
    "什么是语言模型？它给每一段文字一个概率。",
    "注意力机制于２０１４年提出，Transformer 于 2017 年提出。🙂👩‍👩‍👧",
    "naïve café, Ω ≈ 3.14159; 1234567 \t tabs",
] * 4
models = keras_hub.models


def train_byte_pair(splitting, size=420, special=()):
    """Hugging Face's tokenizer with that splitting; special tokens have the first ids, as in RoBERTa."""
    how = SPLITTINGS[splitting]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=how.whole_words))
    if how.normal_form == "nfc":
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(how.source), "isolated")
    letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, letters])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_pair(splitting, special):
    described = json.loads(train_byte_pair(splitting, special=special).to_str())["model"]
    return {"vocabulary": described["vocab"], "merges": [" ".join(merge) for merge in described["merges"]]}


def word_pieces():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [
        "what",
        "is",
        "a",
        "language",
        "model",
        "token",
        "play",
        "##ing",
        "##s",
        "the",
        "什",
        "么",
        "语",
        "言",
        "模",
        "型",
    ]
    letters = [*"？，。！?,.bcdefg", *(f"##{letter}" for letter in "abcdefghijklmnopqrtuvwxyz")]
    return special + words + letters


def sentence_pieces(**special):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=400, model_type="unigram", byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, **special,
    )  # fmt: skip
    return model.getvalue()


LLAMA = {"num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1, "hidden_dim": 8, "intermediate_dim": 16}
CLASSIC = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 32}
ROBERTA = ["<s>", "<pad>", "</s>", "<mask>"]


def bert(task="TextEmbedder", **options):
    tokenizer = models.BertTokenizer(word_pieces(), lowercase=True)
    return joined("Bert", task, tokenizer, CLASSIC, **options)


def distil_bert(task="TextClassifier", **options):
    tokenizer = models.DistilBertTokenizer(word_pieces(), lowercase=True)
    return joined("DistilBert", task, tokenizer, CLASSIC, **options)


def roberta(task="MaskedLM", **options):
    tokenizer = models.RobertaTokenizer(**byte_pair("gpt2", ROBERTA))
    return joined("Roberta", task, tokenizer, CLASSIC, **options)


def gpt2():
    return joined(
        "GPT2", "CausalLM", models.GPT2Tokenizer(**byte_pair("gpt2", ["<|endoftext|>"])), {**CLASSIC, "num_layers": 2}
    )


def bart():
    tokenizer = models.BartTokenizer(**byte_pair("gpt2", ROBERTA))
    return joined("Bart", "Seq2SeqLM", tokenizer, {**CLASSIC, "num_layers": 2})


def t5():
    tokenizer = models.T5Tokenizer(sentence_pieces(pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    return joined("T5", "Seq2SeqLM", tokenizer, sizes)


def llama():
    return joined("Llama", "CausalLM", models.LlamaTokenizer(sentence_pieces()), LLAMA)


def llama3():
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    return joined("Llama3", "CausalLM", models.Llama3Tokenizer(**byte_pair("llama3", special)), LLAMA)


def qwen2():
    tokenizer = models.QwenTokenizer(**byte_pair("qwen2", ["<|endoftext|>", "<|im_end|>"]))
    return joined("Qwen", "CausalLM", tokenizer, {**LLAMA, "use_sliding_window_attention": False})


def qwen3():
    tokenizer = models.Qwen3Tokenizer(**byte_pair("qwen2", ["<|endoftext|>", "<|im_end|>"]))
    return joined("Qwen3", "CausalLM", tokenizer, {**LLAMA, "head_dim": 4})


GEMMA = {**LLAMA, "head_dim": 4}
GEMMA_IDS = {
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "pad_piece": "<pad>",
    "eos_piece": "<eos>",
    "bos_piece": "<bos>",
}


def gemma():
    return joined("Gemma", "CausalLM", models.GemmaTokenizer(sentence_pieces(**GEMMA_IDS)), GEMMA)


def gemma3():
    tokenizer = models.Gemma3Tokenizer(sentence_pieces(**GEMMA_IDS), has_vision_tokens=False)
    sizes = {**GEMMA, "image_size": 16, "vision_encoder": None, "query_head_dim_normalize": True}
    return joined("Gemma3", "CausalLM", tokenizer, sizes)


def joined(family, task, tokenizer, sizes, **options):
    keras.utils.set_random_seed(1)
    size = tokenizer.vocabulary_size()
    backbone = getattr(models, f"{family}Backbone")(vocabulary_size=size, **sizes)
    for variable in backbone.weights:  # the initialisers' small numbers would give the same token again and again
        if len(variable.shape) > 1:
            variable.assign(keras.random.normal(variable.shape, stddev=0.5))
    cls = getattr(models, f"{family}{task}")
    preprocessor = cls.preprocessor_cls(tokenizer)
    return cls(backbone=backbone, preprocessor=preprocessor, **options)

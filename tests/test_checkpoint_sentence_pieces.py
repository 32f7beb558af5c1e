"""Llama-shaped models with SentencePiece tokenizers: ids, numbers and texts of `transformers`, there and back."""

import io
import json
import shutil

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
import tokenizers
from generated_texts import generated_texts
from hub_presets import TEXTS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from keras_llm.checkpoints.exporting import export_checkpoint  # noqa: E402
from keras_llm.checkpoints.importing import import_checkpoint, open_checkpoint  # noqa: E402
from keras_llm.checkpoints.sentence_pieces import read_sentence_pieces  # noqa: E402
from keras_llm.config import Config, TokenizerConfig  # noqa: E402
from keras_llm.errors import UserError  # noqa: E402
from keras_llm.generation.stream import stream_text  # noqa: E402
from keras_llm.run import load  # noqa: E402
from keras_llm.text import load_tokenizer  # noqa: E402
from keras_llm.text.sentencepiece_bpe import SentencePieceBPETokenizer  # noqa: E402
from keras_llm.validation import validate  # noqa: E402

ADDED = {"<pad>": (420, True), "<think>": (421, False)}
SIZES = {
    "vocab_size": 424,
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
CASES = {"Llama": {}, "Mistral": {"sliding_window": None, "head_dim": 6}}
IDS = np.random.default_rng(0).integers(3, 420, (2, 9)).astype("int32")
SPECIALS = ["", " ", "  a", "\u2581a b", "a\0b", "<s>", "</s> <unk>", "<0x0A>", "<think>", "\n\n", "猫🙂 龘", " \n x"]
PREPEND = {"type": "Prepend", "prepend": "\u2581"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


def train(**options):
    """A SentencePiece model as Llama's, some hundred times smaller."""
    model = io.BytesIO()
    settings = {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "character_coverage": 0.98,  # so that some characters have no piece
        "byte_fallback": True,
        "model_type": "bpe",
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=420,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def model():
    return train()


def write_json(folder, scheme):
    """tokenizer.json as `transformers` 4 and 5 write it for a legacy tokenizer and for another."""
    from transformers.tokenization_utils_sentencepiece import SentencePieceExtractor

    vocabulary, _, merges = SentencePieceExtractor(str(folder / "tokenizer.model")).extract(True)
    theirs = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, merges, fuse_unk=True, byte_fallback=True, unk_token="<unk>")
    )
    if scheme == "unless":
        theirs.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("\u2581", "first", False)
    described = json.loads(theirs.to_str())
    if scheme != "unless":
        steps = [PREPEND, REPLACE] if scheme == "always" else [REPLACE]
        described["normalizer"] = {"type": "Sequence", "normalizers": steps}
    theirs = tokenizers.Tokenizer.from_str(json.dumps(described))
    theirs.add_special_tokens(["<unk>", "<s>", "</s>", "<pad>"])
    theirs.add_tokens([tokenizers.AddedToken("<think>", normalized=False)])
    strip = [] if scheme == "never" else [tokenizers.decoders.Strip(" ", 1, 0)]
    steps = [tokenizers.decoders.Replace("\u2581", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    theirs.decoder = tokenizers.decoders.Sequence([*steps, *strip])
    theirs.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    theirs.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save(folder, family, model):
    """Writes a microscopic checkpoint; returns the model."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **CASES[family]}, bos_token_id=1, eos_token_id=2)
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
        theirs.lm_head.weight[3:259] = 0  # bytes at random are no text
    theirs.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(model)
    write_json(folder, "always")
    return theirs


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, model):
    made = {}
    for family in CASES:
        folder = tmp_path_factory.mktemp(family)
        made[family] = folder, save(folder, family, model)
        import_checkpoint(folder, folder / "run", say=lambda line: None)
    return made


def ours(folder):
    (folder / "config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    return read_sentence_pieces(folder, Config(text=TokenizerConfig("sentencepiece_bpe", SIZES["vocab_size"])))


def encoded(tokenizer, texts):
    return tf.function(tokenizer.encode, [tf.TensorSpec([None], tf.string)], autograph=False)(texts).to_list()


@pytest.mark.parametrize("scheme", ["always", "unless", "never"])
def test_ids_and_texts_are_those_of_hugging_face(tmp_path, model, scheme):
    (tmp_path / "tokenizer.model").write_bytes(model)
    write_json(tmp_path, scheme)
    fast = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    fast.encode_special_tokens = True  # user text
    tokenizer = ours(tmp_path)
    assert tokenizer.made_of.prefix == scheme
    assert (tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id) == (0, 1, 2, 420)
    texts = generated_texts(1000) + [text for text in SPECIALS if text != "<think>"]
    ids = encoded(tokenizer, texts)
    assert ids == [row.ids for row in fast.encode_batch(texts, add_special_tokens=False)]
    assert any(3 <= id_ < 259 for row in ids for id_ in row)
    decoded = [text.decode() for text in tokenizer.decode(tf.ragged.constant(ids, tf.int32)).numpy()]
    assert decoded == fast.decode_batch(ids)
    if scheme == "always":  # then nothing is lost; a literal U+2581 is a space to SentencePiece
        assert decoded == [text.replace("\u2581", " ") for text in texts]


def test_without_tokenizer_json_texts_are_read_as_sentencepiece_and_transformers_do(tmp_path, model):
    (tmp_path / "tokenizer.model").write_bytes(model)
    texts = generated_texts(300) + SPECIALS
    assert encoded(ours(tmp_path), texts) == sentencepiece.SentencePieceProcessor(model_proto=model).encode(texts)
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.LlamaTokenizer.from_pretrained(tmp_path)
    wanted = theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert encoded(ours(tmp_path), texts) == wanted


def test_bytes_of_a_character_are_written_together(model, tmp_path, checkpoints):
    tokenizer = load(checkpoints["Llama"][0] / "run").tokenizer
    text = "a 猫🙂 b"
    ids = tokenizer.encode([text]).to_list()[0]
    assert sum(3 <= id_ < 259 for id_ in ids) >= 7
    pieces = list(stream_text(ids, lambda ids: tokenizer.continuation([ids]).numpy()[0].decode()))
    assert "".join(pieces) == " " + text and not any("\ufffd" in piece for piece in pieces)
    assert tokenizer.decode([ids]).numpy()[0].decode() == text
    half = ids[: ids.index(next(id_ for id_ in ids if 3 <= id_ < 259)) + 1]
    assert tokenizer.decode([half]).numpy()[0].decode() == "a \ufffd"
    # Special ids and rows of the embedding without a token vanish; marks are shown.
    assert tokenizer.decode([[1, *ids[:1], 421, 420, 423, 2, -1, 999]]).numpy()[0].decode() == "a<think>"
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint and encoded(again, [text]) == [ids]
    names = again.tokens()
    assert len(names) == 424 and names[1] == "<s>" and names[13] == "<0x0A>" and names[423] == "<unused 423>"
    with pytest.raises(UserError, match="not trained"):
        SentencePieceBPETokenizer.train(["a"], 300)


@pytest.mark.parametrize("family", CASES)
def test_numbers_and_greedy_texts_are_those_of_transformers(checkpoints, family):
    folder, theirs = checkpoints[family]
    task, tokenizer = load(folder / "run"), transformers.AutoTokenizer.from_pretrained(folder)
    assert task.config.text.tokenizer == "sentencepiece_bpe" and task.config.text.prompt_start
    with torch.no_grad():
        found = theirs(torch.tensor(IDS, dtype=torch.long), output_hidden_states=True)
    x = task.model._embed(IDS, None, False)
    for block, state in zip(task.model.blocks, found.hidden_states[:-1], strict=True):
        np.testing.assert_allclose(x, state.numpy(), atol=1e-4)
        x = block(x)
    np.testing.assert_allclose(task.model.norm(x), found.hidden_states[-1].numpy(), atol=1e-4)
    np.testing.assert_allclose(task.model({"token_ids": IDS}), found.logits.numpy(), atol=1e-4)
    assert np.abs(found.logits.numpy()).max() > 1
    texts = ["What is", "什么是语言模型？", "Hello 🙂 12345 x = f("]
    for text, answer in zip(texts, task.ask([{"text": text} for text in texts]), strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids.long()
        assert ids[0, 0] == 1
        longest = task.longest + 1
        with torch.no_grad():
            written = theirs.generate(ids, max_new_tokens=longest, do_sample=False, pad_token_id=420)[0]
        whole = tokenizer.decode(written, skip_special_tokens=True)
        assert text + answer["answer"] == whole and answer["answer"]
    if family == "Llama":
        streamed = "".join(task.stream({"text": texts[0]}, {"temperature": 0.0}))
        assert streamed == task.ask([{"text": texts[0]}])[0]["answer"]


@pytest.mark.parametrize("family", CASES)
def test_there_and_back(checkpoints, family, tmp_path):
    folder, theirs = checkpoints[family]
    export_checkpoint(folder / "run", tmp_path / "back", say=lambda line: None)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert type(again).__name__ == "LlamaForCausalLM"  # without its window Mistral is one
    state, before = again.state_dict(), theirs.state_dict()
    assert set(state) == set(before) and all(torch.equal(state[name], before[name]) for name in state)
    ids = torch.tensor(IDS, dtype=torch.long)
    with torch.no_grad():
        np.testing.assert_allclose(again(ids).logits.numpy(), theirs(ids).logits.numpy(), atol=1e-5)
    first, second = (transformers.AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "back"))
    texts = [*TEXTS[:5], *(text for text in SPECIALS if "<" not in text)]
    assert second(texts)["input_ids"] == first(texts)["input_ids"]
    assert (
        second.pad_token_id == 420
        and (tmp_path / "back" / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    )
    task, twice = load(folder / "run"), open_checkpoint(tmp_path / "back")
    assert twice.config == task.config and twice.tokenizer.fingerprint == task.tokenizer.fingerprint


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_tokenizer(folder, change):
    described = json.loads((folder / "tokenizer.json").read_text())
    change(described)
    (folder / "tokenizer.json").write_text(json.dumps(described))


def only_model(folder, model):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "tokenizer.model").write_bytes(model)


REFUSED = {
    "no model": (lambda f: (f / "tokenizer.model").unlink(), "must have its tokenizer.model.*Fetch tokenizer.model"),
    "broken model": (lambda f: (f / "tokenizer.model").write_bytes(b"\xff\xff"), "must be a SentencePiece model"),
    "another model": (lambda f: edit_tokenizer(f, lambda d: d["model"]["vocab"].update(an=999)), "the same pieces"),
    "unigram": (lambda f: only_model(f, train(model_type="unigram")), "a model_type that is not BPE"),
    "normalised": (lambda f: only_model(f, train(normalization_rule_name="nfkc")), "a normalisation of its own"),
    "no bytes": (lambda f: only_model(f, train(byte_fallback=False)), "no piece for each of the 256 bytes"),
    "symbols": (lambda f: only_model(f, train(user_defined_symbols=["<x>"])), "user-defined symbols"),
    "split": (
        lambda f: edit_tokenizer(f, lambda d: d.update(pre_tokenizer={"type": "Whitespace"})),
        "writes spaces as",
    ),
    "small embedding": (lambda f: edit(f / "config.json", vocab_size=421), "up to 421, an embedding of 421 rows"),
    "ends": (lambda f: edit(f / "tokenizer_config.json", add_eos_token=True), "add_eos_token must be false"),
    "window": (lambda f: edit(f / "config.json", sliding_window=32), "Set max_position_embeddings to 32"),
    "leftover": (lambda f: edit(f / "config.json", num_hidden_layers=1), "Left over: model.layers.1"),
    "unknown value": (lambda f: edit(f / "config.json", scaling_of_heads=2), "scaling_of_heads = 2 is not known"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_refused(checkpoints, tmp_path, what):
    change, message = REFUSED[what]
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["Mistral"][0], folder, ignore=shutil.ignore_patterns("run"))
    change(folder)
    with pytest.raises(UserError, match=message):
        import_checkpoint(folder, tmp_path / "run", say=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_window_that_no_text_reaches_changes_nothing(checkpoints, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["Mistral"][0], folder, ignore=shutil.ignore_patterns("run"))
    edit(folder / "config.json", sliding_window=64)
    assert open_checkpoint(folder).config == load(checkpoints["Mistral"][0] / "run").config
    config = open_checkpoint(folder).config
    config.kind = "reading"
    with pytest.raises(UserError, match="byte offsets. Received: tokenizer=sentencepiece_bpe"):
        validate(config)

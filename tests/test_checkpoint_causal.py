"""Language models of Hugging Face's form: GPT-2, Llama, Qwen2, Qwen3, against `transformers`, there and back."""

import dataclasses
import gzip
import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from micro_checkpoints import CHECKPOINTS, save  # noqa: E402
from programs import run as run_script  # noqa: E402

from keras_llm.checkpoints.byte_pairs import prompt_starts  # noqa: E402
from keras_llm.checkpoints.exporting import export_checkpoint  # noqa: E402
from keras_llm.checkpoints.importing import import_checkpoint, open_checkpoint  # noqa: E402
from keras_llm.config import Config, LengthConfig, ModelConfig, TokenizerConfig, WritingConfig  # noqa: E402
from keras_llm.errors import UserError  # noqa: E402
from keras_llm.presets import make_config  # noqa: E402
from keras_llm.run import Run, load, save_weights, write_manifest  # noqa: E402
from keras_llm.tasks import make_task  # noqa: E402
from keras_llm.text import TOKENIZERS, load_tokenizer  # noqa: E402
from keras_llm.text.byte_pair_tokenizer import BytePairTokenizer  # noqa: E402
from keras_llm.training.start import adopt, started  # noqa: E402
from keras_llm.training.train import train_run  # noqa: E402
from keras_llm.validation import validate  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "tokenizers"
FAMILIES = ("gpt2", "llama", "qwen2", "qwen3")
TEXT = "What is 语言模型? 🙂 x = f(12345)\n"
IDS = np.random.default_rng(0).integers(3, 432, (2, 9)).astype("int32")
PIECES = [
    *("语言模型", "什么", "，", "！？", "２０１７年", "的", "𠮷", "\u3000", "，\n\n", "「引」", "中文English混排"),
    *("language", " model", " the", "The", "don't", "I'LL", "naïve", "e\u0301", "Ω≈3.14", " 1,234,567", "ﬁ", " "),
    *(
        "def f(x):\n",
        "    return x+1\n",
        "\t",
        "\r\n",
        "a_b",
        "{'k': [1, 2]}",
        "//",
        "<br/>",
        "!==",
        "\\n",
        "#include <x>",
    ),
    *("🙂", "👩‍👩‍👧", "🇨🇳", "👍🏽", "\ufeff", "\u200d", "\x85", "\0", "ſ", "४", "   ", "    \n  "),
]


def strings(count):
    """Generated strings: Chinese, English, code, emoji, and characters of all planes."""
    draw = random.Random(7)
    found = []
    while len(found) < count:
        parts = draw.choices(PIECES, k=draw.randrange(12))
        parts += [chr(draw.choice([draw.randrange(32, 0x3000), draw.randrange(0xE000, 0x30000)]))] * draw.randrange(3)
        draw.shuffle(parts)
        found.append("".join(parts))
    return found


class Imported:
    """A checkpoint, `transformers`' model of it, and our run."""

    def __init__(self, name, folder):
        self.folder = folder
        self.theirs = save(name, folder, max_shard_size="20KB")  # so that most are in several files
        import_checkpoint(folder, folder / "run", say=lambda line: None)
        self.task = load(folder / "run")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def logits(self, ids, model=None):
        with torch.no_grad():
            return (model or self.theirs)(torch.tensor(ids, dtype=torch.long)).logits.numpy()


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Imported(name, tmp_path_factory.mktemp("checkpoint"))
        return made[name]

    return get


def difference(one, other):
    return np.abs(np.asarray(one) - np.asarray(other)).max()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_hidden_states_and_logits_are_those_of_transformers(imported, name):
    case = imported(name)
    model = case.task.model
    with torch.no_grad():
        theirs = case.theirs(torch.tensor(IDS, dtype=torch.long), output_hidden_states=True)
    x, wanted = model._embed(IDS, None, False), [state.numpy() for state in theirs.hidden_states]
    for block, state in zip(model.blocks, wanted[:-1], strict=True):
        assert difference(x, state) <= 1e-4
        x = block(x)
    assert difference(model.norm(x), wanted[-1]) <= 1e-4
    assert difference(model({"token_ids": IDS}), theirs.logits) <= 1e-4
    assert np.abs(theirs.logits.numpy()).max() > 1  # weights that are not nearly nothing


RULES = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}  # what the prompt says counts for both


@pytest.mark.parametrize("name, rules", [*((name, {}) for name in FAMILIES), ("llama", RULES)])
def test_the_greedy_text_is_that_of_transformers(imported, name, rules):
    case = imported(name)
    texts = ["What is", "什么是语言模型？", "Hello 🙂 12345 x = f(", ""]
    signature = "sample" if rules else "serving_default"
    way = case.task.signatures[signature]
    settings = {"temperature": 0.0, **rules} if rules else {}
    found = case.task.ask([way.example({"text": text}) | settings for text in texts], signature=signature)
    for text, ours in zip(texts, found, strict=True):
        ids = case.tokenizer(text, return_tensors="pt").input_ids.long()
        if not ids.shape[1]:  # transformers cannot begin with nothing
            ids = torch.tensor([[case.task.tokenizer.start_id]])
        longest = case.task.longest + 1  # what we write if no end comes
        written = case.theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=False, pad_token_id=0, **rules
        )[0, ids.shape[1] :]
        assert ours["answer"] == case.tokenizer.decode(written, skip_special_tokens=True)


def test_any_of_several_ends_ends_an_answer(imported):
    case = imported("llama")
    assert (case.task.tokenizer.end_id, case.task.tokenizer.end_ids) == (1, (1, 2))
    head = case.task.model.head
    kernel, original = head.kernel.numpy(), head.kernel.numpy()
    try:
        kernel[:, 2] = 100 * kernel[:, 7]
        head.kernel.assign(kernel)
        texts = [{"text": text} for text in ("What is", "什么", "abc", "x = f(")]
        written = case.task.ask(texts)
        ids = [[0, *case.tokenizer.encode(text["text"], add_special_tokens=False)] for text in texts]
        first = [int(np.asarray(case.task.model({"token_ids": np.array([row])}))[0, -1].argmax()) for row in ids]
        assert 2 in first
        assert [not row["answer"] for row in written] == [id_ == 2 for id_ in first]
    finally:
        head.kernel.assign(original)


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_transformers(imported, name):
    case, texts = imported(name), strings(1000)
    fast = tokenizers.Tokenizer.from_file(str(case.folder / "tokenizer.json"))
    fast.encode_special_tokens = True  # user text
    wanted = [encoding.ids for encoding in fast.encode_batch(texts, add_special_tokens=False)]
    encode = tf.function(case.task.tokenizer.encode, [tf.TensorSpec([None], tf.string)], autograph=False)
    ids = encode(texts)
    assert ids.to_list() == wanted
    decoded = [text.decode() for text in case.task.tokenizer.decode(ids).numpy()]
    assert decoded == [fast.decode(row) for row in wanted]


def test_ids_of_gpt2_itself(tmp_path):
    if not (REAL / "gpt2-encoder.json.gz").exists():
        pytest.skip("GPT-2's vocabulary is not here")
    for packed, name in (("gpt2-encoder.json.gz", "vocab.json"), ("gpt2-vocab.bpe.gz", "merges.txt")):
        (tmp_path / name).write_bytes(gzip.decompress((REAL / packed).read_bytes()))
    (tmp_path / "config.json").write_text('{"bos_token_id": 50256, "eos_token_id": 50256}')
    from keras_llm.checkpoints.gpt2 import read_tokenizer

    ours = read_tokenizer(tmp_path, Config(text=TokenizerConfig(vocabulary_size=50257)))
    theirs = tokenizers.ByteLevelBPETokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    texts = strings(1000)
    assert ours.encode(texts).to_list() == [row.ids for row in theirs.encode_batch(texts)]
    assert ours.encode(["Hello, world!"]).to_list() == [[15496, 11, 995, 0]]
    assert (ours.start_id, ours.end_id, ours.vocabulary_size) == (50256, 50256, 50257)


def test_a_text_is_scored_as_transformers_does(imported):
    """Documents begin with the start and cost their end, although for GPT-2 padding, start and end are one id."""
    case, texts = imported("gpt2"), [TEXT, "什么", ""]
    task = case.task
    records = [{"text": text} for text in texts]
    found = task.ask(records, function=task.trace(task._sums))
    metrics = task.evaluate(records)
    total = 0.0
    for text, row in zip(texts, found, strict=True):
        ids = case.tokenizer.encode(text, add_special_tokens=False)
        ids = [task.tokenizer.start_id, *ids, task.tokenizer.end_id]
        logits = torch.tensor(case.logits([ids[:-1]])[0])
        wanted = float(torch.log_softmax(logits, -1)[range(len(ids) - 1), ids[1:]].sum())
        assert row["log_probability"] == pytest.approx(wanted, abs=1e-3)
        assert row["tokens"] == len(ids) - 1
        total += wanted
    assert metrics["loss"] == pytest.approx(-total / metrics["tokens"], rel=1e-4)
    assert metrics["bits_per_byte"] == pytest.approx(-total / math.log(2) / metrics["bytes"], rel=1e-4)
    assert metrics["bytes"] == sum(len(text.encode()) + 1 for text in texts)
    assert metrics["unknown_share"] == 0


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_there_and_back(imported, name, tmp_path):
    case, folder = imported(name), tmp_path / "checkpoint"
    export_checkpoint(case.folder / "run", folder, say=lambda line: None)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(again) is type(case.theirs)
    np.testing.assert_array_equal(case.logits(IDS, again), case.logits(IDS))
    state, before = again.state_dict(), case.theirs.state_dict()
    assert set(state) == set(before) and all(torch.equal(state[name], before[name]) for name in state)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer([TEXT, ""]).input_ids == case.tokenizer([TEXT, ""]).input_ids
    ends = again.generation_config.eos_token_id
    assert tuple(ends if isinstance(ends, list) else [ends]) == case.task.tokenizer.end_ids
    # And here again: the same run.
    task = open_checkpoint(folder)
    assert started(folder) == task.config
    assert task.config.text.unicode_policy == ("nfc" if "qwen" in name else "identity")
    assert (task.config, task.tokenizer.pairs) == (case.task.config, case.task.tokenizer.pairs)


OWN = {
    "gpt2": {"positions": "learned", "norm": "layer", "activation": "gelu"},
    "llama": {"positions": "rotary", "norm": "rms", "activation": "swiglu", "num_kv_heads": 1},
}


def own_run(
    folder,
    tokenizer="byte_pair",
    policy="identity",
    model="transformer",
    kind="causal_lm",
    prompt="{text}",
    splitting=None,
    **network,
):
    """A run as training leaves it, with random weights."""
    settings = {"embedding_dim": 16, "num_layers": 2, "num_heads": 2, "feedforward_dim": 24, "hidden_dim": 8}
    config = Config(
        kind=kind,
        model=model,
        writing=WritingConfig(prompt),
        text=TokenizerConfig(tokenizer, 300, policy),
        network=ModelConfig(**settings, context_length=32, **network),
        lengths=LengthConfig(max_answer_length=6),
    )
    made = TOKENIZERS[tokenizer].train(["什么是语言模型？ What is a language model?", TEXT] * 3, 300, policy)
    if splitting:
        made = BytePairTokenizer(dataclasses.replace(made.pairs, splitting=splitting), policy)
    task = make_task(validate(config), made)
    random_ = np.random.default_rng(0)
    for weight in task.model.weights:
        weight.assign(weight + 0.2 * random_.normal(size=weight.shape).astype("float32"))
    folder.mkdir()
    write_manifest(folder, config, made, data="")
    save_weights(task, Run(folder).best_weights, made.fingerprint)
    return task


def exported(task, folder, family):
    """Exports folder/run to folder/checkpoint, compares logits, also here again; returns the tokenizer of `transformers`."""
    export_checkpoint(folder / "run", folder / "checkpoint", say=lambda line: None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "checkpoint").eval()
    assert theirs.config.model_type == family
    ids = IDS % task.tokenizer.vocabulary_size
    with torch.no_grad():
        logits = theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    for model in (task.model, open_checkpoint(folder / "checkpoint").model):
        assert difference(model({"token_ids": ids}), logits) <= 1e-4
    return transformers.AutoTokenizer.from_pretrained(folder / "checkpoint")


@pytest.mark.parametrize("name", OWN)
def test_a_run_trained_here_has_the_form_of_a_family(name, tmp_path):
    task = own_run(tmp_path / "run", **OWN[name])
    tokenizer = exported(task, tmp_path, name)
    assert tokenizer(TEXT).input_ids == [2, *task.tokenizer.encode([TEXT]).to_list()[0]]
    assert tokenizer.decode(tokenizer(TEXT).input_ids, skip_special_tokens=True) == TEXT


QWENS_BIASES = {"output_bias": False, "feedforward_bias": False}


@pytest.mark.parametrize(
    "how, name",
    [
        ({}, "llama"),  # Llama 3's splitting, which is learned here
        ({"policy": "nfc"}, "llama"),
        ({"splitting": "qwen2"}, "llama"),
        ({"splitting": "qwen2", "policy": "nfc"}, "qwen2"),
        ({"splitting": "qwen2", "policy": "nfc", "kind": "generation"}, "qwen2"),
        ({"kind": "generation"}, "llama"),
    ],
)
def test_a_qwen2_has_qwens_tokenizer(how, name, tmp_path):
    """`transformers` gives every qwen2 Qwen's, whatever tokenizer_config.json says."""
    task = own_run(tmp_path / "run", **OWN["llama"], **QWENS_BIASES, **how)
    tokenizer = exported(task, tmp_path, name)
    texts = [text for text in strings(200) if "<" not in text]
    found = tokenizer(texts, add_special_tokens=False).input_ids
    assert found == task.tokenizer.encode(texts).to_list()
    assert open_checkpoint(tmp_path / "checkpoint").tokenizer.encode(texts).to_list() == found


@pytest.mark.parametrize("name", OWN)
def test_a_run_that_answers_prompts_is_a_language_model(name, tmp_path):
    """Asked with the prompt around the text, and with ends behind earlier responses, it writes the same."""
    task = own_run(tmp_path / "run", kind="generation", prompt="Q: {text}\n", **OWN[name])
    said = []
    export_checkpoint(tmp_path / "run", tmp_path / "checkpoint", say=said.append)
    assert "LMHeadModel" in said[0] or "LlamaForCausalLM" in said[0]
    assert said[1].endswith(r"a text is read as 'Q: {text}\n'.") and len(said) == 2
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint").eval()
    ids = IDS % task.tokenizer.vocabulary_size
    with torch.no_grad():
        logits = theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    assert difference(task.model({"token_ids": ids}), logits) <= 1e-4
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    end = tokenizer.eos_token
    asked = {"What is": "Q: What is\n", "语言": "Q: 语言\n", "is[TURN]It[TURN]么": f"Q: is\nIt{end}Q: 么\n"}
    answers = task.ask([{"text": text} for text in asked])
    for answer, prompt in zip(answers, asked.values(), strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        written = theirs.generate(ids, max_new_tokens=task.longest + 1, do_sample=False, pad_token_id=0)
        assert answer["answer"] == tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    assert any(answer["answer"] for answer in answers)
    assert open_checkpoint(tmp_path / "checkpoint").config.kind == "causal_lm"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({**OWN["llama"], "activation": "gelu"}, "activation=swiglu. Received: activation=gelu"),
        ({**OWN["gpt2"], "norm_first": False}, "Received: norm_first=False"),
        ({**OWN["gpt2"], "num_kv_heads": 1}, "Received: num_kv_heads=1"),
        ({**OWN["llama"], "qkv_bias": False}, "qkv_bias=False, output_bias=True"),
        ({**OWN["llama"], "tokenizer": "characters"}, "--tokenizer byte_pair"),
        ({**OWN["llama"], "policy": "lowercase"}, "unicode policies identity, nfc, nfkc. Received: lowercase"),
        ({"model": "lstm"}, "Received: kind=causal_lm, model=lstm"),
        ({"kind": "generation", "tokenizer": "sentencepiece", **OWN["llama"]}, "--tokenizer byte_pair"),
    ],
)
def test_a_run_without_such_a_form_is_refused(run, message, tmp_path):
    own_run(tmp_path / "run", **run)
    with pytest.raises(UserError, match=message):
        export_checkpoint(tmp_path / "run", tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def edit(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_tensors(folder, change):
    import safetensors.numpy

    for index in folder.glob("*.index.json"):
        index.unlink()
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= safetensors.numpy.load_file(path)
        path.unlink()
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


BAD = {
    "another architecture": (
        lambda f: edit(f, "config.json", model_type="mixtral"),
        "one of .*qwen3.*Received: 'mixtral'",
    ),
    "no architecture": (lambda f: edit(f, "config.json", model_type=None), "model_type is one of"),
    "a value of its own": (
        lambda f: edit(f, "config.json", attention_multiplier=0.5),
        "attention_multiplier = 0.5 is not known",
    ),
    "another activation": (lambda f: edit(f, "config.json", hidden_act="gelu"), "hidden_act is supported as silu"),
    "a window": (lambda f: edit(f, "config.json", use_sliding_window=True), "use_sliding_window is supported as False"),
    "layers with a window": (
        lambda f: edit(f, "config.json", layer_types=["full_attention", "sliding_attention"]),
        "layer_types is supported",
    ),
    "another scaling": (
        lambda f: edit(f, "config.json", rope_parameters={"rope_type": "yarn", "factor": 4.0}),
        "rope_type is supported as default, linear, llama3. Received: 'yarn'",
    ),
    "partly turned": (
        lambda f: edit(f, "config.json", rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
        "partial_rotary_factor",
    ),
    "no width": (lambda f: edit(f, "config.json", hidden_size=None), "must have hidden_size"),
    "a width that is text": (lambda f: edit(f, "config.json", hidden_size="16"), "hidden_size must be of type int"),
    "another width": (lambda f: edit(f, "config.json", intermediate_size=25), r"gate_proj.weight must be \[25, 16\]"),
    "more layers": (
        lambda f: edit(f, "config.json", num_hidden_layers=3, layer_types=None),
        "Missing: model.layers.2.*and 6 more",
    ),
    "fewer layers": (
        lambda f: edit(f, "config.json", num_hidden_layers=1, layer_types=None),
        "Left over: model.layers.1",
    ),
    "a tensor too few": (
        lambda f: edit_tensors(f, lambda t: t.pop("model.norm.weight")),
        "Missing: model.norm.weight",
    ),
    "a tensor too many": (
        lambda f: edit_tensors(f, lambda t: t.update({"model.layers.0.extra": np.ones(2)})),
        "Left over: model.layers.0.extra",
    ),
    "another head than the embedding": (
        lambda f: edit_tensors(f, lambda t: t.update({"lm_head.weight": np.ones((432, 16), "float32")})),
        "lm_head.weight must equal model.embed_tokens.weight",
    ),
    "a small embedding": (
        lambda f: edit(f, "config.json", vocab_size=400),
        "token ids up to 4.., an embedding of 400 rows",
    ),
    "ends that are text": (
        lambda f: edit(f, "generation_config.json", eos_token_id=[1, 40]),
        "eos_token_id must be the id of a special token. Received: 40",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "must have its tokenizer.json"),
    "a unigram tokenizer": (
        lambda f: edit(f, "tokenizer.json", model={"type": "Unigram", "vocab": []}),
        "must hold a BPE model. Received: Unigram",
    ),
    "another way to split": (
        lambda f: edit(f, "tokenizer.json", pre_tokenizer={"type": "Whitespace"}),
        "must split text as",
    ),
    "added words": (
        lambda f: edit(f, "tokenizer.json", added_tokens=[{"id": 430, "content": "word", "special": False}]),
        "added tokens are marks like <think>. Received: 'word'",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no weights": (lambda f: [path.unlink() for path in f.glob("*.safetensors*")], "must have model.safetensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_understood_is_refused(imported, name, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(imported("qwen3").folder, folder, ignore=shutil.ignore_patterns("run"))
    change, message = BAD[name]
    change(folder)
    with pytest.raises(UserError, match=message):
        import_checkpoint(folder, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_older_files_say_the_same(imported, tmp_path):
    """vocab.json and merges.txt, rope_theta and rope_scaling, weights without a prefix, buffers among them."""
    case = imported("qwen2")
    folder = tmp_path / "older"
    shutil.copytree(case.folder, folder, ignore=shutil.ignore_patterns("run"))
    described = json.loads((folder / "config.json").read_text())
    described.pop("rope_parameters")
    described |= {"rope_theta": 1000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    (folder / "config.json").write_text(json.dumps(described))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]))
    merges = "\n".join(" ".join(merge) for merge in tokenizer["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    added = {str(token["id"]): {"content": token["content"], "special": True} for token in tokenizer["added_tokens"]}
    edit(folder, "tokenizer_config.json", added_tokens_decoder=added)
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, "float32")}
    edit_tensors(folder, lambda tensors: tensors.update(buffer))
    task = open_checkpoint(folder)
    assert (task.config, task.tokenizer.pairs) == (case.task.config, case.task.tokenizer.pairs)

    # GPT2Model's own names, and the causal mask that old files hold.
    old = tmp_path / "old"
    shutil.copytree(imported("gpt2").folder, old, ignore=shutil.ignore_patterns("run"))

    def rename(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = np.tril(np.ones((1, 1, 48, 48), "float32"))

    edit_tensors(old, rename)
    found = open_checkpoint(old).model({"token_ids": IDS})
    np.testing.assert_array_equal(found, imported("gpt2").task.model({"token_ids": IDS}))


@pytest.fixture
def word_pieces(tmp_path):
    """A folder as most Chinese models of GPT-2's shape are: with BERT's tokenizer. And the model in it."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"什么是语言模型？，。！的一在",
        "what",
        "is",
        "##s",
        "2017",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(pieces), n_embd=16, n_layer=1, n_head=2, n_positions=48, eos_token_id=3, bos_token_id=2
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"  # as older versions wrote it
    path.write_text(json.dumps(json.loads(path.read_text()) | {"output_past": True}))
    return tmp_path, theirs


@pytest.mark.parametrize("saved_again", [False, True])
def test_gpt2_with_word_pieces(word_pieces, saved_again):
    tmp_path, theirs = word_pieces
    if saved_again:  # transformers 5 writes tokenizer.json and no vocab.txt
        tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
        (tmp_path / "vocab.txt").unlink()
        tokenizer.save_pretrained(tmp_path)
        assert (tmp_path / "tokenizer.json").exists() and not (tmp_path / "vocab.txt").exists()
    import_checkpoint(tmp_path, tmp_path / "run", say=lambda line: None)
    task, tokenizer = load(tmp_path / "run"), transformers.BertTokenizer.from_pretrained(tmp_path)
    text = "什么是语言模型？What is 2017！"
    ids = torch.tensor([tokenizer(text).input_ids[:-1]])  # [CLS] and the text
    answer = task.ask([{"text": text}])[0]["answer"]
    written = theirs.generate(ids, max_new_tokens=task.longest + 1, do_sample=False, pad_token_id=0, eos_token_id=3)
    wanted = task.tokenizer.decode(written[:, ids.shape[1] :].int().numpy()).numpy()[0].decode()
    assert answer == wanted and answer
    export_checkpoint(tmp_path / "run", tmp_path / "again", say=lambda line: None)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in theirs.state_dict().items())
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again")(text).input_ids == tokenizer(text).input_ids


def test_gpt2_with_word_pieces_learns_to_answer(word_pieces):
    folder, _ = word_pieces
    (folder / "chat.tsv").write_text(
        "prompt\tresponse\n什么是语言？\t模型。\nwhat is 2017？\t语言！\n", encoding="utf-8"
    )
    start = started(folder)
    config = adopt(make_config("generation", "transformer", "finetune"), start)
    config.start, config.lengths.max_answer_length, config.training.batch_size = str(folder), 12, 2
    config.training.steps, config.training.learning_rate = 40, 2e-2
    with pytest.raises(UserError, match="drops white space: prompt must say in words where the response begins"):
        validate(config)
    config.writing.prompt = "{text}，"
    assert train_run(validate(config), folder / "run", [folder / "chat.tsv"], say=lambda line: None) == 0
    asked = [{"text": "什么是语言？"}, {"text": "What is 2017？"}]
    assert [answer["answer"] for answer in load(folder / "run").ask(asked)] == ["模型。", "语言！"]


def test_prompts_begin_as_the_tokenizer_of_the_checkpoint_says(tmp_path):
    def steps(*single):
        template = {"type": "TemplateProcessing", "single": list(single)}
        return {"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}}

    start, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    assert not prompt_starts(tmp_path)
    path = tmp_path / "tokenizer.json"
    for described, wanted in ((steps(start, text), True), (steps(text), False), ({"post_processor": None}, False)):
        path.write_text(json.dumps(described))
        assert prompt_starts(tmp_path) is wanted
    path.write_text(json.dumps(steps(start, text, start)))
    with pytest.raises(UserError, match="not behind it"):
        prompt_starts(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    assert prompt_starts(tmp_path)


def test_what_generation_config_changes_about_texts_is_told(imported, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(imported("qwen3").folder, folder, ignore=shutil.ignore_patterns("run"))

    def lines(**settings):
        edit(folder, "generation_config.json", **settings)
        said = []
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        import_checkpoint(folder, tmp_path / "run", say=said.append)
        return said[2:]

    inert = {
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "suppress_tokens": [],
        "min_length": 0,
    }
    assert lines(**inert, do_sample=True, temperature=0.6, forced_eos_token_id=None) == []
    (line,) = lines(
        repetition_penalty=1.05,
        min_length=4,
        num_beams=4,
        suppress_tokens=[7],
        forced_bos_token_id=0,
        stop_strings=["。"],
    )
    assert line == (
        "Left out of generation_config.json, so that transformers may write other texts: "
        "repetition_penalty = 1.05 (generate.py --repetition-penalty); "
        "min_length = 4 (generate.py --min-tokens, which does not count the prompt); "
        "num_beams = 4 (generate.py --beams, --length-penalty); "
        'stop_strings = ["。"] (generate.py --stop); suppress_tokens = [7]; forced_bos_token_id = 0'
    )


def test_a_run_that_exists_is_not_touched(imported, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        import_checkpoint(imported("qwen3").folder, tmp_path)
    with pytest.raises(UserError, match="exists already"):
        export_checkpoint(imported("qwen3").folder / "run", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_imported_run_is_like_any_other(imported):
    run = Run(imported("llama").folder / "run")
    assert (run.manifest["kind"], run.manifest["model"], run.manifest["checkpoint"]) == (
        "causal_lm",
        "transformer",
        "llama",
    )
    assert run.config.text.tokenizer == load_tokenizer(run.path / "tokenizer").kind == "byte_pair"
    assert run.last_weights.read_bytes() == run.best_weights.read_bytes()


def test_scripts_tell_a_mistake_without_a_traceback(tmp_path):
    for name in ("import_checkpoint", "export_checkpoint"):
        found = run_script(name, tmp_path, tmp_path / "new")
        assert found.returncode == 2 and "Traceback" not in found.stderr
        assert str(tmp_path) in found.stderr

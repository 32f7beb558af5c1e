"""Pretraining that goes on from a run or a checkpoint: what it begins with, what it learns, what is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from programs import run as run_script

from keras_llm.config import TokenizerConfig
from keras_llm.data.prepared import Prepared
from keras_llm.presets import make_config
from keras_llm.run import Run, load, load_weights, read_weights, save_weights, write_manifest
from keras_llm.tasks import make_task
from keras_llm.text import TOKENIZERS
from keras_llm.training.start import adopt, go_on, open_start, start_weights
from keras_llm.training.train import FIRST_WEIGHTS
from keras_llm.validation import validate

DOCUMENTS = [
    "What is a language model? It gives each text a probability.\n什么是语言模型？它给每一段文字一个概率。",
    "The model plays. Is a token a model?\n模型是什么？语言模型。",
    "语言是什么？什么是模型？\nWhat is the token? The token is a text.",
]
TRAINING = "--document paragraph --batch-size 4 --steps 12 --evaluate-steps 6 --learning-rate 0.02 --dropout 0".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n\n".join(DOCUMENTS * 5), encoding="utf-8")
    return path


def go_further(start, corpus, run, *flags):
    return run_script("pretrain", "--from", start, "--data", corpus, "--eval-data", corpus, "--run", run, *flags)


def first(run):
    """A run's task as it was before the first step."""
    task = load(run)
    load_weights(task, run / FIRST_WEIGHTS, task.tokenizer.fingerprint)
    return task


def saved(directory, kind, model="transformer", tokenizer=None, **network):
    """A run with random weights."""
    tokenizer = tokenizer or ("wordpiece" if kind in ("masked_lm", "classification", "embedding") else "characters")
    config = make_config(kind, model, "tiny")
    config.text = TokenizerConfig(tokenizer, 330)
    shape = {"embedding_dim": 8, "hidden_dim": 8, "feedforward_dim": 12, "num_layers": 1, "num_heads": 2}
    for name, value in ({**shape, "context_length": 24} | network).items():
        setattr(config.network, name, value)
    config.lengths.max_answer_length, config.labels.labels = 8, ["a", "b"] if kind == "classification" else []
    config.masking.next_sentence = kind != "masked_lm"
    config.masking.span_length = 2.0 if kind == "span_corruption" else 3.0
    made = TOKENIZERS[tokenizer].train(DOCUMENTS[:1], 330)
    task = make_task(validate(config), made)
    directory.mkdir()
    write_manifest(directory, config, made, data="")
    if model != "ngram":
        save_weights(task, Run(directory).best_weights, made.fingerprint)
    return directory


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pytest.importorskip("transformers")
    import micro_checkpoints
    import micro_encoders

    makers = {name: micro_encoders.save_bert for name in ("BertForPreTraining", "BertForMaskedLM", "BertModel")}
    made = {}
    for name, make in {**makers, "gpt2": lambda folder, name: micro_checkpoints.save(name, folder)}.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", ""))
        made[name] = folder, make(folder, name)
    return made


@pytest.mark.parametrize(("name", "flags"), [("BertForPreTraining", ["--objective", "mlm"]), ("gpt2", [])])
def test_its_weights_and_ids_are_the_beginning(folders, corpus, tmp_path, name, flags):
    import torch
    import transformers

    folder, theirs = folders[name]
    done = go_further(folder, corpus, tmp_path / "run", *flags, *TRAINING)
    assert done.returncode == 0, done.stderr
    config = Run(tmp_path / "run").config
    assert (config.start, config.preset, config.masking.next_sentence) == (str(folder), "finetune", name == "gpt2")
    assert config.text.prompt_start == (name != "gpt2")  # as the checkpoint has it
    # The corpus in the checkpoint's ids, none of them learned anew.
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    row = Prepared.open(tmp_path / "run" / "prepared").row(0)["token_ids"].tolist()
    ids = fast(DOCUMENTS[0], add_special_tokens=False)["input_ids"]
    assert row == ([0, *ids, 0] if name == "gpt2" else ids)
    # The checkpoint's numbers, and what is learned from there.
    task, ids = first(tmp_path / "run"), np.array([ids[:16]])
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(ids))
    ids = ids.astype("int32")
    if name == "gpt2":
        found, wanted = task.model({"token_ids": ids}), wanted.logits
    else:
        x = {"token_ids": ids, "segment_ids": ids * 0, "mask_positions": np.arange(16, dtype="int32")[None]}
        found, wanted = task.model(x)["tokens"], wanted.prediction_logits
    np.testing.assert_allclose(np.asarray(found), wanted.numpy(), atol=1e-4)
    before = task.evaluate([{"text": text} for text in DOCUMENTS * 5])[task.monitor]
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]
    assert before > history[0][task.monitor] > history[1][task.monitor]


@pytest.mark.parametrize(
    ("name", "next_sentence", "new"),
    [
        ("BertForPreTraining", True, []),
        ("BertForMaskedLM", True, ["new: pool/kernel, pool/bias, judge/kernel, judge/bias"]),
        ("BertForMaskedLM", False, []),
    ],
)
def test_what_judges_the_next_sentence_is_taken_or_new(folders, name, next_sentence, new):
    start = open_start(folders[name][0])
    config = go_on(adopt(make_config("masked_lm", "transformer", "finetune"), start.config), start.config)
    config.masking.next_sentence = next_sentence
    assert start_weights(make_task(validate(config), start.tokenizer()), start)[1:] == new


def test_an_encoder_without_the_head_is_refused(folders, corpus, tmp_path):
    done = go_further(folders["BertModel"][0], corpus, tmp_path / "run")
    assert done.returncode == 2 and "has the head it was pretrained with" in done.stderr
    assert "the model transformer of kind embedding" in done.stderr and not list(tmp_path.iterdir())


def test_a_run_goes_on_and_is_resumed(corpus, tmp_path):
    start = saved(tmp_path / "start", "causal_lm", "lstm")
    shutil.copytree(start, tmp_path / "moved")  # what is resumed has its weights and its tokenizer itself
    done = go_further(start, corpus, tmp_path / "run", *TRAINING)
    assert done.returncode == 0, done.stderr
    taken, given = (read_weights(path)[1] for path in (tmp_path / "run" / FIRST_WEIGHTS, Run(start).best_weights))
    assert taken.keys() == given.keys() and all((taken[name] == given[name]).all() for name in given)
    task = load(tmp_path / "run")
    assert (task.config.start, task.config.model) == (str(start), "lstm")
    assert task.tokenizer.fingerprint == Run(start).manifest["tokenizer"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    before = first(tmp_path / "run").evaluate([{"text": text} for text in DOCUMENTS * 5])["bits_per_byte"]
    assert before > metrics["evaluation"]["bits_per_byte"]
    done = go_further(start, corpus, tmp_path / "run", *TRAINING, "--resume")
    assert done.returncode == 0, done.stderr
    files = ("--data", corpus, "--eval-data", corpus, "--config", tmp_path / "run" / "config.json")
    done = run_script("pretrain", *files, "--run", tmp_path / "again")
    assert done.returncode == 0 and f"weights from {start}" in done.stdout, done.stderr
    assert Run(tmp_path / "again").config == Run(tmp_path / "run").config
    other = go_further(tmp_path / "moved", corpus, tmp_path / "run", *TRAINING, "--resume")
    assert other.returncode == 2 and f"start: {start} → {tmp_path / 'moved'}" in other.stderr


@pytest.mark.parametrize(
    ("model", "network"), [("transformer", {"tied": True}), ("transformer", {"tied": False}), ("lstm", {})]
)
def test_span_corruption_keeps_its_sentinels(tmp_path, model, network):
    start = open_start(saved(tmp_path / "start", "span_corruption", model, **network))
    config = go_on(adopt(make_config("span_corruption", model, "finetune"), start.config), start.config)
    assert config.masking.span_length == 2.0  # as it was trained before
    task = make_task(validate(config), start.tokenizer())
    assert len(start_weights(task, start)) == 1
    embeddings = np.asarray(task.model.embedding.embeddings)
    np.testing.assert_array_equal(embeddings, start.arrays["embedding/embeddings"])
    assert len(embeddings) == start.tokenizer().vocabulary_size + 100


@pytest.mark.parametrize(("positions", "length"), [("rotary", 1024), ("learned", 4096)])
def test_rows_are_not_as_long_as_what_a_llama_reads(positions, length):
    start = make_config("causal_lm", "transformer")
    start.network.positions, start.network.context_length = positions, 4096
    config = go_on(adopt(make_config("causal_lm", "transformer", "finetune"), start), start)
    assert config.network.context_length == length


@pytest.mark.parametrize(("kind", "prompt"), [("seq2seq", "摘要：{text}"), ("generation", "Q: {text}\nA: ")])
def test_what_writes_keeps_its_prompt(kind, prompt):
    start, fresh = make_config(kind, "transformer"), make_config(kind, "transformer", "finetune")
    start.writing.prompt = prompt
    assert go_on(adopt(fresh, start), start).writing == dataclasses.replace(fresh.writing, prompt=prompt)
    start.kind = "causal_lm"
    assert go_on(adopt(fresh, start), start).writing == fresh.writing


def test_a_length_that_its_kind_does_not_know_is_not_taken_over():
    """Earlier versions kept it in a run."""
    start = make_config("causal_lm", "lstm", "tiny")
    start.lengths.max_text_length, start.lengths.max_answer_length = 32, 7
    config = validate(go_on(adopt(make_config("causal_lm", "lstm", "finetune"), start), start))
    assert (config.lengths.max_text_length, config.lengths.max_answer_length) == (0, 7)


@pytest.mark.parametrize(
    ("kind", "network", "flags", "message"),
    [
        ("ngram", {}, [], "An n-gram model has no weights to start from"),
        ("feedforward", {}, [], "the model feedforward of kind causal_lm. Start from another"),
        ("classification", {}, [], "the model transformer of kind classification. Start from another"),
        (
            "seq2seq",
            {},
            ["--objective", "span-corruption"],
            "the model transformer of kind seq2seq. Start from another",
        ),
        ("causal_lm", {}, ["--objective", "mlm"], "of kind causal_lm. Give --objective causal, or"),
        ("lstm", {}, ["--objective=mlm"], "of kind causal_lm. Give --objective causal, or"),
        ("masked_lm", {}, ["--objective", "causal"], "of kind masked_lm. Give --objective mlm or mlm+nsp, or"),
        ("masked_lm", {}, ["--objective", "mlm+nsp"], "which has none. Give --objective mlm."),
        ("masked_lm", {}, ["--tokenizer", "words"], "text.tokenizer: wordpiece → words. Leave that out"),
        ("masked_lm", {}, ["--vocabulary-size", "99"], "text.vocabulary_size: 330 → 99. Leave that out"),
        ("causal_lm", {}, ["--embedding-dim", "16"], "network.embedding_dim: 8 → 16. Leave that out"),
        ("causal_lm", {}, ["--model", "lstm"], "--model lstm from a run with transformer"),
        ("causal_lm", {"positions": "learned"}, ["--context-length", "48"], "network.context_length: 24 → 48"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value if isinstance(value, str) else "",
)
def test_what_is_refused_before_anything_is_written(tmp_path, corpus, kind, network, flags, message):
    kind, model = ("causal_lm", kind) if kind in ("ngram", "feedforward", "lstm") else (kind, "transformer")
    start = saved(tmp_path / "start", kind, model, **network)
    done = go_further(start, corpus, tmp_path / "run", *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_a_start_that_is_not_there_is_refused(tmp_path, corpus):
    done = go_further(tmp_path / "none", corpus, tmp_path / "run")
    assert done.returncode == 2 and "there is no such directory" in done.stderr and not list(tmp_path.iterdir())

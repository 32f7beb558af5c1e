"""Classifiers, taggers and readers in Hugging Face's form: the numbers of `transformers`, or a refusal, and starts again."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from micro_encoders import fine_tuned, save_bert, save_roberta  # noqa: E402

from keras_llm.checkpoints.exporting import export_checkpoint  # noqa: E402
from keras_llm.checkpoints.importing import import_checkpoint  # noqa: E402
from keras_llm.errors import UserError  # noqa: E402
from keras_llm.presets import make_config  # noqa: E402
from keras_llm.run import Run, load, save_weights, write_manifest  # noqa: E402
from keras_llm.tasks import make_task  # noqa: E402
from keras_llm.text import TOKENIZERS  # noqa: E402
from keras_llm.validation import validate  # noqa: E402

LABELS = ["好评", "bad", "neither"]
TEXTS = ["What is a language model?", "什么是语言模型？", "a Model 模型, Ｃ２０🙂", ""]
OTHERS = ["It is.", "模型。", "a", "the 语言"]
QUESTIONS, CONTEXTS = ["What is it?", "什么？"], ["It is a language model.", "语言模型是什么？"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    made = {"bert": (save_bert, "BertModel"), "roberta": (save_roberta, "RobertaModel")}
    folders = {family: tmp_path_factory.mktemp(family) for family in made}
    for family, (save, name) in made.items():
        save(folders[family], name)
    return folders


def save_run(task, folder):
    """A run as training leaves it, its heads not nearly nothing."""
    random = np.random.default_rng(0)
    for weight in task.model.weights:
        if "encoder" not in weight.path:
            weight.assign(weight + 0.5 * random.normal(size=weight.shape).astype("float32"))
    folder.mkdir()
    write_manifest(folder, task.config, task.tokenizer)
    save_weights(task, Run(folder).best_weights, task.tokenizer.fingerprint)


def exported(task, folder):
    """The run `folder`/run, the model and the tokenizer that `transformers` reads from `folder`/hub, and what was said."""
    save_run(task, folder / "run")
    said = []
    export_checkpoint(folder / "run", folder / "hub", say=said.append)
    described = json.loads((folder / "hub" / "config.json").read_text())
    model = getattr(transformers, described["architectures"][0]).from_pretrained(folder / "hub").eval()
    return load(folder / "run"), model, transformers.AutoTokenizer.from_pretrained(folder / "hub"), said


def computed(model, given):
    with torch.no_grad():
        return {name: value.numpy() for name, value in model(**given).items()}


def same_classifier(task, model, tokenizer):
    """The same ids, logits and probabilities."""
    texts = [TEXTS, OTHERS][: len(task.inputs)]
    given = tokenizer(*texts, padding=True, return_tensors="pt")
    ids, segments = task.encode_texts(*map(tf.constant, texts))
    assert ids.numpy().tolist() == given["input_ids"].tolist()
    found = np.asarray(task.model({"token_ids": ids, "segment_ids": segments}))
    assert np.abs(found).max() > 0.5 and np.abs(found[0] - found[1]).max() > 0.05
    np.testing.assert_allclose(found, computed(model, given)["logits"], atol=1e-4)
    ask = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    names = ("text", "text_pair")[: len(texts)]
    answers = task.ask([dict(zip(task.inputs, row, strict=True)) for row in zip(*texts, strict=True)])
    for row, answer in zip(zip(*texts, strict=True), answers, strict=True):
        wanted = {one["label"]: one["score"] for one in ask(dict(zip(names, row, strict=True)))}
        assert dict(zip(answer["labels"], answer["scores"], strict=True)) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    "family, pair, multi_label",
    [("bert", False, False), ("bert", True, True), ("roberta", True, False), ("roberta", False, True)],
)
def test_a_classifier(checkpoints, tmp_path, family, pair, multi_label):
    task = fine_tuned(
        checkpoints[family], "classification", pooling="first", labels=LABELS, pair=pair, multi_label=multi_label
    )
    if multi_label:
        task.settings["threshold"] = 0.25
    task, model, tokenizer, said = exported(task, tmp_path)
    assert type(model).__name__ == f"{family.capitalize()}ForSequenceClassification"
    assert model.config.id2label == dict(enumerate(LABELS)) and model.config.label2id["bad"] == 1
    assert model.config.problem_type == f"{'multi' if multi_label else 'single'}_label_classification"
    assert ["probability 0.25 on" in line for line in said[1:]] == [True] * multi_label
    same_classifier(task, model, tokenizer)


def trained_here(
    kind="classification", tokenizer="wordpiece", model="transformer", pair_ends=1, network=None, **labels
):
    """A task as training from scratch makes it, in BERT's shape."""
    keras.utils.set_random_seed(0)
    config = make_config(kind, model, "finetune" if kind == "reading" and model == "transformer_encoder" else "tiny")
    shape = {"positions": "learned", "norm": "layer", "norm_first": False, "pooling": "first", "context_length": 40}
    sizes = {"embedding_dim": 16, "hidden_dim": 8, "num_heads": 2, "feedforward_dim": 24, "num_layers": 1}
    for name, value in {**shape, **sizes, **(network or {})}.items():
        setattr(config.network, name, value)
    names = {"labels": LABELS} if kind in ("classification", "tagging") else {}
    for name, value in {**names, **labels}.items():
        setattr(config.labels, name, value)
    policy = "lowercase" if tokenizer == "wordpiece" else "nfc"
    config.text.tokenizer, config.text.pair_ends, config.text.unicode_policy = tokenizer, pair_ends, policy
    made = TOKENIZERS[tokenizer].train([*TEXTS, *OTHERS] * 3, 300, policy)
    return make_task(validate(config), made)


@pytest.mark.parametrize(
    "tokenizer, pair, pair_ends",
    [("wordpiece", False, 1), ("wordpiece", True, 1), ("byte_pair", False, 1), ("byte_pair", True, 2)],
)
def test_a_classifier_trained_here(tmp_path, tokenizer, pair, pair_ends):
    """With segments where pairs have them, without them, and with another padding."""
    task = trained_here(tokenizer=tokenizer, pair=pair, pair_ends=pair_ends)
    assert (task.model.encoder.segments is not None) == (pair and pair_ends == 1)
    task, model, tokens, said = exported(task, tmp_path)
    assert len(said) == 1
    same_classifier(task, model, tokens)


@pytest.mark.parametrize("family, scheme", [("bert", "bioes"), ("roberta", "bio")])
def test_a_tagger(checkpoints, tmp_path, family, scheme):
    task = fine_tuned(checkpoints[family], "tagging", labels=["ORG", "人名"], crf=False, scheme=scheme)
    task, model, tokenizer, said = exported(task, tmp_path)
    assert type(model).__name__ == f"{family.capitalize()}ForTokenClassification"
    assert model.config.id2label == dict(enumerate(task.names)) and "tag of its first token" in said[1]
    ids = [[task.tokenizer.start_id, *row, task.tokenizer.end_id] for row in task.tokenizer.encode(TEXTS).to_list()]
    for text, row in zip(TEXTS, ids, strict=True):
        given = tokenizer(text, return_tensors="pt")
        assert given["input_ids"].tolist() == [row]
        places = np.arange(len(row), dtype="int32")[None]
        found = np.asarray(task.model({"token_ids": np.array([row], "int32"), "places": places}))
        assert np.abs(found).max() > 0.5
        np.testing.assert_allclose(found, computed(model, given)["logits"], atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_reader(checkpoints, tmp_path, family):
    task = fine_tuned(checkpoints[family], "reading")
    task.settings["no_answer_threshold"] = 1.5
    task, model, tokenizer, said = exported(task, tmp_path)
    assert type(model).__name__ == f"{family.capitalize()}ForQuestionAnswering"
    assert "log p(no answer) - log p(best span) is above 1.5" in said[1]
    windows = task.windows(tf.constant(QUESTIONS), tf.constant(CONTEXTS))
    inputs = {name: windows[name].numpy() for name in ("question_ids", "context_ids")}
    logits = np.asarray(task.model(inputs))
    task.settings["no_answer_threshold"] = 1e9
    answers = task.ask([{"question": q, "context": c} for q, c in zip(QUESTIONS, CONTEXTS, strict=True)])
    for row, (question, context) in enumerate(zip(QUESTIONS, CONTEXTS, strict=True)):
        given = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        offsets, places = given.pop("offset_mapping")[0].tolist(), [i == 1 for i in given.sequence_ids(0)]
        columns = [0, *np.flatnonzero(places)]  # no answer, and the context's tokens
        scores = computed(model, given)
        wanted = np.stack([scores["start_logits"][0, columns], scores["end_logits"][0, columns]])
        assert len(columns) <= 17 and np.abs(wanted).max() > 0.5  # one window
        np.testing.assert_allclose(logits[row, :, : len(columns)], wanted, atol=1e-4)
        # The answer that these numbers give.
        start, end = np.exp(wanted - wanted.max(1, keepdims=True))
        spans = np.triu(np.outer(start / start.sum(), end / end.sum()))
        spans[0, 1:] = 0  # the start alone is no answer
        first, last = np.unravel_index(np.argmax(np.where(np.arange(len(columns)) > 0, spans, 0)), spans.shape)
        text = context[offsets[columns[first]][0] : offsets[columns[last]][1]]
        assert answers[row]["answer"] == text.strip() != ""
        assert answers[row]["score"] == pytest.approx(spans[first, last] / spans.sum(), abs=1e-4)


REFUSED = {
    "mean": (lambda: trained_here(network={"pooling": "mean"}), "Received: pooling=mean. Train with --pooling first"),
    "maximum": (lambda: trained_here(network={"pooling": "max"}), "Received: pooling=max. Train with --pooling first"),
    "chain": (lambda: trained_here("tagging"), "Received: crf=True. Train with --no-crf"),
    "side by side": (lambda: trained_here("reading"), "with --model transformer_encoder. .*model=transformer. Train"),
    "lstm": (lambda: trained_here(model="lstm"), "Received: kind=classification, model=lstm"),
    "rotary": (lambda: trained_here(network={"positions": "rotary"}), "Received: positions=rotary"),
    "characters": (lambda: trained_here("tagging", tokenizer="characters", crf=False), "a run with characters"),
    "two ends": (lambda: trained_here(pair=True, pair_ends=2), "Received: pair_ends=2"),
    "byte pairs with segments": (lambda: trained_here(tokenizer="byte_pair", pair=True), "has segments for them"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_they_cannot_hold_is_refused_and_leaves_nothing(tmp_path, what):
    make, message = REFUSED[what]
    save_run(make(), tmp_path / "run")
    with pytest.raises(UserError, match=message):
        export_checkpoint(tmp_path / "run", tmp_path / "hub")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


HEADS = {
    "classification": {"pooling": "first", "labels": LABELS},
    "tagging": {"labels": LABELS, "crf": False},
    "reading": {},
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_their_encoder_is_a_start_again(checkpoints, tmp_path, family, kind):
    task, *_ = exported(fine_tuned(checkpoints[family], kind, **HEADS[kind]), tmp_path)
    said = []
    import_checkpoint(tmp_path / "hub", tmp_path / "again", say=said.append)
    assert f"{family} as embedding" in said[-2]
    layers = {"reading": ["qa_outputs"], "tagging": ["classifier"], "classification": ["classifier"]}[kind]
    if family == "roberta" and kind == "classification":
        layers = ["classifier.dense", "classifier.out_proj"]
    left_out = said[-1].partition("Left out: ")[2].partition(". Of")[0].split(", ")
    assert sorted(left_out) == sorted(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))
    ids = np.array([[task.tokenizer.start_id, 9, 17, 8, task.tokenizer.end_id]], "int32")
    inputs = {"token_ids": ids, "segment_ids": ids * 0}
    wanted = np.asarray(task.model.encoder(inputs))
    other = fine_tuned(tmp_path / "hub", "tagging", labels=["人名"])
    np.testing.assert_allclose(np.asarray(other.model.encoder(inputs)), wanted, atol=1e-5)


def test_heads_of_transformers_own_making_are_left_out(tmp_path):
    """A classifier from elsewhere is a start, too; what is no head is not passed over."""
    from keras_llm.checkpoints.files import Checkpoint, write_tensors

    model = save_bert(tmp_path, "BertForSequenceClassification", num_labels=3)
    task = fine_tuned(tmp_path, "classification", labels=["a", "b"])
    ids = np.array([[2, 9, 17, 3]])
    with torch.no_grad():
        wanted = model.bert(torch.from_numpy(ids)).last_hidden_state.numpy()
    found = task.model.encoder({"token_ids": ids.astype("int32"), "segment_ids": np.zeros_like(ids, "int32")})
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-5)
    write_tensors(tmp_path, {**Checkpoint(tmp_path), "classifier.scale": np.ones(3, "float32")})
    with pytest.raises(UserError, match="Left over: classifier.scale"):
        import_checkpoint(tmp_path, tmp_path / "run", say=lambda line: None)

"""Classification as a task: files to a trained run, pairs, several labels, levels, weights, export; fine-tuning from runs."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from programs import run as run_script

import keras_llm
from keras_llm.config import FieldConfig, LabelConfig
from keras_llm.data.prepared import Prepared
from keras_llm.errors import UserError
from keras_llm.evaluate import evaluate_run
from keras_llm.export import export
from keras_llm.export.export import export_task
from keras_llm.layers.losses import BinaryCrossEntropy, CrossEntropy, FocalCrossEntropy
from keras_llm.presets import make_config
from keras_llm.tasks import make_task
from keras_llm.tasks.classification import Classification, balanced
from keras_llm.text.wordpiece import WordPieceTokenizer
from keras_llm.training.start import adopt, open_start, refuse_changes, start_weights
from keras_llm.training.train import train_run
from keras_llm.validation import validate

TEXTS = [
    ("What a wonderful film !", "pos"),
    ("这家酒店很好，下次还来。", "pos"),
    ("I love this place 🙂", "pos"),
    ("服务周到，非常满意！", "pos"),
    ("A terrible waste of time .", "neg"),
    ("房间很脏，太失望了。", "neg"),
    ("I hate this awful place 🙁", "neg"),
    ("服务很差，再也不来了！", "neg"),
]
SEVERAL = [("red and blue", ["blue", "red"]), ("红色", ["red"]), ("blue 蓝", ["blue"]), ("nothing 无", [])]


def micro_config(model="lstm", **labels):
    config = make_config("classification", model, "tiny")
    config.text.vocabulary_size = 150
    network, training = config.network, config.training
    network.embedding_dim, network.hidden_dim, network.feedforward_dim, network.num_layers = 16, 12, 24, 1
    network.num_heads, network.dropout, network.context_length = 2, 0.0, 32
    training.batch_size, training.epochs, training.learning_rate, training.evaluate_every = 4, 12, 1e-2, 6
    config.labels = LabelConfig(**labels)
    return validate(config)


def table(path, rows):
    path.write_text("\n".join(["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]), encoding="utf-8")
    return path


def untrained(model="transformer", records=None, **labels):
    records = records or [{"text": text, "labels": [label]} for text, label in TEXTS]
    config = Classification.fitted(micro_config(model, **labels), records)
    keras.utils.set_random_seed(0)
    return make_task(config, WordPieceTokenizer.train(Classification.texts(records), 150)), records


def test_batches_of_so_many_tokens(tmp_path):
    task, records = untrained()
    task.config.training.batch_tokens = 48
    batches = task.batches(Prepared.write(tmp_path / "prepared", task.prepare(records), ""), 8)
    shapes = [batches[i]["token_ids"].shape for i in range(batches.steps_per_epoch)]
    assert sum(rows for rows, _ in shapes) == len(records) and len(shapes) > 1
    assert all(rows == 1 or rows * width <= 48 for rows, width in shapes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("classification")
    data = table(directory / "data.tsv", TEXTS)
    assert train_run(micro_config(), directory / "run", [data], [data], say=lambda line: None) == 0
    return directory


def test_a_run_learns_evaluates_and_answers_alone_as_in_a_batch(trained):
    task = keras_llm.load(trained / "run")
    assert task.config.labels.labels == ["neg", "pos"]
    answers = task.ask([{"text": text} for text, _ in TEXTS])
    assert [answer["label"] for answer in answers] == [label for _, label in TEXTS]
    for (text, _), answer in zip(TEXTS, answers, strict=True):
        assert answer["labels"] == ["neg", "pos"]
        assert answer["score"] == max(answer["scores"])
        assert sum(answer["scores"]) == pytest.approx(1, abs=1e-5)
        alone = task.ask_one({"text": text})
        assert alone["label"] == answer["label"]
        assert alone["scores"] == pytest.approx(answer["scores"], abs=1e-5)
    found = evaluate_run(
        trained / "run", [trained / "data.tsv"], predictions=trained / "said.json", say=lambda line: None
    )
    assert found["metrics"]["accuracy"] == found["metrics"]["f1"] == 1.0
    assert json.loads((trained / "said.json").read_text())["data:3"] == "pos"
    assert {path.name for path in (trained / "run").glob("*.png")} == {
        f"{name}.png" for name in ("confusion", "reliability", "precision_recall")
    }
    with pytest.raises(UserError, match="^num_beams choose.* seq2seq and generation.*Received: a classification run"):
        evaluate_run(trained / "run", [trained / "data.tsv"], decoding={"num_beams": 2}, say=lambda line: None)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("编号,感想,情绪\n1,这家酒店很好，下次还来。,pos\n", ("感想", "情绪")),
        ("no,remark,mood\n1,I love this place 🙂,pos\n", ("remark", "mood")),
        ("pos,1,I love this place 🙂\n", ("3", "1")),
    ],
    ids=["Chinese names", "English names", "numbers"],
)
def test_other_names_of_columns_are_given_when_evaluating(trained, tmp_path, text, flags):
    data = tmp_path / "test.csv"
    data.write_text(text, encoding="utf-8")
    given = ("--text-field", flags[0], "--label-field", flags[1])
    done = run_script("evaluate", trained / "run", "--data", data, "--output", tmp_path / "m.json", *given)
    assert done.returncode == 0, done.stderr
    assert "texts read: 1, kept: 1" in done.stdout
    found = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert found["examples"] == 1 and found["metrics"]["accuracy"] == 1.0
    assert found["fields"] == vars(FieldConfig(flags[0], "", flags[1]))
    done = run_script("evaluate", trained / "run", "--data", data, "--target-field", "x")
    assert done.returncode == 2 and "Received: --target-field" in done.stderr


def test_a_run_trained_on_numbered_columns_reads_a_file_with_a_header(tmp_path):
    task, _ = untrained()
    task.config.fields = FieldConfig(text_field="1", label_field="2")
    data = table(tmp_path / "data.tsv", TEXTS[:2])
    with pytest.raises(UserError, match=r"data.tsv:1: a label must be one of neg, pos. Received: 'label'"):
        task.read([data])
    records, report = task.read([data], FieldConfig(text_field="text", label_field="label"))
    assert [(record["text"], *record["labels"]) for record in records] == TEXTS[:2] and report.fields == []
    assert task.config.fields.text_field == "1"


def test_the_proof_of_an_export_reads_other_names_of_columns(trained, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(export, "export_task", lambda task, directory, records, server: asked.extend(records) or 1 / 0)
    data = tmp_path / "a.jsonl"
    data.write_text('{"题目": "无", "感想": "服务很差", "情绪": "neg"}\n', encoding="utf-8")
    fields = FieldConfig(text_field="感想", label_field="情绪")
    with pytest.raises(ZeroDivisionError):
        list(export.export_run(trained / "run", tmp_path / "exported", [data], fields=fields))
    assert asked == [{"text": "服务很差"}]
    for flags, message in (([], "Fields belong to files"), (["--keras-hub"], "Fields are for runs")):
        done = run_script("export", trained / "run", tmp_path / "exported", "--text-field", "感想", *flags)
        assert done.returncode == 2 and message in done.stderr


def test_the_exported_model_answers_the_same_in_another_process(trained):
    task = keras_llm.load(trained / "run")
    version = export_task(task, trained / "exported", [{"text": text} for text, _ in TEXTS])
    model = tf.saved_model.load(str(version)).signatures["serving_default"]
    found = model(text=tf.constant([TEXTS[1][0], "", "\udc80".encode("utf-8", "surrogatepass")]))
    assert found["label"].numpy()[0] == b"pos"
    assert found["scores"].shape == (3, 2)


def test_empty_texts_and_long_texts_have_labels_too():
    task, _ = untrained()
    empty, long, same = task.ask([{"text": ""}, {"text": "好" * 5000}, {"text": "好" * 40}])
    assert empty["label"] in ("neg", "pos")
    assert long["scores"] == pytest.approx(same["scores"])  # cut at the context
    assert task.ask([]) == []


def test_pairs_are_read_with_their_segments():
    records = [{"text": t, "pair": p, "labels": [label]} for t, p, label in [("一 a", "二 b", "0"), ("c", "d", "1")]]
    task, _ = untrained(records=records)
    assert task.inputs == ("text", "pair")
    row = next(task.prepare(records))
    tokens, tokenizer = row["token_ids"].tolist(), task.tokenizer
    first, second = (ids for ids in tokenizer.encode(["一 a", "二 b"]).to_list())
    assert tokens == [2, *first, 3, *second, 3]
    assert row["segment_ids"].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    ids, segments = task.encode_texts(tf.constant(["a " * 100]), tf.constant(["b"]))  # the longer one is cut
    assert ids.shape == (1, 32)
    assert segments.numpy().sum() == 2
    assert task.ask_one({"text": "x", "pair": "y"})["label"] in ("0", "1")


def test_pairs_and_single_texts_are_not_mixed_up(tmp_path):
    single = table(tmp_path / "single.tsv", [("a", "0"), ("b", "1")])
    double = tmp_path / "double.jsonl"
    double.write_text('{"text": "a", "pair": "b", "label": "0"}\n', encoding="utf-8")
    for records, other in (
        ([{"text": "a", "pair": "b", "labels": ["0"]}], single),
        ([{"text": "a", "labels": ["0"]}], double),
    ):
        task, _ = untrained(records=[*records, {**records[0], "labels": ["1"]}])
        with pytest.raises(UserError, match=f"reads (pairs of|single) texts. Received: .*{other.name}"):
            task.read([other])


def test_several_labels_have_a_threshold_found_on_evaluation_data(tmp_path):
    data = table(tmp_path / "data.tsv", [(text, "|".join(labels)) for text, labels in SEVERAL])
    config = micro_config(multi_label=True)
    config.training.epochs = config.training.evaluate_every = 40
    assert train_run(config, tmp_path / "run", [data], [data], say=lambda line: None) == 0
    task = keras_llm.load(tmp_path / "run")
    assert 0 < task.settings["threshold"] < 1
    for (_, labels), answer in zip(SEVERAL, task.ask([{"text": text} for text, _ in SEVERAL]), strict=True):
        assert [name for name, is_on in zip(answer["labels"], answer["chosen"], strict=True) if is_on] == labels
    found = task.predictions(task.read([data])[0])
    assert list(found.values()) == [labels for _, labels in SEVERAL]
    assert task.evaluate(task.read([data])[0])["exact_match"] == 1.0


def test_upper_levels_are_scored_by_the_sum_of_their_labels():
    records = [{"text": text, "labels": [label]} for text, label in [("a", "球/足球"), ("b", "球/篮球"), ("c", "财经")]]
    task, _ = untrained(records=records, separator="/")
    probabilities = np.array([[0.4, 0.3, 0.3], [0.1, 0.5, 0.4], [0.45, 0.1, 0.45]], "float32")
    names = task.config.labels.labels
    assert names == sorted(names)
    task.judged = lambda records: (np.array([1, 1, 2]), probabilities)
    found = task.evaluate(records)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["accuracy_1"] == pytest.approx(2 / 3)


def test_upper_levels_of_several_labels_are_chosen_with_any_below_them():
    records = [
        {"text": "a", "labels": ["球/足球", "财经"]},
        {"text": "b", "labels": ["球/篮球"]},
        {"text": "c", "labels": []},
    ]
    task, _ = untrained(records=records, separator="/", multi_label=True)
    assert task.config.labels.labels == ["球/篮球", "球/足球", "财经"]
    truth = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
    probabilities = np.array([[0.9, 0.1, 0.2], [0.1, 0.2, 0.6], [0.1, 0.3, 0.3]], "float32")
    task.judged = lambda records: (truth, probabilities)
    found = task.evaluate(records)
    assert found["micro_f1"] == 0.0
    # One of three true labels of the first level, of two chosen ones; 球 has an F1 of 2/3, 财经 of 0.
    assert found["micro_f1_1"] == pytest.approx(2 / 5)
    assert found["macro_f1_1"] == pytest.approx(1 / 3)
    task.settings["threshold"] = 0.2
    assert task.evaluate(records)["micro_f1_1"] == pytest.approx(2 * 3 / (3 + 6))


def test_rare_labels_count_more_when_balanced(tmp_path):
    assert balanced(np.array([0, 0, 0, 1]), 2).tolist() == pytest.approx([4 / 6, 2.0])
    records = [{"text": text, "labels": [label]} for text, label in [*TEXTS[:4], *TEXTS[:3], TEXTS[4]]]
    task, _ = untrained(records=records, class_weights="balanced")
    batch = task.batches(Prepared.write(tmp_path / "prepared", task.prepare(records), "x"), 8)[0]
    _, labels, weights = task.split(batch)
    assert weights.tolist() == pytest.approx([8 / 14 if label else 4.0 for label in labels])


def test_losses_against_numpy():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(5, 3)).astype("float32"), random.integers(0, 3, 5)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = p[np.arange(5), labels]
    assert float(FocalCrossEntropy(2.0)(labels, logits)) == pytest.approx(
        np.mean(-((1 - true) ** 2) * np.log(true)), 1e-5
    )
    assert float(FocalCrossEntropy(0.0)(labels, logits)) == pytest.approx(float(CrossEntropy()(labels, logits)), 1e-5)
    yes, q = random.integers(0, 2, (5, 3)), 1 / (1 + np.exp(-logits))
    plain = -(yes * np.log(q) + (1 - yes) * np.log(1 - q)).mean()
    assert float(BinaryCrossEntropy()(yes, logits)) == pytest.approx(plain, 1e-5)
    focal = -(yes * (1 - q) ** 2 * np.log(q) + (1 - yes) * q**2 * np.log(1 - q)).mean()
    assert float(BinaryCrossEntropy(gamma=2.0)(yes, logits)) == pytest.approx(focal, 1e-4)


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([("a", "x"), ("b", "x")], {}, "A classifier chooses between labels. Received: x in all"),
        ([("a", "x"), ("b", "x")], {"labels": ["x", "y"]}, "A classifier chooses between labels. Received: x in all"),
        ([("a", "x"), ("b", "x")], {"multi_label": True}, "A classifier chooses between labels. Received: x in all"),
        ([("a", "x"), ("b", "z")], {"labels": ["x", "y"]}, r"data\.tsv:3: a label must be one of x, y.*'z'"),
        ([("a", "x"), ("b", "y")], {"labels": ["x", "x"]}, "one place among the outputs.*'x' twice"),
        ([("a", "x"), ("b", "y")], {"levels": 1}, "without a separator"),
        ([("a", "x"), ("b", "y")], {"multi_label": True, "class_weights": "balanced"}, "class_weights are for texts"),
    ],
)
def test_what_is_refused_before_anything_is_written(tmp_path, rows, labels, message):
    data = table(tmp_path / "data.tsv", rows)
    with pytest.raises(UserError, match=message):
        train_run(micro_config(**labels), tmp_path / "run", [data], say=lambda line: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.tsv"]


def test_a_classifier_starts_from_a_run_whose_encoder_it_takes(trained, tmp_path):
    data = table(tmp_path / "three.tsv", [*TEXTS, ("It is a film .", "neutral"), ("它是酒店。", "neutral")])
    source = keras_llm.load(trained / "run")
    config = adopt(micro_config(), source.config)
    config.start, config.training.steps, config.training.learning_rate = str(trained / "run"), 1, 1e-9
    said = []
    assert train_run(config, tmp_path / "run", [data], say=said.append) == 0
    assert "new: head/kernel, head/bias" in said
    task = keras_llm.load(tmp_path / "run")
    assert task.config.labels.labels == ["neg", "neutral", "pos"]
    assert task.tokenizer.fingerprint == source.tokenizer.fingerprint
    before, after = (keras.ops.convert_to_numpy(t.model.embedding.embeddings) for t in (source, task))
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_a_start_of_another_shape_is_refused(trained):
    start = open_start(trained / "run")
    config = adopt(micro_config(), start.config)
    with pytest.raises(UserError, match="Weights go from a model to one of the same kind.*lstm"):
        adopt(micro_config("transformer"), start.config)
    for labels, new in (["neg", "pos"], []), (["pro", "contra"], ["new: head/kernel, head/bias"]):
        config.labels.labels = labels
        assert start_weights(make_task(config, start.tokenizer()), start)[1:] == new
    config.labels.labels, config.network.pooling = ["neg", "pos"], "mean"  # the head was trained on maxima
    assert start_weights(make_task(config, start.tokenizer()), start)[1:] == ["new: head/kernel, head/bias"]
    config.network.context_length *= 2  # no weight of an LSTM depends on it
    refuse_changes(config, start.config)
    config.network.hidden_dim += 1
    with pytest.raises(UserError, match="Received, the model's value first: network.hidden_dim: 12 → 13. Leave"):
        refuse_changes(config, start.config)
    config.labels.labels = ["a", "b"]
    with pytest.raises(UserError, match=r"encoder/lstm/.* is \(16, 48\), here \(16, 52\)"):
        start_weights(make_task(config, start.tokenizer()), start)


def test_the_command_line_trains_from_a_run(trained, tmp_path):
    def finetune(*arguments):
        return run_script("finetune", "--task", "classification", *arguments)

    data, run = str(trained / "data.tsv"), str(tmp_path / "run")
    wrong = finetune("--from", str(tmp_path / "none"), "--data", data, "--run", run)
    assert (wrong.returncode, wrong.stderr.splitlines()[-1].split(":")[0]) == (2, "error")
    file, start = tmp_path / "mine.json", ("--from", str(trained / "run"), "--data", data, "--run", run)
    file.write_text('{"preset": "tiny", "network": {"num_layers": 2}, "text": {"unicode_policy": "nfc"}}')
    wrong = finetune(*start, "--config", str(file), "--tokenizer", "words")
    changed = "text.tokenizer: wordpiece → words; text.unicode_policy: lowercase → nfc; network.num_layers: 1 → 2."
    assert wrong.returncode == 2 and changed in wrong.stderr
    flags = ["--steps", "2", "--batch-size", "4", "--token-dropout", "0.1", "--context-length", "16"]
    done = finetune(*start, *flags)
    assert done.returncode == 0, done.stderr
    assert "new: " not in done.stdout  # the same labels, and the pooling that the head was trained with
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["start"], config["model"], config["preset"]) == (str(trained / "run"), "lstm", "finetune")
    network = config["network"]
    names = ("embedding_dim", "token_dropout", "context_length", "pooling")
    assert [network[name] for name in names] == [16, 0.1, 16, "max"]
    done = finetune(*start, *flags, "--resume")
    assert done.returncode == 0, done.stderr
    done = finetune(*start[:-1], str(tmp_path / "mean"), *flags, "--pooling", "mean")
    assert done.returncode == 0 and "new: head/kernel, head/bias" in done.stdout, done.stderr


def test_a_config_names_where_a_training_starts_unless_a_flag_does(trained, tmp_path):
    def finetune(run, *arguments):
        data = ("--data", str(trained / "data.tsv"), "--run", str(tmp_path / run), "--batch-size", "4", "--steps", "1")
        done = run_script("finetune", "--task", "classification", *data, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads((tmp_path / run / "config.json").read_text(encoding="utf-8"))

    start = str(trained / "run")
    finetune("first", "--from", start)
    said, config = finetune("again", "--config", str(tmp_path / "first" / "config.json"))
    assert f"weights from {start}" in said and "tokenizer" not in said.partition("Preparing")[0].partition("}\n")[2]
    assert config == json.loads((tmp_path / "first" / "config.json").read_text(encoding="utf-8"))
    said, config = finetune("scratch", "--config", str(tmp_path / "first" / "config.json"), "--from", "scratch")
    assert config["start"] == "" and "weights from" not in said


def test_other_names_than_those_of_the_config_are_taken(tmp_path):
    data = table(tmp_path / "data.tsv", [(text, str(i % 2)) for i, (text, _) in enumerate(TEXTS)])
    for name, names in ("old", "差\n好\n"), ("new", "bad\ngood\n"):
        (tmp_path / name).write_text(names, encoding="utf-8")

    def labels(run, *arguments):
        flags = ("--model", "lstm", "--preset", "tiny", "--steps", "1", "--batch-size", "4", *arguments)
        run = tmp_path / run
        done = run_script("finetune", "--task", "classification", "--data", str(data), "--run", str(run), *flags)
        assert done.returncode == 0, done.stderr
        found = json.loads((run / "config.json").read_text(encoding="utf-8"))["labels"]
        return found["names"], found["labels"]

    assert labels("one", "--label-names", str(tmp_path / "old")) == (["差", "好"], ["好", "差"])
    config = ("--config", str(tmp_path / "one" / "config.json"))
    assert labels("two", *config) == (["差", "好"], ["好", "差"])
    assert labels("three", *config, "--label-names", str(tmp_path / "new")) == (["bad", "good"], ["bad", "good"])
    named = ("--label-names", str(tmp_path / "new"), "--labels", "good", "bad")
    assert labels("four", *config, *named) == (["bad", "good"], ["good", "bad"])

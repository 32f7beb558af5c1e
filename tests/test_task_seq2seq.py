"""One text for another, from files to strings: training, evaluation by beams, export in another process, bad input."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
import tensorflow as tf

import keras_llm
from keras_llm.errors import UserError
from keras_llm.evaluate import evaluate_run
from keras_llm.export import gates
from keras_llm.export.saved_model import save
from keras_llm.metrics.text import evaluate_texts
from keras_llm.presets import make_config
from keras_llm.run import save_weights, write_manifest
from keras_llm.tasks import make_task
from keras_llm.tasks.base import Answering
from keras_llm.tasks.seq2seq import Seq2Seq
from keras_llm.text import TOKENIZERS
from keras_llm.training.start import open_start, start_weights
from keras_llm.training.train import train_run
from keras_llm.validation import validate

PAIRS = [
    ("a dog runs", "一只狗在跑。"),
    ("a cat runs", "一只猫在跑。"),
    ("a dog sleeps", "一只狗在睡觉。"),
    ("two cats sleep 🙂", "两只猫在睡觉🙂。"),
    ("I read a book", "我看书。"),
    ("the end", "完"),
]


def micro(model, **training):
    config = make_config("seq2seq", model, "tiny")
    config.text.tokenizer, config.text.vocabulary_size = "characters", 330
    network = config.network
    network.embedding_dim, network.hidden_dim, network.feedforward_dim = 32, 32, 64
    network.num_layers, network.num_heads, network.dropout = 1, 2, 0.0
    config.lengths.max_source_length, config.lengths.max_answer_length = 24, 10
    config.writing.prompt, config.writing.num_beams = "zh: {text} =", 3
    config.training.steps, config.training.evaluate_steps, config.training.batch_tokens = 120, 120, 400
    config.training.learning_rate = 1e-2
    for name, value in training.items():
        setattr(config.training, name, value)
    return validate(config)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, place in (("train.en", 0), ("train.zh", 1)):
        (folder / name).write_text("".join(pair[place] + "\n" for pair in PAIRS * 3), encoding="utf-8")
    rows = [{"id": str(i), "text": text, "targets": [target, f"{target}！"]} for i, (text, target) in enumerate(PAIRS)]
    (folder / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [folder / "train.en", folder / "train.zh"], folder / "dev.jsonl"


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    directory = tmp_path_factory.mktemp("transformer") / "run"
    assert train_run(micro("transformer"), directory, files[0], [files[1]], say=lambda line: None) == 0
    return directory


def new_task(model, **lengths):
    """With random weights."""
    config = micro(model)
    for name, value in lengths.items():
        setattr(config.lengths, name, value)
    task = make_task(config, TOKENIZERS["characters"].train([text for pair in PAIRS for text in pair], 400))
    random = np.random.default_rng(0)
    task.model.set_weights([random.normal(size=w.shape) for w in task.model.get_weights()])
    return task


def test_training_learns_to_translate(run):
    metrics = json.loads((run / "metrics.json").read_text())
    found = metrics["evaluation"]
    assert found["loss"] < 0.5 and found["bleu"] > 60 and found["rouge_l"] > 70
    assert metrics["notes"]["bleu"].startswith("nrefs:2|case:mixed|eff:no|tok:zh|")
    # An id for each character, and the end.
    assert found["target_tokens"] == sum(len(target) + 1 for _, target in PAIRS)
    assert metrics["history"][-1]["bleu"] > 0


# A Transformer learns slowly where to go on: it has all of the characters soon, and their order later.
@pytest.mark.parametrize(("model", "metric", "least"), [("lstm", "exact_match", 90), ("transformer", "rouge_1", 30)])
def test_names_that_were_never_written_are_copied(model, metric, least, tmp_path):
    """Their characters stand in training sources, but not where what is copied stands."""
    random = np.random.default_rng(0)
    known, new = [chr(point) for point in range(0x4E00, 0x4F00)], list("龘🙂xyz!，★天地玄黄")

    def rows(names, count):
        pairs = ("".join(random.choice(names, 3)) for _ in range(count))
        return "".join(f"{name}说：{''.join(random.choice(known + new, 4))}\t{name}\n" for name in pairs)

    for name, text in (("train.tsv", rows(known, 400)), ("dev.tsv", rows(new, 40))):
        (tmp_path / name).write_text("source\ttarget\n" + text, encoding="utf-8")
    config = micro(model, steps=240, evaluate_steps=240)
    config.network.copy, config.text.vocabulary_size = True, 1000
    data = [tmp_path / "train.tsv"], [tmp_path / "dev.tsv"]
    assert train_run(config, tmp_path / "run", *data, say=lambda line: None) == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["evaluation"][metric] > least


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_the_loss_is_that_of_the_targets_token_by_token(model):
    task = new_task(model)
    source = tf.constant([[*task.tokenizer.encode(["zh: I read a book ="])[0].numpy(), 3]])
    target = [*task.tokenizer.encode(["我看书。"])[0].numpy(), 3]
    before, state, losses = 2, task.model.start(source, 12), []
    for token in target:
        logits, state = task.model.step(tf.constant([before]), state)
        losses.append(-float(tf.nn.log_softmax(logits)[0, token]))
        before = token
    found = task.losses([{"id": "1", "text": "I read a book", "targets": ["我看书。", "other"]}])
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-4) and found["target_tokens"] == 5
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-2)


def test_evaluation_is_by_beams_and_greedy_while_training(files):
    task = new_task("transformer")
    task.length_penalty = 0.5
    records, _ = task.read([files[1]])
    asked = task.requests(records)
    beams = [answer["answer"] for answer in task.ask(asked, function=task.trace(task.search))]
    greedy = [answer["answer"] for answer in task.ask(asked)]
    assert beams != greedy
    targets = [record["targets"] for record in records]
    for tune, texts in ((False, beams), (True, greedy)):
        found = task.evaluate(records, tune=tune)
        assert {name: found[name] for name in evaluate_texts(texts, targets)[0]} == pytest.approx(
            evaluate_texts(texts, targets)[0]
        )
    assert task.predictions(records) == {record["id"]: text for record, text in zip(records, beams, strict=True)}
    streams = [[refs[i] for refs in targets] for i in range(2)]
    expected = sacrebleu.corpus_bleu(beams, streams, tokenize="zh").score
    assert task.evaluate(records)["bleu"] == pytest.approx(expected)
    task.config.writing.max_judged = 2
    few = task.evaluate(records)
    ends = [beams[0], beams[-1]], [targets[0], targets[-1]]
    assert few["chrf"] == pytest.approx(evaluate_texts(*ends)[0]["chrf"])
    assert few["target_tokens"] == found["target_tokens"]
    assert few["judged"] == 2 and "judged" not in found


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_batches_and_single_requests_agree(model):
    task = new_task(model)
    texts = ["a dog runs", "", "龘🙂\0", "two cats sleep 🙂 " * 20, "I"]
    together = task.ask([{"text": text} for text in texts])
    for text, found in zip(texts, together, strict=True):
        alone = task.ask_one({"text": text})
        assert alone["answer"] == found["answer"] and alone["score"] == pytest.approx(found["score"], abs=1e-4)
    columns, rows = task.answers_table([{"text": "a dog runs", "targets": ["x", "y"]}])
    assert columns[2] == "target" and rows[0][1:3] == [together[0]["answer"], "x / y"]
    assert task.ask(task.requests(task.bundled()[:2]))[0]["score"] > 0


def test_an_export_answers_in_another_process(run, tmp_path, monkeypatch):
    """`sample` and `beam` are those of every writer, proven in test_export.py."""
    monkeypatch.setattr(Seq2Seq, "signatures", Answering.signatures)
    task = keras_llm.load(run)
    save(task, tmp_path / "model")
    gates.check(tmp_path / "model")
    texts = ["a dog runs", "two cats sleep 🙂", "", "完"]
    code = (
        "import sys, json, tensorflow as tf, tensorflow_text;"
        f"model = tf.saved_model.load({str(tmp_path / 'model')!r});"
        "found = model.signatures['serving_default'](text=tf.constant(json.loads(sys.argv[1])));"
        "print(json.dumps([t.decode() for t in found['answer'].numpy()] + found['score'].numpy().tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(texts)], capture_output=True, text=True, check=True)
    expected = task.ask([{"text": text} for text in texts])
    found = json.loads(done.stdout)
    assert found[: len(texts)] == [answer["answer"] for answer in expected]
    assert found[len(texts) :] == pytest.approx([answer["score"] for answer in expected], abs=1e-4)


def test_what_evaluate_writes(run, files, tmp_path):
    output, predictions, said = tmp_path / "metrics.json", tmp_path / "texts.json", []
    run = shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["writing"]["max_judged"] = 2  # for training: here all are judged
    (run / "config.json").write_text(json.dumps(config))
    evaluate_run(run, [files[1]], output, predictions, say=said.append)
    written = json.loads(predictions.read_text())
    targets = [[target, f"{target}！"] for _, target in PAIRS]
    expected, notes = evaluate_texts([written[str(i)] for i in range(len(PAIRS))], targets)
    result = json.loads(output.read_text())
    assert result["metrics"]["bleu"] == pytest.approx(expected["bleu"]) and result["notes"] == notes
    assert said[0] == "pairs read: 6, kept: 6" and any(notes["bleu"] in line for line in said)
    short = tmp_path / "short.zh"
    short.write_text("一\n")
    with pytest.raises(UserError, match="18 lines"):
        evaluate_run(run, [files[0][0], short], say=said.append)


def test_evaluate_decodes_as_it_is_told(run, files, tmp_path):
    def written(**decoding):
        output, predictions = tmp_path / "metrics.json", tmp_path / "texts.json"
        evaluate_run(run, [files[1]], output, predictions, decoding=decoding, say=lambda line: None)
        assert json.loads(output.read_text()).get("decoding", {}) == decoding
        return [*json.loads(predictions.read_text()).values()]

    task = keras_llm.load(run)
    requests = task.requests(task.read([files[1]])[0])
    assert written(num_beams=1) == [answer["answer"] for answer in task.ask(requests)]
    rules = {"length_penalty": 2.0, "no_repeat_ngram_size": 1}
    task.num_beams, found = 2, written(num_beams=2, **rules)
    assert found == [task.ask_one(request, "beam", rules)["answer"] for request in requests]
    assert all(len(set(text)) == len(text) for text in found)
    task, records = new_task("transformer"), task.read([files[1]])[0]
    before = task.written(records)
    task.decode_by(no_repeat_ngram_size=1)
    assert task.written(records) != before  # not a graph that was made before
    for wrong, message in (
        ({"num_beams": 0}, "num_beams must be at least 1. Received: 0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0. Received: -1"),
    ):
        with pytest.raises(UserError, match=message):
            written(**wrong)


def test_rows_that_are_learnt():
    task = new_task("transformer", max_source_length=7, max_answer_length=4)
    ids = {text: task.tokenizer.encode([text])[0].numpy().tolist() for text in ("zh: dog =", "看书看书看", "一只猫狗")}
    rows = task.prepare(
        [{"text": "dog", "targets": ["看书看书看", "second"]}, {"text": "dog", "targets": ["一只猫狗"]}]
    )
    cut, whole = rows
    assert cut["source_ids"].tolist() == [*ids["zh: dog ="][:5], *ids["zh: dog ="][-2:], 3]  # the text loses its end
    assert cut["target_ids"].tolist() == [2, *ids["看书看书看"][:4]]  # it was cut and does not end there
    assert whole["target_ids"].tolist() == [2, *ids["一只猫狗"], 3]
    x, y, weights = task.split({"source_ids": cut["source_ids"][None], "target_ids": np.array([[2, 7, 3, 0]])})
    assert x["target_ids"].tolist() == [[2, 7, 3]] and y.tolist() == [[7, 3, 0]] and weights.tolist() == [[1, 1, 0]]


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("text", {"tokenizer": "wordpiece"}, "reversible"),
        ("writing", {"prompt": "translate"}, r'prompt must hold "\{text\}" once.*Received: \'translate\''),
        ("writing", {"prompt": "{text} {text}"}, "once"),
        ("writing", {"num_beams": 0}, "num_beams must be at least 1. Received: 0"),
        ("writing", {"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0. Received: -1"),
        ("writing", {"max_judged": -1}, "max_judged must not be negative"),
        ("lengths", {"max_source_length": 0}, "max_source_length must be greater than 0"),
        ("lengths", {"max_source_length": 1024}, "Learned positions end at 1024"),
        ("training", {"batch_tokens": -1}, "batch_tokens must not be negative"),
    ],
)
def test_settings_that_cannot_work_are_refused(section, values, message):
    config = make_config("seq2seq", "transformer", "tiny")
    config.network.positions = "learned"
    for name, value in values.items():
        setattr(getattr(config, section), name, value)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_a_run_of_span_corruption_is_a_beginning(tmp_path):
    """All weights but those of the sentinels."""
    task = new_task("transformer")
    config = micro("transformer")
    config.kind = "span_corruption"
    pretrained = make_task(config, task.tokenizer)
    write_manifest(tmp_path, config, task.tokenizer)
    save_weights(pretrained, tmp_path / "model.weights.h5", task.tokenizer.fingerprint)
    start_weights(task, open_start(tmp_path))
    rows = pretrained.model.embedding.embeddings.numpy()
    assert (task.model.embedding.embeddings.numpy() == rows[: task.tokenizer.vocabulary_size]).all()
    for weight, first in zip(task.model.weights[1:], pretrained.model.weights[1:], strict=True):
        assert (weight.numpy() == first.numpy()).all()


def test_data_of_different_length_leaves_no_run(files, tmp_path):
    (tmp_path / "short.zh").write_text("一\n")
    with pytest.raises(UserError, match=r"train.en with 18 lines, .*short.zh with 1\."):
        train_run(micro("lstm"), tmp_path / "run", [files[0][0], tmp_path / "short.zh"], say=lambda line: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short.zh"]

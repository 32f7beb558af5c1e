"""One text for another, from files to strings: training, evaluation by beams, export in another process, bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import tensorflow as tf

import keras_llm
from keras_llm.config import validate
from keras_llm.errors import UserError
from keras_llm.export import gates
from keras_llm.export.saved_model import save
from keras_llm.metrics.text import evaluate_texts
from keras_llm.presets import make_config
from keras_llm.tasks import make_task
from keras_llm.text import TOKENIZERS
from keras_llm.training.train import train_run

ROOT = Path(__file__).resolve().parent.parent
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
    config.training.steps, config.training.evaluate_steps, config.training.batch_tokens = 200, 100, 400
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


@pytest.fixture(scope="module", params=["lstm", "transformer"])
def run(request, files, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param) / "run"
    assert train_run(micro(request.param), directory, *[files[0], [files[1]]], say=lambda line: None) == 0
    return directory


def test_training_learns_to_translate(run):
    metrics = json.loads((run / "metrics.json").read_text())
    found = metrics["evaluation"]
    assert found["loss"] < 0.5 and found["bleu"] > 60 and found["rouge_l"] > 70
    assert metrics["notes"]["bleu"].startswith("nrefs:2|case:mixed|eff:no|tok:zh|")
    # An id for each character, and the end.
    assert found["target_tokens"] == sum(len(target) + 1 for _, target in PAIRS)
    assert metrics["history"][-1]["bleu"] > 0


def test_the_loss_is_that_of_the_targets_token_by_token(run):
    task = keras_llm.load(run)
    source = tf.constant([[*task.tokenizer.encode(["zh: I read a book ="])[0].numpy(), 3]])
    target = [*task.tokenizer.encode(["我看书。"])[0].numpy(), 3]
    before, state, losses = 2, task.model.start(source, 12), []
    for token in target:
        logits, state = task.model.step(tf.constant([before]), state)
        losses.append(-float(tf.nn.log_softmax(logits)[0, token]))
        before = token
    found = task.losses([{"id": "1", "text": "I read a book", "targets": ["我看书。", "other"]}])
    assert found["loss"] == pytest.approx(np.mean(losses), abs=1e-4) and found["target_tokens"] == 5
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-3)


def test_evaluation_is_by_beams_and_greedy_while_training(run, files):
    task = keras_llm.load(run)
    task.config.writing.length_penalty = task.length_penalty = 0.5
    records, _ = task.read([files[1]])
    asked = task.requests(records)
    beams = [task.ask_one(request, "beam")["answer"] for request in asked]  # its default penalty is the task's
    greedy = [answer["answer"] for answer in task.ask(asked)]
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


def test_batches_and_single_requests_agree(run):
    task = keras_llm.load(run)
    texts = ["a dog runs", "", "龘🙂\0", "two cats sleep 🙂 " * 20, "I"]
    for signature in task.signatures:
        way = task.signatures[signature]
        together = task.ask([way.example({"text": text}) for text in texts], signature=signature)
        for text, found in zip(texts, together, strict=True):
            alone = task.ask_one({"text": text}, signature)
            assert alone["answer"] == found["answer"] and alone["score"] == pytest.approx(found["score"], abs=1e-4)
    columns, rows = task.answers_table([{"text": "a dog runs", "targets": ["x", "y"]}])
    assert columns[2] == "target" and rows[0][2] == "x / y"
    assert task.ask(task.requests(task.bundled()[:2]))[0]["score"] > 0


def test_an_export_answers_in_another_process(run, tmp_path):
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


def test_evaluate_and_ask_from_the_command_line(run, files, tmp_path):
    def script(name, *arguments):
        command = [sys.executable, str(ROOT / "scripts" / name), str(run), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    output, predictions = tmp_path / "metrics.json", tmp_path / "texts.json"
    done = script("evaluate.py", "--data", files[1], "--output", output, "--predictions", predictions)
    assert done.returncode == 0, done.stderr
    written = json.loads(predictions.read_text())
    targets = [[target, f"{target}！"] for _, target in PAIRS]
    expected, notes = evaluate_texts([written[str(i)] for i in range(len(PAIRS))], targets)
    result = json.loads(output.read_text())
    assert result["metrics"]["bleu"] == pytest.approx(expected["bleu"]) and result["notes"] == notes
    assert notes["bleu"] in done.stdout
    asked = script("ask.py", "a dog runs")
    assert json.loads(asked.stdout)["answer"] == keras_llm.load(run).ask_one({"text": "a dog runs"})["answer"]
    short = tmp_path / "short.zh"
    short.write_text("一\n")
    refused = script("evaluate.py", "--data", files[0][0], short)
    assert refused.returncode == 2 and "18 lines" in refused.stderr and "Traceback" not in refused.stderr


def new_task(tokenizer="characters", **lengths):
    config = micro("transformer")
    config.text.tokenizer = tokenizer
    for name, value in lengths.items():
        setattr(config.lengths, name, value)
    return make_task(config, TOKENIZERS[tokenizer].train([text for pair in PAIRS for text in pair], 400))


def test_rows_that_are_learnt():
    task = new_task(max_source_length=7, max_answer_length=4)
    ids = {text: task.tokenizer.encode([text])[0].numpy().tolist() for text in ("zh: dog =", "好吗朋友们", "四个字的")}
    rows = task.prepare(
        [{"text": "dog", "targets": ["好吗朋友们", "second"]}, {"text": "dog", "targets": ["四个字的"]}]
    )
    cut, whole = rows
    assert cut["source_ids"].tolist() == [*ids["zh: dog ="][:7], 3]
    assert cut["target_ids"].tolist() == [2, *ids["好吗朋友们"][:4]]  # it was cut and does not end there
    assert whole["target_ids"].tolist() == [2, *ids["四个字的"], 3]
    x, y, weights = task.split({"source_ids": cut["source_ids"][None], "target_ids": np.array([[2, 7, 3, 0]])})
    assert x["target_ids"].tolist() == [[2, 7, 3]] and y.tolist() == [[7, 3, 0]] and weights.tolist() == [[1, 1, 0]]


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("text", {"tokenizer": "wordpiece"}, "reversible"),
        ("writing", {"prompt": "translate"}, r'prompt must hold "\{text\}" once.*Received: \'translate\''),
        ("writing", {"prompt": "{text} {text}"}, "once"),
        ("writing", {"num_beams": 0}, "num_beams must be greater than 0"),
        ("writing", {"max_judged": -1}, "max_judged must not be negative"),
        ("lengths", {"max_source_length": 0}, "max_source_length must be greater than 0"),
        ("training", {"batch_tokens": -1}, "batch_tokens must not be negative"),
    ],
)
def test_settings_that_cannot_work_are_refused(section, values, message):
    config = make_config("seq2seq", "lstm", "tiny")
    for name, value in values.items():
        setattr(getattr(config, section), name, value)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_data_of_different_length_leaves_no_run(files, tmp_path):
    (tmp_path / "short.zh").write_text("一\n")
    with pytest.raises(UserError, match=r"train.en with 18 lines, .*short.zh with 1 lines"):
        train_run(micro("lstm"), tmp_path / "run", [files[0][0], tmp_path / "short.zh"], say=lambda line: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short.zh"]

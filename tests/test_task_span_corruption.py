"""Span corruption as a task: gaps filled string to string, training, export, bad input."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_llm
from keras_llm.errors import UserError
from keras_llm.export import gates
from keras_llm.export.saved_model import save
from keras_llm.presets import make_config
from keras_llm.tasks import make_task
from keras_llm.text import TOKENIZERS
from keras_llm.training.pretrain import pretrain_run
from keras_llm.validation import validate

DOCUMENTS = [
    "床前明月光，疑是地上霜。",
    "The cat eats fish. 🙂",
    "举头望明月，低头思故乡。",
    "A dog eats meat, a cat does not.",
]


def micro_config(model="transformer", tokenizer="characters"):
    config = make_config("span_corruption", model, "tiny")
    config.text.tokenizer, config.text.vocabulary_size = tokenizer, 330
    network, training = config.network, config.training
    network.embedding_dim, network.hidden_dim, network.feedforward_dim = 16, 16, 24
    network.num_layers, network.num_heads, network.context_length = 1, 2, 24
    training.batch_size, config.lengths.max_answer_length = 4, 8
    return validate(config)


def new_task(model="transformer", tokenizer="characters"):
    keras.utils.set_random_seed(0)
    config = micro_config(model, tokenizer)
    return make_task(config, TOKENIZERS[tokenizer].train(DOCUMENTS, 330))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("spans")
    (directory / "corpus.txt").write_text("\n\n".join(DOCUMENTS * 2), encoding="utf-8")
    config = micro_config()
    config.training.steps, config.training.evaluate_steps, config.training.learning_rate = 60, 30, 1e-2
    data = [directory / "corpus.txt"]
    assert pretrain_run(config, directory / "run", data, data, say=lambda line: None) == 0
    return directory / "run"


def scripted(task, written):
    """The task with a model that writes given ids, the same for each row."""
    table = tf.constant([*written, 3, 3])

    class Model:
        def start(self, source, length):
            self.source = source
            return tf.zeros([], tf.int32)

        def step(self, ids, state):
            logits = tf.one_hot(
                tf.fill(tf.shape(ids), table[tf.minimum(state, len(written))]), task.first_sentinel + 100
            )
            return 20.0 * logits, state + 1

    task.model = Model()
    return task


@pytest.mark.parametrize("tokenizer", ["characters", "sentencepiece"])
def test_gaps_get_the_spans_behind_their_sentinels(tokenizer):
    task = new_task(tokenizer=tokenizer)
    gap = task.first_sentinel
    light, frost = (task.tokenizer.encode([text])[0].numpy().tolist() for text in ("明月光", "地上"))
    task = scripted(task, [gap, *light, gap + 1, *frost])
    task.config.lengths.max_answer_length = 20
    asked = ["床前[MASK]，疑是[MASK]霜。", "[MASK]", "no gap", "", "[MASK][MASK] [MASK]"]
    answers = task.answer(tf.constant(asked))
    wanted = ["床前明月光，疑是地上霜。", "明月光", "no gap", "", "明月光地上 [MASK]"]
    assert [answer.decode() for answer in answers["answer"].numpy()] == wanted
    assert (answers["score"].numpy() > 0).tolist() == [True, True, False, False, True]
    # What the model reads: the parts, a sentinel at each gap, the end.
    parts = [task.tokenizer.encode([text])[0].numpy().tolist() for text in ("床前", "，疑是", "霜。")]
    wanted = [*parts[0], gap, *parts[1], gap + 1, *parts[2], 3]
    assert task.model.source.numpy()[0, : len(wanted)].tolist() == wanted
    assert not task.answer(tf.constant([], tf.string))["answer"].shape[0]


def test_what_is_written_before_the_first_sentinel_or_beyond_the_gaps_is_dropped():
    task = new_task()
    gap, a, b = task.first_sentinel, *(task.tokenizer.encode(["明月"])[0].numpy().tolist())
    task = scripted(task, [b, gap, a, gap + 1, b, b])
    assert task.answer(tf.constant(["x[MASK]y"]))["answer"].numpy()[0].decode() == "x明y"


def test_gaps_beyond_the_context_stay():
    task = new_task()
    task = scripted(task, [task.first_sentinel, *task.tokenizer.encode(["月"])[0].numpy().tolist()])
    long = "[MASK]" + "a" * 30 + "[MASK]"
    assert task.answer(tf.constant([long]))["answer"].numpy()[0].decode() == "月" + "a" * 30 + "[MASK]"


@pytest.mark.parametrize("model", ["transformer", "lstm"])
def test_evaluation_is_what_teacher_forcing_gives(model):
    task = new_task(model)
    records = [{"text": text} for text in DOCUMENTS]
    found, again = task.evaluate(records), task.evaluate(records)
    assert found == again
    loss = right = count = 0.0
    for batch in task.evaluation_batches(records):
        x, labels, weights = task.split(batch)
        assert (labels[:, 0] == task.first_sentinel).all()
        logits = tf.nn.log_softmax(task.model(x, training=False)).numpy()
        loss -= (np.take_along_axis(logits, labels[..., None], -1)[..., 0] * weights).sum()
        right += ((logits.argmax(-1) == labels) * weights).sum()
        count += weights.sum()
    assert found["loss"] == pytest.approx(loss / count, rel=1e-4)
    assert found["token_accuracy"] == pytest.approx(right / count) and found["target_tokens"] == count


def test_training_learns_and_the_run_answers_as_exported(trained, tmp_path):
    metrics = json.loads((trained / "metrics.json").read_text())
    losses = [row["loss"] for row in metrics["history"]]
    assert losses[-1] < losses[0] and metrics["evaluation"]["loss"] < 5
    task = keras_llm.load(trained)
    save(task, tmp_path / "model")
    gates.check(tmp_path / "model")
    function = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    texts = [record["text"] for record in task.requests([{"text": text} for text in DOCUMENTS])]
    texts += ["[MASK]" * 120, "", "no gap", "龘[MASK]靐 \x00"]
    assert texts[0].count("[MASK]") == 1
    found = function(text=tf.constant(texts))
    for text, answer, score in zip(texts, found["answer"].numpy(), found["score"].numpy(), strict=True):
        (wanted,) = task.ask([{"text": text}])
        assert answer.decode() == wanted["answer"] and score == pytest.approx(wanted["score"], abs=1e-4)


def test_names_of_all_ids_and_a_picture():
    task = new_task("lstm")
    names = task.token_names()
    assert len(names) == task.model.embedding.vocabulary_size and names[task.first_sentinel] == "<gap 0>"
    drawn = task.drawn_inputs([{"text": DOCUMENTS[0]}])
    found = task.model.attention(drawn)
    assert found["weights"].shape == (drawn["target_ids"].shape[1], drawn["source_ids"].shape[1])


def test_text_without_tokens_cannot_be_evaluated():
    with pytest.raises(UserError, match="without a single token"):
        new_task().evaluate([{"text": ""}])


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("text", {"tokenizer": "wordpiece"}, "reversible"),
        ("masking", {"mask_share": 0.6}, "mask_share"),
        ("masking", {"span_length": 0.5}, "span_length"),
        ("network", {"context_length": 4000}, "at most 100 spans"),
    ],
)
def test_settings_that_cannot_work_are_refused(section, values, message):
    config = make_config("span_corruption", "lstm", "tiny")
    for name, value in values.items():
        setattr(getattr(config, section), name, value)
    with pytest.raises(UserError, match=message):
        validate(config)

"""Encoder pretraining as a task: documents to rows, fill-mask in Chinese and English, training, resuming, export."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from programs import run as run_script

import keras_llm
from keras_llm.errors import UserError
from keras_llm.export import gates
from keras_llm.export.requests import DIFFICULT
from keras_llm.export.saved_model import save
from keras_llm.presets import make_config
from keras_llm.run import Run, read_weights
from keras_llm.tasks import make_task
from keras_llm.text.sentences import split_sentences
from keras_llm.text.wordpiece import WordPieceTokenizer
from keras_llm.training.pretrain import pretrain_run
from keras_llm.training.start import adopt
from keras_llm.training.train import FIRST_WEIGHTS
from keras_llm.validation import validate

DOCUMENTS = [
    f"The {animal} eats {food}. The {animal} is {colour}!\n它叫{name}。{name}喜欢吃{dish}，不喜欢水。"
    for animal, food, colour, name, dish in [
        ("cat", "fish", "grey", "咪咪", "鱼"),
        ("dog", "meat", "brown", "旺财", "肉"),
        ("horse", "grass", "black", "赤兔", "草"),
        ("sparrow", "grains", "little", "小雀", "米"),
    ]
] * 3


def micro_config(**masking):
    config = make_config("masked_lm", "transformer", "tiny")
    config.text.vocabulary_size = 150
    network, training = config.network, config.training
    network.embedding_dim, network.feedforward_dim, network.num_layers, network.num_heads = 16, 24, 1, 2
    network.context_length = 48
    training.batch_size, training.epochs, training.learning_rate = 4, 40, 1e-2
    for name, value in masking.items():
        setattr(config.masking, name, value)
    return validate(config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, and a copy of it as it was in the middle of an epoch, at step 19."""
    directory = tmp_path_factory.mktemp("mlm")
    pretrain(directory, directory / "run", directory / "copy")
    return directory


def pretrain(directory, run, copy=None, resume=False, start=None):
    corpus = directory / "corpus.txt"
    corpus.write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    config = micro_config()
    config.network.dropout, config.training.steps, config.training.evaluate_steps = 0.1, 60, 20
    if start:
        config = adopt(config, Run(start).config)
        config.start, config.training.steps, config.training.evaluate_steps = str(start), 9, 3

    def say(line):
        # Evaluating for the first time: the state is that of the step before.
        if copy and line.startswith("  mlm_loss") and not copy.exists():
            shutil.copytree(run, copy)

    assert pretrain_run(config, run, [corpus], [corpus], resume=resume, save_seconds=0.0, say=say) == 0


@pytest.fixture(scope="module")
def task(trained):
    return keras_llm.load(trained / "run")


def new_task(**masking):
    keras.utils.set_random_seed(0)
    return make_task(micro_config(**masking), WordPieceTokenizer.train(DOCUMENTS, 150))


def test_sentences_end_where_they_end():
    text = "他说：“你好！”我走了……真的。It is 3.14 m. Mr. 'Why?' \"Yes\" e.g. this\n\n末行"
    wanted = ["他说：“你好！”", "我走了……真的。", "It is 3.14 m.", "Mr.", "'Why?'", '"Yes" e.g. this', "末行"]
    assert split_sentences(text) == wanted
    assert split_sentences(" \n ") == []


def test_documents_become_words_and_sentences():
    task = new_task()
    records = [{"text": DOCUMENTS[0]}, {"text": " \n"}, {"text": "fishgrass 🙂"}]
    rows = list(task.prepare(records))
    assert len(rows) == 2  # a document without a token is none
    pieces = task.tokenizer.tokens()
    for row, sentences in zip(rows, (split_sentences(DOCUMENTS[0]), ["fishgrass 🙂"]), strict=True):
        ids = task.tokenizer.encode(sentences).to_list()
        assert row["sentence_lengths"].tolist() == list(map(len, ids))
        assert row["token_ids"].tolist() == [id_ for sentence in ids for id_ in sentence]
        begins = [not pieces[id_].startswith("##") for id_ in row["token_ids"]]
        assert row["starts_word"].tolist() == begins
    assert not all(rows[1]["starts_word"])
    assert rows[0]["token_ids"].dtype == np.uint16


def test_chinese_words_by_jieba():
    pytest.importorskip("jieba")
    task = new_task(segmentation="jieba")
    text = "我们喜欢自然语言，like it。"
    (row,) = task.prepare([{"text": text}])
    pieces = [piece.removeprefix("##") for piece in map(task.tokenizer.tokens().__getitem__, row["token_ids"])]
    words, here = [], row["starts_word"]
    for piece, starts in zip(pieces, here, strict=True):
        if starts:
            words.append("")
        words[-1] += piece if piece != "[UNK]" else "?"
    assert [len(word) for word in words[:4]] == [2, 2, 4, 1]  # 我们 喜欢 自然语言 ，
    (plain,) = new_task().prepare([{"text": text}])
    assert plain["starts_word"][:8].all() and (plain["token_ids"] == row["token_ids"]).all()


def test_masks_are_filled_with_the_most_probable_tokens(task):
    tokenizer = task.tokenizer
    text = "The cat eats [MASK]. 它叫[MASK]咪。"
    found = task.ask([{"text": text}])[0]
    parts = tokenizer.encode(["The cat eats ", ". 它叫", "咪。"]).to_list()
    ids = [2, *parts[0], 4, *parts[1], 4, *parts[2], 3]
    places = [i for i, id_ in enumerate(ids) if id_ == 4]
    x = {"token_ids": [ids], "segment_ids": [[0] * len(ids)], "mask_positions": [places]}
    logits = task.model({name: np.array(value, "int32") for name, value in x.items()})["tokens"][0]
    probabilities = tf.nn.softmax(logits).numpy()
    probabilities[:, :5] = 0
    best = probabilities.argmax(1)
    pieces = [tokenizer.tokens()[id_] for id_ in best]
    glued = ["" if piece.startswith("##") else " " for piece in pieces]
    assert found["answer"] == (
        f"The cat eats{glued[0]}{pieces[0].removeprefix('##')}. 它叫{pieces[1].removeprefix('##')}咪。"
    )
    assert found["score"] == pytest.approx(np.sqrt(np.prod(probabilities.max(1))), rel=1e-4)
    order = np.argsort(-probabilities[0], kind="stable")[:5]
    assert found["tokens"] == [tokenizer.tokens()[id_] for id_ in order]
    np.testing.assert_allclose(found["scores"], probabilities[0][order], rtol=1e-4)


def test_marks_and_other_special_tokens_are_only_what_they_are(task):
    nothing = {"score": 0.0, "tokens": [""] * 5, "scores": [0.0] * 5}
    for text in ("", "no gap", "[mask] [CLS] [SEP]", "🙂"):
        assert task.ask([{"text": text}]) == [{"answer": text, **nothing}]
    long = "cat " * 60 + "[MASK] end"  # beyond the context
    assert task.ask([{"text": long}]) == [{"answer": long, **nothing}]
    both = task.ask([{"text": "[MASK] " + long}])[0]
    assert both["answer"].count("[MASK]") == 1 and both["answer"].endswith("[MASK] end") and both["score"] > 0
    # In company as alone.
    texts = ["The [MASK] is grey!", "x", long, "", "它叫[MASK][MASK]。"]
    together = task.ask([{"text": text} for text in texts])
    for text, row in zip(texts, together, strict=True):
        (alone,) = task.ask([{"text": text}])
        assert alone["answer"] == row["answer"] and alone["score"] == pytest.approx(row["score"], abs=1e-5)
    assert task.ask([]) == []


def test_a_piece_that_goes_on_a_word_is_joined_to_it():
    task = new_task(next_sentence=False)
    piece = next(i for i, token in enumerate(task.tokenizer.tokens()) if token.startswith("##"))
    task.model.bias.assign(np.where(np.arange(task.model.vocabulary_size) == piece, 50.0, 0.0))
    text = task.tokenizer.tokens()[piece].removeprefix("##")
    found = task.ask([{"text": "walk [MASK], 走[MASK]"}])[0]
    assert found["answer"] == f"walk{text}, 走{text}" and found["tokens"][0] == f"##{text}"


def test_training_learns_and_its_metrics_are_those_of_the_evaluation(trained, task):
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    first, last = metrics["history"][0], metrics["history"][-1]
    assert last["mlm_loss"] < first["mlm_loss"] < np.log(task.model.vocabulary_size)
    found = task.evaluate([{"text": text} for text in DOCUMENTS])
    assert found["mlm_loss"] == pytest.approx(metrics["evaluation"]["mlm_loss"], rel=1e-4)
    # By hand, from the batches themselves.
    right = count = pairs = 0
    for batch in task.evaluation_batches([{"text": text} for text in DOCUMENTS]):
        x, _, _ = task.split(batch)
        outputs = task.model(x, training=False)
        best = outputs["tokens"].numpy().argmax(-1)
        right += ((best == batch["labels"]) * batch["label_weights"]).sum()
        count += batch["label_weights"].sum()
        pairs += (outputs["next"].numpy().argmax(-1) == batch["next_labels"]).sum()
    assert found["mlm_accuracy"] == pytest.approx(right / count) and found["masked_tokens"] == count
    assert 0 <= found["next_accuracy"] <= 1
    # The training loss is the sum of both heads' losses.
    batch = next(task.evaluation_batches([{"text": text} for text in DOCUMENTS]))
    x, y, weights = task.split(batch)
    outputs = task.model(x, training=False)
    losses = {
        head: float(loss(y[head], outputs[head], sample_weight=weights[head])) for head, loss in task.loss().items()
    }
    task.model.compile(loss=task.loss(), jit_compile=False)
    assert task.model.test_on_batch(x, y, weights, return_dict=True)["loss"] == pytest.approx(
        sum(losses.values()), rel=1e-4
    )


@pytest.mark.parametrize(("name", "start", "step"), [("", None, 19), ("further-", "run", 2)])
def test_resuming_is_exact(trained, name, start, step):
    run, copy, start = trained / f"{name}run", trained / f"{name}copy", start and trained / start
    if start:
        pretrain(trained, run, copy, start=start)
        taken, given = (read_weights(path)[1] for path in (run / FIRST_WEIGHTS, Run(start).best_weights))
        assert taken.keys() == given.keys() and all((taken[key] == given[key]).all() for key in given)
    run, copy = Run(run), Run(copy)
    with np.load(copy.state) as state:
        assert json.loads(str(state["facts"]))["step"] == step
    pretrain(trained, copy.path, resume=True, start=start)
    with np.load(run.state) as one, np.load(copy.state) as two:
        assert len(one.files) > 20
        assert all((one[name] == two[name]).all() for name in one.files if name != "facts")
    histories = [json.loads(path.read_text())["history"] for path in (run.metrics, copy.metrics)]
    for one, two in zip(*histories, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_the_saved_model_answers_as_python_does(task, tmp_path):
    save(task, tmp_path / "model")
    gates.check(tmp_path / "model")
    function = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    texts = [record["text"] for record in task.requests([{"text": text} for text in DOCUMENTS[:4]])]
    assert all(text.count("[MASK]") == 1 for text in texts)
    texts += ["[MASK][MASK] 它叫[MASK]", *DIFFICULT]
    found = {name: value.numpy() for name, value in function(text=tf.constant(texts)).items()}
    for i, text in enumerate(texts):
        (wanted,) = task.ask([{"text": text}])
        assert found["answer"][i].decode() == wanted["answer"]
        assert [token.decode() for token in found["tokens"][i]] == wanted["tokens"]
        np.testing.assert_allclose(found["scores"][i], wanted["scores"], atol=1e-4)


@pytest.mark.parametrize(
    ("document", "masking", "message"),
    [
        ("file", {}, "two documents"),
        ("line", {}, "one of them with two sentences"),
        ("file", {"next_sentence": False}, "at least one full batch"),
    ],
)
def test_too_little_text_is_refused(tmp_path, document, masking, message):
    (tmp_path / "few.txt").write_text("The cat eats fish\n它叫咪咪\nIt is grey\n", encoding="utf-8")
    config = micro_config(**masking)
    config.corpus.document = document
    with pytest.raises(UserError, match=message):
        pretrain_run(config, tmp_path / "run", [tmp_path / "few.txt"], say=lambda line: None)
    assert not (tmp_path / "run").exists()


def test_evaluation_makes_do_with_one_document(task):
    found = task.evaluate([{"text": DOCUMENTS[0]}])
    assert "next_accuracy" not in found and found["masked_tokens"] > 0


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("text", {"tokenizer": "sentencepiece"}, "mask token"),
        ("masking", {"mask_share": 0.0}, "mask_share"),
        ("masking", {"segmentation": "jieba", "whole_words": False}, "whole_words"),
        ("network", {"context_length": 7}, "context_length"),
    ],
)
def test_settings_that_cannot_work_are_refused(section, values, message):
    config = make_config("masked_lm", "transformer", "tiny")
    for name, value in values.items():
        setattr(getattr(config, section), name, value)
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objective", "mlm", "--model", "lstm"], "masked_lm is trained with the model transformer"),
        (
            ["--objective", "span-corruption", "--model=ngram"],
            "span_corruption is trained with the model lstm or transf",
        ),
        (["--objective=mlm+nsp", "--tokenizer", "characters"], "mask token"),
        (["--objective", "span-corruption", "--tokenizer", "words"], "reversible"),
        (["--objective", "nsp"], "invalid choice 'nsp'"),
        (["--config", "reading.json"], "kind reading are not pretrained"),
        (["--config", "pairs.json", "--mask-share", "1.5"], "mask_share must be above 0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_the_objective_decides_what_may_be_asked_for(tmp_path, monkeypatch, flags, message):
    (tmp_path / "reading.json").write_text('{"kind": "reading", "model": "lstm"}')
    (tmp_path / "pairs.json").write_text('{"kind": "masked_lm", "masking": {"next_sentence": true}}')
    monkeypatch.chdir(tmp_path)
    done = run_script("pretrain", *flags, "--data", "x.txt", "--run", "new")
    assert done.returncode == 2 and message in done.stdout + done.stderr and "Traceback" not in done.stderr

"""Word vectors as the start of a model's embedding: which piece is which word, and training with it frozen or not."""

import json
import os

import h5py
import numpy as np
import pytest

from keras_llm.config import Config
from keras_llm.errors import UserError
from keras_llm.presets import make_config
from keras_llm.validation import validate
from keras_llm.vectors import WordVectors, embedding_matrix

PAIRS = [("什么是词元？", "文本"), ("What is a token?", "a piece"), ("谁写的？", "我们"), ("Who wrote it?", "we did")]


def vectors_of(words, dim=4):
    return WordVectors(words, np.random.default_rng(7).normal(size=(len(words), dim)) * 3)


def words_found(tokens, words):
    """Which word's vector each token got."""
    vectors = vectors_of(words)
    matrix, found = embedding_matrix(tokens, vectors)
    rows = [next((w for w in words if np.array_equal(vectors[w], row)), None) for row in matrix]
    assert [word is not None for word in rows] == found.tolist()
    return rows


def test_wordpiece_pieces():
    tokens = ["[PAD]", "the", "##the", "##国", "国", "##,", ",", "##s", "##", "The", "NASA"]
    expect = [None, "the", None, "国", "国", None, ",", "##s", None, "the", "NASA"]
    assert words_found(tokens, ["the", "国", ",", "##s", "NASA"]) == expect


def test_sentencepiece_pieces():
    tokens = ["<pad>", "<unk>", "▁", "▁the", "the", "▁北京", "北京", ",", "ing", "▁Ing", "▁中国人"]
    expect = [None, "<unk>", None, "the", None, "北京", "北京", ",", None, "ing", "中国人"]
    assert words_found(tokens, ["<unk>", "the", "北京", ",", "ing", "中国人"]) == expect


def test_characters_and_words():
    assert words_found(["<0x00>", "中", "，", "a", "A", "🙂", "▁"], ["a", "中", "，", "🙂"]) == [
        *[None, "中", "，", "a", "a", "🙂", None]
    ]
    assert words_found(["paris", "us", "new york"], ["Paris", "US", "new york"]) == ["Paris", "US", "new york"]


def test_others_are_random_with_the_spread_of_those_found_and_repeat():
    words = [f"w{i}" for i in range(500)]
    vectors = WordVectors(words, np.random.default_rng(0).normal(0.3, 2.0, (500, 20)))
    tokens = [*words, *(f"x{i}" for i in range(500))]
    matrix, found = embedding_matrix(tokens, vectors, seed=3)
    assert found[:500].all() and not found[500:].any() and np.array_equal(matrix[:500], vectors.matrix)
    assert matrix[500:].std() == pytest.approx(2.0, rel=0.03) and matrix[500:].mean() == pytest.approx(0.3, abs=0.06)
    assert np.array_equal(embedding_matrix(tokens, vectors, seed=3)[0], matrix)
    assert not np.array_equal(embedding_matrix(tokens, vectors, seed=4)[0], matrix)
    scaled, _ = embedding_matrix(tokens, vectors, seed=3, scale=1.0)
    assert np.linalg.norm(scaled[:500], axis=1).mean() == pytest.approx(1.0, abs=1e-5)
    assert scaled[500:].std() / scaled[:500].std() == pytest.approx(1.0, abs=0.05)


def test_nothing_found_is_refused():
    with pytest.raises(UserError, match="none of 2 tokens"):
        embedding_matrix(["▁a", "b"], vectors_of(["国"]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    data, vectors = directory / "pairs.jsonl", directory / "vectors.txt"
    data.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in PAIRS), encoding="utf-8")
    vectors_of(["a", "e", "o", "什", "么", "我"], dim=8).save(vectors)
    return data, vectors


def config_of(vectors, freeze, model="lstm", epochs=2):
    config = make_config("closed_book", model, "tiny")
    config.text.tokenizer, config.text.vocabulary_size = "characters", 400
    network = config.network
    network.embedding_dim = network.hidden_dim = network.feedforward_dim = 8
    network.num_heads, network.dropout = 2, 0.0
    network.vectors, network.freeze_embeddings = str(vectors), freeze
    config.training.batch_size, config.training.epochs = 2, epochs
    config.lengths.max_answer_length = config.lengths.max_question_length = 8
    return config


def embedding_of(run):
    with h5py.File(run / "last.weights.h5") as file:
        return file["embedding/embeddings"][()]


def expected(run, vectors):
    """The start, by the rule: one factor for all vectors, so that their mean length is that of the model's own start."""
    from keras_llm.text import load_tokenizer

    tokens = load_tokenizer(run / "tokenizer").tokens()
    matrix, found = embedding_matrix(tokens, WordVectors.load(vectors), seed=0, scale=1.0)
    return matrix, found


def test_frozen_embedding_is_that_of_the_vectors_after_training_and_resuming(files, tmp_path):
    from keras_llm.training.train import train_run

    data, vectors = files
    run, said = tmp_path / "run", []
    config = config_of(vectors, True, epochs=400)
    # Stopped by its time after the first step; then resumed, with the vectors gone: they are not needed any more.
    train_run(config, run, [data], time_budget=1e-9, say=said.append)
    start = embedding_of(run)
    assert any("6 of" in line and "have a vector" in line for line in said)
    matrix, found = expected(run, vectors)
    ratio = start[found] / matrix[found]
    assert found.sum() == 6 and ratio.std() < 1e-5 and 0.5 < ratio.mean() < 2
    moved = vectors.with_name("moved")
    os.rename(vectors, moved)
    try:
        train_run(config, run, [data], resume=True, time_budget=1.0, say=said.append)
    finally:
        os.rename(moved, vectors)
    steps = json.loads((run / "metrics.json").read_text())["steps"]
    assert steps > 1 and np.array_equal(embedding_of(run), start)


@pytest.mark.parametrize(("model", "freeze"), [("lstm", False), ("transformer", True)])
def test_embedding_starts_from_the_vectors_and_moves_only_when_free(files, tmp_path, model, freeze):
    from keras_llm.data.prepared import Prepared
    from keras_llm.tasks import make_task
    from keras_llm.text.characters import CharacterTokenizer
    from keras_llm.training.embedding import start_embedding
    from keras_llm.training.trainer import Trainer

    tokenizer = CharacterTokenizer.train([q + a for q, a in PAIRS], 400)
    task = make_task(config_of(files[1], freeze, model), tokenizer)
    embeddings = task.model.embedding.embeddings
    own = np.linalg.norm(embeddings.numpy(), axis=1).mean()
    start_embedding(task, fresh=True, say=lambda line: None)
    matrix, found = embedding_matrix(tokenizer.tokens(), WordVectors.load(files[1]), seed=0, scale=own)
    np.testing.assert_allclose(embeddings.numpy(), matrix, rtol=1e-6)
    assert any(v is embeddings for v in task.model.trainable_variables) != freeze
    if not freeze:
        records = [{"id": q, "question": q, "answer": a, "answers": [a]} for q, a in PAIRS]
        prepared = Prepared.write(tmp_path / "prepared", task.prepare(records), "")
        Trainer(task, prepared, tmp_path / "state").train()
        assert 1e-3 < np.abs(embeddings.numpy() - matrix)[found].max() < 0.1


def test_settings_that_make_no_sense_together_are_refused():
    config = config_of("", True)
    with pytest.raises(UserError, match="no vectors"):
        validate(config)
    config = Config(kind="causal_lm", model="ngram")
    config.network.vectors = "runs/vectors"
    with pytest.raises(UserError, match="no embedding"):
        validate(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_dim": 16}, "dimension 8 in .*embedding_dim=16"),
        ({"vectors": "missing"}, "missing: No such file"),
    ],
)
def test_wrong_vectors_are_refused_before_anything_is_written(files, tmp_path, change, message):
    from keras_llm.training.train import train_run

    config = config_of(files[1], True)
    for name, value in change.items():
        setattr(config.network, name, value)
    with pytest.raises(UserError, match=message):
        train_run(config, tmp_path / "run", [files[0]], say=lambda line: None)
    assert not list(tmp_path.iterdir())

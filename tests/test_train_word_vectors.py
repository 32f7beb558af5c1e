"""Training word vectors: segmentation, sentences on disk, word2vec through gensim, GloVe, the run, the scripts."""

import json
import re
import unicodedata

import jieba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import run as run_script
from scipy.sparse import csr_array

from keras_llm.config import CorpusConfig
from keras_llm.errors import UserError
from keras_llm.training.word_vectors import train_word_vectors
from keras_llm.vectors import WordVectors, glove
from keras_llm.vectors.config import VectorsConfig, recommended
from keras_llm.vectors.segmentation import segmenter
from keras_llm.vectors.sentences import LONGEST, Sentences
from keras_llm.vectors.word2vec import WatchedLoss, train_word2vec

TOPICS = ["猫 狗 鱼 鸟 马".split(), "red green blue black white".split()]


def topic_lines(number=400, seed=0):
    """Lines whose words come from one of two topics, so that words of a topic must become neighbours."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(TOPICS[i % 2], 8)) for i in range(number)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(topic_lines()) + "\n", encoding="utf-8")
    return path


# Segmentation


def test_words_at_white_space_and_punctuation():
    cut = segmenter("words")
    assert cut("The state-of-the-art, isn't 3.14 (1,000)! a_b e.g.") == [
        *["The", "state-of-the-art", "isn't", "3.14", "1,000", "a", "b", "e", "g"]
    ]
    assert cut("我用Keras训练５G模型。カタカナ・ー") == list("我用") + ["Keras"] + list("训练") + ["５G"] + list(
        "模型カタカナー"
    )
    assert cut("नमस्ते cafe\u0301s Straße") == ["नमस्ते", "cafe\u0301s", "Straße"]
    assert cut("-- '' … 🙂") == []
    assert segmenter("words", True)("Hi, 你好！🙂") == ["Hi", ",", "你", "好", "！", "🙂"]


@given(st.text(st.characters(exclude_categories=["Cs", "Cn"])))
def test_words_lose_no_letter_and_hold_no_space(text):
    words = segmenter("words")(text)
    letters = re.sub(r"[\W_]", "", text)
    assert re.sub(r"[\W_]", "", "".join(words)) == letters
    assert all(word and not re.search(r"\s", word) and not word.startswith(("-", "'")) for word in words)
    assert all(unicodedata.category(word[0])[0] in "LN" for word in words)
    marks = "".join(segmenter("words", True)(text))
    assert marks == "".join(text.split())


def test_jieba_characters_and_spaces():
    text = "我来到北京清华大学，买了T恤。  Hello\u3000world 🙂"
    expect = [word for word in jieba.lcut(text) if any(map(str.isalnum, word))]
    assert segmenter("jieba")(text) == expect and "清华大学" in expect and "T恤" in expect
    assert segmenter("jieba", True)(text) == [word for word in jieba.lcut(text) if word.strip()]
    assert segmenter("characters")("a 中，\u3000🙂") == ["a", "中", "，", "🙂"]
    assert segmenter("spaces")("a,b 中文\u3000。") == ["a,b", "中文", "。"]


# Sentences


def test_sentences_keep_every_word_and_count_them(tmp_path):
    long = " ".join(f"w{i}" for i in range(LONGEST + 5))
    documents = ["B a b\n\nA c", long, "\ud800 half a pair"]
    sentences = Sentences.write(tmp_path / "s", documents, VectorsConfig(lowercase=True, segmentation="spaces"))
    lines = list(sentences)
    assert lines[:2] == [["b", "a", "b"], ["a", "c"]] and lines[-1] == ["?", "half", "a", "pair"]
    assert [len(line) for line in lines[2:4]] == [LONGEST, 5] and " ".join(lines[2] + lines[3]) == long
    assert sentences.number == len(lines) and sentences.total == sum(map(len, lines)) == LONGEST + 14
    assert list(sentences.counts.items())[:3] == [("a", 3), ("b", 2), ("?", 1)]
    assert sentences.vocabulary(2) == {"a": 3, "b": 2}
    blocks = list(sentences.ids(sentences.vocabulary(2), 4))
    assert [ids.tolist() for ids, _ in blocks] == [[1, 0, 1, 0], [0]]
    assert [places.tolist() for _, places in blocks] == [[0, 0, 0, 1], [2]]


# word2vec


@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_word2vec_is_gensims(tmp_path, method):
    from gensim.models import Word2Vec

    config = VectorsConfig(method=method, dim=8, epochs=3, threads=1, seed=5, min_count=1, subsampling=1e-2)
    sentences = Sentences.write(tmp_path / "s", topic_lines(100), config)
    values, read = [], []
    words, matrix = train_word2vec(
        sentences, sentences.counts, config, read.append, lambda epoch, v: values.append((epoch, v))
    )
    settings = {"vector_size": 8, "epochs": 3, "workers": 1, "seed": 5, "min_count": 1, "sample": 1e-2}
    oracle = Word2Vec([list(s) for s in sentences], sg=int(method == "skipgram"), **settings)
    assert sum(read) == 3 * sentences.total
    assert words == oracle.wv.index_to_key
    np.testing.assert_allclose(matrix, oracle.wv.vectors, atol=1e-6)
    again = train_word2vec(sentences, sentences.counts, config)
    assert again[0] == words and np.array_equal(again[1], matrix)
    assert [epoch for epoch, _ in values] == [1, 2, 3] and all(v["words_per_second"] > 0 for _, v in values)


def test_watched_loss_equals_a_loop(tmp_path):
    for method in ("skipgram", "cbow"):
        config = VectorsConfig(method=method, window=2, negative=3, dim=4)
        sentences = Sentences.write(tmp_path / method, ["a b c d", "b", "d a"], config)
        index = {word: i for i, word in enumerate("abcd")}
        watched = WatchedLoss(sentences, index, [2, 2, 1, 2], config)
        random = np.random.default_rng(0)
        vectors, outputs = random.normal(size=(4, 4)), random.normal(size=(4, 4))
        losses = []
        for inputs, (right, *wrong) in zip(watched.inputs, watched.outputs, strict=True):
            hidden = np.mean([vectors[i] for i in inputs if i >= 0], axis=0)
            signs = [(right, 1), *((word, -1) for word in wrong)]
            losses.append(sum(np.log(1 + np.exp(-sign * hidden @ outputs[word])) for word, sign in signs))
        assert len(losses) == 6  # "b" alone has no context
        assert watched(vectors, outputs) == pytest.approx(np.mean(losses))
        if method == "cbow":
            assert watched.inputs.tolist()[0] == [1, 2, -1, -1] and watched.outputs[0, 0] == 0


# GloVe


def test_cooccurrences_equal_a_loop(tmp_path, monkeypatch):
    config = VectorsConfig(min_count=2)
    sentences = Sentences.write(tmp_path / "s", [*topic_lines(30), "狗", "once red 猫 red"], config)
    vocabulary = sentences.vocabulary(2)
    index = {word: i for i, word in enumerate(vocabulary)}
    expect = np.zeros((len(index), len(index)))
    for words in sentences:
        ids = [index[word] for word in words if word in index]
        for i, a in enumerate(ids):
            for distance in range(1, min(3, len(ids) - 1 - i) + 1):
                expect[a, ids[i + distance]] += 1 / distance
                expect[ids[i + distance], a] += 1 / distance
    for at_once in (1, 50, 10_000):  # one sentence, some, all at a time
        monkeypatch.setattr(glove, "WORDS_AT_ONCE", at_once)
        counted = []
        found = glove.count_cooccurrences(sentences, vocabulary, 3, counted.append)
        np.testing.assert_allclose(found.toarray(), expect, rtol=1e-5)
        assert sum(counted) == sum(vocabulary.values())


def test_a_step_is_adagrad_on_the_papers_objective():
    from concurrent.futures import ThreadPoolExecutor

    random = np.random.default_rng(0)
    x = random.exponential(20, (5, 5)) * (random.random((5, 5)) < 0.7)
    matrix = csr_array(x.astype(np.float32))
    batches = glove._Batches(matrix, 30.0, np.random.default_rng(1))
    batch = max((batches[i] for i in range(glove.BATCHES)), key=lambda b: len(b[0]))
    assert sum(len(batches[i][0]) for i in range(glove.BATCHES)) == batches.cells == np.count_nonzero(x)
    rows, columns, log, weight = (
        np.concatenate(parts) for parts in zip(*(batches[i] for i in range(100)), strict=True)
    )
    np.testing.assert_allclose(log, np.log(x[rows, columns]), rtol=1e-5)
    np.testing.assert_allclose(weight, np.minimum(1, (x[rows, columns] / 30) ** 0.75), rtol=1e-5)
    assert len(batch[0])

    w, c = (random.normal(size=(5, 4)).astype(np.float32) for _ in range(2))
    squares = [np.ones_like(w), np.ones_like(c)]
    before = [array.astype(np.float64) for array in (w, c)]
    with ThreadPoolExecutor(2) as pool:
        loss = glove._step((rows, columns, log, weight), w, c, squares, 0.05, pool)
    gradients, sums, expect = [np.zeros((5, 4)), np.zeros((5, 4))], [np.ones((5, 4)), np.ones((5, 4))], 0.0
    for i, j, target, f in zip(rows, columns, log, weight, strict=True):
        a, b = before[0][i], before[1][j]
        error = a[:3] @ b[:3] + a[3] + b[3] - target
        expect += f * error**2 / 2
        for k, place, other in ((0, i, b), (1, j, a)):
            gradient = f * error * np.append(other[:3], 1)
            gradients[k][place] += gradient
            sums[k][place] += gradient**2
    assert loss == pytest.approx(expect, rel=1e-4)
    for k, array in enumerate((w, c)):
        np.testing.assert_allclose(squares[k], sums[k], rtol=1e-4)
        np.testing.assert_allclose(array, before[k] - 0.05 * gradients[k] / np.sqrt(sums[k]), rtol=1e-4, atol=1e-5)


def test_glove_fits_logarithms_that_dot_products_can_give():
    random = np.random.default_rng(0)
    a = random.normal(size=(30, 3))
    x = csr_array(np.exp(a @ a.T / 2 + 1).astype(np.float32))
    values = []
    config = VectorsConfig(dim=6, epochs=20, learning_rate=0.2, x_max=1.0)
    vectors = glove.train_glove(x, config, on_epoch=lambda epoch, v: values.append(v["loss"]))
    assert vectors.shape == (30, 6) and values[-1] < values[0] / 50
    assert np.array_equal(glove.train_glove(x, config), vectors)


# The run


@pytest.mark.parametrize("method", ["skipgram", "cbow", "glove"])
def test_a_run_of_each_method_brings_words_of_a_topic_together(text, tmp_path, method):
    config = recommended(method)
    config.dim, config.epochs, config.threads, config.subsampling, config.seed = 12, 30, 1, 0.0, 1
    config.learning_rate = 0.05
    said = []
    assert train_word_vectors(config, CorpusConfig(), tmp_path / "run", [text], said.append) == 0
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        *["config.json", "vectors.bin", "counts.tsv", "metrics.json", "manifest.json", "logs"]
    }
    vectors = WordVectors.load(run)
    assert sorted(vectors.words) == sorted([*TOPICS[0], *TOPICS[1]]) and sum(vectors.counts) == 3200
    assert list(vectors.counts) == sorted(vectors.counts, reverse=True)
    for topic in TOPICS:
        assert {word for word, _ in vectors.nearest(topic[0], 4)} == set(topic) - {topic[0]}
    metrics = json.loads((run / "metrics.json").read_text())
    history = [epoch["loss"] for epoch in metrics["history"]]
    assert len(history) == 30 and history[-1] < history[0] and metrics["words"] == 3200
    assert json.loads((run / "config.json").read_text())["vectors"]["method"] == method
    # The projector: the words in the order of the vectors.
    assert (run / "logs" / "words.tsv").read_text(encoding="utf-8").split() == vectors.words
    stored = np.frombuffer((run / "logs" / "words.bytes").read_bytes(), np.float32).reshape(-1, 12)
    np.testing.assert_allclose(stored, vectors.matrix, rtol=1e-3)
    assert list((run / "logs").glob("events.*")) and "words" in (run / "logs" / "projector_config.pbtxt").read_text()


def test_what_the_corpus_leaves_out_gets_no_vector(tmp_path):
    (tmp_path / "text.txt").write_text("the cat and the dog\n\n" * 5 + "another cat and dog\n", encoding="utf-8")
    config = VectorsConfig(dim=2, epochs=1, threads=1, min_count=1)
    corpus = CorpusConfig(stop_words="en", deduplicate="exact")
    train_word_vectors(config, corpus, tmp_path / "run", [tmp_path / "text.txt"], lambda line: None)
    vectors = WordVectors.load(tmp_path / "run")
    assert dict(zip(vectors.words, vectors.counts.tolist(), strict=True)) == {"cat": 2, "dog": 2, "another": 1}


def test_a_run_that_was_tampered_with_is_refused(text, tmp_path):
    config = VectorsConfig(dim=2, epochs=1, threads=1)
    train_word_vectors(config, CorpusConfig(), tmp_path / "run", [text], lambda line: None)
    path = tmp_path / "run" / "vectors.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-3] + b"abc")
    with pytest.raises(UserError, match="another sha256"):
        WordVectors.load(tmp_path / "run")
    path.unlink()
    with pytest.raises(UserError, match="or none"):
        WordVectors.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "change", "message"),
    [
        (b"", {}, "at least one document"),
        (b"\n\n \n", {}, "at least one document"),
        ("，。！".encode(), {}, "no word at all"),
        (b"word", {}, "at least two words"),
        (b"word word word word word", {}, "at least two words"),
        (
            b"a b c d a b c d",
            {"min_count": 9},
            "occur 9 times. Received: 0 such words among 4; the most frequent one occurs 2",
        ),
        (b"a\nb\na\nb\n", {"min_count": 1, "method": "glove"}, "no two words"),
        (b"a\nb\na\nb\n", {"min_count": 1}, "no two words"),
        (b"caf\xe9 au lait", {}, "UTF-8"),
        (b"a b", {"epochs": 0}, "epochs"),
        (b"a b", {"negative": 0}, "negative"),
        (b"a b", {"subsampling": 1.0}, "subsampling"),
        (b"a b", {"segmentation": "spaces", "keep_punctuation": True}, "keep_punctuation"),
    ],
)
def test_bad_corpora_and_settings_are_refused_and_leave_nothing(tmp_path, content, change, message):
    (tmp_path / "text.txt").write_bytes(content)
    config = VectorsConfig(dim=2, threads=1, **change)
    with pytest.raises(UserError, match=message):
        train_word_vectors(config, CorpusConfig(), tmp_path / "run", [tmp_path / "text.txt"], lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_learning_rate_too_large_is_told():
    x = csr_array(np.full((4, 4), 3.0, np.float32))
    with pytest.raises(UserError, match="finite loss"):
        glove.train_glove(x, VectorsConfig(dim=2, epochs=50, learning_rate=1e30))


# The scripts


def test_scripts_from_text_to_answers(text, tmp_path):
    run, small = tmp_path / "run", ("--dim", 4, "--epochs", 2)
    done = run_script("train_word_vectors", "--data", text, "--method=cbow", "--run", run, *small)
    assert done.returncode == 0 and "Trained 10 vectors" in done.stdout, done.stdout + done.stderr
    again = run_script("train_word_vectors", "--data", text, "--run", run)
    assert again.returncode == 2 and "exists already" in again.stderr

    done = run_script("word_vectors", "nearest", run, "猫", "red", "--k", 2)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 6 and done.stdout.startswith("猫\n  ")
    done = run_script("word_vectors", "nearest", run, "Red")
    assert done.returncode == 2 and "Near words: red" in done.stderr and "Traceback" not in done.stderr
    done = run_script("word_vectors", "analogy", run, "red", "blue", "猫", "--k", 3)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4

    (tmp_path / "pairs").write_text("red blue 9\n猫 狗 8\nred 鱼 1\nnone red 1\n", encoding="utf-8")
    (tmp_path / "questions").write_text(": 一\nred blue 猫 狗\nred none 猫 狗\n", encoding="utf-8")
    tests = ("--similarity", tmp_path / "pairs", "--analogies", tmp_path / "questions")
    done = run_script("word_vectors", "evaluate", run, *tests, "--output", tmp_path / "result.json")
    assert done.returncode == 0 and "3 of 4 pairs; words without a vector: 1 (none)" in done.stdout, done.stderr
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["similarity"][0]["scored"] == 3 and result["analogies"][0]["sections"][0]["name"] == "一"

    done = run_script("word_vectors", "convert", run, tmp_path / "out.txt", "--form", "glove")
    assert done.returncode == 0 and WordVectors.load(tmp_path / "out.txt").words == WordVectors.load(run).words


def test_flags_have_the_values_of_the_method_named():
    for method, epochs in (("glove", 25), ("skipgram", 5)):
        found = run_script("train_word_vectors", "--help", "--method", method).stdout
        assert f"(default: {epochs})" in found
    done = run_script("train_word_vectors", "--data", "x", "--run", "y", "--method", "word2vec")
    assert done.returncode == 2 and "skipgram, cbow, glove" in done.stderr

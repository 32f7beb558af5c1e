"""Word vectors: files in three forms, nearest words, analogies, evaluation. gensim is the oracle."""

import gzip
import itertools
import struct

import numpy as np
import pytest
from gensim.models import KeyedVectors
from hypothesis import given
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.vectors import WordVectors
from keras_llm.vectors.evaluation import evaluate_analogies, evaluate_similarity
from keras_llm.vectors.word_vectors import dimension

# Spaces of three kinds inside words, a number as a word, marks that other readers strip or split at.
WORDS = [
    "the",
    "，",
    "人工 智能",
    "a\u3000b",
    "c\u00a0d",
    "\u3000",
    "1",
    "3 4",
    "🙂",
    "x\u0085y",
    "x\u2028y",
    "Paris",
    "词",
]


@pytest.fixture(scope="module")
def vectors():
    return WordVectors(WORDS, np.random.default_rng(0).normal(size=(len(WORDS), 5)))


@pytest.fixture(scope="module")
def plain():
    """Vectors that gensim can read too: no spaces in words, capitals and not."""
    words = [f"{first}{second}" for first, second in itertools.product("abcdefghA一二三", "xyzXé词")]
    return WordVectors(words, np.random.default_rng(1).normal(size=(len(words), 8)))


def gensim_of(vectors):
    oracle = KeyedVectors(vectors.dim)
    oracle.add_vectors(vectors.words, vectors.matrix)
    return oracle


def same(a, b):
    return a.words == b.words and np.array_equal(a.matrix, b.matrix)


@pytest.mark.parametrize("form", ["text", "glove"])
def test_text_forms_keep_words_with_spaces_and_every_bit(vectors, tmp_path, form):
    path = tmp_path / "vectors.txt"
    vectors.save(path, form)
    assert same(WordVectors.load(path), vectors)
    (tmp_path / "vectors.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert same(WordVectors.load(tmp_path / "vectors.txt.gz"), vectors)
    first = WordVectors.load(path, limit=4)
    assert first.words == WORDS[:4] and np.array_equal(first.matrix, vectors.matrix[:4])
    assert dimension(path) == 5


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1), min_size=1, unique=True
    )
)
def test_any_word_survives_the_text_form(tmp_path_factory, words):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    written = WordVectors(words, np.random.default_rng(len(words)).normal(size=(len(words), 3)) * 1e5)
    written.save(path, "text")
    assert same(WordVectors.load(path), written)


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_what_we_write_and_the_other_way(plain, tmp_path, binary):
    form = "binary" if binary else "text"
    plain.save(tmp_path / "ours", form)
    oracle = KeyedVectors.load_word2vec_format(tmp_path / "ours", binary=binary)
    assert oracle.index_to_key == plain.words and np.array_equal(oracle.vectors, plain.matrix)
    oracle.save_word2vec_format(tmp_path / "theirs", binary=binary)
    theirs = WordVectors.load(tmp_path / "theirs")
    assert theirs.words == plain.words and np.array_equal(theirs.matrix, plain.matrix)
    if not binary:
        plain.save(tmp_path / "glove", "glove")
        oracle = KeyedVectors.load_word2vec_format(tmp_path / "glove", binary=False, no_header=True)
        assert oracle.index_to_key == plain.words and np.array_equal(oracle.vectors, plain.matrix)


def test_forms_of_the_original_tools(tmp_path):
    # word2vec.c: a space after the last number; a line feed after each binary vector, which gensim leaves out.
    (tmp_path / "text").write_bytes("2 2\n</s> 0.5 1 \n中 -1e-2 2 \n".encode())
    (tmp_path / "windows").write_bytes("2 2\r\n</s> 0.5 1\r\n中 -1e-2 2\r\n".encode())
    rows = [struct.pack("<2f", 0.5, 1), struct.pack("<2f", -0.01, 2)]
    (tmp_path / "c").write_bytes(b"2 2\n</s> " + rows[0] + b"\n" + "中 ".encode() + rows[1] + b"\n")
    (tmp_path / "gensim").write_bytes(b"2 2\n</s> " + rows[0] + "中 ".encode() + rows[1])
    (tmp_path / "zipped").write_bytes(gzip.compress((tmp_path / "c").read_bytes()))
    for name in ("text", "windows", "c", "gensim", "zipped"):
        read = WordVectors.load(tmp_path / name)
        assert read.words == ["</s>", "中"], name
        assert np.array_equal(read.matrix, np.float32([[0.5, 1], [-0.01, 2]])), name


def test_binary_values_that_look_like_line_ends_and_spaces(tmp_path):
    matrix = np.frombuffer(b"\n\n\n\n" + b"    " + b"\n \n " + b" \n \n" + b"1 2 ", "<f4").reshape(-1, 1)
    WordVectors(list("abcde"), matrix).save(tmp_path / "v", "binary")
    assert np.array_equal(WordVectors.load(tmp_path / "v").matrix, matrix)


def test_first_of_equal_words_is_kept_and_the_others_counted(tmp_path):
    (tmp_path / "v").write_text("a 1 2\nb 3 4\na 5 6\na 7 8\n")
    read = WordVectors.load(tmp_path / "v")
    assert read.words == ["a", "b"] and read["a"].tolist() == [1, 2] and read.duplicates == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"3 2\na 1 2\nb 1\nc 1 2\n", "v:3: a word needs 2 numbers. Received: 1"),
        ("2 2\n中文 1\n".encode(), "v:2: a word needs 2 numbers. Received: 1"),
        (b"1 2\na 1 2 3x\n", "word 1 of 1"),
        (b"a 1 2\nb 1 2\nc 1\n", "v:3: a word needs 2 numbers. Received: 1"),
        (b"2 2\na 1 2\nb 1 x\n", "v:3: a word needs 2 numbers"),
        (b"a 1 2\nb nan 2\n", "v:2: numbers must be finite"),
        (b"a 1 2\nb 1 1e39\n", "v:2: numbers must be finite"),
        (b"3 2\na 1 2\nb 1 2\n", "header names 3 words. Received: 2"),
        (b"1 2\na 1 2\nb 1 2\n", "header names 1 words. Received: 2"),
        (b"a 1 2\n\nb 1 2\n", "v:2: a line is a word"),
        (b"caf\xe9 1 2\nb 1 2\n", "v:1: words must be UTF-8"),
        (b"no vectors here\nat all\n", "v:1: a line is a word and its numbers"),
        (b"0 5\n", "header"),
        (b"2 2\na " + struct.pack("<2f", 1, 2) + b"\nb " + struct.pack("<f", 1), "word 2 of 2: must be followed"),
        (b"1 2\na " + struct.pack("<2f", 1, np.nan), "word 1 of 1: numbers must be finite"),
        (b"1 2\n\xff " + struct.pack("<2f", 1, 2), "word 1 of 1: words must be UTF-8"),
        (gzip.compress(b"a 1 2\nb 1 2\n" * 99, mtime=0)[:-9], "whole gzip"),
    ],
)
def test_bad_files_are_refused_with_their_place(tmp_path, content, message):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(UserError, match=message):
        WordVectors.load(tmp_path / "v")


def test_places_that_are_no_vectors(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        WordVectors.load(tmp_path / "missing")
    with pytest.raises(UserError, match="run of train_word_vectors"):
        WordVectors.load(tmp_path)


def test_words_a_form_cannot_hold_are_refused_and_nothing_is_written(tmp_path):
    for form, word in (("binary", "a b"), ("binary", "a\nb"), ("text", "a\nb"), ("glove", "")):
        with pytest.raises(UserError, match="no way to write"):
            WordVectors([word], [[1.0]]).save(tmp_path / "v", form)
    assert not list(tmp_path.iterdir())


def test_nearest_and_analogy_equal_gensims(plain):
    oracle = gensim_of(plain)
    for word in plain.words[::7]:
        assert_same_answers(plain.nearest(word, 6), oracle.most_similar(word, topn=6))
    for a, b, c in (plain.words[i : i + 3] for i in range(0, 60, 9)):
        assert_same_answers(plain.analogy(a, b, c, 4), oracle.most_similar(positive=[b, c], negative=[a], topn=4))


def assert_same_answers(ours, theirs):
    assert [word for word, _ in ours] == [word for word, _ in theirs]
    np.testing.assert_allclose([value for _, value in ours], [value for _, value in theirs], atol=1e-6)


def test_more_asked_for_than_there_is_and_vectors_of_zeros():
    vectors = WordVectors(["a", "b", "c"], [[1, 0], [0, 0], [2, 0]])
    assert vectors.nearest("a", 10) == [("c", 1.0), ("b", 0.0)]
    assert vectors.analogy("a", "b", "c", 5) == []
    assert WordVectors(["a"], [[1.0]]).nearest("a") == []
    with pytest.raises(UserError, match="at least 1"):
        vectors.nearest("a", 0)


def test_unknown_word_names_those_written_alike(plain):
    vectors = WordVectors(["Paris", "parish", "北京", "北京市", "Berlin"], np.eye(5))
    for word, near in (("paris", "Paris"), ("berlin", "Berlin"), ("北京城", "北京"), ("Parsi", "Paris")):
        with pytest.raises(UserError, match=f"Near words: .*{near}"):
            vectors.nearest(word)
    with pytest.raises(UserError, match="Received: 'zzz'.$"):
        vectors.nearest("zzz")


def test_similarity_equals_gensims(plain, tmp_path):
    random = np.random.default_rng(3)
    pairs = [random.choice(plain.words, 2) for _ in range(40)]
    lines = [f"{a}\t{b}\t{random.integers(10)}" for a, b in pairs]
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join([*lines, "ax\tunknown\t3", "unknown\tnie\t1"]) + "\n", encoding="utf-8")
    _, spearman, oov = gensim_of(plain).evaluate_word_pairs(path, case_insensitive=False)
    ours = evaluate_similarity(plain, path, ignore_case=False)
    assert abs(ours.spearman - spearman[0]) < 1e-6 and 100 * (1 - ours.scored / ours.pairs) == pytest.approx(oov)
    assert ours.pairs == 42 and ours.scored == 40 and ours.missing == ["unknown", "nie"]


def test_similarity_files_of_all_kinds_read_alike(tmp_path):
    vectors = WordVectors(["Tiger", "cat", "book"], [[1, 0.1], [1, 0.2], [0, 1]])
    rows = [("tiger", "cat", "7.35"), ("book", "CAT", "2"), ("tiger", "book", "1.5")]
    files = {
        "tab": "".join("\t".join(row) + "\r\n" for row in rows),
        "space": "# note\n" + "".join(" ".join(row) + "\n\n" for row in rows),
        "comma": "Word 1,Word 2,Human (mean)\n" + "".join(",".join(row) + "\n" for row in rows),
        "columns": "word1\tword2\tPOS\tscore\n" + "".join(f"{a}\t{b}\tN\t{s}\t9\n" for a, b, s in rows),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8-sig", newline="")
        found = evaluate_similarity(vectors, tmp_path / name)
        assert (found.spearman, found.pairs, found.scored) == (pytest.approx(1.0), 3, 3), name
    assert evaluate_similarity(vectors, tmp_path / "tab", ignore_case=False).missing == ["tiger", "CAT"]
    (tmp_path / "one").write_text("tiger cat 3\n")
    assert evaluate_similarity(vectors, tmp_path / "one").spearman is None


def test_analogies_equal_gensims_section_by_section(plain, tmp_path):
    # Vectors of which the analogies hold nearly: a part for the first letter, one for the second, and noise.
    random = np.random.default_rng(5)
    parts = {letter: random.normal(size=12) for word in plain.words for letter in word}
    noise = random.normal(size=(len(plain), 12)) * 0.9
    vectors = WordVectors(plain.words, np.array([parts[w[0]] + parts[w[1]] * 0.8 for w in plain.words]) + noise)
    lines = []
    for section, seconds in (("latin", "xyz"), ("中文", "é词")):
        lines.append(f": {section}")
        for a, b in itertools.permutations("bcdefgh一二三", 2):
            lines.append(f"{a}{seconds[0]} {a}{seconds[1]} {b}{seconds[0]} {b}{seconds[1]}")
        lines.append(f"{a}x nowhere {b}x {b}y")
    path = tmp_path / "analogies.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for ignore_case in (False, True):
        accuracy, sections = gensim_of(vectors).evaluate_word_analogies(path, case_insensitive=ignore_case)
        ours = evaluate_analogies(vectors, path, ignore_case=ignore_case)
        assert 0.05 < accuracy < 0.95 and ours.total.accuracy == pytest.approx(accuracy)
        assert [s.correct for s in ours.sections] == [len(s["correct"]) for s in sections[:-1]]
        assert [(s.name, s.questions, s.scored) for s in ours.sections] == [("latin", 91, 90), ("中文", 91, 90)]
        assert ours.missing == ["nowhere"]
    few = evaluate_analogies(vectors, path, most_frequent=20)
    assert few.total.scored < 90 and few.total.questions == 182


@pytest.mark.parametrize(
    ("evaluate", "content", "message"),
    [
        (evaluate_similarity, b"a b 1\na b\n", ":2: a line is two words and a score"),
        (evaluate_similarity, b"a b\n", ":1: a line is two words and a score"),
        (evaluate_similarity, b"", "must hold pairs"),
        (evaluate_similarity, b"a b 1\ncaf\xe9 b 1\n", ":2: text must be UTF-8"),
        (evaluate_analogies, b": s\na b c\n", ":2: an analogy is four words"),
        (evaluate_analogies, b": s\n", "must hold analogies"),
        (evaluate_analogies, None, "must be readable"),
    ],
)
def test_bad_test_files_are_refused(plain, tmp_path, evaluate, content, message):
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    with pytest.raises(UserError, match=message):
        evaluate(plain, tmp_path / "f")

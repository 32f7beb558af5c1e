"""The n-gram model in the graph: its three ways to a probability agree, and it decodes, is saved and served like the others."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.generation.beam import beam_search
from keras_llm.generation.decode import greedy, sample
from keras_llm.models.kneser_ney import IMPOSSIBLE, kneser_ney
from keras_llm.models.ngram import NGramModel

if keras.backend.backend() != "tensorflow":
    pytest.skip("the n-gram model runs on TensorFlow", allow_module_level=True)
tf = pytest.importorskip("tensorflow")

PAD, UNKNOWN, START, END = 0, 1, 2, 3
SIZE = 12


def estimated(docs, size, order, min_count=1):
    ids = np.array([token for doc in docs for token in doc], "int32")
    return NGramModel(kneser_ney(ids, np.cumsum([0, *map(len, docs)]), size, order, min_count))


def random_documents(seed=0, count=40):
    random = np.random.default_rng(seed)
    texts = [np.minimum(random.zipf(1.6, random.integers(0, 9)) + 3, SIZE - 2) for _ in range(count)]
    return [[START, *text.tolist(), END] for text in texts]


def padded(docs):
    ids = np.zeros((len(docs), max(map(len, docs))), "int32")
    for row, doc in zip(ids, docs, strict=True):
        row[: len(doc)] = doc
    return ids


@pytest.fixture(scope="module", params=[(1, 1), (2, 1), (3, 2), (5, 1)], ids=lambda p: f"order{p[0]}-min{p[1]}")
def model(request):
    return estimated(random_documents(), SIZE, *request.param)


@pytest.fixture(scope="module")
def rows():
    """Seen and unseen documents, the unknown id and a token that the training data lacks (11) among them, padded."""
    unseen = [[START, 11, 4, UNKNOWN, 4, 4, END], [START, 10, 9, 8, 7, 6, 5, END], [START, END], [4, 4, 4, 4, END]]
    return padded([*random_documents()[:6], *random_documents(seed=9, count=6), *unseen])


def by_back_off(arrays, tokens):
    """log p(last token | those before), straight from the definition."""
    order = sum(name.startswith("log_probs") for name in arrays)
    tokens = tokens[-order:]

    def node(gram):
        place = gram[0]
        for k, token in enumerate(gram[1:], 2):
            keys = arrays[f"keys_{k}"]
            key = place * SIZE + token
            place = int(np.searchsorted(keys, key))
            if keys[place] != key:
                return None
        return place

    found = node(tokens)
    if found is not None:
        return arrays[f"log_probs_{len(tokens)}"][found]
    context = node(tokens[:-1])
    weight = 0.0 if context is None else arrays[f"back_offs_{len(tokens) - 1}"][context]
    return weight + by_back_off({**arrays}, tokens[1:])


def test_log_probs_are_those_of_the_definition(model, rows):
    arrays, found = model.arrays(), model.log_probs(rows).numpy()
    assert START not in rows[-1]  # nothing stands before a row, even if it does not say so
    assert found.shape == (len(rows), rows.shape[1] - 1) and found.dtype == "float32"
    for row, values in zip(rows.tolist(), found, strict=True):
        for end in range(1, len(row)):
            expected = 0.0 if row[end] == PAD else by_back_off(arrays, row[: end + 1])
            assert values[end - 1] == pytest.approx(expected, abs=1e-5)


def test_call_agrees_with_log_probs_and_is_normalised(model, rows):
    logits = model({"token_ids": rows}).numpy()
    assert logits.shape == (*rows.shape, SIZE) and logits.dtype == "float32"
    of_next = np.take_along_axis(logits[:, :-1], rows[:, 1:, None], -1)[..., 0]
    real = rows[:, 1:] != PAD
    np.testing.assert_allclose(of_next[real], model.log_probs(rows).numpy()[real], atol=1e-5)
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1.0, atol=1e-5)
    assert (logits[..., [PAD, START]] <= IMPOSSIBLE).all() and np.isfinite(logits).all()


def test_step_agrees_with_call(model, rows):
    logits = model({"token_ids": rows}).numpy()
    state = model.start(rows, 0, rows.shape[1])
    for t in range(rows.shape[1]):
        assert state.shape == (len(rows), model.order - 1) and state.dtype == tf.int32
        found, state = model.step(rows[:, t], state)
        real = rows[:, t] != PAD
        np.testing.assert_allclose(found.numpy()[real], logits[real, t], atol=1e-5)


def test_start_goes_on_after_any_number_of_columns(model, rows):
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([], tf.int32)])
    def next_logits(ids, count):
        state = model.start(ids, count, 20)
        assert state.shape == (None, model.order - 1)
        return model.step(ids[:, count], state)[0]

    expected = model({"token_ids": rows[:3]}).numpy()
    for count in range(4):
        np.testing.assert_allclose(next_logits(rows[:3, :6], count).numpy(), expected[:, count], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([UNKNOWN, 4, 5, 6]), max_size=6), min_size=1, max_size=5),
    st.lists(st.sampled_from([UNKNOWN, 4, 5, 6, 7]), max_size=6),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_any_corpus_and_any_text(texts, text, order, min_count):
    model = estimated([[START, *text, END] for text in texts], 8, order, min_count)
    ids = np.array([[START, *text, END]])
    logits = model({"token_ids": ids}).numpy()
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1.0, atol=1e-5)
    found = np.take_along_axis(logits[:, :-1], ids[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(found, model.log_probs(ids).numpy(), atol=1e-5)


def test_learned_texts_are_written_again_in_english_and_chinese():
    for texts in (["the cat sat on the mat", "a dog ran"], ["床前明月光", "疑是地上霜"]):
        split = str.split if " " in texts[0] else list
        tokens = [*"....", *sorted({token for text in texts for token in split(text)})]
        model = estimated([[START, *map(tokens.index, split(text)), END] for text in texts], len(tokens), 4)
        for text in texts:
            start = np.array([[START, tokens.index(split(text)[0])]])
            ids, scores = greedy(model.step, start[:, 1], model.start(start, 1, 12), END, PAD, 12)
            written = [tokens[i] for i in ids.numpy()[0] if i != PAD]
            assert [split(text)[0], *written] == split(text)
            expected = model.log_probs([[START, *map(tokens.index, split(text)), END]]).numpy()[0, 1:]
            np.testing.assert_allclose(scores.numpy()[0, : len(expected)], expected, atol=1e-5)


def test_sampling_in_a_graph_never_draws_padding_or_start(model):
    @tf.function
    def draw(seeds):
        starts = tf.fill(tf.shape(seeds), START)
        return sample(model.step, starts, model.start(starts[:, None], 0, 8), END, PAD, 8, seed=seeds)

    ids, scores = draw(tf.range(64))
    rows = [[START, *(token for token in row if token != PAD), END] for row in ids.numpy().tolist()]
    assert START not in ids.numpy() and len({tuple(row) for row in rows}) > 8
    for row, values in zip(rows, scores.numpy(), strict=True):
        if len(row) < 10:  # it ended by itself
            expected = model.log_probs([row]).numpy()[0]
            np.testing.assert_allclose(values[: len(expected)], expected, atol=1e-4)


def test_beams_are_scored_as_whole_texts(model):
    starts = np.array([START, START])
    found = beam_search(model.step, starts, model.start(starts[:, None], 0, 9), END, PAD, 9, 3, 0.0, num_results=3)
    ids, scores = (x.numpy() for x in found)
    assert ids.shape == (2, 3, 9) and len({tuple(row) for row in ids[0].tolist()}) == 3
    for row, score in zip(ids[0].tolist(), scores[0], strict=True):
        text = [START, *(token for token in row if token != PAD), END][:10]
        assert score == pytest.approx(model.log_probs([text]).numpy().sum(), abs=1e-4)


def test_saved_model_keeps_the_tables_as_variables_and_passes_the_gates(model, rows, tmp_path):
    from keras_llm.export import gates

    ids_spec, state_spec = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, model.order - 1], tf.int32)

    def step(ids, state):
        logits, state = model.step(ids, state)
        return {"logits": logits, "after": state}

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.step = tf.function(step).get_concrete_function(ids_spec, state_spec)
    module.score = tf.function(lambda ids: {"log_probs": model.log_probs(ids)}).get_concrete_function(
        tf.TensorSpec([None, None], tf.int32)
    )
    tf.saved_model.save(module, str(tmp_path), signatures={"step": module.step, "serving_default": module.score})
    for server in gates.SERVERS["servers"]:
        gates.check(tmp_path, server)
    largest = max((len(n.SerializeToString()) for n in module.step.graph.as_graph_def().node), default=0)
    assert largest < 1000  # no table is a constant of the graph
    loaded = tf.saved_model.load(str(tmp_path))
    state = model.start(rows, 2, 8)
    names = [spec.name.partition(":")[0] for spec in module.step.inputs[:2]]
    found = loaded.signatures["step"](**dict(zip(names, (tf.constant(rows[:, 2]), state), strict=True)))
    expected, after = model.step(rows[:, 2], state)
    np.testing.assert_array_equal(found["logits"], expected)
    np.testing.assert_array_equal(found["after"], after)
    scores = loaded.signatures["serving_default"](tf.constant(rows))["log_probs"]
    np.testing.assert_array_equal(scores, model.log_probs(rows))


def test_arrays_make_the_same_model_again(model, rows):
    arrays = model.arrays()
    again = NGramModel.from_arrays(arrays)
    assert (again.order, again.vocabulary_size) == (model.order, SIZE)
    np.testing.assert_array_equal(again.log_probs(rows), model.log_probs(rows))
    assert len(model.variables) == len(arrays) == 3 * model.order - 2
    ngrams = model.count_ngrams()
    assert model.count_params() == sum(ngrams) + sum(ngrams[:-1])
    assert ngrams[1:] == [len(arrays[f"keys_{k}"]) - 1 for k in range(2, model.order + 1)]


def test_orders_that_no_document_reaches():
    model = estimated([[START, 4, END]], 6, 5)
    assert model.count_ngrams() == [6, 2, 1, 0, 0]
    ids = np.array([[START, 4, 4, 5, UNKNOWN, END]])
    np.testing.assert_allclose(np.exp(model({"token_ids": ids}).numpy()).sum(-1), 1.0, atol=1e-5)
    assert np.isfinite(model.log_probs(ids).numpy()).all()


@pytest.mark.parametrize(
    "change, odd",
    [
        (lambda a: a.clear(), "all"),
        (lambda a: a.pop("keys_2"), "keys_2"),
        (lambda a: a.update(keys_2=a["keys_2"].astype("int32")), "keys_2"),
        (lambda a: a.update(back_offs_1=a["back_offs_1"][1:]), "back_offs_1"),
        (lambda a: a.update(kernel=np.zeros(3)), "kernel"),
    ],
)
def test_other_arrays_are_refused(change, odd):
    arrays = estimated([[START, 4, END]], 6, 3).arrays()
    change(arrays)
    with pytest.raises(UserError, match=f"not right: {odd}"):
        NGramModel.from_arrays(arrays)


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="runs on TensorFlow. Received: KERAS_BACKEND=jax"):
        NGramModel({})

"""The CRF against brute force over all paths, in NumPy; and against itself in a graph and under a gradient."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.layers.crf import CRFLoss, LinearChainCRF

K = 3
LENGTHS = (4, 1, 0, 3)
MASK = np.arange(4)[None] < np.array(LENGTHS)[:, None]


def array(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(params=["free", "constrained", "not learned"])
def crf(request):
    allowed = np.ones((K + 1, K + 1), bool)
    if request.param != "free":
        allowed[0, 2] = allowed[K, 2] = allowed[1, K] = False  # 2 neither after 0 nor first, 1 not last
    layer = LinearChainCRF(allowed, learned=request.param != "not learned")
    layer.build()
    if layer.learned:
        layer.transitions.assign(np.random.default_rng(1).normal(size=(K + 1, K + 1)))
    return layer


EMISSIONS = np.random.default_rng(0).normal(size=(4, 4, K)).astype("float32") * 2


def paths(crf, row):
    """Every allowed path of a row and its score."""
    scores, length = array(crf.scores()).astype("float64"), LENGTHS[row]
    found = {}
    for path in itertools.product(range(K), repeat=length):
        steps = list(itertools.pairwise([K, *path, K]))
        if all(crf.allowed[step] for step in steps if length):
            emitted = sum(EMISSIONS[row, place, tag] for place, tag in enumerate(path))
            found[path] = sum(scores[step] for step in steps) + emitted
    return found


def padded(path):
    return [*path, *[0] * (4 - len(path))]


def test_log_likelihood_is_the_path_among_all_paths(crf):
    random = np.random.default_rng(2)
    everything = [paths(crf, row) for row in range(4)]
    for _ in range(3):
        chosen = [list(found)[random.integers(len(found))] for found in everything]
        wanted = [
            found[path] - np.logaddexp.reduce(list(found.values()))
            for found, path in zip(everything, chosen, strict=True)
        ]
        got = crf.log_likelihood(EMISSIONS, np.array([padded(path) for path in chosen]), MASK)
        np.testing.assert_allclose(array(got), wanted, atol=1e-4)


def test_decode_is_the_best_path(crf):
    wanted = [padded(max(found, key=found.get)) for found in (paths(crf, row) for row in range(4))]
    tags = array(crf.decode(EMISSIONS, MASK))
    assert tags.dtype == "int32" and tags.tolist() == wanted


def test_log_probs_are_sums_over_paths(crf):
    tags = array(crf.decode(EMISSIONS, MASK))
    alone, given = map(array, crf.log_probs(EMISSIONS, tags, MASK))
    assert not alone[~MASK].any() and not given[~MASK].any()
    for row, place in np.argwhere(MASK):
        found = paths(crf, row)
        total = np.logaddexp.reduce(list(found.values()))
        here = [score for path, score in found.items() if path[place] == tags[row, place]]
        assert alone[row, place] == pytest.approx(np.logaddexp.reduce(here) - total, abs=1e-4)
        before = [score for path, score in found.items() if place == 0 or path[place - 1] == tags[row, place - 1]]
        both = [
            score
            for path, score in found.items()
            if path[place] == tags[row, place] and (place == 0 or path[place - 1] == tags[row, place - 1])
        ]
        wanted = np.logaddexp.reduce(both) - np.logaddexp.reduce(before)
        assert given[row, place] == pytest.approx(wanted, abs=1e-4)


def test_what_stands_outside_of_the_mask_changes_nothing(crf):
    other = np.where(MASK[..., None], EMISSIONS, 50.0).astype("float32")
    tags = array(crf.decode(EMISSIONS, MASK))
    assert array(crf.decode(other, MASK)).tolist() == tags.tolist()
    for method in (crf.log_likelihood, crf.log_probs):
        np.testing.assert_allclose(array(method(other, tags, MASK)), array(method(EMISSIONS, tags, MASK)), atol=1e-6)


def test_the_most_probable_path_may_differ_from_the_most_probable_tags():
    crf = LinearChainCRF(np.ones((3, 3)))
    crf.build()
    crf.transitions.assign([[3, 0, 0], [0, 3, 0], [0, 0, 0]])
    emissions = np.array([[[2, 0], [0, 1], [2, 0]]], "float32")
    assert array(crf.decode(emissions, np.ones((1, 3), bool))).tolist() == [[0, 0, 0]]


class Model(keras.Model):
    """Emissions from one-hot inputs, so that the gradient is easy to see."""

    def __init__(self, allowed):
        super().__init__()
        self.score = keras.layers.Dense(K, name="score")
        self.crf = LinearChainCRF(allowed, name="crf")

    def build(self, input_shape=None):
        self.score.build((None, None, 5))
        self.crf.build()

    def call(self, x):
        return self.score(x)


def test_training_learns_transitions_on_both_backends():
    """The second place shows nothing: its tag follows from the first one's only."""
    keras.utils.set_random_seed(0)
    model = Model(np.ones((K + 1, K + 1)))
    random = np.random.default_rng(0)
    first = random.integers(0, 2, 64)
    x = np.zeros((64, 2, 5), "float32")
    x[np.arange(64), 0, first] = 1
    y = np.stack([first + 1, 2 - first], axis=1)  # tags 0, 1 and 1, 0
    model.build()
    model.compile(
        optimizer=keras.optimizers.Adam(0.1), loss=CRFLoss(model.crf), jit_compile=keras.backend.backend() == "jax"
    )
    losses = [float(model.train_on_batch(x, y, np.full(64, 2.0))) for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]
    tags = array(model.crf.decode(model(x), np.ones((64, 2), bool)))
    assert tags.tolist() == (y - 1).tolist()
    transitions = array(model.crf.transitions)
    assert transitions[0, 1] > transitions[0, 0] + 1 and transitions[1, 0] > transitions[1, 1] + 1


def test_the_loss_is_a_mean_over_places():
    crf = LinearChainCRF(np.ones((K + 1, K + 1)))
    crf.build()
    tags = np.where(MASK, 1, 0)
    loss = CRFLoss(crf)(tags + MASK, EMISSIONS, MASK.sum(1))
    wanted = -array(crf.log_likelihood(EMISSIONS, tags, MASK)).sum() / MASK.sum()
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a TensorFlow graph")
def test_a_graph_takes_any_batch_and_any_length(crf):
    import tensorflow as tf

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, K]), tf.TensorSpec([None, None], tf.bool)], autograph=False
    )
    def graph(emissions, mask):
        tags = crf.decode(emissions, mask)
        return tags, *crf.log_probs(emissions, tags, mask)

    for rows, places in ((4, 4), (2, 1), (1, 3), (0, 2)):
        emissions, mask = EMISSIONS[:rows, :places], MASK[:rows, :places]
        tags, alone, given = graph(emissions, mask)
        assert tags.shape == alone.shape == given.shape == (rows, places)
        if rows:
            assert tags.numpy().tolist() == array(crf.decode(emissions, mask)).tolist()


def test_serialisable(crf):
    again = LinearChainCRF.from_config(crf.get_config())
    again.build()
    assert (again.allowed == crf.allowed).all() and again.learned == crf.learned
    assert len(again.weights) == len(crf.weights)

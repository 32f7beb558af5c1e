"""A conditional random field over a chain of tags: the best sequence as a whole, not the best tag at each place.

Shapes: B batch, N places (units of a text that carry a tag), K tags.
"""

import keras
import numpy as np
from keras import ops

FORBIDDEN = -1e4  # added to a path that takes a transition which is not allowed


class LinearChainCRF(keras.layers.Layer):
    """Scores of pairs of neighbouring tags, and what follows from them and a score for each tag at each place.

    The arithmetic is float32 whatever the dtype policy is. Places that the mask leaves out must stand at the end of a row.

    Args:
        allowed: bool [K + 1, K + 1], which tag (row) another one (column) may follow. The last row is the beginning of a text,
            the last column its end.
        learned: the scores of allowed pairs are weights; without them all are 0, and only what is forbidden counts.

    Methods, with emissions float [B, N, K], tags int [B, N] and mask bool [B, N]:
        log_likelihood(emissions, tags, mask): log-probability of each row's tags, float32 [B].
        decode(emissions, mask): the most probable tags of each row, int32 [B, N], 0 outside of the mask.
        log_probs(emissions, tags, mask): two float32 [B, N], at each place the log-probability of its tag, and the same given
            the tag before it.

    Example:

    >>> crf = LinearChainCRF([[1, 0, 1], [1, 1, 1], [1, 1, 1]])  # after the first of two tags the second cannot come
    >>> crf.build()
    >>> emissions = np.array([[[2.0, 0.0], [0.0, 1.0]]], "float32")
    >>> keras.ops.convert_to_numpy(crf.decode(emissions, np.array([[True, True]]))).tolist()
    [[0, 0]]

    References: Lafferty et al. 2001, https://repository.upenn.edu/cis_papers/159; Lample et al. 2016,
    https://arxiv.org/abs/1603.01360.
    """

    def __init__(self, allowed, learned=True, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.allowed = np.array(allowed, bool)
        self.learned = learned
        self.num_tags = len(self.allowed) - 1

    def build(self, input_shape=None):
        if self.learned:
            self.transitions = self.add_weight(
                name="transitions", shape=(self.num_tags + 1,) * 2, initializer="zeros", dtype="float32"
            )
        self.built = True

    def scores(self):
        """float32 [K + 1, K + 1], of each pair of tags."""
        learned = ops.convert_to_tensor(self.transitions) if self.learned else ops.zeros(self.allowed.shape, "float32")
        return ops.where(ops.convert_to_tensor(self.allowed), learned, FORBIDDEN)

    def log_likelihood(self, emissions, tags, mask):
        emissions, scores = ops.cast(emissions, "float32"), self.scores()
        counts = ops.sum(ops.cast(mask, "int32"), axis=1, keepdims=True)
        steps = self._emitted(emissions, tags) + self._stepped(scores, tags)
        path = ops.sum(steps * ops.cast(mask, "float32"), axis=1)
        last = ops.take_along_axis(self._before(tags, 1), counts, axis=1)[:, 0]
        path = path + ops.take(scores[:, -1], last)
        after = self._alphas(emissions, mask, scores)[-1]
        return path - ops.logsumexp(after + scores[:, -1], axis=-1)

    def decode(self, emissions, mask):
        emissions, scores = ops.cast(emissions, "float32"), self.scores()

        # What a step of `keras.ops.scan` gives must be of the type of its state on TensorFlow: tags are floats here.
        def forward(best, place):
            emitted, real = place[:, :-1], place[:, -1:] > 0
            paths = ops.expand_dims(best, 2) + scores[:, :-1]  # [B, K + 1, K]
            following = self._extended(ops.max(paths, axis=1) + emitted)
            before = self._extended(ops.cast(ops.argmax(paths, axis=1), "float32"), self.num_tags)
            # Out of the mask each tag comes from itself.
            before = ops.where(real, before, ops.arange(self.num_tags + 1, dtype="float32"))
            return ops.where(real, following, best), before

        best, before = ops.scan(forward, self._start(emissions), self._places(emissions, mask))
        last = ops.cast(ops.argmax(best + scores[:, -1], axis=-1), "int32")

        def backward(tag, before):
            return ops.take_along_axis(before, ops.expand_dims(tag, 1), axis=1)[:, 0], tag

        _, tags = ops.scan(backward, last, ops.cast(before, "int32"), reverse=True)
        return ops.where(mask, ops.transpose(tags), 0)

    def log_probs(self, emissions, tags, mask):
        emissions, scores = ops.cast(emissions, "float32"), self.scores()
        alphas = ops.transpose(self._alphas(emissions, mask, scores), (1, 0, 2))  # [B, N, K + 1]
        betas, total = self._betas(emissions, mask, scores)
        here = self._picked(betas, tags)
        before = ops.concatenate([ops.expand_dims(total, 1), here[:, :-1]], axis=1)
        alone = self._picked(alphas, tags) + here - ops.expand_dims(total, 1)
        given = self._stepped(scores, tags) + self._emitted(emissions, tags) + here - before
        return ops.where(mask, alone, 0.0), ops.where(mask, given, 0.0)

    def _alphas(self, emissions, mask, scores):
        """Sums (of exponentials, as logarithms) over all paths up to each place: [N, B, K + 1]."""

        def step(alpha, place):
            emitted, real = place[:, :-1], place[:, -1:] > 0
            following = ops.logsumexp(ops.expand_dims(alpha, 2) + scores[:, :-1], axis=1) + emitted
            alpha = ops.where(real, self._extended(following), alpha)
            return alpha, alpha

        return ops.scan(step, self._start(emissions), self._places(emissions, mask))[1]

    def _betas(self, emissions, mask, scores):
        """The same over all paths from behind each place: [B, N, K + 1]; and over all paths of a row: [B]."""

        def step(beta, place):
            emitted, real = place[:, :-1], place[:, -1:] > 0
            behind = ops.expand_dims(emitted + beta[:, :-1], 1)  # [B, 1, K]
            return ops.where(real, ops.logsumexp(behind + scores[:, :-1], axis=2), beta), beta

        start = ops.broadcast_to(scores[:, -1], (ops.shape(emissions)[0], self.num_tags + 1))
        total, betas = ops.scan(step, start, self._places(emissions, mask), reverse=True)
        return ops.transpose(betas, (1, 0, 2)), total[:, -1]

    def _start(self, emissions):
        """No place yet: the state is the beginning, the last of K + 1: [B, K + 1]."""
        return self._extended(ops.full_like(emissions[:, 0], FORBIDDEN), 0.0)

    def _extended(self, x, value=FORBIDDEN):
        """[B, K] -> [B, K + 1], with a value for the beginning, where nothing leads back to."""
        return ops.pad(x, ((0, 0), (0, 1)), constant_values=value)

    def _places(self, emissions, mask):
        """What each step of a loop needs, as the one tensor that `keras.ops.scan` takes on TensorFlow: [N, B, K + 1]."""
        places = ops.concatenate([emissions, ops.expand_dims(ops.cast(mask, "float32"), -1)], axis=-1)
        return ops.transpose(places, (1, 0, 2))

    def _before(self, tags, more=0):
        """The tag before each place, the beginning before the first: int32 [B, N]; with `more`, the last tag, too."""
        start = ops.full((ops.shape(tags)[0], 1), self.num_tags, "int32")
        return ops.concatenate([start, ops.cast(tags if more else tags[:, :-1], "int32")], axis=1)

    def _stepped(self, scores, tags):
        """Scores of the pairs that the tags make: [B, N]."""
        return ops.take(ops.reshape(scores, (-1,)), self._before(tags) * (self.num_tags + 1) + ops.cast(tags, "int32"))

    def _emitted(self, emissions, tags):
        return self._picked(emissions, tags)

    def _picked(self, x, tags):
        """x [B, N, K or more] at the tags: [B, N]."""
        return ops.take_along_axis(x, ops.expand_dims(ops.cast(tags, "int32"), -1), axis=-1)[..., 0]

    def get_config(self):
        return {**super().get_config(), "allowed": self.allowed.tolist(), "learned": self.learned}


class CRFLoss(keras.losses.Loss):
    """Negative log-likelihood of the true tags, a mean over all places.

    Args:
        crf: the layer; its weights get gradients, too.

    Call arguments:
        y_true: int [B, N], tag + 1, 0 where there is no place.
        y_pred: emissions [B, N, K].
        sample_weight: [B], how many places each row has.

    Example:

    >>> crf = LinearChainCRF(np.ones((3, 3)))
    >>> crf.build()
    >>> float(CRFLoss(crf)(np.array([[1, 2]]), np.zeros((1, 2, 2)), np.array([2])))  # ln 2
    0.6931...
    """

    def __init__(self, crf, name="crf"):
        super().__init__(name=name, reduction="mean_with_sample_weight", dtype="float32")
        self.crf = crf

    def call(self, y_true, y_pred):
        tags, mask = ops.maximum(ops.cast(y_true, "int32") - 1, 0), y_true > 0
        counts = ops.sum(ops.cast(mask, "float32"), axis=1)
        return -self.crf.log_likelihood(y_pred, tags, mask) / ops.maximum(counts, 1.0)

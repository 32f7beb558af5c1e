"""The losses of the tasks here: cross-entropy over ids, of one label or of each of several."""

import keras
from keras import ops


class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of integer labels against logits, averaged over what `sample_weight` counts.

    Label smoothing spreads `label_smoothing` evenly over all classes without building one-hot rows of width V.

    Args:
        label_smoothing: share of the target probability spread over the classes, 0 <= value < 1.

    Call arguments:
        y_true: int `[..., ]`, class ids.
        y_pred: `[..., V]`, logits; the arithmetic is float32 whatever their type.
        sample_weight: `[..., ]`, 0 leaves a position out of sum and count.

    Reference: Szegedy et al. 2015, https://arxiv.org/abs/1512.00567.

    Example:

    >>> float(CrossEntropy()(np.array([[1]]), np.array([[[0.0, 0.0]]])))  # ln 2
    0.6931...
    """

    def __init__(self, label_smoothing=0.0, name="cross_entropy"):
        super().__init__(name=name, reduction="mean_with_sample_weight", dtype="float32")
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        y_pred = ops.cast(y_pred, "float32")
        labels = ops.expand_dims(ops.cast(y_true, "int32"), -1)
        log_sum = ops.logsumexp(y_pred, axis=-1)
        target = ops.squeeze(ops.take_along_axis(y_pred, labels, axis=-1), -1)
        if self.label_smoothing:
            target = (1 - self.label_smoothing) * target + self.label_smoothing * ops.mean(y_pred, axis=-1)
        return log_sum - target

    def get_config(self):
        return {"name": self.name, "label_smoothing": self.label_smoothing}


class FocalCrossEntropy(keras.losses.Loss):
    """Cross-entropy in which easy examples count less: (1 - p)^γ times it, p the true class's probability.

    Args:
        gamma: γ; 0 is cross-entropy.

    Call arguments: as for `CrossEntropy`.

    Example:

    >>> float(FocalCrossEntropy(2.0)(np.array([1]), np.array([[0.0, 0.0]])))  # 0.5^2 ln 2
    0.1732...

    Reference: Lin et al. 2017, https://arxiv.org/abs/1708.02002.
    """

    def __init__(self, gamma=2.0, name="focal_cross_entropy"):
        super().__init__(name=name, reduction="mean_with_sample_weight", dtype="float32")
        self.gamma = gamma

    def call(self, y_true, y_pred):
        labels = ops.expand_dims(ops.cast(y_true, "int32"), -1)
        log_probs = ops.log_softmax(ops.cast(y_pred, "float32"), axis=-1)
        return _focal(ops.squeeze(ops.take_along_axis(log_probs, labels, axis=-1), -1), self.gamma)

    def get_config(self):
        return {"name": self.name, "gamma": self.gamma}


class BinaryCrossEntropy(keras.losses.Loss):
    """Cross-entropy of each label's own yes or no, mean over the labels.

    Args:
        label_smoothing: share of the target probability spread over yes and no.
        gamma: above 0, easy decisions count less, as for `FocalCrossEntropy`.

    Call arguments:
        y_true: `[..., K]`, 0 or 1.
        y_pred: `[..., K]`, logits.
        sample_weight: `[...]`.

    Example:

    >>> float(BinaryCrossEntropy()(np.array([[1, 0]]), np.array([[0.0, 0.0]])))  # ln 2
    0.6931...
    """

    def __init__(self, label_smoothing=0.0, gamma=0.0, name="binary_cross_entropy"):
        super().__init__(name=name, reduction="mean_with_sample_weight", dtype="float32")
        self.label_smoothing, self.gamma = label_smoothing, gamma

    def call(self, y_true, y_pred):
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        yes = y_true * (1 - self.label_smoothing) + self.label_smoothing / 2
        focus = _focal if self.gamma else lambda log_prob, gamma: -log_prob
        loss = yes * focus(ops.log_sigmoid(y_pred), self.gamma)
        loss = loss + (1 - yes) * focus(ops.log_sigmoid(-y_pred), self.gamma)
        return ops.mean(loss, axis=-1)

    def get_config(self):
        return {"name": self.name, "label_smoothing": self.label_smoothing, "gamma": self.gamma}


def _focal(log_prob, gamma):
    return -log_prob * ops.power(1.0 - ops.exp(ops.minimum(log_prob, -1e-7)), gamma)

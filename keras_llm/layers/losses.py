"""The loss of every task here: cross-entropy over ids."""

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

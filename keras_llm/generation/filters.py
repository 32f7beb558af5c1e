"""The filters of sampling: temperature, top-k, top-p, min-p, applied in this order, after the rules of `logits.py`.

Each is a pure function over `keras.ops`. A setting is a Python number, a scalar tensor or a tensor [B] with one value a row.

Shapes: B batch, V vocabulary.
"""

import math
import numbers

from keras import ops

from keras_llm.generation.logits import FORBIDDEN, column

# So many most probable tokens are sorted first; most filters never look at the others.
FEW = 128


def apply_temperature(logits, temperature):
    """Divides logits [B, V] by the temperature: below 1 the likely becomes likelier, above 1 all become more alike.

    Example:

    >>> apply_temperature(keras.ops.array([[1.0, 2.0]]), 0.5)
    [[2.0, 4.0]]

    Reference: Ackley et al. 1985, https://doi.org/10.1016/S0364-0213(85)80012-4.
    """
    return logits / ops.maximum(column(temperature, "float32"), 1e-6)


def keep_top_k(logits, k):
    """Forbids all but the `k` most probable tokens, and tokens equal to the last of them; 0 keeps all.

    Example:

    >>> keep_top_k(keras.ops.array([[1.0, 3.0, 2.0]]), 2)
    [[-1e30, 3.0, 2.0]]

    Reference: Fan et al. 2018, https://arxiv.org/abs/1805.04833, section 5.
    """
    if isinstance(k, numbers.Number):
        size = logits.shape[-1]
        values, _ = ops.top_k(logits, int(k) if size is None else min(int(k), size))
        return ops.where(logits < values[:, -1:], FORBIDDEN, logits)
    k, size = column(k, "int32"), ops.shape(logits)[1]

    def threshold(count):
        # The number is known only at run time: sort, then look it up.
        values, _ = ops.top_k(logits, count)
        last = ops.arange(count) == ops.minimum(k, size) - 1  # [count] or [B, count]
        return ops.max(ops.where(last, values, -math.inf), axis=-1, keepdims=True, initial=-math.inf)  # k = 0: -inf

    def cut():
        few = ops.max(k, initial=0) <= FEW
        return ops.where(logits < _few_or_all(size, few, threshold, threshold), FORBIDDEN, logits)

    return ops.cond(ops.any(k > 0), cut, lambda: logits)


def keep_top_p(logits, p):
    """Forbids all but the fewest most probable tokens whose probabilities add up to `p`, and tokens equal to the last of
    them; 1.0 keeps all.

    Example:

    >>> keep_top_p(keras.ops.log([[0.2, 0.5, 0.3]]), 0.6)
    [[-1e30, -0.69, -1.20]]

    Reference: Holtzman et al. 2020 (nucleus sampling), https://arxiv.org/abs/1904.09751, section 3.1.
    """
    always = isinstance(p, numbers.Number)
    p, size = column(p, "float32"), ops.shape(logits)[1]

    def cut():
        values, _ = ops.top_k(logits, min(FEW, size) if isinstance(size, int) else size)
        total = ops.logsumexp(logits, axis=-1, keepdims=True)
        few = ops.all(ops.logical_or(ops.sum(ops.exp(values - total), axis=-1, keepdims=True) >= p, p >= 1.0))

        def threshold(values):
            probabilities = ops.exp(values - total)
            before = ops.cumsum(probabilities, axis=-1) - probabilities  # the mass of the more probable ones
            lowest = ops.min(ops.where(before < p, values, math.inf), axis=-1, keepdims=True, initial=math.inf)
            # The most probable token stays whatever p is; 1.0 keeps even what rounding would cut.
            return ops.where(p < 1.0, ops.minimum(lowest, values[:, :1]), -math.inf)

        found = _few_or_all(size, few, lambda _: threshold(values), lambda _: threshold(ops.top_k(logits, size)[0]))
        return ops.where(logits < found, FORBIDDEN, logits)

    if always:
        return cut()
    return ops.cond(ops.any(p < 1.0), cut, lambda: logits)


def keep_min_p(logits, p):
    """Forbids tokens whose probability is less than `p` times that of the most probable one; 0.0 keeps all.

    Example:

    >>> keep_min_p(keras.ops.log([[0.05, 0.6, 0.35]]), 0.5)
    [[-1e30, -0.51, -1.05]]

    Reference: Nguyen et al. 2024, https://arxiv.org/abs/2407.01082, section 3.
    """
    greatest = ops.max(logits, axis=-1, keepdims=True, initial=FORBIDDEN)  # with `initial` there may be no rows
    threshold = greatest + ops.log(ops.minimum(column(p, "float32"), 1.0))
    return ops.where(logits < threshold, FORBIDDEN, logits)


def _few_or_all(size, few, from_few, from_all):
    """`from_few(FEW)` where the most probable tokens tell enough, else `from_all(size)`: sorting all takes ten times as long."""
    if not isinstance(size, int) or size <= FEW:
        return from_all(size)
    return ops.cond(few, lambda: from_few(FEW), lambda: from_all(size))

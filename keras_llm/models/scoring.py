"""How probable a model finds each token of a text of any length.

Shapes: B batch, T tokens of a text, C context, V vocabulary.
"""

from keras import ops

from keras_llm.layers.cache import slice_update
from keras_llm.layers.losses import CrossEntropy

TOKENS_AT_ONCE = 4096  # bounds the memory of the logits


def token_log_probs(logits, labels):
    """Of the tokens labels [B, T] under logits [B, T, V]: float32 [B, T]."""
    return -CrossEntropy().call(labels, logits)


def log_probs_in_windows(model, ids, context, overlap):
    """Scores texts with a model that sees a limited context, in windows that share tokens.

    Args:
        model: called with `token_ids` [N, C]; gives logits [N, C, V].
        ids: int32 [B, T], texts with padding behind them.
        context: C, an int: the longest window.
        overlap: how many tokens each window but the first gets as context only, below C. So each token is predicted from at
            least so many, unless the text has fewer before it.

    Returns:
        float32 [B, T - 1]: log-probability of each token but the first, given those before it.
    """
    batch, total = ops.shape(ids)
    count = total - 1
    whole = count <= context  # one window holds everything
    width = ops.minimum(count, context)
    advance = ops.where(whole, width, context - overlap)
    windows = -(-count // advance)
    behind = windows * advance - count
    padded = ops.concatenate([ids, ops.zeros((batch, behind), ids.dtype)], axis=1)
    scored = ops.expand_dims(ops.arange(windows), 1) * advance  # each window's first prediction that counts
    starts = ops.maximum(scored - (width - advance), 0)
    tokens = ops.reshape(ops.take(padded, starts + ops.arange(width + 1), axis=1), (-1, width + 1))
    rows = batch * windows
    at_once = ops.minimum(max(TOKENS_AT_ONCE // context, 1), rows)

    def body(done, scores):
        first = ops.minimum(done, rows - at_once)
        some = ops.take(tokens, first + ops.arange(at_once), axis=0)
        found = token_log_probs(model({"token_ids": some[:, :-1]}, training=False), some[:, 1:])
        return done + at_once, slice_update(scores, (first, 0), found)

    _, scores = ops.while_loop(
        lambda done, _: done < rows, body, (ops.zeros_like(rows), ops.zeros((rows, width), "float32"))
    )
    places = ops.tile(scored - starts + ops.arange(advance), (batch, 1))  # of what counts, in each window
    scores = ops.take_along_axis(scores, places, axis=1)
    return ops.reshape(scores, (batch, windows * advance))[:, :count]

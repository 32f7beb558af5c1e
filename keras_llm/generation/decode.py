"""Decoding: one loop over `step(ids, state)` that knows no model.

Shapes: B batch, V vocabulary, T the greatest length.
"""

from keras import ops


def greedy(step, start_ids, state, end_id, pad_id, max_length):
    """Takes the most probable token again and again, until every row has ended or has `max_length` tokens.

    Args:
        step: function (ids int32 [B], state) -> (logits [B, V], state). The state is any nest of dicts and tuples of tensors.
        start_ids: int [B], what each row begins with; not part of the result.
        state: the state before the first step.
        end_id: the token that ends a row.
        pad_id: fills a row after its end.
        max_length: T, a Python int.

    Returns:
        ids: int32 [B, T], without `end_id`.
        log_probs: float32 [B, T], the log-probability of each token and, one place after the last, of the end; 0.0 afterwards.

    Example:

    >>> table = keras.ops.array([[0.0, 0, 0, 9], [0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0]])  # 0 -> 3 -> 2 -> 1 (the end)
    >>> ids, _ = greedy(lambda ids, state: (keras.ops.take(table, ids, axis=0), state), keras.ops.array([0]), (), 1, 0, 4)
    >>> keras.ops.convert_to_numpy(ids).tolist()
    [[3, 2, 0, 0]]
    """
    start_ids = ops.cast(start_ids, "int32")
    batch = ops.shape(start_ids)[0]
    columns = ops.arange(max_length)

    def unfinished(position, ids, ended, state, tokens, scores):
        return ops.logical_and(position < max_length, ops.logical_not(ops.all(ended)))

    def body(position, ids, ended, state, tokens, scores):
        logits, state = step(ids, state)
        ids, score = best(ops.cast(logits, "float32"))
        score = ops.where(ended, 0.0, score)
        ended = ops.logical_or(ended, ids == end_id)
        ids = ops.where(ended, pad_id, ids)
        here = columns == position
        tokens = ops.where(here, ids[:, None], tokens)
        scores = ops.where(here, score[:, None], scores)
        return position + 1, ids, ended, state, tokens, scores

    _, _, _, _, tokens, scores = ops.while_loop(
        unfinished,
        body,
        (
            ops.zeros((), "int32"),
            start_ids,
            ops.zeros((batch,), "bool"),
            state,
            ops.full((batch, max_length), pad_id, "int32"),
            ops.zeros((batch, max_length), "float32"),
        ),
    )
    return tokens, scores


def best(logits):
    """The most probable token of each row, the first one of equals: logits [B, V] -> ids int32 [B], log-probability [B]."""
    # top_k gives place and value at once; Keras' argmax takes five operations to order -0.0 and 0.0.
    values, ids = ops.top_k(logits, 1)  # [B, 1] each
    # Its distance to itself is 0, so of log-softmax only the sum is left.
    return ops.cast(ids[:, 0], "int32"), -ops.log(ops.sum(ops.exp(logits - values), axis=-1))

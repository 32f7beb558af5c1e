"""Beam search over `step(ids, state)`.

Shapes: B batch, K beams, N results a row, V vocabulary, T the greatest length. In the state, beams are rows: [B K, ...].
"""

import keras
from keras import ops

from keras_llm.generation.bounds import check, check_setting
from keras_llm.generation.logits import FORBIDDEN, Rules, ends

# Sums of log-probabilities below this hold a forbidden token or belong to no text at all.
DEAD = FORBIDDEN / 10


def beam_search(
    step,
    start_ids,
    state,
    end_id,
    pad_id,
    max_length,
    num_beams,
    length_penalty=1.0,
    num_results=1,
    rules=None,
    forced=None,
):
    """Keeps the `num_beams` most probable beginnings and finds the texts with the best score

        score = log-probability / length ^ length_penalty

    where the length counts the end. A text that has ended is frozen: it keeps its score and leaves its place to another
    beginning. A row is finished when no beginning can pass its N-th best text any more, whatever follows; until then the
    search goes on, so a row's result does not depend on the rows beside it.

    Args:
        step, start_ids, state, end_id, pad_id, max_length: as for `greedy`; the state has B rows. Tensors of rank 0 in it
            belong to all rows; the first axis of all others is the batch.
        num_beams: K, a Python int.
        length_penalty: > 0 favours long texts, < 0 short ones; 0.0 compares plain log-probabilities. Number, scalar or [B].
        num_results: N, at most K, a Python int.
        rules: `Rules`; as in Hugging Face they change the log-probabilities, which are not normalised again.
        forced: as for `greedy`.

    Returns:
        ids: int32 [B, N, T], best first, without the end, then `pad_id`.
        scores: float32 [B, N]; -1e30 where there are fewer texts than N.

    Example:

    >>> table = keras.ops.log(keras.ops.array([[0, 0, 0.6, 0.4], [1, 0, 0, 0], [0.4, 0.3, 0, 0.3], [0, 1.0, 0, 0]]))
    >>> def step(ids, state):
    ...     return keras.ops.take(table, ids, axis=0), state
    >>> ids, scores = beam_search(step, keras.ops.array([0]), (), 1, 0, 3, num_beams=2, length_penalty=0.0)
    >>> ids[0, 0], scores[0, 0]  # greedy would begin with 2; 0.4 * 1.0 is more than 0.6 * 0.3
    [3, 0, 0], -0.92

    Reference: Wu et al. 2016, https://arxiv.org/abs/1609.08144, section 7; the penalty is Hugging Face's, not theirs.
    """
    check_setting("num_beams", num_beams)
    check("num_results", num_results, 1, num_beams)
    beams, kinds = num_beams, len(end_id) if isinstance(end_id, (tuple, list)) else 1
    wide = (1 + kinds) * beams
    rules = rules or Rules()
    limit = max_length if rules.max_length is None else ops.minimum(_row(rules.max_length, "int32"), max_length)
    length_penalty = _row(length_penalty, "float32")
    beam_rules = rules.repeat(beams)
    start_ids = ops.cast(start_ids, "int32")
    batch = ops.shape(start_ids)[0]
    columns = ops.arange(max_length)
    first_row = ops.expand_dims(ops.arange(batch), 1)  # [B, 1]
    varies = {}

    turns = max_length if forced is None else max_length + forced.turns

    def place_of(turn):
        """Where a row's own token of this turn stands: scalar, or [B, 1] where some rows are forced."""
        return turn if forced is None else ops.expand_dims(forced.place(turn), 1)

    def score(sums, length):
        return sums / ops.power(ops.cast(ops.maximum(length, 1), "float32"), length_penalty)

    def can_improve(turn, sums, scores):
        position = place_of(turn)
        # A sum only falls. Long texts are favoured by a penalty above 0, and the next length by one below.
        longest = ops.where(length_penalty > 0, ops.cast(limit, "float32"), ops.cast(position + 1, "float32"))
        bound = score(sums[:, :1], longest)  # the sums are sorted
        alive = sums[:, :1] > DEAD
        return ops.logical_and(ops.logical_and(alive, bound > scores[:, -1:]), position < limit)  # [B, 1]

    def unfinished(turn, ids, sums, tokens, state, open_, found, scores):
        return ops.logical_and(turn < turns, ops.any(open_))

    def body(turn, ids, sums, tokens, state, open_, found, scores):
        logits, after = step(ops.reshape(ids, (-1,)), state)
        log_probs = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)  # [B K, V]
        flat = ops.reshape(tokens, (-1, max_length))
        position = place_of(turn)
        each = position if forced is None else ops.reshape(ops.repeat(position, beams, axis=1), (-1,))
        log_probs = beam_rules(log_probs, flat, each, end_id, pad_id)
        size = ops.shape(log_probs)[1]
        if forced is not None:
            # A certain token: the one beam that lives goes on with it, at no cost.
            is_token = ops.arange(size) == ops.expand_dims(ops.repeat(forced.token(turn), beams), 1)
            log_probs = ops.where(ops.expand_dims(each >= 0, 1), log_probs, ops.where(is_token, 0.0, FORBIDDEN))
        # A beam ends in as many ways as there are ends: of 2 K continuations, with one end, K are left to go on with.
        sums = ops.reshape(ops.reshape(sums, (-1, 1)) + log_probs, (-1, beams * size))
        sums, places = ops.top_k(sums, wide)  # [B, 2 K]
        places = ops.cast(places, "int32")
        beam, ids = places // size, places % size
        stops = ends(ids, end_id)
        if forced is not None:
            stops = ops.logical_and(stops, position >= 0)
        tokens = _pick(tokens, beam)  # [B, 2 K, T]
        here = columns == (position if forced is None else ops.expand_dims(position, 2))
        tokens = ops.where(here, ops.expand_dims(ops.where(stops, pad_id, ids), 2), tokens)

        # Texts that end here compete with those found before; where the room ends, all do.
        ends_now = ops.logical_or(stops, position + 1 >= limit)
        counts = ops.logical_and(ops.logical_and(ends_now, ops.arange(wide) < beams), sums > DEAD)
        counts = ops.logical_and(counts, open_)
        candidates = ops.where(counts, score(sums, position + 1), FORBIDDEN)
        scores, chosen = ops.top_k(ops.concatenate([scores, candidates], axis=1), num_results)
        found = _pick(ops.concatenate([found, tokens], axis=1), ops.cast(chosen, "int32"))

        sums, going = ops.top_k(ops.where(stops, FORBIDDEN, sums), beams)  # [B, K]
        going = ops.cast(going, "int32")
        ids, tokens = _choose(ids, going), _pick(tokens, going)
        rows = ops.reshape(first_row * beams + _choose(beam, going), (-1,))
        state = _reorder(state, after, rows, varies)
        open_ = ops.logical_and(open_, can_improve(turn + 1, sums, scores))
        return turn + 1, ids, sums, tokens, state, open_, found, scores

    turn = ops.zeros((), "int32")
    rows = ops.reshape(first_row + ops.zeros((1, beams), "int32"), (-1,))
    # All beams begin alike: one of them lives, or the same text would be found K times.
    sums = ops.where(ops.arange(beams) == 0, 0.0, FORBIDDEN) + ops.zeros((batch, 1))
    scores = ops.full((batch, num_results), FORBIDDEN, "float32")
    *_, found, scores = ops.while_loop(
        unfinished,
        body,
        (
            turn,
            ops.expand_dims(start_ids, 1) + ops.zeros((1, beams), "int32"),
            sums,
            ops.full((batch, beams, max_length), pad_id, "int32"),
            keras.tree.map_structure(lambda x: _take(x, rows), state),
            can_improve(turn, sums, scores),
            ops.full((batch, num_results, max_length), pad_id, "int32"),
            scores,
        ),
    )
    return found, scores


def _row(value, dtype):
    """A number or a tensor [B] as something to broadcast with [B, K]."""
    value = ops.cast(value, dtype)
    return ops.expand_dims(value, 1) if len(value.shape) else value


def _pick(x, index):
    """Entries index [B, n] of x [B, m, T]: [B, n, T]."""
    count, length = x.shape[1:]
    first = ops.expand_dims(ops.arange(ops.shape(index)[0]) * count, 1)
    return ops.take(ops.reshape(x, (-1, length)), index + first, axis=0)


def _choose(x, index):
    """Entries index [B, n] of x [B, m]: [B, n]."""
    first = ops.expand_dims(ops.arange(ops.shape(index)[0]) * x.shape[1], 1)
    return ops.take(ops.reshape(x, (-1,)), index + first)


def _take(x, rows):
    return ops.take(x, rows, axis=0) if len(x.shape) else x


def _reorder(before, after, rows, varies):
    """The state's rows in the order of the beams they belong to.

    A tensor that `step` hands back untouched, such as an encoded source, is the same for all beams of a row and needs
    no copy. `varies` remembers which were ever touched, for loops that run outside a graph.
    """
    old, new = keras.tree.flatten(before), keras.tree.flatten(after)
    for i, (x, y) in enumerate(zip(old, new, strict=True)):
        varies[i] = varies.get(i, False) or x is not y
    moved = [_take(y, rows) if varies[i] else y for i, y in enumerate(new)]
    return keras.tree.pack_sequence_as(after, moved)

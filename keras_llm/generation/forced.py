"""Prompts of unequal length in one batch: what is longer than the shortest is forced, token by token."""

from typing import Any, NamedTuple

from keras import ops


class Forced(NamedTuple):
    """Tokens that each row takes before it chooses for itself.

    A model whose cache has one place for all rows can only go on from the end of the shortest prompt. Rows with longer
    ones take the rest of theirs here; these tokens are neither in the result nor in its score, and count for no rule.

    Args:
        ids: int32 [B, F], padded at the right with anything.
        lengths: int32 [B], how many of them each row takes; 0 is none.

    Example:

    >>> forced = Forced(keras.ops.array([[7, 8], [9, 0]]), keras.ops.array([2, 1]))
    >>> forced.place(1).tolist(), forced.token(0).tolist()  # the second row has its own first token at turn 1
    ([-1, 0], [7, 9])
    """

    ids: Any
    lengths: Any

    def place(self, turn):
        """Where each row's own token of a turn stands in its text: int32 [B], below 0 while it is forced."""
        return turn - ops.cast(self.lengths, "int32")

    def token(self, turn):
        """The forced token of each row: int32 [B]; of no meaning in rows that have none left."""
        ids = ops.pad(ops.cast(self.ids, "int32"), ((0, 0), (0, 1)))
        return ops.take(ids, ops.minimum(turn, ops.shape(ids)[1] - 1), axis=1)

    @property
    def turns(self):
        """How many turns it takes until no row is forced any more."""
        return ops.max(ops.cast(self.lengths, "int32"), initial=0)

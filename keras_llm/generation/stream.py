"""Streaming in Python: ids token by token, and text piece by piece.

The turns are those of `decode`'s loop, so what is streamed is what a graph returns. Stop strings are looked for in the
decoded text: tokens and characters do not begin and end together.

Shapes: B batch.
"""

import os
from collections.abc import Callable, Iterable, Iterator

from keras import ops

from keras_llm.errors import UserError
from keras_llm.generation.decode import loop

REPLACEMENT = "\ufffd"
# All but the last byte of a character of four.
PARTIAL = 3


def stream(choose, step, start_ids, state, end_id, pad_id, max_length, rules=None):
    """Yields each token as soon as it is chosen; takes the same arguments as `decode`.

    Yields:
        NumPy int32 [B]: the next token of each row, `pad_id` in rows that have ended. Nothing more when all have.

    Example:

    >>> table = keras.ops.array([[0.0, 0, 0, 9], [0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0]])  # 0 -> 3 -> 2 -> 1 (the end)
    >>> def step(ids, state):
    ...     return keras.ops.take(table, ids, axis=0), state
    >>> [ids.tolist() for ids in stream(greedy_chooser(1, 0), step, keras.ops.array([0]), (), 1, 0, 4)]
    [[3], [2]]
    """
    variables, unfinished, body = loop(choose, step, start_ids, state, end_id, pad_id, max_length, rules)
    while ops.convert_to_numpy(unfinished(*variables)):
        variables = body(*variables)
        ids, ended = ops.convert_to_numpy(variables[1]), ops.convert_to_numpy(variables[2])
        # In the last turn there may be nothing but ends; a row stopped by a limit still has a token in it.
        if not ended.all() or (ids != pad_id).any():
            yield ids


class TextPieces:
    """Turns a growing list of ids into pieces of text that, joined, are the decoded text up to a stop string.

    A piece never ends inside a character: an unfinished one decodes to U+FFFD at the end, which is held back until the
    next ids complete it or the text is over. What may be the beginning of a stop string is held back as well.

    Args:
        decode: function list[int] -> str.
        stop: texts at which the text ends, themselves left out.

    Attributes:
        stopped: whether a stop string has come; nothing is written afterwards.

    Example:

    >>> pieces = TextPieces(lambda ids: bytes(ids).decode("utf-8", "replace"), stop=("!",))
    >>> [pieces.push(byte) for byte in "é!?".encode()], pieces.finish(), pieces.stopped
    (['', 'é', '', ''], '', True)
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Iterable[str] = ()):
        self.stop = stop_strings(stop)
        self.decode = decode
        self.stopped = False
        self._ids: list[int] = []
        self._written = ""

    def push(self, token: int) -> str:
        """What can be written after one more token; often nothing."""
        if self.stopped:
            return ""
        self._ids.append(int(token))
        text = self.decode(self._ids)
        whole = text.rstrip(REPLACEMENT)
        # More of them than one character has bytes are real.
        whole = text[: max(len(whole), len(text) - PARTIAL)]
        return self._write(whole, held_back=True)

    def finish(self) -> str:
        """The rest, when no token follows."""
        return "" if self.stopped else self._write(self.decode(self._ids), held_back=False)

    def _write(self, text, held_back):
        cut = first_stop(text, self.stop)
        begun = len(text) - _begun(text, self.stop) if held_back else len(text)
        if cut is not None and cut <= begun:
            self.stopped = True
            text = text[:cut]
        else:
            # Perhaps a stop string that begins earlier than a shorter one inside it: the next tokens tell.
            text = text[:begun]
        # A decoder may change what it wrote, e.g. a space before punctuation. That cannot be taken back: wait for more.
        if held_back and not text.startswith(self._written):
            return ""
        piece = text[len(os.path.commonprefix([text, self._written])) :]
        self._written = text
        return piece


def stream_text(ids: Iterable[int], decode: Callable[[list[int]], str], stop: Iterable[str] = ()) -> Iterator[str]:
    """Pieces of text from the ids of one row; asks for no further id after a stop string.

    Example:

    >>> list(stream_text(b"one. two. ", lambda ids: bytes(ids).decode(), stop=". t"))
    ['o', 'n', 'e']
    """
    pieces = TextPieces(decode, stop)
    for token in ids:
        piece = pieces.push(token)
        if piece:
            yield piece
        if pieces.stopped:
            return
    piece = pieces.finish()
    if piece:
        yield piece


def stop_strings(stop: str | Iterable[str]) -> tuple[str, ...]:
    """One stop string, or several, as a tuple; an empty one is refused."""
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stop:
        raise UserError("A stop string must have at least one character. Received: an empty one.")
    return stop


def first_stop(text: str, stop: Iterable[str]) -> int | None:
    """Where the first of the stop strings begins in a text; None when there is none.

    Example:

    >>> first_stop("one. two", (". ", "tw"))
    3
    """
    found = [place for place in (text.find(string) for string in stop) if place >= 0]
    return min(found, default=None)


def _begun(text, stop):
    """How many characters at the end of a text may be the beginning of a stop string."""
    longest = 0
    for string in stop:
        for count in range(min(len(string) - 1, len(text)), longest, -1):
            if text.endswith(string[:count]):
                longest = count
                break
    return longest

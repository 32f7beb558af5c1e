"""What values the settings of decoding may have. No graph, no Keras: clients check what they send."""

from __future__ import annotations

import math
import numbers
from typing import Any

from keras_llm.errors import UserError

# setting: lowest, highest, whether the lowest itself is out
BOUNDS = {
    "temperature": (0, math.inf, False),
    "top_k": (0, math.inf, False),
    "top_p": (0, 1, True),
    "min_p": (0, 1, False),
    "repetition_penalty": (0, math.inf, True),
    "no_repeat_ngram_size": (0, math.inf, False),
    "min_length": (0, math.inf, False),
    "max_length": (0, math.inf, False),
    "length_penalty": (-math.inf, math.inf, False),
    "num_beams": (1, math.inf, False),
}
DECODING = ("num_beams", "length_penalty", "no_repeat_ngram_size")  # how a run writes when it is evaluated


def check(name: str, value: Any, low: float, high: float, open_below: bool = False) -> None:
    """A Python number must lie within its bounds (NaN lies within none); a tensor cannot be looked at.

    Raises:
        UserError: it does not.
    """
    if not isinstance(value, numbers.Number):
        return
    if not (low < value if open_below else low <= value) or not value <= high:
        lowest = "a number" if low == -math.inf else f"more than {low}" if open_below else f"at least {low}"
        highest = "" if high == math.inf else f" and at most {high}"
        raise UserError(f"{name} must be {lowest}{highest}. Received: {value}.")


def check_setting(name: str, value: Any) -> None:
    """As `check`, by the name of a setting; one that has no bounds may be anything.

    Example:

    >>> check_setting("top_p", 0.9)
    """
    if name in BOUNDS:
        check(name, value, *BOUNDS[name])

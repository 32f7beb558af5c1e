"""The one exception for a user's mistake: scripts print it without a traceback and exit with code 2."""


class UserError(Exception):
    """A mistake the user can mend.

    The message has three parts: the rule, what was received, and what to do. For data it names `file:line`.

    Example:

    >>> raise UserError("--epochs must be at least 1. Received: 0. Give a positive number.")
    Traceback (most recent call last):
    ...
    keras_llm.errors.UserError: --epochs must be at least 1. Received: 0. Give a positive number.
    """

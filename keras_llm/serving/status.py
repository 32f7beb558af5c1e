"""The one exception of the servers: a canonical code and TF Serving's words, whatever protocol carries them."""


class ServingError(Exception):
    """A request that cannot be answered, or a model that cannot be loaded.

    Args:
        code: canonical name of the status, such as "INVALID_ARGUMENT" or "NOT_FOUND".
        message: what TF Serving says in this case. Bytes that are not UTF-8 are surrogate-escaped.

    Example:

    >>> str(ServingError("NOT_FOUND", "Could not find any versions of model m"))
    'NOT_FOUND: Could not find any versions of model m'
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def invalid(message: str) -> ServingError:
    """The most frequent one."""
    return ServingError("INVALID_ARGUMENT", message)

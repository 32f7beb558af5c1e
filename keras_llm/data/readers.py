"""Files -> records: the only place that knows the forms in which people keep questions and answers.

Every reader takes a list of paths and returns `(records, ReaderReport)`. `.gz` files are read directly; text must be
UTF-8 and stays as it is (no Unicode normalisation). An example that cannot be used is skipped and listed with its
place; a file that cannot be right is refused with a `UserError` naming the place.
"""

from keras_llm.data.pairs import read_pairs
from keras_llm.data.records import ReaderReport, limit
from keras_llm.data.squad import read_squad

__all__ = ["ReaderReport", "limit", "read_pairs", "read_squad"]

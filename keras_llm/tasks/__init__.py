"""Tasks: what a model is for. `TASKS` names them; importing this package does not import TensorFlow."""

from keras_llm.tasks.base import Task
from keras_llm.tasks.causal_lm import CausalLM
from keras_llm.tasks.classification import Classification
from keras_llm.tasks.closed_book import ClosedBook
from keras_llm.tasks.embedding import Embedding
from keras_llm.tasks.generation import Generation
from keras_llm.tasks.masked_lm import MaskedLM
from keras_llm.tasks.reading import Reading
from keras_llm.tasks.seq2seq import Seq2Seq
from keras_llm.tasks.span_corruption import SpanCorruption
from keras_llm.tasks.tagging import Tagging

TASKS: dict[str, type[Task]] = {
    "reading": Reading,
    "closed_book": ClosedBook,
    "causal_lm": CausalLM,
    "masked_lm": MaskedLM,
    "span_corruption": SpanCorruption,
    "seq2seq": Seq2Seq,
    "generation": Generation,
    "classification": Classification,
    "tagging": Tagging,
    "embedding": Embedding,
}


def make_task(config, tokenizer=None, vocabulary_size=None, precision=None) -> Task:
    """The task a config asks for, with a freshly initialised model."""
    return TASKS[config.kind](config, tokenizer, vocabulary_size, precision)

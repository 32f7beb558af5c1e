"""How good answers are: `reading` for the questions of reading and closed-book tasks."""

from keras_llm.metrics.reading import (
    cmrc_exact_match,
    cmrc_f1,
    evaluate_answers,
    evaluate_reading,
    exact_match,
    f1,
)

__all__ = ["cmrc_exact_match", "cmrc_f1", "evaluate_answers", "evaluate_reading", "exact_match", "f1"]

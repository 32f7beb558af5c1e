"""Word vectors: trained ones read, written, asked, measured, and put into a model's embedding."""

from keras_llm.vectors.initial import embedding_matrix
from keras_llm.vectors.word_vectors import WordVectors

__all__ = ["WordVectors", "embedding_matrix"]

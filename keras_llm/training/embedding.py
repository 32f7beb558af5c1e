"""Where a model's embedding starts: from word vectors, frozen or not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_llm.config import Config
from keras_llm.errors import UserError


def check_vectors(config: Config) -> None:
    """Refuses word vectors that cannot become the config's embedding, before anything is written.

    Raises:
        UserError: they cannot be read, or have another dimension than the model.
    """
    network = config.network
    if not network.vectors:
        return
    from keras_llm.vectors.word_vectors import dimension

    found = dimension(network.vectors)
    if found != network.embedding_dim:
        raise UserError(
            "Word vectors must have the dimension of the model's embedding. "
            f"Received: dimension {found} in {network.vectors}, embedding_dim={network.embedding_dim}. "
            f"Train with --embedding-dim {found} or other vectors."
        )


def start_embedding(task, fresh: bool, say: Callable[[str], None] = print) -> None:
    """Puts the config's word vectors into a new model's embedding and freezes it where the config says so.

    A tied head stays tied: it is the same matrix. The vectors are brought, by one factor, to the mean length that the
    model's own start has, which is what its other layers expect.

    Args:
        task: its model is changed.
        fresh: training starts; otherwise its weights come from the saved state, and nothing is read.
        say: told how many tokens have a vector.

    Raises:
        UserError: see `check_vectors` and `keras_llm.vectors.embedding_matrix`.
    """
    network = task.config.network
    if not network.vectors:
        return
    embedding = task.model.embedding
    if fresh:
        import keras

        from keras_llm.vectors import WordVectors, embedding_matrix

        check_vectors(task.config)
        own = keras.ops.convert_to_numpy(embedding.embeddings)
        scale = float(np.linalg.norm(own, axis=1).mean())
        vectors = WordVectors.load(network.vectors)
        matrix, found = embedding_matrix(task.token_names(), vectors, task.config.training.seed, scale)
        embedding.embeddings.assign(matrix)
        say(
            f"Embedding from {network.vectors}: {found.sum():,} of {len(found):,} tokens ({found.mean():.1%}) have a vector"
        )
    embedding.trainable = not network.freeze_embeddings

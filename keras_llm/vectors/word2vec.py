"""skip-gram and CBOW with negative sampling: gensim trains, we feed it and watch. Shapes: V words, D dimension, P pairs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from keras_llm.errors import UserError
from keras_llm.vectors.config import VectorsConfig
from keras_llm.vectors.sentences import Sentences

WATCHED_SENTENCES = 2_000  # at most so many sentences are watched by the loss
WATCHED_WORDS = 20_000


def train_word2vec(
    sentences: Sentences,
    vocabulary: dict[str, int],
    config: VectorsConfig,
    progress: Callable[[int], None] = lambda words: None,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, values: None,
) -> tuple[list[str], np.ndarray]:
    """Word vectors by word2vec.

    Args:
        sentences: the corpus.
        vocabulary: words with their counts; others are left out of the text.
        config: method, dim, window, epochs, learning_rate, negative, subsampling, threads, seed.
        progress: told the number of words read since it was told last, from another thread.
        on_epoch: told the epoch (from 1), the loss over watched pairs, and words a second.

    Returns:
        Words, and their vectors float32 [V, D].

    Raises:
        UserError: no two words of the vocabulary stand in one sentence.

    Reference: Mikolov et al. 2013, https://arxiv.org/abs/1310.4546.
    """
    from gensim.models.callbacks import CallbackAny2Vec
    from gensim.models.word2vec import Word2Vec

    model = Word2Vec(
        vector_size=config.dim,
        window=config.window,
        min_count=1,  # the vocabulary is counted already
        sample=config.subsampling,
        negative=config.negative,
        sg=int(config.method == "skipgram"),
        alpha=config.learning_rate,
        min_alpha=min(1e-4, config.learning_rate),
        seed=config.seed,
        workers=config.threads or os.cpu_count(),
        epochs=config.epochs,
    )
    model.build_vocab_from_freq(dict(vocabulary), corpus_count=sentences.number)
    counts = [vocabulary[word] for word in model.wv.index_to_key]
    watched = WatchedLoss(sentences, model.wv.key_to_index, counts, config)

    class Epochs(CallbackAny2Vec):
        def __init__(self):
            self.epoch = 0

        def on_epoch_begin(self, model):
            self.start = time.perf_counter()

        def on_epoch_end(self, model):
            self.epoch += 1
            speed = sentences.total / (time.perf_counter() - self.start)
            values = {"loss": watched(model.wv.vectors, model.syn1neg), "words_per_second": speed}
            on_epoch(self.epoch, values)

    model.train(
        _Reported(sentences, progress),
        total_examples=sentences.number,
        # Words outside the vocabulary are read too: the learning rate falls with what is read.
        total_words=sentences.total,
        epochs=config.epochs,
        callbacks=[Epochs()],
    )
    return list(model.wv.index_to_key), model.wv.vectors


class _Reported:
    """Sentences that tell how many words of them were read."""

    def __init__(self, sentences, progress):
        self.sentences, self.progress = sentences, progress

    def __iter__(self):
        waiting = 0
        for words in self.sentences:
            yield words
            waiting += len(words)
            if waiting >= 10_000:
                self.progress(waiting)
                waiting = 0
        self.progress(waiting)


class WatchedLoss:
    """The negative-sampling loss over the same words, contexts and wrong answers each time.

    gensim's own running loss loses updates between threads and precision in float32, so we take our own.

    Args:
        sentences: the first of them are watched.
        index: word -> row.
        counts: of the rows' words; wrong answers are drawn by count ^ 0.75.
        config: method, window, negative, seed.

    Raises:
        UserError: no two words of the vocabulary stand in one sentence.
    """

    def __init__(self, sentences: Sentences, index: dict[str, int], counts: Sequence[int], config: VectorsConfig):
        random = np.random.default_rng(config.seed)
        inputs, outputs = [], []  # a row of contexts (padded with -1) and the words they are to give
        words = 0
        for number, sentence in enumerate(sentences):
            if outputs and (number >= WATCHED_SENTENCES or words >= WATCHED_WORDS):
                break
            ids = [index[word] for word in sentence if word in index]
            for i, centre in enumerate(ids):
                around = ids[max(i - config.window, 0) : i] + ids[i + 1 : i + 1 + config.window]
                if around and config.method == "skipgram":
                    inputs.append([centre])
                    outputs.append(around[random.integers(len(around))])
                elif around:
                    inputs.append(around + [-1] * (2 * config.window - len(around)))
                    outputs.append(centre)
            words += len(ids)
        if not outputs:
            raise UserError(
                "Word vectors are trained on words that stand together. Received: no two words of the vocabulary in one "
                "line. Give longer lines or a smaller --min-count."
            )
        share = np.asarray(counts, np.float64) ** 0.75
        self.inputs = np.array(inputs, np.int64).reshape(len(outputs), -1)  # [P, 1] or [P, 2 window]
        wrong = random.choice(len(share), (len(outputs), config.negative), p=share / share.sum())
        self.outputs = np.column_stack([np.array(outputs, np.int64), wrong])  # [P, 1 + negative], the right one first

    def __call__(self, vectors: np.ndarray, output_vectors: np.ndarray) -> float:
        """Mean loss of a pair, right and wrong answers together, in nats."""
        total = 0.0
        for first in range(0, len(self.inputs), 1000):
            inputs, outputs = self.inputs[first : first + 1000], self.outputs[first : first + 1000]
            real = (inputs >= 0)[..., None]
            hidden = (vectors[inputs] * real).sum(axis=1) / real.sum(axis=1)  # [P, D]
            scores = np.einsum("pd,pnd->pn", hidden, output_vectors[outputs]).astype(np.float64)
            scores[:, 0] *= -1
            total += np.logaddexp(0, scores).sum()
        return total / len(self.inputs)

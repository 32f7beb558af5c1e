"""Guesses from counts, against counting by hand."""

import numpy as np

from keras_llm.metrics.masked import CountingGuess


def test_guesses_are_the_most_frequent_tokens():
    documents = [[5, 6, 7, 6, 7, 6], [7], [6, 8, 6, 8, 6, 7]]
    guess = CountingGuess(np.concatenate(documents), np.cumsum([0, *map(len, documents)]))
    assert guess.unigram == 6
    # No pair goes over the end of a document: 6 7 and 7 6 are not counted there.
    assert guess.bigram == {5: 6, 6: 7, 7: 6, 8: 6}


def test_accuracy_reads_the_shown_token_to_the_left():
    guess = CountingGuess(np.array([5, 6, 7, 6, 7, 6]), np.array([0, 6]))
    batch = {
        "token_ids": np.array([[2, 5, 4, 7, 4, 4, 3, 0]]),
        "mask_positions": np.array([[2, 4, 5, 0]]),
        "labels": np.array([[6, 6, 7, 0]]),
        "label_weights": np.array([[1.0, 1, 1, 0]]),
    }
    # Behind 5: 6, right. Behind 7: 6, right. Behind the mask: the most frequent, 6, wrong.
    assert guess.accuracy([batch]) == {"unigram_accuracy": 2 / 3, "bigram_accuracy": 2 / 3}
    batch["labels"][0, 1] = 7
    assert guess.accuracy([batch, batch]) == {"unigram_accuracy": 1 / 3, "bigram_accuracy": 1 / 3}


def test_random_texts_against_counting_by_hand():
    random = np.random.default_rng(0)
    documents = [random.integers(5, 12, n).tolist() for n in (30, 1, 50, 2)]
    guess = CountingGuess(np.concatenate(documents), np.cumsum([0, *map(len, documents)]))
    counts = {}
    for document in documents:
        for before, token in zip(document[:-1], document[1:], strict=True):
            counts.setdefault(before, {}).setdefault(token, 0)
            counts[before][token] += 1
    assert guess.bigram == {before: min(after, key=lambda t: (-after[t], t)) for before, after in counts.items()}

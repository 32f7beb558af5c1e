"""An n-gram model's perplexity, time, memory and size, from sentences or from a synthetic stream of words; prints JSON.

python benchmarks/ngram.py --train train.txt.gz --texts valid.txt.gz test.txt.gz --orders 1 2 3 4 5
python benchmarks/ngram.py --tokens 10000000 --orders 5

A file has one sentence a line, its words split at white space; the vocabulary is that of the training file. Synthetic words
are drawn one by one from a Zipf distribution: nearly all longer n-grams are new, which no real text is as hard as.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_llm.command_line import parse, run_script
from keras_llm.errors import UserError

UNKNOWN, START, END, FIRST_WORD = 1, 2, 3, 4
BATCH = 64
SENTENCE = 25


@dataclasses.dataclass
class Arguments:
    train: Path | None = None
    """Text to count, one sentence a line."""
    texts: tuple[Path, ...] = ()
    """Texts to score."""
    tokens: int = 0
    """In place of files: so many synthetic tokens to count, and a hundredth of that to score."""
    types: int = 50_000
    """Different synthetic words."""
    orders: tuple[int, ...] = (5,)
    """Orders to estimate; peak memory is that of all up to there."""
    min_count: int = 1
    """n-grams of order 3 and more that occur less often are dropped."""
    steps: int = 200
    """Timed decoding steps, one row at a time."""


def main():
    arguments = parse(Arguments, __doc__)
    if (arguments.train is None) == (arguments.tokens == 0):
        raise UserError("Either --train or --tokens says what is counted. Received: both or none. Give one of them.")
    from keras_llm.models.kneser_ney import kneser_ney
    from keras_llm.models.ngram import NGramModel

    size, train, texts = synthetic(arguments) if arguments.tokens else from_files(arguments)
    ids, splits = np.concatenate(train), np.cumsum([0, *map(len, train)])
    del train
    for order in arguments.orders:
        begin = time.perf_counter()
        arrays = kneser_ney(ids, splits, size, order, arguments.min_count)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        model = NGramModel(arrays)
        result = {"order": order, "min_count": arguments.min_count, "vocabulary_size": size, "train_tokens": len(ids)}
        result |= {"seconds": round(seconds, 2), "peak_bytes": peak, "ngrams": model.count_ngrams()}
        result |= {"parameters": model.count_params(), "bytes": sum(array.nbytes for array in arrays.values())}
        del arrays
        result["texts"] = {name: score(model, docs) for name, docs in texts.items()}
        result["steps_per_second"] = round(steps_per_second(model, arguments.steps))
        print(json.dumps(result), flush=True)


def from_files(arguments):
    train = sentences(arguments.train)
    words = {word: i for i, word in enumerate(sorted({word for line in train for word in line}), FIRST_WORD)}
    size = FIRST_WORD + len(words)
    texts = {path.name: encoded(sentences(path), words) for path in arguments.texts}
    return size, encoded(train, words), texts


def sentences(path):
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            return [line.split() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Texts must be readable UTF-8. Received: {path} ({error}). Mend the file.") from None


def encoded(lines, words):
    return [np.array([START, *(words.get(w, UNKNOWN) for w in line), END], "int32") for line in lines]


def synthetic(arguments):
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, arguments.types + 1)
    shares /= shares.sum()

    def draw(tokens):
        rows = random.choice(arguments.types, (math.ceil(tokens / SENTENCE), SENTENCE), p=shares).astype("int32")
        rows += FIRST_WORD
        rows[:, 0], rows[:, -1] = START, END
        return list(rows)

    return FIRST_WORD + arguments.types, draw(arguments.tokens), {"synthetic": draw(arguments.tokens / 100)}


def score(model, docs):
    """Perplexity over words and ends, and how many of them a second."""
    import tensorflow as tf

    log_probs = tf.function(model.log_probs, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    docs = sorted(docs, key=len)  # little padding
    batches = [padded(docs[i : i + BATCH]) for i in range(0, len(docs), BATCH)]
    log_probs(batches[0])
    begin = time.perf_counter()
    total = sum(float(log_probs(batch).numpy().sum(dtype="float64")) for batch in batches)
    seconds = time.perf_counter() - begin
    tokens = sum(len(doc) - 1 for doc in docs)
    return {
        "tokens": tokens,
        "perplexity": round(math.exp(-total / tokens), 2),
        "tokens_per_second": round(tokens / seconds),
    }


def padded(docs):
    ids = np.zeros((len(docs), max(map(len, docs))), "int32")
    for row, doc in zip(ids, docs, strict=True):
        row[: len(doc)] = doc
    return ids


def steps_per_second(model, steps):
    """Of greedy decoding that never ends, as one graph."""
    import tensorflow as tf

    from keras_llm.generation.decode import greedy

    @tf.function
    def write(start):
        return greedy(model.step, start, model.start(start[:, None], 0, steps), -1, 0, steps)

    start = tf.constant([START])
    write(start)
    begin = time.perf_counter()
    write(start)
    return steps / (time.perf_counter() - begin)


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "tensorflow"
    run_script(main)

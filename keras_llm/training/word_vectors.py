"""From a corpus to a run of word vectors.

```
runs/vectors/
  config.json      every setting, and that of the corpus
  vectors.bin      word2vec binary form, most frequent word first
  counts.tsv       word, tab, how often it occurred; in the same order
  metrics.json     words, sentences, time, loss of each epoch
  manifest.json    format, method, hash of vectors.bin
  logs/            TensorBoard: loss, words a second, the vectors in the projector
```
The directory appears under its name when all of it is whole; before, it is `.writing-NAME-…` beside it, where TensorBoard
already sees the logs.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from keras_llm import files
from keras_llm.config import CorpusConfig, to_json
from keras_llm.errors import UserError
from keras_llm.vectors.config import VectorsConfig, validate


@dataclasses.dataclass
class VectorsRunConfig:
    """Everything that decides what the vectors become."""

    vectors: VectorsConfig
    corpus: CorpusConfig


def train_word_vectors(
    config: VectorsConfig,
    corpus_config: CorpusConfig,
    run_dir: str | Path,
    data: Sequence[str | Path],
    say: Callable[[str], None] = print,
) -> int:
    """Trains word vectors on text and leaves a run directory that `WordVectors.load` reads.

    Args:
        config: every setting.
        corpus_config: what a document is, and which are kept; with `eval_share`, trained on the other documents.
        run_dir: must not exist.
        data: text files, see `keras_llm.data.corpus.Corpus`.
        say: receives what is told to the user.

    Returns:
        Exit code 0.

    Raises:
        UserError: see the readers; too little text; the directory exists.
    """
    validate(config)
    run_dir = Path(run_dir)
    if run_dir.exists():
        raise UserError(f"{run_dir} exists already. Give another --run or remove it.")
    from keras_llm.data.corpus import Corpus

    corpus = Corpus(data, corpus_config)
    with files.creating(run_dir) as directory:
        _train(config, corpus_config, corpus, directory, say)
    say(f"The run is in {run_dir}")
    return 0


def _train(config, corpus_config, corpus, directory, say):
    from keras_llm import __version__
    from keras_llm.training.tensorboard import TensorBoard
    from keras_llm.vectors import WordVectors
    from keras_llm.vectors.sentences import Sentences

    settings = VectorsRunConfig(config, corpus_config)
    (directory / "config.json").write_text(to_json(settings), encoding="utf-8")
    say("Config:\n" + to_json(settings).rstrip())
    start = time.perf_counter()
    with _bar(None, "reading", "document") as bar:
        sentences = Sentences.write(directory / "sentences.txt", _counted(corpus.part("train"), bar), config)
    for line in corpus.report.lines():
        say(f"  {line}")
    vocabulary = sentences.vocabulary(config.min_count)
    kept = sum(vocabulary.values())
    say(
        f"{sentences.total:,} words in {sentences.number:,} lines; {len(vocabulary):,} of {len(sentences.counts):,} different "
        f"words occur at least {config.min_count} times and make up {kept / sentences.total:.1%} of the text"
    )
    reading_seconds = time.perf_counter() - start
    history = []
    with TensorBoard(directory / "logs") as board:
        board.hyper_parameters(dataclasses.asdict(settings))

        def on_epoch(epoch, values):
            history.append({"epoch": epoch, **values})
            board.scalars({f"train/{name}": value for name, value in values.items()}, epoch)
            board.flush()

        start, cpu = time.perf_counter(), time.process_time()
        train = _glove if config.method == "glove" else _word2vec
        words, matrix = train(sentences, vocabulary, config, on_epoch)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        vectors = WordVectors(words, matrix, [vocabulary[word] for word in words])
        board.embeddings("words", vectors.matrix, vectors.words, vectors.counts)
        metrics = {
            "words": sentences.total,
            "lines": sentences.number,
            "vocabulary": len(vocabulary),
            "reading_seconds": reading_seconds,
            "training_seconds": seconds,
            "training_cpu_seconds": cpu,
            "words_per_second": sentences.total * config.epochs / seconds,
            "history": history,
        }
        board.hyper_parameters(dataclasses.asdict(settings), {"final/loss": history[-1]["loss"]}, config.epochs)
    sentences.path.unlink()
    vectors.save(directory / "vectors.bin", "binary")
    counts = "".join(f"{word}\t{count}\n" for word, count in zip(vectors.words, vectors.counts, strict=True))
    (directory / "counts.tsv").write_text(counts, encoding="utf-8", newline="\n")
    files.write_json(directory / "metrics.json", metrics)
    manifest = {
        "format": 1,
        "keras_llm": __version__,
        "kind": "word_vectors",
        "method": config.method,
        "words": len(vectors),
        "dim": vectors.dim,
        "vectors": files.sha256(directory / "vectors.bin"),
    }
    files.write_json(directory / "manifest.json", manifest)
    say(
        f"Trained {len(vectors):,} vectors in {seconds:.0f} s; loss {history[0]['loss']:.4f} → {history[-1]['loss']:.4f}"
    )


def _word2vec(sentences, vocabulary, config, on_epoch):
    from keras_llm.vectors.word2vec import train_word2vec

    with _bar(sentences.total * config.epochs, "training", "word") as bar:

        def show(epoch, values):
            bar.set_postfix_str(f"epoch {epoch}, loss {values['loss']:.4f}", refresh=False)
            on_epoch(epoch, values)

        return train_word2vec(sentences, vocabulary, config, bar.update, show)


def _glove(sentences, vocabulary, config, on_epoch):
    from keras_llm.vectors.glove import BATCHES, count_cooccurrences, train_glove

    with _bar(sum(vocabulary.values()), "counting", "word") as bar:
        cooccurrences = count_cooccurrences(sentences, vocabulary, config.window, bar.update)
    with _bar(BATCHES * config.epochs, "training", "batch") as bar:

        def show(epoch, values):
            bar.set_postfix_str(f"epoch {epoch}, loss {values['loss']:.4f}", refresh=False)
            on_epoch(epoch, values)

        return list(vocabulary), train_glove(cooccurrences, config, bar.update, show)


def _counted(documents, bar):
    for document in documents:
        yield document
        bar.update(1)


def _bar(total, name, unit):
    from tqdm import tqdm

    # A log file gets a line now and then instead of a bar that redraws itself.
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=total, desc=name, unit=unit, unit_scale=unit == "word", mininterval=interval)

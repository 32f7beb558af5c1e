"""Word vectors on small corpora: how well they agree with people, and training speed beside plain gensim's.

python benchmarks/word_vectors.py --data ../shared/data --output docs/results/word_vectors.json

English: brown, the training part of ptb and the wikitext part, in lower case, cut at white space: the same file for all.
Chinese: the CLUECorpusSmall sample, cut by jieba. Ours and gensim's skip-gram, both with their defaults and gensim's number of
threads, take turns, with another seed each round; the other settings run once. CPU times are those of all threads together.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.interleaved import environment, write
from keras_llm.config import CorpusConfig
from keras_llm.vectors.config import recommended

ENGLISH = ("brown/brown.txt.gz", "ptb/ptb.train.txt.gz", "wikitext/wikitext103_train_first_2.9MB.tokens.gz")
CHINESE = ("cluecorpussmall_sample/CLUECorpusSmall_sampled.txt.gz",)
TESTS = {
    "english": {
        "similarity": [f"wordsim_en/EN-{name}.txt" for name in ("WS-353-ALL", "SIMLEX-999", "MEN-TR-3k")],
        "analogies": ["analogies_en/questions-words.txt.gz"],
    },
    "chinese": {"similarity": ["wordsim_zh/wordsim-240.txt", "wordsim_zh/wordsim-297.txt"], "analogies": []},
}
ANSWERS_AMONG = 30_000  # most frequent words, as word2vec's own script has it
# name -> (method, what differs from its defaults)
SETTINGS = {
    "skip-gram, for little text": ("skipgram", {"epochs": 10, "window": 8, "subsampling": 1e-4}),
    "CBOW, defaults": ("cbow", {}),
    "CBOW, for little text": ("cbow", {"epochs": 10, "window": 8, "subsampling": 1e-4, "learning_rate": 0.05}),
    "GloVe, x_max 10": ("glove", {"x_max": 10.0}),
}


@dataclasses.dataclass
class Arguments:
    data: Path
    """Directory with the data sets."""
    rounds: int = 2
    """Rounds in which gensim and ours take turns."""
    output: Path | None = None
    """JSON file for the results."""


def main():
    arguments = tyro.cli(Arguments, description=__doc__)
    packages = {name: metadata.version(name) for name in ("gensim", "jieba", "numpy", "scipy")}
    result = {"environment": {**environment(), "packages": packages}, "corpora": {}}
    with tempfile.TemporaryDirectory() as directory:
        for language, sources in (("english", ENGLISH), ("chinese", CHINESE)):
            text = Path(directory) / f"{language}.txt"
            words = write_text(text, [arguments.data / source for source in sources], language)
            rows = []
            for seed in range(arguments.rounds):
                rows.append(plain_gensim(text, seed))
                finish(rows[-1], arguments.data, language)
                rows.append(ours(text, Path(directory), seed=seed, threads=rows[-1]["threads"]))
                finish(rows[-1], arguments.data, language)
            for name, (method, change) in SETTINGS.items():
                rows.append(ours(text, Path(directory), method, name, **change))
                finish(rows[-1], arguments.data, language)
            result["corpora"][language] = {"words": words, "sources": sources, "rows": rows, **ratios(rows)}
            print({name: round(value, 3) for name, value in ratios(rows).items()}, flush=True)
            write(arguments.output, result)


def write_text(path: Path, sources: list[Path], language: str) -> int:
    """The corpus, a sentence a line, spaces between words; its number of words."""
    from keras_llm.vectors.segmentation import segmenter

    cut = segmenter("jieba" if language == "chinese" else "spaces")
    total = 0
    with open(path, "w", encoding="utf-8") as file:
        for source in sources:
            with gzip.open(source, "rt", encoding="utf-8") as lines:
                for line in lines:
                    if words := cut(line.lower()):
                        file.write(" ".join(words) + "\n")
                        total += len(words)
    return total


def plain_gensim(text: Path, seed: int) -> dict:
    """Skip-gram as gensim trains it when nothing else is said."""
    from gensim.models.word2vec import LineSentence, Word2Vec

    from keras_llm.vectors import WordVectors

    start, cpu = time.perf_counter(), time.process_time()
    model = Word2Vec(sg=1, seed=seed)
    model.build_vocab(LineSentence(str(text)))
    read, read_cpu = time.perf_counter(), time.process_time()
    model.train(LineSentence(str(text)), total_examples=model.corpus_count, epochs=model.epochs)
    end, end_cpu = time.perf_counter(), time.process_time()
    words = model.corpus_total_words * model.epochs
    return {
        "name": "gensim, skip-gram, defaults",
        "seed": seed,
        "threads": model.workers,
        "vectors": WordVectors(model.wv.index_to_key, model.wv.vectors),
        **speeds(read - start, end - read, words, end_cpu - read_cpu, end_cpu - cpu),
    }


def ours(text: Path, directory: Path, method="skipgram", name="skip-gram, defaults", seed=0, **change) -> dict:
    """A whole run of ours."""
    from keras_llm.training.word_vectors import train_word_vectors
    from keras_llm.vectors import WordVectors

    config = dataclasses.replace(recommended(method), segmentation="spaces", seed=seed, **change)
    run = directory / f"run-{time.time_ns()}"
    cpu = time.process_time()
    train_word_vectors(config, CorpusConfig(document="line"), run, [text], say=lambda line: None)
    cpu = time.process_time() - cpu
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {
        "name": name,
        "seed": seed,
        "vectors": WordVectors.load(run),
        "settings": dataclasses.asdict(config),
        "loss": [epoch["loss"] for epoch in metrics["history"]],
        **speeds(
            metrics["reading_seconds"],
            metrics["training_seconds"],
            metrics["words"] * config.epochs,
            metrics["training_cpu_seconds"],
            cpu,
        ),
    }


def speeds(reading: float, training: float, words: int, training_cpu: float, cpu: float) -> dict:
    return {
        "reading_seconds": reading,
        "training_seconds": training,
        "training_cpu_seconds": training_cpu,
        "cpu_seconds": cpu,
        "words_per_second": words / training,
        "words_per_cpu_second": words / training_cpu,
    }


def finish(row: dict, data: Path, language: str) -> None:
    """Evaluates a row's vectors and prints it."""
    from keras_llm.vectors.evaluation import report

    vectors = row.pop("vectors")
    tests = {name: [data / path for path in paths] for name, paths in TESTS[language].items()}
    found = report(vectors, tests["similarity"], tests["analogies"], most_frequent=ANSWERS_AMONG)
    row["vocabulary"] = len(vectors)
    row["similarity"] = {r["file"]: {k: r[k] for k in ("spearman", "scored", "pairs")} for r in found["similarity"]}
    row["analogies"] = {r["file"]: {k: r[k] for k in ("accuracy", "scored", "questions")} for r in found["analogies"]}
    figures = [f"{r['spearman']:.3f} ({r['scored']})" for r in row["similarity"].values()]
    figures += [f"{r['accuracy']:.3f} ({r['scored']})" for r in row["analogies"].values()]
    speed = f"{row['words_per_second']:,.0f} words/s, {row['words_per_cpu_second']:,.0f} a CPU second"
    print(
        f"{row['name']} (seed {row['seed']}): {', '.join(figures)}; {row['training_seconds']:.0f} s, {speed}",
        flush=True,
    )


def ratios(rows: list[dict]) -> dict:
    """Our skip-gram's words a second to gensim's: the median over rounds of the ratio within a round."""
    pairs = [(rows[i], rows[i + 1]) for i in range(0, len(rows), 2) if rows[i]["name"].startswith("gensim")]
    return {
        f"ratio_{name}": statistics.median(own[name] / plain[name] for plain, own in pairs)
        for name in ("words_per_second", "words_per_cpu_second")
    }


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()

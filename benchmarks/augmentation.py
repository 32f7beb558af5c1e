"""What augmentation gains on a small training set: a classifier from scratch with and without each method, several seeds; JSON.

python benchmarks/augmentation.py --name sst2 --data train.tsv.gz --eval-data dev.tsv --output docs/results/augmentation.json

Each seed draws its own small training set, and as many other texts by which the best weights are chosen; all methods see the
same ones, and all trainings have the same number of steps. Accuracies are those on all of --eval-data. For substitution an
encoder is pretrained on all texts of --data, without their labels. The output gets an entry a name, beside those it has.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.interleaved import environment, write
from keras_llm.command_line import parse, run_script
from keras_llm.errors import UserError

NONE = "none"


@dataclasses.dataclass
class Arguments:
    name: str
    """The entry in the output."""
    data: tuple[Path, ...]
    """Labelled texts."""
    eval_data: tuple[Path, ...]
    """Labelled texts that the accuracies are told of."""
    methods: tuple[str, ...] = ("deletion", "swap", "substitution")
    """What is compared with no augmentation; back_translation is one more where --forward and --back are given."""
    forward: Path | None = None
    """A run that translates the texts into another language."""
    back: Path | None = None
    """A run that translates from there."""
    texts: int = 500
    """Size of the training set."""
    copies: int = 4
    """Made of each text."""
    share: float = 0.1
    """Of the words that change."""
    seeds: int = 3
    """Trainings a method."""
    context_length: int = 64
    """Tokens that are read of a text, by the classifiers and the encoder."""
    steps: int = 400
    """Updates of each training."""
    pretraining_steps: int = 2000
    """Updates of the encoder that substitutes."""
    output: Path | None = None
    """JSON file."""


def main():
    arguments = parse(Arguments, __doc__)
    if arguments.seeds < 2:
        raise UserError(f"seeds must be at least 2, to tell a deviation. Received: {arguments.seeds}.")
    from keras_llm.config import Config
    from keras_llm.data.labelled import read_labelled

    records, judged = (read_labelled(paths, Config())[0] for paths in (arguments.data, arguments.eval_data))
    methods = arguments.methods + (("back_translation",) if arguments.forward or arguments.back else ())
    accuracies = {method: [] for method in (NONE, *methods)}
    facts = {"settings": {k: v for k, v in vars(arguments).items() if isinstance(v, int | float)}, "added": {}}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        models = {"back_translation": {"forward": arguments.forward, "back": arguments.back}}
        if "substitution" in methods:
            facts["masked_lm"] = pretrain(folder, records, arguments)
            models["substitution"] = {"model": folder / "encoder", "share": arguments.share}
        for seed in range(arguments.seeds):
            small = sample(folder / str(seed), records, arguments.texts, seed)
            for method in accuracies:
                found, added = train(folder / str(seed), method, small, judged, arguments, models.get(method), seed)
                accuracies[method].append(found)
                facts["added"].setdefault(method, []).append(added)
                print(f"{arguments.name} seed {seed} {method:14} {found:.4f}, {added:,} texts added", flush=True)
    result = {**facts, "seconds": round(time.perf_counter() - began), "accuracy": {}}
    for method, values in accuracies.items():
        gains = [value - without for value, without in zip(values, accuracies[NONE], strict=True)]
        result["accuracy"][method] = {
            "each": values,
            **{"mean": statistics.fmean(values), "deviation": statistics.stdev(values)},
            **{"gain": statistics.fmean(gains), "gain_deviation": statistics.stdev(gains)},
        }
        print(f"{method:14} {statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}")
    others = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.exists() else {}
    write(arguments.output, {**others, "environment": environment(), arguments.name: result})


def pretrain(folder: Path, records: list[dict], arguments: Arguments) -> dict:
    """Leaves a masked language model in `folder/encoder`."""
    from keras_llm.presets import make_config
    from keras_llm.training.pretrain import pretrain_run
    from keras_llm.validation import validate

    corpus = folder / "corpus.txt"
    corpus.write_text("".join(" ".join(r["text"].split()) + "\n" for r in records), encoding="utf-8")
    config = make_config("masked_lm", "transformer", "tiny")
    config.corpus.document, config.corpus.eval_share = "line", 0.02
    config.text.vocabulary_size, config.text.unicode_policy = 6000, "lowercase"
    config.network.context_length, config.masking.next_sentence = arguments.context_length, False
    config.training.steps = config.training.evaluate_steps = arguments.pretraining_steps
    if code := pretrain_run(validate(config), folder / "encoder", [corpus], say=lambda line: None):
        sys.exit(code)
    metrics = json.loads((folder / "encoder" / "metrics.json").read_text())
    return {name: metrics["evaluation"][name] for name in ("mlm_loss", "mlm_accuracy")} | {
        "seconds": round(metrics["training_seconds"], 1)
    }


def sample(folder: Path, records: list[dict], count: int, seed: int) -> dict[str, Path]:
    """Two files of texts that are drawn: to learn from, and to choose weights by."""
    import numpy as np

    from keras_llm.config import FieldConfig
    from keras_llm.data.labelled_writing import write_labelled

    drawn = np.random.default_rng(seed).permutation(len(records))
    files = {"train": folder / "train.jsonl", "choose": folder / "choose.jsonl"}
    for place, path in enumerate(files.values()):
        write_labelled(path, [records[i] for i in drawn[place * count : (place + 1) * count]], FieldConfig())
    return files


def train(folder, method, small, judged, arguments, models, seed) -> tuple[float, int]:
    """Accuracy of a classifier on the judged records, and how many texts were added to its training set."""
    import keras_llm
    from keras_llm.augmentation import augment_files
    from keras_llm.presets import make_config
    from keras_llm.training.train import train_run
    from keras_llm.validation import validate

    data, added = [small["train"]], 0
    if method != NONE:
        data.append(folder / f"{method}.jsonl")
        changes = {"copies": arguments.copies, "seed": seed, **(models or {"share": arguments.share})}
        added = augment_files(data[:1], data[1], method, say=lambda line: None, **changes)
    config = make_config("classification", "lstm", "tiny")
    training = config.training
    training.seed, training.steps, training.evaluate_steps = seed, arguments.steps, max(arguments.steps // 8, 1)
    config.network.context_length = arguments.context_length
    run = folder / method
    if code := train_run(validate(config), run, data, [small["choose"]], say=lambda line: None):
        sys.exit(code)
    return keras_llm.load(run).evaluate(judged)["accuracy"], added


if __name__ == "__main__":
    run_script(main)

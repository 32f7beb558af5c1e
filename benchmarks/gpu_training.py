"""Training speed and loss in float32 and both half precisions, from prepared arrays, without TensorFlow.

KERAS_BACKEND=jax python benchmarks/gpu_training.py runs/reader --seconds 60 --output gpu.json

The run directory (made by scripts/train_qa.py on any machine) gives the config and the prepared arrays; its weights are not
used. Each precision trains the same batches from the same initial weights for the same time.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("KERAS_BACKEND", "jax")

from keras_llm.command_line import parse, run_script
from keras_llm.errors import UserError

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass
class Arguments:
    run: tyro.conf.Positional[Path]
    """A run directory with prepared arrays."""
    seconds: float = 60.0
    """Training time of each precision, compilation included."""
    output: Path | None = None
    """JSON file for the results."""


class Recorder:
    """Keeps what the trainer logs."""

    def __init__(self):
        self.logs = []

    def on_log(self, step, values):
        self.logs.append({"step": step, **values})


def main():
    arguments = parse(Arguments, __doc__)
    import keras

    from keras_llm import files
    from keras_llm.data.prepared import Prepared
    from keras_llm.run import Run

    run = Run(arguments.run)
    prepared = Prepared.open(run.prepared)
    results = {"device": device(), "backend": keras.config.backend(), "tensorflow_loaded": False, "precisions": {}}
    for precision in PRECISIONS:
        results["precisions"][precision] = measure(run, prepared, precision, arguments.seconds)
    results["tensorflow_loaded"] = "tensorflow" in sys.modules
    print(f"\n{results['device']}, Keras on {results['backend']}, TensorFlow loaded: {results['tensorflow_loaded']}")
    print(f"{'precision':<16} {'tokens/s':>10} {'ratio':>6} {'steps':>6} {'loss there':>11}")
    base = results["precisions"]["float32"]["tokens_per_second"]
    common = min(values["logs"][-1]["step"] for values in results["precisions"].values())
    for precision, values in results["precisions"].items():
        loss = next(log["loss"] for log in values["logs"] if log["step"] >= common)
        speed = values["tokens_per_second"]
        print(f"{precision:<16} {speed:>10,.0f} {speed / base:>6.2f} {values['steps']:>6} {loss:>11.4f}")
    print(f"(loss at step {common}, the last that all three reached)")
    if arguments.output:
        files.write_json(arguments.output, results)


def measure(run, prepared, precision, seconds):
    import keras

    from keras_llm.tasks import make_task
    from keras_llm.training.trainer import LOG_EVERY_STEPS, Trainer

    config = dataclasses.replace(
        run.config, training=dataclasses.replace(run.config.training, precision=precision, epochs=10_000)
    )
    keras.utils.set_random_seed(config.training.seed)
    task = make_task(config, vocabulary_size=run.manifest["vocabulary_size"])
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(task, prepared, Path(directory) / "state.npz", time_budget=seconds, save_seconds=1e9)
        trainer.observers.append(recorder)
        progress = trainer.train()
    if not recorder.logs:
        raise UserError(
            f"At least one log of {LOG_EVERY_STEPS} steps is needed. Received: {progress.step} steps in {seconds:g} "
            "seconds. Give more --seconds."
        )
    # The first half holds the compilation of every batch shape.
    later = recorder.logs[len(recorder.logs) // 2 :]
    return {
        "tokens_per_second": statistics.median(log["tokens_per_second"] for log in later),
        "steps": progress.step,
        "logs": recorder.logs,
    }


def device():
    import keras

    if keras.config.backend() == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    return "CPU"


if __name__ == "__main__":
    run_script(main)

"""What TensorBoard shows of a training: curves, sampled answers, attention, embeddings, hyper-parameters."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_llm.training.pictures import attention_image
from keras_llm.training.tensorboard import TensorBoard

SAMPLES = 8
LONGEST_PICTURE = 48  # tokens a side of the attention picture


class TensorBoardObserver:
    """Writes a training's course for `tensorboard --logdir`.

    Args:
        directory: for the event files.
        task: the task in training.
        records: examples of which a few are asked and drawn after each evaluation.
        step: where training begins; what an earlier sitting wrote from there on is not shown.
    """

    def __init__(self, directory: str | Path, task, records: Sequence[dict], step: int = 0):
        self.task = task
        self.board = TensorBoard(directory, purge_step=step or None)
        self.settings = {
            f"{section}.{name}" if section else name: value
            for section, values in _sections(task.config)
            for name, value in values.items()
        }
        self.board.hyper_parameters(self.settings)
        self.samples = [records[i] for i in np.linspace(0, len(records) - 1, min(SAMPLES, len(records))).astype(int)]

    def on_log(self, step: int, values: dict[str, float]) -> None:
        self.board.scalars({f"train/{name}": value for name, value in values.items()}, step)
        self.board.flush()  # what a kill takes away must not be older than the saved state

    def on_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        self.board.scalars({f"evaluation/{name}": value for name, value in metrics.items()}, step)
        # Asking and drawing need the tokenizer; training from prepared arrays alone has none.
        if self.task.tokenizer is not None:
            self.board.table("answers", *self.task.answers_table(self.samples), step)
            if hasattr(self.task.model, "attention"):
                self.board.image("attention", self._attention(), step)
        self.board.flush()

    def charts(self, charts: dict[str, bytes], step: int) -> None:
        """PNG files by name, drawn at the end."""
        for name, picture in charts.items():
            self.board.image(name, np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")), step)

    def finish(self, metrics: dict) -> None:
        """The last things: hyper-parameters with the final metrics, the embedding for the projector."""
        final = {f"final/{name}": value for name, value in metrics.get("evaluation", metrics.get("train", {})).items()}
        self.board.hyper_parameters(self.settings, final)
        if self.task.tokenizer is not None and hasattr(self.task.model, "embedding"):
            table = keras.ops.convert_to_numpy(self.task.model.embedding.embeddings)
            self.board.embeddings("tokens", table, self.task.token_names())
        self.close()

    def close(self) -> None:
        self.board.close()

    @cached_property
    def _drawn(self):
        return self.task.drawn_inputs(self.samples)  # once: preparing traces a graph

    def _attention(self):
        x = self._drawn
        found = self.task.model.attention(x)
        pieces = self.task.token_names()
        rows, columns = ([pieces[i] for i in x[axis][0][:LONGEST_PICTURE]] for axis in found["axes"])
        weights = found["weights"][:LONGEST_PICTURE, :LONGEST_PICTURE]
        return attention_image(weights, rows, columns, *found["axes"])


def _sections(config):
    values = dataclasses.asdict(config)
    yield "", {name: value for name, value in values.items() if not isinstance(value, dict)}
    yield from ((name, value) for name, value in values.items() if isinstance(value, dict))

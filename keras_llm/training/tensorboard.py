"""What TensorBoard shows of a run, written without TensorFlow, so that a machine with JAX alone can train.

The file format and the messages are `tensorboard`'s own; only its file writer is not used, because that one opens files
through TensorFlow wherever TensorFlow is installed.
"""

import contextlib
import io
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.projector import ProjectorConfig
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from keras_llm.errors import UserError
from keras_llm.training.pictures import attention_image, visible

__all__ = ["TensorBoard", "attention_image", "escape", "markdown_table"]

PROJECTOR_ROWS = 10_000  # more points than this and the projector in the browser no longer turns smoothly
FLUSH_SECONDS = 10.0


class TensorBoard:
    """Writes the events of one run; `tensorboard --logdir` on the directory or any parent shows them.

    Events reach the disk every 10 seconds and with `flush`; call that before a checkpoint counts as saved, so that a
    resumed run misses none. Each object writes a file of its own: a file cut off by a crash is never touched again.

    Args:
        directory: where the event files go; made if it is missing.
        purge_step: on resuming, the first step written again. What an earlier sitting wrote for it and for later steps
            vanishes from the page, so that replayed steps do not show twice.

    Raises:
        UserError: the directory cannot be written.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory, TensorBoard(directory) as board:
    ...     board.hyper_parameters({"model": {"width": 128}})
    ...     board.scalars({"train/loss": 2.5, "train/learning_rate": 1e-3}, step=1)
    """

    def __init__(self, directory: str | os.PathLike, purge_step: int | None = None):
        self.directory = Path(directory)
        now = time.time_ns()
        # TensorBoard reads the files of a run in the order of their names.
        name = f"events.out.tfevents.{now // 10**9:010d}.{now % 10**9:09d}.{os.getpid()}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file = open(self.directory / name, "xb")
        except OSError as error:
            raise UserError(
                f"The TensorBoard directory must be writable. Received: {self.directory} ({error.strerror}). "
                "Choose another run directory."
            ) from error
        self._records = RecordWriter(self._file)
        self._flushed = time.monotonic()
        self._write(Event(file_version="brain.Event:2"))
        # In the first sitting too: TensorBoard only takes a second START for a restart.
        self._write(Event(step=purge_step or 0, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def scalar(self, name: str, value: float, step: int) -> None:
        """Adds a point to a curve. Names are grouped by what stands before a "/"."""
        self._write(Event(step=step, summary=scalar_pb(name, value)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each of several curves: `{name: value}`."""
        for name, value in values.items():
            self.scalar(name, value, step)

    def text(self, name: str, markdown: str, step: int) -> None:
        """Adds a text in Markdown; `escape` what is to be shown literally."""
        self._write(Event(step=step, summary=text_pb(name, markdown)))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        """Adds a table as text, for instance questions with predicted and true answers. Cells are shown literally."""
        self.text(name, markdown_table(columns, rows), step)

    def image(self, name: str, image: np.ndarray | bytes, step: int) -> None:
        """Adds a picture, for instance an `attention_image`.

        Args:
            name: name of the series of pictures.
            image: RGB uint8 [height, width, 3], or the bytes of a PNG file.
            step: training step.

        Raises:
            ValueError: an array of another shape or type.
        """
        if isinstance(image, bytes):
            png, (width, height) = image, Image.open(io.BytesIO(image)).size
        else:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"An image must be uint8 [height, width, 3]. Received: {image.dtype} {image.shape}.")
            height, width = image.shape[:2]
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            png = file.getvalue()
        value = Summary.Value(
            tag=name,
            metadata=image_metadata.create_summary_metadata(display_name=None, description=None),
            tensor=make_tensor_proto([str(width).encode(), str(height).encode(), png], dtype=np.object_),
        )
        self._write(Event(step=step, summary=Summary(value=[value])))

    def hyper_parameters(self, settings: Mapping, metrics: Mapping[str, float] | None = None, step: int = 0) -> None:
        """Makes the run a row of the HPARAMS tab. Call it when training begins and, with the metrics, when it is done.

        Args:
            settings: the configuration. Nested mappings become dotted names; what is neither a finite number, a bool
                nor a string is shown as text. TensorBoard keeps the first settings that a run tells.
            metrics: final metrics, also written as scalars of these names. With them the run counts as finished.
            step: training step of the metrics.
        """
        self._write(Event(summary=hparams_pb(_flat(settings), trial_id=str(self.directory))))
        if metrics is None:
            return
        self.scalars(metrics, step)
        end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        value = Summary.Value(
            tag=hparams_metadata.SESSION_END_INFO_TAG,
            metadata=hparams_metadata.create_summary_metadata(HParamsPluginData(session_end_info=end)),
            tensor=hparams_metadata.NULL_TENSOR,
        )
        self._write(Event(step=step, summary=Summary(value=[value])))

    def embeddings(
        self, name: str, embeddings: np.ndarray, labels: Sequence[str], frequencies: Sequence[float] | None = None
    ) -> None:
        """Shows embeddings in the projector, replacing those of the same name.

        Args:
            name: name of the embeddings.
            embeddings: [V, D] finite numbers, one row a token.
            labels: V tokens; characters that do not print are shown escaped.
            frequencies: V counts. The 10,000 most frequent tokens are shown; without counts, the first 10,000.

        Raises:
            ValueError: embeddings, labels and frequencies do not belong together.
        """
        embeddings = np.asarray(embeddings, dtype=np.float32)
        order = np.arange(len(labels)) if frequencies is None else np.argsort(-np.asarray(frequencies), kind="stable")
        if embeddings.ndim != 2 or not len(embeddings) == len(labels) == len(order) > 0:
            raise ValueError(
                "Embeddings must be [V, D] with V labels and frequencies. "
                f"Received: {embeddings.shape}, {len(labels)} labels, {len(order)} frequencies."
            )
        shown = order[:PROJECTOR_ROWS]
        vectors = embeddings[shown]
        # TensorBoard takes a file for text until it meets a line that is not UTF-8. So the first byte is made one that
        # never is; it holds the lowest bits of the first number, which changes in its fifth digit at most.
        vectors.view(np.uint8)[0, 0] = 0xFF

        file = re.sub(r"[^\w.-]+", "_", name)
        config_path = self.directory / "projector_config.pbtxt"
        config = ProjectorConfig()
        if config_path.exists():
            text_format.Parse(config_path.read_text(encoding="utf-8"), config)
        others = [embedding for embedding in config.embeddings if embedding.tensor_name != name]
        config = ProjectorConfig(embeddings=others)
        config.embeddings.add(
            tensor_name=name,
            tensor_path=f"{file}.bytes",
            tensor_shape=vectors.shape,
            metadata_path=f"{file}.tsv",
        )
        _replace(self.directory / f"{file}.bytes", vectors.tobytes())
        _replace(self.directory / f"{file}.tsv", "".join(f"{visible(labels[i])}\n" for i in shown).encode())
        _replace(config_path, text_format.MessageToString(config).encode())

    def flush(self) -> None:
        """Hands everything written so far to the operating system."""
        with self._writing():
            self._records.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the file; nothing can be written afterwards."""
        with self._writing():
            self._records.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.directory} could not be written ({error.strerror or error}). "
                "The training's saved state is not lost. Free some space and resume."
            ) from error

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with self._writing():
            self._records.write(event.SerializeToString())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose cells show any text literally.

    Args:
        columns: headings.
        rows: one sequence of cells a row; cells are turned into text.

    Example:

    >>> print(markdown_table(["question", "answer"], [["谁？", "a|b"]]))
    | question | answer |
    | --- | --- |
    | 谁？ | a&#124;b |
    """
    lines = [map(escape, columns), ["---"] * len(columns), *(map(escape, map(str, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def escape(text: str) -> str:
    """Text as Markdown that shows it literally: marks become character references, line ends line breaks."""
    escaped = re.sub(r"[!-/:-@\[-`{-~]", lambda mark: f"&#{ord(mark[0])};", text)
    return "<br>".join(escaped.splitlines())


def _flat(values: Mapping, prefix: str = "") -> dict[str, bool | int | float | str]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            flat[prefix + name] = value
        else:
            flat[prefix + name] = str(value)
    return flat


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    beside.write_bytes(content)
    os.replace(beside, path)

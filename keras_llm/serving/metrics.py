"""Counters and histograms of this process by TF Serving's names, and the page Prometheus reads.

Source: tensorflow/serving, `util/prometheus_exporter.cc`, `servables/tensorflow/util.cc`, `batching/batching_session.cc`.
"""

from __future__ import annotations

import bisect
import threading

PATH = "/monitoring/prometheus/metrics"
ALL: dict[str, Counter] = {}
"""Every metric, by TF Serving's name."""


class Counter:
    """A number for each combination of label values, which only grows.

    Args:
        name: TF Serving's, below "/tensorflow/serving/".
        labels: names of the labels.

    Example:

    >>> REQUEST_COUNT.add(1, "reader", "OK")
    """

    kind = "counter"

    def __init__(self, name: str, *labels: str):
        self.path = f"/tensorflow/serving/{name}"
        self._labels = labels
        self._cells: dict[tuple[str, ...], list] = {}
        self._lock = threading.Lock()
        ALL[self.path] = self

    def add(self, value: float, *labels: str) -> None:
        """Thread-safe."""
        with self._lock:
            self._add(self._cells.setdefault(labels, self._empty()), value)

    def first(self) -> int:
        """Of the first combination, as TF Serving tells it to a client that reloads the configuration."""
        with self._lock:
            return next((cell[0] for cell in self._cells.values()), 0)

    def lines(self) -> list[str]:
        """The text form."""
        name = self.path.replace("/", ":")
        with self._lock:
            cells = {labels: list(cell) for labels, cell in self._cells.items()}
        lines = [f"# TYPE {name} {self.kind}"]
        for labels, cell in cells.items():
            pairs = [f'{key}="{_escaped(value)}"' for key, value in zip(self._labels, labels, strict=True)]
            lines += self._cell_lines(name, pairs, cell)
        return lines

    def _empty(self) -> list:
        return [0]

    def _add(self, cell: list, value: float) -> None:
        cell[0] += value

    def _cell_lines(self, name: str, pairs: list[str], cell: list) -> list[str]:
        return [f"{name}{{{','.join(pairs)}}} {cell[0]}"]


class Histogram(Counter):
    """How values are distributed over buckets that grow by a factor.

    Args:
        name, labels: as for a counter.
        first, factor, count: upper limit of the first bucket, of each next one, and how many there are before +Inf.
    """

    kind = "histogram"

    def __init__(self, name: str, *labels: str, first: float, factor: float, count: int):
        self._limits = [first * factor**i for i in range(count)]
        super().__init__(name, *labels)

    def _empty(self) -> list:
        return [0.0] + [0] * (len(self._limits) + 1)  # the sum, then the buckets

    def _add(self, cell: list, value: float) -> None:
        cell[0] += value
        cell[1 + bisect.bisect_right(self._limits, value)] += 1

    def first(self) -> int:
        return 0

    def _cell_lines(self, name: str, pairs: list[str], cell: list) -> list[str]:
        lines, total = [], 0
        for limit, count in zip([*self._limits, None], cell[1:], strict=True):
            total += count
            le = "+Inf" if limit is None else f"{limit:.6g}"
            labels = ",".join([*pairs, f'le="{le}"'])
            lines.append(f"{name}_bucket{{{labels}}} {total}")
        labels = ",".join(pairs)
        return [*lines, f"{name}_sum{{{labels}}} {cell[0]:.6g}", f"{name}_count{{{labels}}} {total}"]


_LATENCY = {"first": 10, "factor": 1.8, "count": 33}  # microseconds, up to about 20 minutes
_SIZE = {"first": 1, "factor": 2, "count": 14}

REQUEST_COUNT = Counter("request_count", "model_name", "status")
REQUEST_LATENCY = Histogram("request_latency", "model_name", "API", "entrypoint", **_LATENCY)
RUNTIME_LATENCY = Histogram("runtime_latency", "model_name", "API", "runtime", **_LATENCY)
REQUEST_EXAMPLE_COUNTS = Histogram("request_example_counts", "model", first=1, factor=2, count=15)
REQUEST_EXAMPLE_COUNT_TOTAL = Counter("request_example_count_total", "model")
MODEL_WARMUP_LATENCY = Histogram("model_warmup_latency", "model_path", "status", **_LATENCY)
MODEL_WARMUP_RECORDS_READ = Counter("model_warmup_records_read", "model_path", "status")
QUEUING_LATENCY = Histogram("batching_session/queuing_latency", "thread_pool_name", first=100, factor=1.2, count=52)
WRAPPED_RUN_COUNT = Counter("batching_session/wrapped_run_count")
INPUT_BATCH_SIZE = Histogram("batching_session/input_batch_size", **_SIZE)
PROCESSED_BATCH_SIZE = Histogram("batching_session/processed_batch_size", **_SIZE)
PADDING_SIZE = Histogram("batching_session/padding_size", "execution_batch_size", **_SIZE)


def page() -> bytes:
    """All metrics as text, as Prometheus reads them."""
    lines = [line for _, metric in sorted(ALL.items()) for line in metric.lines()]
    return "\n".join([*lines, ""]).encode("utf-8", "replace")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

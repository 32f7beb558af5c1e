"""Fair timing on a shared machine: every engine in its own process, rounds in turn, ratios within a round.

A script's arguments are a subclass of `Arguments`, and it hands what it compares to `compare`, which also answers `--worker`
in the processes that it starts. Peak memory is that of the worker's process.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

MEGABYTE = 1 << 20


@dataclasses.dataclass
class Arguments:
    """What all speed comparisons understand."""

    precisions: tuple[str, ...] = ("float32", "bfloat16")
    """Which of float32, bfloat16."""
    rounds: int = 7
    """Rounds in which each engine has its turn."""
    steps: int = 5
    """Timed calls a turn."""
    quick: bool = False
    """Three rounds of one call: a look, not a result."""
    output: Path | None = None
    """JSON file for the raw times."""
    worker: str | None = None
    """For the script's own use."""


def compare(
    script: str, arguments: Arguments, engines: dict[str, Callable], settings: list[dict], shapes: list[dict]
) -> None:
    """Measures every engine at every setting, prints a table and writes the raw times.

    Args:
        script: the file that calls this; its workers are started by it.
        engines: name -> function of a setting and its shape that returns what `serve` needs. The first is the one compared.
        settings: what the table's rows say, one dict of the same keys a comparison.
        shapes: for each setting, by its place: sizes handed to the engine, among them "tokens", those of one call.
    """
    if arguments.worker:
        asked = json.loads(arguments.worker)
        serve(lambda: engines[asked["engine"]](asked))
        return
    rounds, steps = (3, 1) if arguments.quick else (arguments.rounds, arguments.steps)
    result = {"environment": environment(), "shapes": shapes, "results": []}
    columns = "".join(f"{name:11}" for name in settings[0])
    print(f"{columns}{'engine':11}{'tokens/s':>10}{'ratio':>7}{'peak MB':>9}{'weights':>12}")
    for setting, shape in zip(settings, shapes, strict=True):
        candidates = {engine: {"engine": engine, **shape, **setting} for engine in engines}
        for engine, values in measure(script, candidates, rounds, steps).items():
            speed = shape["tokens"] / values["median_seconds"]
            result["results"].append({**setting, "engine": engine, "tokens_per_second": speed, **values})
            print(
                f"{''.join(f'{value!s:11}' for value in setting.values())}{engine:11}{speed:10,.0f}{values['ratio']:7.2f}"
                f"{values['peak_megabytes']:9,.0f}{values['weights']:12,}",
                flush=True,
            )
    write(arguments.output, result)


def serve(build: Callable[[], tuple[Callable[[], object], dict]]) -> None:
    """The worker's side: builds, warms up, then runs one round of `run` calls for each line on standard input."""
    base = _peak_bytes()
    run, facts = build()
    start = time.perf_counter()
    run()
    run()
    warm_up = time.perf_counter() - start
    _say({**facts, "warm_up_seconds": warm_up, "start_megabytes": base / MEGABYTE})
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        _say({"seconds": times, "peak_megabytes": _peak_bytes() / MEGABYTE})


def measure(script: str, candidates: dict[str, dict], rounds: int, steps: int) -> dict[str, dict]:
    """The caller's side: {name: what `--worker` gets} -> {name: facts, seconds of every step by round, peak memory}.

    The first candidate is the one compared: each other's `ratio` is the median over rounds of its time to the first's, above
    1.0 where the first is faster.
    """
    workers, results = {}, {}
    try:
        for name, argument in candidates.items():
            # One builds at a time: the others would slow it and be slowed.
            workers[name] = worker = _Worker(script, argument)
            results[name] = {**worker.read(), "rounds": []}
        for _ in range(rounds):
            for name, worker in workers.items():
                answer = worker.ask(steps)
                results[name]["rounds"].append(answer["seconds"])
                results[name]["peak_megabytes"] = answer["peak_megabytes"]
    finally:
        for worker in workers.values():
            worker.close()
    first = [statistics.median(times) for times in next(iter(results.values()))["rounds"]]
    for result in results.values():
        medians = [statistics.median(times) for times in result["rounds"]]
        result["median_seconds"] = statistics.median(medians)
        result["ratio"] = statistics.median(own / ours for own, ours in zip(medians, first, strict=True))
    return results


class _Worker:
    def __init__(self, script, argument):
        self.errors = tempfile.TemporaryFile("w+")
        command = [sys.executable, script, "--worker", json.dumps(argument)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def ask(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self.read()

    def read(self):
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries print too
                return json.loads(line)
        self.errors.seek(0)
        raise SystemExit(f"A worker ended: {self.process.args[-1]}\n{self.errors.read()[-3000:]}")

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def environment() -> dict:
    """Where and with what the figures were taken."""
    packages = ("tensorflow", "keras", "keras-hub", "torch", "numpy")
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "processor": model,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "packages": {name: metadata.version(name) for name in packages},
    }


def write(path: Path | None, result: dict) -> None:
    """JSON, written beside and renamed."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".partial")
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
        print(f"Raw results: {path}")


def _peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _say(answer):
    print(json.dumps(answer), flush=True)

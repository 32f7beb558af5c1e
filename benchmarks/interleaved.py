"""Fair timing on a shared machine: every candidate in its own process, rounds in turn, ratios within a round.

A script that uses this offers `--worker JSON`; it then calls `serve(build)`. Peak memory is that of the worker's process.
"""

from __future__ import annotations

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

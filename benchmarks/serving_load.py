"""Load on scripts/serve.py: throughput and latency by both protocols, with and without batching, beside the SavedModel itself.

python benchmarks/serving_load.py exported --model reader --output docs/results/serving_load.json
python benchmarks/serving_load.py exported --model reader --seconds 3 --memory-requests 500

Clients, server and the direct runs are processes of their own. Requests of one row are the model's warm-up requests. "direct"
calls the SavedModel's signature in batches as large as the server's were on average, on as many threads as it computes batches;
"ratio" is the throughput of the server to that. For memory each request has a new word; growth is from a tenth of them on.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import interleaved
from keras_llm.command_line import parse, run_script
from keras_llm.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
METRICS = "/monitoring/prometheus/metrics"
COLUMNS = ("clients", "batch", "req/s", "p50 ms", "p95", "p99", "refused", "wrong", "direct", "ratio")


@dataclasses.dataclass
class Arguments:
    exported: tyro.conf.Positional[Path]
    """Directory with NAME/VERSION/saved_model.pb below it."""
    model: str = "reader"
    """Name of the model that is asked."""
    seconds: float = 60.0
    """Of load for each setting."""
    clients: tuple[int, ...] = (16, 64)
    """Clients at once."""
    protocols: tuple[str, ...] = ("rest", "grpc")
    """Which of rest, grpc."""
    max_batch_size: int = 32
    batch_timeout_micros: int = 2000
    num_batch_threads: int = 2
    intra_op_threads: int = 1
    """Threads of one operation, in the server and in the direct runs; 0: TensorFlow chooses."""
    memory_requests: int = 50_000
    """Requests with ever-new words; 0 leaves memory out."""
    output: Path | None = None
    """JSON file for the figures."""
    worker: str | None = None
    """For the script's own use."""


def main():
    arguments = parse(Arguments, __doc__)
    if arguments.worker:
        print(json.dumps(direct(arguments, json.loads(arguments.worker))))
        return
    if arguments.intra_op_threads:
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(arguments.intra_op_threads)
    settings = {
        key: str(value)
        for key, value in dataclasses.asdict(arguments).items()
        if key not in ("exported", "output", "worker")
    }
    result = {"environment": environment(), "settings": settings, "load": [], "memory": None}
    rows = requests_of(arguments)
    print(f"{'':12}" + "".join(f"{column:>9}" for column in COLUMNS))
    for batched, protocol, clients in itertools.product((False, True), arguments.protocols, arguments.clients):
        with server(arguments, batched) as addresses:
            task = {"clients": clients, "seconds": arguments.seconds, "requests": 10**9, "compare": True}
            figures = clients_process(protocol, addresses, arguments.model, rows, task)
            size = mean_batch(addresses["rest"]) if batched else 1
        figures = {"protocol": protocol, "clients": clients, "batching": batched, "mean_batch": size, **figures}
        figures["direct_rows_per_second"] = direct_process(arguments, max(1, round(size)))
        figures["ratio"] = figures["requests_per_second"] / figures["direct_rows_per_second"]
        result["load"].append(figures)
        show(figures)
    if arguments.memory_requests:
        result["memory"] = memory(arguments, rows)
    interleaved.write(arguments.output, result)


def environment():
    """Without the packages that have no part in it."""
    facts = interleaved.environment()
    facts["packages"] = {name: facts["packages"][name] for name in ("tensorflow", "numpy")}
    return facts


def requests_of(arguments) -> list[dict[str, list]]:
    """Requests of one row for the default signature, from the newest version's warm-up file: input -> [dtype, value]."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    version = newest(arguments)
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    if not path.exists():
        raise UserError(f"The model must have warm-up requests. Received: {version} without {path.name}. Export it.")
    rows = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = PredictionLog.FromString(record).predict_log.request
        if request.model_spec.signature_name in ("", "serving_default"):
            columns = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            for i in range(len(next(iter(columns.values())))):
                row = {key: [str(value.dtype), value[i]] for key, value in columns.items()}
                rows.append(
                    {
                        k: [d, v.decode("utf-8", "replace") if isinstance(v, bytes) else v.item()]
                        for k, (d, v) in row.items()
                    }
                )
    return rows


def newest(arguments) -> Path:
    versions = [
        path for path in (arguments.exported / arguments.model).glob("[0-9]*") if (path / "saved_model.pb").exists()
    ]
    if not versions:
        raise UserError(f"{arguments.exported / arguments.model} must hold an exported model. Received: none.")
    return max(versions, key=lambda path: int(path.name))


def body_of(row, protocol, model) -> bytes:
    if protocol == "rest":
        instance = {key: value for key, (_, value) in row.items()}
        return json.dumps({"instances": [instance]}, ensure_ascii=False).encode()
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    request = PredictRequest()
    request.model_spec.name = model
    for key, (dtype, value) in row.items():
        array = np.array([value.encode()] if isinstance(value, str) else [value], dtype)
        request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
    return request.SerializeToString()


@contextlib.contextmanager
def server(arguments, batched):
    """The addresses of a new server process."""
    options = ["--rest-port", "0", "--grpc-port", "0", "--max-requests", "1000", "--timeout-seconds", "120"]
    config = Path(os.environ.get("TMPDIR", "/tmp")) / f"batching-{os.getpid()}.config"
    if batched:
        names = ("max_batch_size", "batch_timeout_micros", "num_batch_threads")
        entries = [f"{name} {{ value: {getattr(arguments, name)} }}" for name in names]
        config.write_text("\n".join([*entries, "max_enqueued_batches { value: 1000 }"]))
        options += ["--batching-parameters-file", str(config)]
    command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), str(arguments.exported), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        text = ""
        for line in process.stderr:
            text += line
            if line.startswith("gRPC at"):
                break
        else:
            raise UserError(f"The server did not start:\n{text}")
        rest = re.search(r"POST (http://[^/]+)/", text)[1]
        while True:
            with contextlib.suppress(OSError):
                opener().open(rest + METRICS, timeout=30).read()
                break
            time.sleep(0.1)
        yield {"rest": rest, "grpc": line.split()[-1], "pid": process.pid}
    finally:
        process.terminate()
        process.communicate(timeout=60)
        config.unlink(missing_ok=True)


def opener():
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def clients_process(protocol, addresses, model, rows, task):
    url = f"{addresses['rest']}/v1/models/{model}:predict" if protocol == "rest" else addresses["grpc"]
    bodies = [base64.b64encode(body_of(row, protocol, model)).decode() for row in rows]
    task = json.dumps({**task, "protocol": protocol, "url": url, "bodies": bodies})
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "serving_clients.py")]
    done = subprocess.run(command, input=task, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError("The clients failed; their message stands above.")
    return json.loads(done.stdout.splitlines()[-1])


def mean_batch(url) -> float:
    """Rows of a batch on average, as the server counted them."""
    page = opener().open(url + METRICS, timeout=30).read().decode()
    total, count = (float(re.search(rf"processed_batch_size_{what}{{}} (\S+)", page)[1]) for what in ("sum", "count"))
    return total / count


def direct_process(arguments, size) -> float:
    """Rows a second of the SavedModel itself."""
    task = json.dumps({"size": size, "threads": arguments.num_batch_threads, "seconds": min(10.0, arguments.seconds)})
    command = [sys.executable, __file__, str(arguments.exported), "--model", arguments.model, "--worker", task]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    if done.returncode:
        raise UserError("The direct run failed; its message stands above.")
    return json.loads(done.stdout.splitlines()[-1])


def direct(arguments, task) -> float:
    """The worker's side."""
    import concurrent.futures

    import numpy as np
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  the ops of the tokenizers

    rows = requests_of(arguments)
    model = tf.saved_model.load(str(newest(arguments)), tags=["serve"])
    signature = model.signatures["serving_default"]

    def batch(start):
        chosen = [rows[(start + i) % len(rows)] for i in range(task["size"])]
        return {
            key: np.array(
                [row[key][1].encode() if isinstance(row[key][1], str) else row[key][1] for row in chosen], dtype
            )
            for key, (dtype, _) in rows[0].items()
        }

    batches = [batch(start) for start in range(0, len(rows) * task["size"], task["size"])]

    def run(thread):
        done, end = 0, time.perf_counter() + task["seconds"]
        while time.perf_counter() < end:
            inputs = batches[(thread + done) % len(batches)]
            outputs = signature(**{key: tf.constant(value) for key, value in inputs.items()})
            for value in outputs.values():
                value.numpy()
            done += 1
        return done

    for inputs in batches:
        signature(**{key: tf.constant(value) for key, value in inputs.items()})
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(task["threads"]) as threads:
        done = sum(threads.map(run, range(task["threads"])))
    return done * task["size"] / (time.perf_counter() - began)


def memory(arguments, rows):
    """Resident memory of a batching server over requests none of whose texts it has seen."""
    chance, step = random.Random(0), max(1, arguments.memory_requests // 20)

    def word():
        letters = "".join(
            chr(chance.choice((chance.randrange(97, 123), chance.randrange(0x4E00, 0x9FA6)))) for _ in range(8)
        )
        return f" {letters} "

    resident = []
    with server(arguments, batched=True) as addresses:
        for first in range(0, arguments.memory_requests, step):
            fresh = [
                {
                    key: [dtype, value + word() if isinstance(value, str) else value]
                    for key, (dtype, value) in row.items()
                }
                for row in (rows[i % len(rows)] for i in range(step))
            ]
            protocol = arguments.protocols[first // step % len(arguments.protocols)]
            task = {"clients": 16, "seconds": 10**6, "requests": step, "compare": False}
            figures = clients_process(protocol, addresses, arguments.model, fresh, task)
            if figures["refused"]:
                raise UserError(f"The server refused requests: {figures['refused']}")
            pages = int(Path(f"/proc/{addresses['pid']}/statm").read_text().split()[1])
            resident.append({"requests": first + step, "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 2**20})
    early, late = resident[max(0, len(resident) // 10 - 1)], resident[-1]
    shown = " -> ".join(f"{point['megabytes']:.0f} MB after {point['requests']} requests" for point in (early, late))
    print(f"memory: {shown}")
    return {"growth": late["megabytes"] / early["megabytes"] - 1, "resident": resident}


def show(figures):
    values = [
        *(figures[key] for key in ("clients", "mean_batch", "requests_per_second")),
        *figures["milliseconds"].values(),
        *(sum(figures["refused"].values()), figures["wrong_answers"]),
        *(figures[key] for key in ("direct_rows_per_second", "ratio")),
    ]
    name = figures["protocol"] + (" batched" if figures["batching"] else "")
    print(f"{name:12}" + "".join(f"{v:9}" if isinstance(v, int) else f"{v:9.2f}" for v in values), flush=True)


if __name__ == "__main__":
    run_script(main)

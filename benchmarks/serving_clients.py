"""Concurrent clients in a process of their own: reads a task as JSON from standard input, writes figures as JSON.

A client sends its next request as soon as it has the answer to the last. Every answer is compared with the one that the same
request got alone, so that wrong answers do not count as fast ones; scores are left out, as batches round differently.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import itertools
import json
import sys
import time
import urllib.parse

PREFIX = "/tensorflow.serving.PredictionService/Predict"


class Rest:
    """One kept-alive connection."""

    def __init__(self, task):
        self._task = task

    async def open(self):
        url = urllib.parse.urlsplit(self._task["url"])
        self._reader, self._writer = await asyncio.open_connection(url.hostname, url.port)
        self._head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: ".encode()
        return self

    async def ask(self, body):
        """Status and answer."""
        self._writer.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return head[9:12].decode(), await self._reader.readexactly(length)

    def strings(self, answer):
        """What must be the same each time."""
        (row,) = json.loads(answer)["predictions"]
        return {key: value for key, value in row.items() if isinstance(value, str)}

    async def close(self):
        self._writer.close()


class Grpc:
    """One channel."""

    def __init__(self, task):
        self._task = task

    async def open(self):
        import grpc

        self._errors = grpc.RpcError
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(self._task["url"], options=options)
        self._call = self._channel.unary_unary(PREFIX)
        return self

    async def ask(self, body):
        try:
            return "200", await self._call(body, timeout=120)
        except self._errors as error:
            return error.code().name, b""

    def strings(self, answer):
        from tensorflow_serving.apis.predict_pb2 import PredictResponse

        outputs = PredictResponse.FromString(answer).outputs
        return {key: list(value.string_val) for key, value in outputs.items() if value.string_val}

    async def close(self):
        await self._channel.close()


async def load(task):
    """Figures of `task["clients"]` clients for `task["seconds"]`, or until `task["requests"]` are answered."""
    make = {"rest": Rest, "grpc": Grpc}[task["protocol"]]
    bodies = [base64.b64decode(body) for body in task["bodies"]]
    clients = [await make(task).open() for _ in range(task["clients"])]
    expected = []
    for body in bodies if task["compare"] else ():
        status, answer = await clients[0].ask(body)
        if status != "200":
            raise SystemExit(f"The server refuses a request of the benchmark: {status} {answer[:500]!r}")
        expected.append(clients[0].strings(answer))
    order, latencies, refused, wrong = itertools.count(), [], collections.Counter(), 0
    began = time.perf_counter()
    end = began + task["seconds"]

    async def work(client):
        nonlocal wrong
        while time.perf_counter() < end:
            i = next(order)
            if i >= task["requests"]:
                return
            start = time.perf_counter()
            status, answer = await client.ask(bodies[i % len(bodies)])
            latencies.append(time.perf_counter() - start)
            if status != "200":
                refused[status] += 1
            elif task["compare"]:
                wrong += client.strings(answer) != expected[i % len(bodies)]

    await asyncio.gather(*map(work, clients))
    seconds = time.perf_counter() - began
    for client in clients:
        await client.close()
    latencies.sort()
    return {
        "requests": len(latencies),
        "seconds": seconds,
        "requests_per_second": (len(latencies) - sum(refused.values())) / seconds,
        "milliseconds": {
            f"p{p}": 1000 * latencies[min(len(latencies) * p // 100, len(latencies) - 1)] for p in (50, 95, 99)
        },
        "refused": dict(refused),
        "wrong_answers": wrong,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(json.load(sys.stdin)))))

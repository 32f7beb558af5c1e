"""A local server of exported models with TF Serving's REST API, for development and small deployments.

`Server` owns the socket, the models and the web server; `serve` runs one until it is told to stop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import logging
import os
import signal
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from keras_llm.errors import UserError
from keras_llm.serving.json_writer import error_json
from keras_llm.serving.rest import RestApi
from keras_llm.serving.servables import Servables

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 100 * 2**20
"""Of a request, after decompression: what TF Serving allows a compressed one."""
STOP_SECONDS = 30
"""How long requests under way may take once the server is told to stop."""


class Server:
    """Serves the models below a directory.

    The port is taken first, then the models are loaded, then connections are accepted. In a `with` block the server
    runs in a thread of its own.

    Args:
        exported: directory with NAME/VERSION/saved_model.pb below it.
        host: address to listen on; other machines reach it only if it is not 127.0.0.1.
        port: 0 takes any that is free; `url` tells which.
        poll_seconds: how often new versions are looked for.
        max_body_bytes: larger requests are answered with 413.

    Raises:
        UserError: the port cannot be had; there is no model, or none loads.

    Example:

    >>> with Server("exported", port=0) as server:
    ...     answer = ask(f"{server.url}/v1/models/reader", {"question": "Who?", "context": "Ann wrote it."})
    """

    def __init__(
        self,
        exported: str | Path,
        host: str = "127.0.0.1",
        port: int = 8501,
        poll_seconds: float = 1.0,
        max_body_bytes: int = MAX_BODY_BYTES,
    ):
        self._socket = _listen(host, port)
        try:
            self.servables = Servables(exported)
        except BaseException:
            self._socket.close()
            raise
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"
        self._poll_seconds = poll_seconds
        # TensorFlow runs one request on many threads already: a few at once keep them all at work.
        self._threads = concurrent.futures.ThreadPoolExecutor(2 * (os.cpu_count() or 1) + 2, "request")
        config = uvicorn.Config(
            web_app(RestApi(self.servables), self._threads, max_body_bytes),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._uvicorn = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serves until `stop`; requests under way are answered first."""
        try:
            with self.servables.watched(self._poll_seconds):
                self._uvicorn.run(sockets=[self._socket])
        finally:
            self._socket.close()
            self._threads.shutdown()

    def stop(self) -> None:
        """Makes `run` return soon."""
        self._uvicorn.should_exit = True

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=self.run, name="server", daemon=True)
        self._thread.start()
        while not self._uvicorn.started and self._thread.is_alive():
            time.sleep(0.01)
        return self

    def __exit__(self, *exception) -> None:
        self.stop()
        self._thread.join()


def serve(exported: str | Path, host: str = "127.0.0.1", port: int = 8501, poll_seconds: float = 1.0) -> None:
    """Serves until SIGINT or SIGTERM; arguments and errors are `Server`'s."""
    server = Server(exported, host, port, poll_seconds)
    for name in server.servables.names():
        logger.info("POST %s/v1/models/%s:predict", server.url, name)
    logger.info("For development and small deployments: TF Serving itself serves the same directory. Stop: Ctrl-C.")
    with _signals_stop_only():
        server.run()
    logger.info("Stopped.")


def web_app(api: RestApi, threads: concurrent.futures.Executor, max_body_bytes: int) -> Starlette:
    """The ASGI application: TF Serving's REST API below /v1/, 404 elsewhere."""

    class V1:
        """An object, unlike a function, is given every method: the API itself tells which are malformed."""

        async def __call__(self, scope, receive, send):
            request = Request(scope, receive)
            try:
                body = await _read_body(request, max_body_bytes)
            except ClientDisconnect:
                return
            if body is None:
                status, content = 413, error_json(f"The request's body is larger than {max_body_bytes} bytes")
            else:
                loop = asyncio.get_running_loop()
                status, content = await loop.run_in_executor(threads, api.answer, request.method, _path(request), body)
            await Response(content, status, media_type="application/json")(scope, receive, send)

    return Starlette(routes=[Route(f"/{v1}/{{path:path}}", V1()) for v1 in ("v1", "V1")])


async def _read_body(request: Request, limit: int) -> bytes | None:
    """The body, decompressed; None as soon as it is over the limit."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    body = b"".join(chunks)
    if "gzip" not in request.headers.get("content-encoding", ""):
        return body
    unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        body = unzip.decompress(body, limit + 1)
    except zlib.error:
        return b""  # TF Serving reads what it cannot decompress as empty
    if len(body) > limit:
        return None
    return body if unzip.eof else b""


def _path(request: Request) -> str:
    """Path and query as they were sent."""
    path, query = request.scope["raw_path"], request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("utf-8", "surrogateescape")


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket; connections are refused until the server is ready."""
    if not 0 <= port <= 65535:
        raise UserError(f"A port is a number from 0 to 65535. Received: {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"The host must be an address of this machine. Received: {host!r} ({error}).") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"The port must be free. Received: {host}:{port}, in use. Give another port.") from None
        raise UserError(f"{host}:{port} must be free to listen on. Received: {error.strerror}.") from None
    return bound


@contextlib.contextmanager
def _signals_stop_only() -> Iterator[None]:
    """uvicorn stops at SIGINT and SIGTERM and then raises them again; that must not end the process as a failure."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""A local server of exported models with TF Serving's REST and gRPC APIs, for development and small deployments.

`Server` owns the ports, the models and both protocols; `serve` runs one until it is told to stop.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from keras_llm.errors import UserError
from keras_llm.serving import metrics, text_messages
from keras_llm.serving.batching import Batching
from keras_llm.serving.batching_config import read_parameters
from keras_llm.serving.rest import RestApi
from keras_llm.serving.servables import Servables
from keras_llm.serving.web import LIMITS, Limits, web_app

if TYPE_CHECKING:
    import grpc

logger = logging.getLogger(__name__)

STOP_SECONDS = 30
"""How long requests under way may take once the server is told to stop."""


class Server:
    """Serves the models below a directory.

    The ports are taken first, then the models are loaded, then requests are answered. In a `with` block the server runs
    in a thread of its own.

    Args:
        exported: directory with NAME/VERSION/saved_model.pb below it.
        host: address to listen on; other machines reach it only if it is not 127.0.0.1.
        port: of the REST API; 0 takes any that is free: `url` tells which.
        grpc_port: of the gRPC API; None: there is none; 0 takes any that is free: `grpc_address` tells which.
        poll_seconds: how often new versions are looked for.
        limits: of requests.
        model_config_file: TF Serving's models.config: which models are served, which versions, and their labels. Without
            it the newest version of each model in `exported`.
        allow_labels_for_unavailable: labels may name versions that are not served yet.
        batching_parameters_file: TF Serving's batching.config: requests that come together are computed together. Without
            it each is computed alone.
        monitoring_config_file: TF Serving's monitoring.config: whether and where metrics are shown. Without it they are, at
            TF Serving's usual path.

    Raises:
        UserError: a port cannot be had; a file is none of its kind; there is no model, or none loads.

    Example:

    >>> with Server("exported", port=0) as server:
    ...     answer = ask(f"{server.url}/v1/models/reader", {"question": "Who?", "context": "Ann wrote it."})
    """

    def __init__(
        self,
        exported: str | Path,
        host: str = "127.0.0.1",
        port: int = 8501,
        grpc_port: int | None = None,
        poll_seconds: float = 1.0,
        limits: Limits = LIMITS,
        model_config_file: str | Path | None = None,
        allow_labels_for_unavailable: bool = False,
        batching_parameters_file: str | Path | None = None,
        monitoring_config_file: str | Path | None = None,
    ):
        config = model_config_file and text_messages.read(model_config_file, ModelServerConfig, "--model-config-file")
        parameters = batching_parameters_file and read_parameters(batching_parameters_file)
        metrics_path = metrics.PATH if monitoring_config_file is None else _metrics_path(monitoring_config_file)
        self._poll_seconds = poll_seconds
        # TensorFlow runs one request on many threads already: a few at once keep them all at work. Where requests are
        # joined, each waits on its thread, and there must be enough to fill the next batch while others are computed.
        threads = 2 * (os.cpu_count() or 1) + 2
        if parameters:
            wanted = parameters.max_batch_size * (parameters.num_batch_threads + 1)
            threads = max(threads, min(wanted, 2 * limits.requests))
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, "request")
        with contextlib.ExitStack() as undo:
            self._socket = undo.enter_context(_listen(host, port))
            grpc_socket = undo.enter_context(_listen(host, grpc_port)) if grpc_port is not None else None
            self._batching = Batching(parameters) if parameters else None
            undo.callback(self._end_batching)
            self.servables = Servables(exported, config, allow_labels_for_unavailable, self._batching)
            self.url = f"http://{_address(self._socket, host)}"
            self.grpc_address = grpc_socket and _address(grpc_socket, host)
            self._grpc = grpc_socket and self._grpc_server(grpc_socket, limits)
            undo.pop_all()
        web = uvicorn.Config(
            web_app(RestApi(self.servables), self._threads, limits, metrics_path),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._uvicorn = _Uvicorn(web, self._grpc)
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serves until `stop`; requests under way are answered first."""
        try:
            with self.servables.watched(self._poll_seconds):
                if self._grpc:
                    self._grpc.start()
                self._uvicorn.run(sockets=[self._socket])
        finally:
            self._socket.close()
            if self._grpc:
                self._grpc.stop(STOP_SECONDS).wait()
            self._threads.shutdown()
            self._end_batching()

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

    def _end_batching(self) -> None:
        if self._batching:
            self._batching.close()

    def _grpc_server(self, bound: socket.socket, limits: Limits) -> grpc.Server:
        import grpc

        from keras_llm.serving.grpc_services import Services  # TensorFlow: not before a model is found

        server = grpc.server(
            self._threads,
            handlers=[Services(self.servables, limits.request_seconds)],
            options=[
                ("grpc.max_receive_message_length", limits.body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=limits.requests,
        )
        bound.close()  # it kept the port until the models had loaded: gRPC opens its own
        try:
            server.add_insecure_port(self.grpc_address)
        except RuntimeError:
            raise UserError(
                f"The port must be free. Received: {self.grpc_address}, in use. Give another port."
            ) from None
        return server


class _Uvicorn(uvicorn.Server):
    """Ends gRPC together with HTTP: from then on neither takes new requests."""

    def __init__(self, config: uvicorn.Config, other: grpc.Server | None):
        super().__init__(config)
        self._other = other

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._other:
            self._other.stop(STOP_SECONDS)
        await super().shutdown(sockets)


def serve(server: Server) -> None:
    """Serves until SIGINT or SIGTERM."""
    for name in server.servables.names():
        logger.info("POST %s/v1/models/%s:predict", server.url, name)
    if server.grpc_address:
        logger.info("gRPC at %s", server.grpc_address)
    logger.info("For development and small deployments: TF Serving itself serves the same directory. Stop: Ctrl-C.")
    with _signals_stop_only():
        server.run()
    logger.info("Stopped.")


def _metrics_path(file: str | Path) -> str | None:
    """Where monitoring.config shows metrics; None where it does not."""
    flag = "--monitoring-config-file"
    prometheus = text_messages.read(file, text_messages.CLASSES["MonitoringConfig"], flag).prometheus_config
    if not prometheus.path.startswith("/") and prometheus.path:
        raise UserError(f"path must begin with /. Received: {prometheus.path!r} in {file}.")
    return (prometheus.path or metrics.PATH) if prometheus.enable else None


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


def _address(bound: socket.socket, host: str) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"


@contextlib.contextmanager
def _signals_stop_only() -> Iterator[None]:
    """uvicorn stops at SIGINT and SIGTERM and then raises them again; that must not end the process as a failure."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

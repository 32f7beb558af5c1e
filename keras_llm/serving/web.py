"""The HTTP side as an ASGI application: bodies within their limits in, TF Serving's REST API, metrics and our page out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import time
import zlib
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from keras_llm.serving import metrics, page
from keras_llm.serving.json_writer import error_json
from keras_llm.serving.rest import RestApi


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take."""

    body_bytes: int = 100 * 2**20
    """Of a request, after decompression: what TF Serving allows a compressed one."""
    request_seconds: float = 30.0
    """From a request's first byte to its answer."""
    requests: int = 256
    """At once, of each protocol, waiting ones included; more are refused: 429, RESOURCE_EXHAUSTED."""


LIMITS = Limits()
"""For all but tests and unusual machines."""


def web_app(
    api: RestApi, threads: concurrent.futures.Executor, limits: Limits, metrics_path: str | None = metrics.PATH
) -> Callable:
    """The ASGI application: TF Serving's REST API below /v1/, metrics if they have a path, a page at /, 404 elsewhere.

    Args:
        api: answers requests.
        threads: where it does.
        limits: that are kept.
        metrics_path: of the page for Prometheus.
    """

    class V1:
        """All methods and paths: the API itself tells which are malformed."""

        def __init__(self):
            self.under_way = 0

        async def __call__(self, scope, receive, send):
            request = Request(scope, receive)
            computes = request.method == "POST"  # status and metadata are there at any time, whatever the load
            if computes and self.under_way >= limits.requests:
                response = _error(429, f"{self.under_way} requests are under way, and no more are taken")
                await response(scope, receive, send)
                return
            self.under_way += computes
            try:
                response = await self.answer(request, threads if computes else None)
            except ClientDisconnect:
                return
            finally:
                self.under_way -= computes
            await response(scope, receive, send)

        async def answer(self, request: Request, where: concurrent.futures.Executor | None) -> Response:
            deadline = time.monotonic() + limits.request_seconds
            try:
                body = await asyncio.wait_for(_read_body(request, limits.body_bytes), limits.request_seconds)
            except TimeoutError:
                return _error(408, f"The request did not arrive within {limits.request_seconds:g} seconds")
            if body is None:
                return _error(413, f"The request's body is larger than {limits.body_bytes} bytes")
            asked = (request.method, _path(request), body, deadline)
            if where:
                status, content = await asyncio.get_running_loop().run_in_executor(where, api.answer, *asked)
            else:
                status, content = api.answer(*asked)
            return Response(content, status, media_type="application/json")

    async def show_metrics(request: Request) -> Response:
        return Response(metrics.page(), media_type="text/plain")

    async def show_page(request: Request) -> Response:
        return Response(page.page(api.models()), media_type="text/html", headers=page.HEADERS)

    v1 = V1()
    routes = [Route("/", show_page)]
    if metrics_path:
        routes.append(Route(metrics_path, show_metrics))
    others = Starlette(routes=routes)

    async def app(scope, receive, send) -> None:
        # Past the framework's middleware and routing, of which a request to a model has no use.
        await (v1 if scope["path"].startswith(("/v1/", "/V1/")) else others)(scope, receive, send)

    return app


def _error(status: int, message: str) -> Response:
    return Response(error_json(message), status, media_type="application/json")


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

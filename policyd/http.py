"""The HTTP side: metrics and health."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from policyd.core.errors import ConfigError


def create_app(*, metrics: Callable[[], Awaitable[bytes]], ready: Callable[[], Awaitable[str | None]]) -> Starlette:
    """`/metrics`, `/healthz` (the process lives) and `/readyz` (it can decide).

    `metrics` answers the page in Prometheus's text format, `ready` what stands in the way, or `None`.
    """

    async def metrics_page(_: Request) -> Response:
        return Response(await metrics(), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        problem = await ready()
        return PlainTextResponse("ok\n") if problem is None else PlainTextResponse(f"{problem}\n", status_code=503)

    return Starlette(routes=[Route("/metrics", metrics_page), Route("/healthz", healthz), Route("/readyz", readyz)])


def listen(host: str, port: int, *, flag: str) -> socket.socket:
    """Raises `ConfigError`, which names `flag`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(f"{flag}: cannot listen on {host}:{port}: {error.strerror or error}") from error


@asynccontextmanager
async def serving(app: Starlette, listener: socket.socket) -> AsyncIterator[None]:
    """Serves `app` on a socket that is bound already, on this event loop, until the block ends."""
    server = _Server(uvicorn.Config(app, log_config=None, lifespan="off", access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to the process that serves several things."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

"""The HTTP side: metrics, for those who may read them, and health, for everybody."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import cast

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from policyd.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PageGuard:
    """Who gets through, and who of them may read the metrics. Health is for all of them."""

    admit: Callable[[str | None], bool]
    """Whether the value of the `authorization` header will do for metrics."""
    context: ssl.SSLContext | None = None
    """By which TLS is served, if it is."""
    asks_clients: bool = False
    """Whether metrics are for those who have shown a certificate."""


def create_app(
    *, metrics: Callable[[], Awaitable[bytes]], ready: Callable[[], Awaitable[str | None]], guard: PageGuard
) -> Starlette:
    """`/metrics`, `/healthz` (the process lives) and `/readyz` (it can decide).

    `metrics` answers the page in Prometheus's text format, `ready` what stands in the way, or `None`.
    """

    async def metrics_page(request: Request) -> Response:
        if guard.asks_clients and not request.state.has_certificate:
            return PlainTextResponse("metrics need a client certificate\n", status_code=403)
        if not guard.admit(request.headers.get("authorization")):
            return PlainTextResponse(
                "metrics need a bearer token\n", status_code=401, headers={"www-authenticate": "Bearer"}
            )
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
async def serving(app: Starlette, listener: socket.socket, *, context: ssl.SSLContext | None) -> AsyncIterator[None]:
    """Serves `app` on a socket that is bound already, on this event loop, until the block ends."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        log_config=None,
        lifespan="off",
        access_log=False,
        ssl_context_factory=(lambda _config, _default: context) if context is not None else None,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Protocol(H11Protocol):
    """Tells the pages, as `request.state.has_certificate`, whether the client has shown one that is good."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.app_state = {"has_certificate": secured is not None and bool(secured.getpeercert())}


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to the process that serves several things."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

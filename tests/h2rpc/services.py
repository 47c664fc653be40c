"""Services to be served, and a server that serves them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from policyd.h2rpc import Call, Limits, Server, Service
from policyd.h2rpc.session import Timer


class Quiet:
    """Answers nothing."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def on_message(self, message: bytes) -> None: ...

    def on_half_close(self) -> None: ...

    def on_cancelled(self) -> None: ...

    def on_writable(self) -> None: ...


class Echo(Quiet):
    """Sends every message back, and ends when its caller does."""

    def on_message(self, message: bytes) -> None:
        self.call.send(message)

    def on_half_close(self) -> None:
        self.call.finish()


class NoEdge:
    """An edge without I/O."""

    def wake(self) -> None: ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        raise AssertionError("nothing here has a deadline")


@dataclass
class Running:
    server: Server
    port: int
    channel: Any
    """A `grpc.aio.Channel`, as it is and not as its stubs say."""


CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@asynccontextmanager
async def running(services: Mapping[str, Service], limits: Limits | None = None) -> AsyncIterator[Running]:
    """A server of these services, and a channel of grpcio's to it."""
    server = Server(services, limits=limits)
    port = await server.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
        yield Running(server, port, channel)
    await server.stop(grace_seconds=0)
    assert (server.open_connections, server.open_calls) == (0, 0)

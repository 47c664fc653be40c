"""Listens, and stops without cutting a call off that ends in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from ssl import SSLContext
from typing import Final

from policyd.h2rpc.call import Service
from policyd.h2rpc.limits import Limits
from policyd.h2rpc.protocol import RpcProtocol

LAST_WORDS_SECONDS_MAX: Final = 1.0
"""How long peers may take to read how their calls ended when the server stops."""

_BACKLOG_CONNECTIONS = 1024


class Server:
    """Serves methods, by their path such as `/package.Service/Method`, in the event loop that it is started in."""

    def __init__(self, services: Mapping[str, Service], *, limits: Limits | None = None) -> None:
        self._services = services
        self._limits = limits or Limits()
        self._listeners: list[asyncio.Server] = []
        self._connections: set[RpcProtocol] = set()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def open_calls(self) -> int:
        return sum(connection.session.open_calls for connection in self._connections)

    async def listen(self, host: str, port: int, *, ssl: SSLContext | None = None, reuse_port: bool = False) -> int:
        """Returns the real port, where `port` is 0. An `ssl` context must offer `h2` by ALPN. With `reuse_port`
        other processes of this user may listen there too (SO_REUSEPORT).

        Raises `OSError` if the address is taken or is none of this machine's.
        """
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            self._protocol, host, port, ssl=ssl, backlog=_BACKLOG_CONNECTIONS, reuse_port=reuse_port
        )
        self._listeners.append(listener)
        real_port: int = listener.sockets[0].getsockname()[1]
        return real_port

    async def listen_unix(self, path: Path) -> None:
        """Replaces a socket that nobody listens at any more. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_unix_server(self._protocol, str(path), backlog=_BACKLOG_CONNECTIONS))

    async def stop(self, *, grace_seconds: float) -> None:
        """Takes no more calls, waits for the open ones, and ends those with UNAVAILABLE that outlast the grace.

        Returns when every connection is closed and every handler was told.
        """
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.drain()
        await self._emptied(grace_seconds)
        for connection in list(self._connections):
            connection.stop()
        await self._emptied(LAST_WORDS_SECONDS_MAX)
        for connection in list(self._connections):
            connection.abort()
        await self._emptied(None)

    async def _emptied(self, seconds_max: float | None) -> None:
        if self._connections:
            await asyncio.wait([connection.lost for connection in self._connections], timeout=seconds_max)

    def _protocol(self) -> RpcProtocol:
        return RpcProtocol(self._services, self._limits, admit=self._admit, on_lost=self._connections.discard)

    def _admit(self, connection: RpcProtocol) -> bool:
        if len(self._connections) >= self._limits.connections_max:
            return False
        self._connections.add(connection)
        return True

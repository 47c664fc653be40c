"""A way to a server that looks at what passes, and may speak TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Tap:
    def __init__(self, port: int) -> None:
        """`port`: the server's."""
        self._port = port
        self._passing: set[asyncio.Task[None]] = set()
        self.reads = 0
        """How often something came for the server."""

    @asynccontextmanager
    async def listening(self, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """The port to connect to."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await asyncio.gather(*self._passing)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass(reader, writer))
        self._passing.add(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._copy(reader, to_server, counts=True), self._copy(from_server, writer))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, counts: bool = False) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while data := await source.read(1 << 20):
                self.reads += counts
                target.write(data)
        target.close()
        with suppress(ConnectionError, ssl.SSLError):
            await target.wait_closed()

"""A load of HTTP requests: each connection sends its next request when it has the reply to the one before.

Only what a reply's end and its status tell is read; and no request is left unanswered when the time is up, so that the
CPU time of the servers divides by the requests that were counted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Final, cast

from policyd.config import HostPort
from tests.bench.load import Load, UnexpectedReply
from tests.bench.traffic import STREAM_LAST, http_request

LAST_REPLIES_SECONDS_MAX: Final = 30
"""How long the last replies may take once the time is up."""

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_CHUNKS_END = b"\r\n0\r\n\r\n"
_SHOWN_BYTES_MAX = 1000


async def http_load(address: HostPort, *, connections: int, seconds: float, stream: bool = False) -> Load:
    """Raises `UnexpectedReply` if a reply is not a 200 or a stream not whole, and `ConnectionError`."""
    request = http_request(address, stream=stream)
    latencies: list[float] = []
    async with asyncio.timeout(seconds + LAST_REPLIES_SECONDS_MAX), _connected(address, connections) as connected:
        began = perf_counter()
        async with asyncio.TaskGroup() as group:
            for connection in connected:
                drive = _drive(connection, request, stream=stream, until=began + seconds, latencies=latencies)
                group.create_task(drive)
        return Load.of(latencies, requests=len(latencies), seconds=perf_counter() - began)


async def _drive(
    connection: _Connection, request: bytes, *, stream: bool, until: float, latencies: list[float]
) -> None:
    while (began := perf_counter()) < until:
        reply = await connection.exchange(request)
        latencies.append(perf_counter() - began)
        if not reply.startswith(b"HTTP/1.1 200 ") or (stream and STREAM_LAST not in reply):
            raise UnexpectedReply(reply[:_SHOWN_BYTES_MAX].decode(errors="replace"))


@asynccontextmanager
async def _connected(address: HostPort, connections: int) -> AsyncIterator[list[_Connection]]:
    loop = asyncio.get_running_loop()
    connected: list[_Connection] = []
    try:
        for _ in range(connections):
            _, connection = await loop.create_connection(_Connection, address.host, address.port)
            connected.append(connection)
        yield connected
    finally:
        for connection in connected:
            connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = bytearray()
        self._reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def exchange(self, request: bytes) -> bytes:
        """Sends a request; returns its reply, head and body."""
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._reply

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if _is_whole(self._received) and not self._reply.done():
            self._reply.set_result(bytes(self._received))
            self._received.clear()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._reply.done():
            self._reply.set_exception(error or ConnectionError("closed in the middle of a reply"))


def _is_whole(reply: bytearray) -> bool:
    if reply.endswith(_CHUNKS_END):
        return True
    head_end = reply.find(_HEAD_END)
    if head_end < 0:
        return False
    length = _CONTENT_LENGTH.search(reply, 0, head_end)
    return length is not None and len(reply) >= head_end + len(_HEAD_END) + int(length[1])

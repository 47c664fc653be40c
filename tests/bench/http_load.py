"""A load of HTTP requests: each connection sends its next request when it has the reply to the one before.

Only what a reply's end and its status tell is read; and no request is left unanswered when the time is up, so that the
CPU time of the servers divides by the requests that were counted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, cast

from policyd.config import HostPort
from tests.bench.load import Load, UnexpectedReply
from tests.bench.traffic import STREAM_LAST

LAST_REPLIES_SECONDS_MAX: Final = 30
"""How long the last replies may take once the time is up."""

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_CHUNKS_END = b"\r\n0\r\n\r\n"
_EVENT = b"data: "
_SHOWN_BYTES_MAX = 1000


async def http_load(
    address: HostPort, request: bytes, *, connections: int, seconds: float, stream: bool = False
) -> Load:
    """Raises `UnexpectedReply` if a reply is not a 200 or a stream not whole, and `ConnectionError`."""
    taken = _Taken()
    async with asyncio.timeout(seconds + LAST_REPLIES_SECONDS_MAX), _connected(address, connections) as connected:
        began = perf_counter()
        async with asyncio.TaskGroup() as group:
            for connection in connected:
                group.create_task(_drive(connection, request, stream=stream, until=began + seconds, taken=taken))
        return Load.of(
            taken.whole_seconds,
            requests=len(taken.whole_seconds),
            seconds=perf_counter() - began,
            first_bytes_seconds=taken.first_byte_seconds,
        )


@asynccontextmanager
async def open_streams(address: HostPort, request: bytes, *, count: int) -> AsyncIterator[None]:
    """That many streams, each with its first event received, for the length of the block; then the client hangs up."""
    async with _connected(address, count) as connected:
        async with asyncio.timeout(LAST_REPLIES_SECONDS_MAX):
            await asyncio.gather(*(connection.begin(request) for connection in connected))
        yield


@dataclass(slots=True)
class _Taken:
    """The latencies of a load's replies."""

    whole_seconds: list[float] = field(default_factory=list)
    first_byte_seconds: list[float] = field(default_factory=list)


async def _drive(connection: _Connection, request: bytes, *, stream: bool, until: float, taken: _Taken) -> None:
    """One request, and more until the time is up."""
    ended = 0.0
    while ended < until:
        began = perf_counter()
        reply = await connection.exchange(request)
        ended = perf_counter()
        taken.whole_seconds.append(ended - began)
        taken.first_byte_seconds.append(connection.first_byte_at - began)
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
    first_byte_at = 0.0
    """When the last reply began, by `perf_counter`."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._whole = _unanswered()
        self._begun = _unanswered()

    async def exchange(self, request: bytes) -> bytes:
        """Sends a request; returns its reply, head and body."""
        self._whole = _unanswered()
        self._transport.write(request)
        return await self._whole

    async def begin(self, request: bytes) -> None:
        """Sends a request for a stream; returns when its first event is there. Raises `UnexpectedReply`."""
        self._transport.write(request)
        head = await self._begun
        if not head.startswith(b"HTTP/1.1 200 "):
            raise UnexpectedReply(head[:_SHOWN_BYTES_MAX].decode(errors="replace"))

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._received:
            self.first_byte_at = perf_counter()
        self._received += data
        if not self._begun.done() and _EVENT in self._received:
            self._begun.set_result(bytes(self._received))
        if _is_whole(self._received):
            for waiting in (self._whole, self._begun):
                if not waiting.done():
                    waiting.set_result(bytes(self._received))
            self._received.clear()

    def connection_lost(self, error: Exception | None) -> None:
        for waiting in (self._whole, self._begun):
            if not waiting.done():
                waiting.set_exception(error or ConnectionError("closed in the middle of a reply"))
                waiting.exception()  # nobody waits for both


def _unanswered() -> asyncio.Future[bytes]:
    return asyncio.get_running_loop().create_future()


def _is_whole(reply: bytearray) -> bool:
    if reply.endswith(_CHUNKS_END):
        return True
    head_end = reply.find(_HEAD_END)
    if head_end < 0:
        return False
    length = _CONTENT_LENGTH.search(reply, 0, head_end)
    return length is not None and len(reply) >= head_end + len(_HEAD_END) + int(length[1])

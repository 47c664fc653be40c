"""The provider, as a process of its own: python -m tests.bench.upstream

It answers from memory, with as little work as Python allows, so that it is never what is measured. A stream comes at an
even pace: its chunks are to reach Envoy one by one, as those of a model do.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final, cast

import uvloop

from tests.bench.processes import announce
from tests.bench.traffic import CHUNK_MS_HEADER, STREAM_END, STREAM_HEAD, STREAM_MARK, http_reply, stream_chunks

CHUNK_SECONDS: Final = 0.0025
"""The time from one chunk of a stream to the next, where the request does not ask for another."""

_BACKLOG_CONNECTIONS = 1024
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNK_MS = re.compile(rb"\r\n%b: *(\d+)" % CHUNK_MS_HEADER.encode(), re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_BODY_END_BYTES = 100
"""Where a request body says that it asks for a stream: what comes before may be long."""

_REPLY = http_reply()
_CHUNKS = stream_chunks()


class Connection(asyncio.Protocol):
    """One connection of HTTP/1.1; requests come one after the other."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._pace_seconds = CHUNK_SECONDS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not _is_whole(self._received):
            return
        streamed = STREAM_MARK in self._received[-_BODY_END_BYTES:]
        if streamed:
            self._pace_seconds = _pace_seconds(self._received)
            self._transport.write(STREAM_HEAD)
            loop = asyncio.get_running_loop()
            self._send_chunk(loop, 0, loop.time())
        else:
            self._transport.write(_REPLY)
        self._received.clear()

    def _send_chunk(self, loop: asyncio.AbstractEventLoop, number: int, due: float) -> None:
        if self._transport.is_closing():
            return
        if number == len(_CHUNKS):
            self._transport.write(STREAM_END)
            return
        self._transport.write(_CHUNKS[number])
        due += self._pace_seconds
        loop.call_at(due, self._send_chunk, loop, number + 1, due)


def _pace_seconds(request: bytearray) -> float:
    asked = _CHUNK_MS.search(request)
    return int(asked[1]) / 1000 if asked else CHUNK_SECONDS


def _is_whole(request: bytearray) -> bool:
    head_end = request.find(_HEAD_END)
    if head_end < 0:
        return False
    length = _CONTENT_LENGTH.search(request, 0, head_end)
    return len(request) >= head_end + len(_HEAD_END) + (int(length[1]) if length else 0)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=_BACKLOG_CONNECTIONS)
    announce(http=f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())

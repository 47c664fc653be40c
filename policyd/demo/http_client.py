"""A small HTTP/1.1 client on asyncio streams: one connection a request, replies whole or as server-sent events.

It is what an application would use its provider's SDK for. The demo brings none along.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from policyd.providers.framing.frame import Frame
from policyd.providers.framing.sse import SseFramer

REPLY_SECONDS_MAX: Final = 20
"""How long a reply may take, to its end."""


@dataclass(frozen=True, slots=True)
class Response:
    """A reply whose body is still to come. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
    """Ends at the body's orderly end; a body that breaks off raises `EOFError`."""

    async def events(self) -> AsyncIterator[Frame]:
        """The events of a stream, as they come."""
        framer = SseFramer()
        async for chunk in self.chunks:
            for frame in framer.feed(chunk):
                if frame.data:
                    yield frame


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class HttpClient:
    """Asks one server. Every method raises `OSError` or `EOFError` where it does not answer, or not to the end."""

    def __init__(self, address: str) -> None:
        """`address` is `HOST:PORT`."""
        self._address = address

    async def get(self, path: str) -> Reply:
        async with self._exchange("GET", path, headers={}, body=b"") as response:
            return await _whole(response)

    async def post(self, path: str, *, headers: Mapping[str, str], body: Any) -> Reply:
        async with self.stream(path, headers=headers, body=body) as response:
            return await _whole(response)

    @asynccontextmanager
    async def stream(self, path: str, *, headers: Mapping[str, str], body: Any) -> AsyncIterator[Response]:
        """Posts `body` as JSON; the reply's body is read inside the block."""
        json_headers = {"content-type": "application/json", **headers}
        async with self._exchange("POST", path, headers=json_headers, body=json.dumps(body).encode()) as response:
            yield response

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[Response]:
        host, _, port = self._address.rpartition(":")
        framing = {"host": self._address, "content-length": str(len(body)), "connection": "close"}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in {**framing, **headers}.items())]
        async with asyncio.timeout(REPLY_SECONDS_MAX):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
                yield await _response(reader)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


async def _whole(response: Response) -> Reply:
    return Reply(response.status, response.headers, b"".join([chunk async for chunk in response.chunks]))


async def _response(reader: asyncio.StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    chunked = headers.get("transfer-encoding") == "chunked"
    chunks = _chunks(reader) if chunked else _body(reader, length=int(headers.get("content-length", 0)))
    return Response(int(status_line.split()[1]), headers, chunks)


async def _body(reader: asyncio.StreamReader, *, length: int) -> AsyncIterator[bytes]:
    yield await reader.readexactly(length)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while length := int(await reader.readuntil(b"\r\n"), 16):
        yield await reader.readexactly(length)
        await reader.readexactly(len(b"\r\n"))
    await reader.readexactly(len(b"\r\n"))

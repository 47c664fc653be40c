"""A load of gRPC calls, unary, many at a time on one connection.

It speaks as much HTTP/2 as that takes (RFC 9113): a client of grpc.aio works as hard as the servers that are to be
measured, and would be what is measured. Headers go out as literals, which need no compression state (RFC 7541, 6.2.2);
those that come back are not read: a call that failed is one that ended without a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import IntEnum
from time import perf_counter
from typing import Final, cast

from policyd.config import HostPort
from tests.bench.load import Load, UnexpectedReply

Work = Callable[["GrpcConnection"], Awaitable[int]]
"""What is done again and again; returns how many calls it made."""

LAST_REPLIES_SECONDS_MAX: Final = 30

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW_BYTES_INITIAL = 65_535
_WINDOW_BYTES_MAX = 2**31 - 1
_INITIAL_WINDOW_SIZE = 4  # the setting of that name

_FRAME_HEAD_BYTES = 9
_MESSAGE_HEAD_BYTES = 5

_ACK = 0x1
_END_STREAM = 0x1
_END_HEADERS = 0x4


class _Frame(IntEnum):
    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8


async def grpc_load(address: HostPort, work: Work, *, at_once: int, seconds: float) -> Load:
    """Does `work`, `at_once` times side by side; latencies are those of the work. Raises `UnexpectedReply`,
    `ConnectionError`."""
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds + LAST_REPLIES_SECONDS_MAX):
        _, connection = await loop.create_connection(lambda: GrpcConnection(address), address.host, address.port)
        try:
            began = perf_counter()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_drive(connection, work, until=began + seconds, latencies=latencies))
                    for _ in range(at_once)
                ]
            return Load.of(latencies, requests=sum(task.result() for task in tasks), seconds=perf_counter() - began)
        finally:
            connection.close()


async def _drive(connection: GrpcConnection, work: Work, *, until: float, latencies: list[float]) -> int:
    """Does the work once, and again until the time is up; returns how many calls that were."""
    calls, ended = 0, 0.0
    while ended < until:
        began = perf_counter()
        calls += await work(connection)
        ended = perf_counter()
        latencies.append(ended - began)
    return calls


class GrpcConnection(asyncio.Protocol):
    """One connection of HTTP/2 to a gRPC server."""

    def __init__(self, address: HostPort) -> None:
        self._authority = str(address).encode()
        self._received = bytearray()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._messages: dict[int, bytes] = {}
        self._next_stream = 1
        self._window_bytes = _WINDOW_BYTES_INITIAL

    async def call(self, method: str, message: bytes) -> bytes:
        """The answer's message. `method` is such as `/policyd.v1.PolicyService/CheckBudget`."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        data = b"\0" + len(message).to_bytes(4, "big") + message
        self._window_bytes -= len(data)
        if self._window_bytes < 0:
            raise UnexpectedReply("the server takes no more: it does not keep its window open")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[stream] = answer
        self._transport.write(
            _frame(_Frame.HEADERS, self._headers(method), flags=_END_HEADERS, stream=stream)
            + _frame(_Frame.DATA, data, flags=_END_STREAM, stream=stream)
        )
        return await answer

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + _WINDOW_BYTES_MAX.to_bytes(4, "big")
        window = (_WINDOW_BYTES_MAX - _WINDOW_BYTES_INITIAL).to_bytes(4, "big")
        self._transport.write(_PREFACE + _frame(_Frame.SETTINGS, settings) + _frame(_Frame.WINDOW_UPDATE, window))

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        start = 0
        while len(received) >= (payload := start + _FRAME_HEAD_BYTES):
            end = payload + int.from_bytes(received[start : start + 3], "big")
            if len(received) < end:
                break
            kind, flags = received[start + 3], received[start + 4]
            stream = int.from_bytes(received[start + 5 : payload], "big")
            self._take_frame(kind, flags, stream, bytes(received[payload:end]))
            start = end
        del received[:start]

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("closed in the middle of a call"))

    def _take_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _Frame.DATA:
            self._messages[stream] = self._messages.get(stream, b"") + payload
        elif kind in (_Frame.SETTINGS, _Frame.PING) and not flags & _ACK:
            acknowledged = payload if kind == _Frame.PING else b""
            self._transport.write(_frame(_Frame(kind), acknowledged, flags=_ACK))
        elif kind == _Frame.WINDOW_UPDATE and stream == 0:
            self._window_bytes += int.from_bytes(payload, "big")
        elif kind in (_Frame.RST_STREAM, _Frame.GOAWAY):
            self._fail(UnexpectedReply(f"the server sent {_Frame(kind).name}"))
        if kind in (_Frame.DATA, _Frame.HEADERS) and flags & _END_STREAM:
            self._end(stream, payload)

    def _end(self, stream: int, last: bytes) -> None:
        answer, message = self._answers.pop(stream), self._messages.pop(stream, b"")
        if answer.done():
            return
        if message:
            answer.set_result(message[_MESSAGE_HEAD_BYTES:])
        else:
            # The headers in `last` are compressed, but gRPC's message in them is mostly legible.
            answer.set_exception(UnexpectedReply(f"a call ended without an answer: {last!r}"))

    def _fail(self, error: Exception) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)

    def _headers(self, method: str) -> bytes:
        # By index in HPACK's static table: 3 is `:method: POST`, 6 `:scheme: http`; the names 1 `:authority`,
        # 4 `:path`, 31 `content-type`.
        return b"".join(
            (
                b"\x83\x86",
                b"\x01" + _text(self._authority),
                b"\x04" + _text(method.encode()),
                b"\x0f\x10" + _text(b"application/grpc"),
                b"\x00" + _text(b"te") + _text(b"trailers"),
            )
        )


def _frame(kind: _Frame, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(text: bytes) -> bytes:
    """A string of HPACK, not compressed; lengths from 127 on would take another form."""
    if len(text) >= 127:
        raise ValueError(f"{text!r} is too long for a header of this client")
    return bytes((len(text),)) + text

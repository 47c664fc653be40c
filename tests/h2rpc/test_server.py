"""Sockets: TCP, TLS and Unix; peers that do not read, do not speak, do not answer, or are too many."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from policyd.h2rpc import Call, Limits, Server, frames
from policyd.h2rpc.codes import ErrorCode
from policyd.h2rpc.frames import Frame, FrameReader
from policyd.h2rpc.messages import prefixed
from policyd.h2rpc.settings import INITIAL_WINDOW_SIZE
from tests.h2rpc.peer import PATH, data, headers, window_update
from tests.h2rpc.services import Echo, Quiet

WAIT_SECONDS_MAX = 20
SOON_SECONDS = 0.05

CERTIFICATE = Path(__file__).parents[1] / "envoy" / "tls" / "localhost.pem"
AUTHORITY = CERTIFICATE.with_name("ca.pem")

GREETING = frames.PREFACE + frames.settings({}) + frames.SETTINGS_ACK


@asynccontextmanager
async def serving(
    service: Callable[[Call], Quiet] = Echo, limits: Limits | None = None
) -> AsyncIterator[tuple[Server, int]]:
    server = Server({PATH: service}, limits=limits)
    port = await server.listen("127.0.0.1", 0)
    try:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            yield server, port
    finally:
        await server.stop(grace_seconds=0)
    assert (server.open_connections, server.open_calls) == (0, 0)


class Client:
    """A socket to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames = FrameReader(frame_bytes_max=2**24 - 1)
        self._received: list[Frame] = []

    async def frame(self, kind: int) -> Frame:
        """The next frame of a kind."""
        while True:
            for at, frame in enumerate(self._received):
                if frame.kind == kind:
                    del self._received[: at + 1]
                    return frame
            content = await self.reader.read(65_536)
            assert content, f"closed without a frame of kind {kind}"
            self._received += self._frames.frames(content)

    async def closed(self) -> None:
        """Returns when the server has closed the connection, whatever it has said before."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            pass


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def unary(channel: grpc.aio.Channel, message: bytes) -> bytes:
    call = channel.unary_unary(PATH, request_serializer=None, response_deserializer=None)
    answer: bytes = await call(message)
    return answer


class TestListening:
    async def test_a_unix_socket(self, tmp_path: Path) -> None:
        server = Server({PATH: Echo})
        await server.listen_unix(tmp_path / "socket")
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/socket") as channel:
            assert await unary(channel, b"hello") == b"hello"
        await server.stop(grace_seconds=0)

    async def test_a_socket_that_was_left_behind_is_replaced(self, tmp_path: Path) -> None:
        for _ in range(2):
            server = Server({PATH: Echo})
            await server.listen_unix(tmp_path / "socket")
            await server.stop(grace_seconds=0)

    async def test_tls(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE)
        context.set_alpn_protocols(["h2"])
        server = Server({PATH: Echo})
        port = await server.listen("127.0.0.1", 0, ssl=context)
        credentials = grpc.ssl_channel_credentials(AUTHORITY.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            assert await unary(channel, b"hello") == b"hello"
        await server.stop(grace_seconds=0)

    async def test_tls_without_h2_is_closed(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE)
        server = Server({PATH: Echo})
        port = await server.listen("127.0.0.1", 0, ssl=context)
        trusting = ssl.create_default_context(cafile=str(AUTHORITY))
        reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting)
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            await Client(reader, writer).closed()
        writer.transport.abort()
        await server.stop(grace_seconds=0)

    async def test_an_address_that_is_taken(self) -> None:
        async with serving() as (_, port):
            with pytest.raises(OSError, match="in use"):
                await Server({}).listen("127.0.0.1", port)

    async def test_more_connections_than_are_allowed(self) -> None:
        async with serving(limits=Limits(connections_max=1)) as (server, port), connected(port) as first:
            first.writer.write(GREETING)
            await first.frame(frames.SETTINGS)
            async with connected(port) as second:
                await second.closed()
            assert server.open_connections == 1
            first.writer.write(headers(1) + data(1, prefixed(b"hello")))
            assert (await first.frame(frames.DATA)).payload == prefixed(b"hello")


class TestPeersThatDoNotSpeak:
    async def test_another_protocol_is_told_and_closed(self) -> None:
        async with serving() as (_, port), connected(port) as client:
            client.writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            goaway = await client.frame(frames.GOAWAY)
            assert goaway.payload[4:8] == ErrorCode.PROTOCOL_ERROR.to_bytes(4)
            await client.closed()

    @pytest.mark.parametrize("begun", [b"", frames.PREFACE[:10], frames.PREFACE])
    async def test_a_handshake_that_does_not_come(self, begun: bytes) -> None:
        async with serving(limits=Limits(handshake_seconds_max=SOON_SECONDS)) as (_, port), connected(port) as client:
            client.writer.write(begun)
            await client.closed()

    async def test_one_that_is_silent_is_asked_and_then_closed(self) -> None:
        cancelled = asyncio.Event()
        service = telling(cancelled)
        limits = Limits(keepalive_seconds=SOON_SECONDS)
        async with serving(service, limits) as (_, port), connected(port) as client:
            client.writer.write(GREETING + headers(1))
            ping = await client.frame(frames.PING)
            assert not ping.flags & frames.ACK
            await client.closed()
            await cancelled.wait()

    async def test_one_that_answers_stays(self) -> None:
        # Long enough for a client on a busy machine to answer in time.
        async with serving(limits=Limits(keepalive_seconds=0.4)) as (server, port), connected(port) as client:
            client.writer.write(GREETING)
            for _ in range(2):
                ping = await client.frame(frames.PING)
                client.writer.write(frames.ping(ping.payload, ack=True))
            assert server.open_connections == 1

    async def test_one_that_goes_half_way(self) -> None:
        """It closes its side, and is told no more."""
        cancelled = asyncio.Event()
        async with serving(telling(cancelled)) as (_, port), connected(port) as client:
            client.writer.write(GREETING + headers(1))
            client.writer.write_eof()
            await client.closed()
            await cancelled.wait()


def telling(cancelled: asyncio.Event) -> Callable[[Call], Quiet]:
    class Telling(Quiet):
        def on_cancelled(self) -> None:
            cancelled.set()

    return Telling


MESSAGE = b"x" * 60_000


async def fill(client: Client) -> int:
    """Sends messages in windows as wide as can be, and reads nothing, until nothing more can be sent; how many bytes
    could."""
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can
    client.writer.write(frames.PREFACE + frames.settings({INITIAL_WINDOW_SIZE: 2**31 - 1}))
    client.writer.write(window_update(0, 2**31 - 1 - 65_535) + headers(1))
    content = prefixed(MESSAGE)
    sent_bytes = 0
    with suppress(TimeoutError):
        while True:
            client.writer.write(b"".join(data(1, content[at : at + 16_384]) for at in range(0, 60_005, 16_384)))
            sent_bytes += len(MESSAGE)
            async with asyncio.timeout(0.3):
                await client.writer.drain()
    return sent_bytes


class TestPeersThatDoNotRead:
    async def test_nothing_more_is_read_from_one_and_then_it_is_closed(self) -> None:
        """What is kept for it is no more than what was being read when the socket took no more."""
        seen = Seen()
        async with serving(seen.service, Limits(stall_seconds_max=1)) as (server, port), connected(port) as client:
            sent_bytes = await fill(client)
            assert 0 < seen.received_bytes < sent_bytes
            await seen.cancelled.wait()
            assert server.open_connections == 0

    async def test_a_server_stops_all_the_same(self) -> None:
        seen = Seen()
        async with serving(seen.service) as (server, port), connected(port) as client:
            await fill(client)
            await server.stop(grace_seconds=0)
            assert seen.cancelled.is_set()

    async def test_a_stream_that_is_given_no_window_is_reset(self) -> None:
        seen = Seen()
        async with (
            serving(seen.service, Limits(stall_seconds_max=SOON_SECONDS)) as (server, port),
            connected(port) as client,
        ):
            client.writer.write(frames.PREFACE + frames.settings({INITIAL_WINDOW_SIZE: 10}) + frames.SETTINGS_ACK)
            client.writer.write(headers(1) + data(1, prefixed(b"x" * 100)))
            reset = await client.frame(frames.RST_STREAM)
            assert (reset.stream_id, reset.payload) == (1, ErrorCode.CANCEL.to_bytes(4))
            await seen.cancelled.wait()
            assert server.open_connections == 1


class Seen:
    """An echo that is watched."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.received_bytes = 0

    def service(self, call: Call) -> Quiet:
        seen = self

        class Watched(Echo):
            def on_message(self, message: bytes) -> None:
                seen.received_bytes += len(message)
                self.call.send(message)

            def on_cancelled(self) -> None:
                seen.cancelled.set()

        return Watched(call)


async def test_a_handler_is_told_when_it_may_go_on() -> None:
    class Slow(Echo):
        def on_message(self, message: bytes) -> None:
            assert not self.call.send(message)

        def on_writable(self) -> None:
            self.call.finish()

    async with serving(Slow) as (_, port), connected(port) as client:
        client.writer.write(frames.PREFACE + frames.settings({INITIAL_WINDOW_SIZE: 10}) + frames.SETTINGS_ACK)
        client.writer.write(headers(1) + data(1, prefixed(b"x" * 100)))
        assert len((await client.frame(frames.DATA)).payload) == 10
        client.writer.write(window_update(1, 95))
        assert len((await client.frame(frames.DATA)).payload) == 95
        trailers = await client.frame(frames.HEADERS)
        assert trailers.flags & frames.END_STREAM

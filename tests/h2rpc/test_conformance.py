"""The server with grpcio's client: every kind of call, statuses, metadata, deadlines, cancellation, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from policyd.h2rpc import Call, Limits, Status
from tests.h2rpc.services import Echo, Quiet, Running, running

MESSAGES = [b"", b"x", b"hello" * 1000, b"y" * 16_384, b"z" * 3_000_000]


class Recording(Quiet):
    """Remembers what its calls were told."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.told: list[str] = []
        self.changed = asyncio.Event()
        calls.append(self)

    def on_message(self, message: bytes) -> None:
        self._tell("message")

    def on_half_close(self) -> None:
        self._tell("half-close")

    def on_cancelled(self) -> None:
        self._tell("cancelled")

    async def wait_for(self, word: str) -> None:
        while word not in self.told:
            self.changed.clear()
            await self.changed.wait()

    def _tell(self, word: str) -> None:
        self.told.append(word)
        self.changed.set()


calls: list[Recording] = []


class Counting(Quiet):
    """Answers one message with as many as it asks for, no faster than they leave."""

    def on_message(self, message: bytes) -> None:
        self.left = int(message)
        self.on_writable()

    def on_writable(self) -> None:
        while self.left:
            self.left -= 1
            if not self.call.send(b"x" * 10_000):
                return
        self.call.finish()


class Summing(Quiet):
    """Answers all messages with how many bytes they had."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.sum = 0

    def on_message(self, message: bytes) -> None:
        self.sum += len(message)

    def on_half_close(self) -> None:
        self.call.send(b"%d" % self.sum)
        self.call.finish()


class Metadata(Quiet):
    """Answers with its caller's metadata."""

    def on_half_close(self) -> None:
        self.call.send("\n".join(f"{name}: {value}" for name, value in self.call.metadata).encode())
        self.call.finish()


class Failing(Quiet):
    """Ends as it is told: a status, a line break, a message."""

    def on_message(self, message: bytes) -> None:
        status, _, text = message.decode().partition("\n")
        if status == "raise":
            raise RuntimeError(text)
        if text.startswith("late"):
            self.call.send(b"first")
        self.call.finish(Status(int(status)), text)


class Pausing(Quiet):
    """Takes one message, and the next when the event loop has turned."""

    def on_message(self, message: bytes) -> None:
        self.call.pause_reading()
        asyncio.get_running_loop().call_soon(self._go_on, message)

    def on_half_close(self) -> None:
        self.call.finish()

    def _go_on(self, message: bytes) -> None:
        self.call.send(message)
        self.call.resume_reading()


SERVICES = {
    f"/test.Test/{service.__name__}": service
    for service in (Echo, Counting, Summing, Metadata, Failing, Pausing, Recording)
}


@pytest.fixture
async def served() -> AsyncIterator[Running]:
    calls.clear()
    async with running(SERVICES) as it:
        yield it


def unary(served: Running, service: type[Quiet]) -> Any:
    return served.channel.unary_unary(f"/test.Test/{service.__name__}")


def stream(served: Running, service: type[Quiet], **options: Any) -> Any:
    return served.channel.stream_stream(f"/test.Test/{service.__name__}")(**options)


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details() or ""


class TestKinds:
    @pytest.mark.parametrize("message", MESSAGES, ids=len)
    async def test_unary(self, served: Running, message: bytes) -> None:
        assert await unary(served, Echo)(message) == message

    async def test_a_stream_of_replies(self, served: Running) -> None:
        """Ten times what the client's window takes."""
        call = served.channel.unary_stream("/test.Test/Counting")(b"1000")
        sizes = [len(message) async for message in call]
        assert sizes == [10_000] * 1000

    async def test_a_stream_of_requests(self, served: Running) -> None:
        call = served.channel.stream_unary("/test.Test/Summing")(iter(MESSAGES))
        assert int(await call) == sum(map(len, MESSAGES))

    async def test_streams_both_ways(self, served: Running) -> None:
        call = stream(served, Echo)
        for message in MESSAGES:
            await call.write(message)
            assert await call.read() == message
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK

    async def test_messages_wait_for_a_handler_that_pauses(self, served: Running) -> None:
        call = served.channel.stream_stream("/test.Test/Pausing")(iter(MESSAGES * 3))
        assert [len(message) async for message in call] == [len(message) for message in MESSAGES * 3]

    async def test_many_at_once(self, served: Running) -> None:
        texts = [b"%d" % number * 1000 for number in range(500)]
        assert await asyncio.gather(*(unary(served, Echo)(text) for text in texts)) == texts
        assert served.server.open_connections == 1
        assert served.server.open_calls == 0


class TestStatus:
    @pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK], ids=lambda s: s.name)
    @pytest.mark.parametrize("text", ["", "plain words", "late, after a message", "late: 100 %, naïve ☃\n\x7f\x00"])
    async def test_arrives_with_its_message(self, served: Running, status: Status, text: str) -> None:
        call = stream(served, Failing)
        await call.write(f"{int(status)}\n{text}".encode())
        if text.startswith("late"):
            assert await call.read() == b"first"
        assert await call.code() is next(code for code in grpc.StatusCode if code.value[0] == status)
        assert await call.details() == text

    async def test_a_long_message_is_cut(self, served: Running) -> None:
        _, details = await status_of(unary(served, Failing)(b"13\n" + b"x" * 5000))
        assert details == "x" * 1024

    async def test_no_such_method(self, served: Running) -> None:
        code, details = await status_of(served.channel.unary_unary("/test.Test/Nothing")(b""))
        assert (code, details) == (grpc.StatusCode.UNIMPLEMENTED, "there is no such method")

    async def test_a_handler_that_fails(self, served: Running, caplog: pytest.LogCaptureFixture) -> None:
        code, details = await status_of(unary(served, Failing)(b"raise\nsecret"))
        assert (code, details) == (grpc.StatusCode.INTERNAL, "the service failed")
        assert "RuntimeError" in caplog.text
        assert "secret" not in caplog.text
        assert await unary(served, Echo)(b"others go on") == b"others go on"

    async def test_a_message_that_is_too_large(self) -> None:
        async with running(SERVICES, Limits(message_bytes_max=1000)) as served:
            assert await unary(served, Echo)(b"x" * 1000) == b"x" * 1000
            code, details = await status_of(unary(served, Echo)(b"x" * 1001))
            assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "a message has 1001 bytes of 1000")

    async def test_more_than_is_kept_of_a_connection(self) -> None:
        """By a handler that reads nothing, so that it piles up."""
        async with running({"/test.Test/Deaf": Deaf}, Limits(received_bytes_max=100_000)) as served:
            call = served.channel.stream_stream("/test.Test/Deaf")()
            await call.write(b"first")
            with suppress(grpc.aio.AioRpcError):  # the call may have ended before the last of them
                for _ in range(4):
                    await call.write(b"x" * 30_000)
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    @pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
    async def test_compression_is_refused(self, served: Running, compression: grpc.Compression) -> None:
        code, details = await status_of(unary(served, Echo)(b"x" * 1000, compression=compression))
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert "identity" in details


class Deaf(Quiet):
    def on_message(self, message: bytes) -> None:
        self.call.pause_reading()


class TestMetadata:
    async def test_arrives(self, served: Running) -> None:
        metadata = (("x-one", "1"), ("x-two", "a b"), ("x-one", "2"))
        lines = (await unary(served, Metadata)(b"", metadata=metadata)).decode().splitlines()
        assert sorted(line for line in lines if line.startswith("x-")) == ["x-one: 1", "x-one: 2", "x-two: a b"]
        assert "content-type: application/grpc" in lines

    async def test_differs_from_call_to_call(self, served: Running) -> None:
        """Header blocks are remembered, and yet not mixed up."""
        for number in [*range(20), *range(20)]:
            answer = await unary(served, Metadata)(b"", metadata=(("x-number", str(number)),))
            assert f"x-number: {number}".encode() in answer.splitlines()

    async def test_a_large_one(self, served: Running) -> None:
        answer = await unary(served, Metadata)(b"", metadata=(("x-large", "y" * 7000),))
        assert b"x-large: " + b"y" * 7000 in answer


class TestEnds:
    async def test_a_deadline(self, served: Running) -> None:
        call = stream(served, Recording, timeout=1)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await calls[0].wait_for("cancelled")

    async def test_a_deadline_that_is_kept(self, served: Running) -> None:
        assert await unary(served, Echo)(b"x", timeout=60) == b"x"

    async def test_a_cancellation(self, served: Running) -> None:
        call = stream(served, Recording)
        await call.write(b"x")
        while not calls:  # noqa: ASYNC110 (the server tells the test by it alone)
            await asyncio.sleep(0.001)
        await calls[0].wait_for("message")
        call.cancel()
        await calls[0].wait_for("cancelled")
        assert calls[0].told == ["message", "cancelled"]

    async def test_a_half_close_and_then_a_cancellation(self, served: Running) -> None:
        call = served.channel.unary_unary("/test.Test/Recording")(b"x")
        while not calls:  # noqa: ASYNC110 (the same)
            await asyncio.sleep(0.001)
        await calls[0].wait_for("half-close")
        call.cancel()
        await calls[0].wait_for("cancelled")
        assert calls[0].told == ["message", "half-close", "cancelled"]

    async def test_a_client_that_goes(self, served: Running) -> None:
        call = stream(served, Recording)
        await call.write(b"x")
        while not calls:  # noqa: ASYNC110 (the same)
            await asyncio.sleep(0.001)
        await served.channel.close()
        await calls[0].wait_for("cancelled")

    async def test_a_handler_that_has_finished_hears_no_more(self, served: Running) -> None:
        call = stream(served, Recording)
        await call.write(b"x")
        while not calls:  # noqa: ASYNC110 (the same)
            await asyncio.sleep(0.001)
        await calls[0].wait_for("message")
        calls[0].call.finish()
        assert await call.code() is grpc.StatusCode.OK
        assert calls[0].call.send(b"too late")
        assert calls[0].told == ["message"]


class TestStopping:
    async def test_open_calls_end_in_their_own_time(self, served: Running) -> None:
        call = stream(served, Echo)
        await call.write(b"before")
        assert await call.read() == b"before"
        stopping = asyncio.ensure_future(served.server.stop(grace_seconds=30))
        await call.write(b"meanwhile")
        assert await call.read() == b"meanwhile"
        assert not stopping.done()
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        await stopping

    async def test_those_that_outlast_the_grace_end_with_unavailable(self, served: Running) -> None:
        call = stream(served, Recording)
        await call.write(b"x")
        while not calls:  # noqa: ASYNC110 (the server tells the test by it alone)
            await asyncio.sleep(0.001)
        await served.server.stop(grace_seconds=0)
        assert calls[0].told[-1] == "cancelled"
        assert await call.code() is grpc.StatusCode.UNAVAILABLE

    async def test_no_new_connection_is_taken(self, served: Running) -> None:
        await served.server.stop(grace_seconds=0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", served.port)

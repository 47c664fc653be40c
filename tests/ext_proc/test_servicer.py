"""The service on a real gRPC stream: it never ends with OK before its exchange has, and nothing is left undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from policyd.core.record import Outcome
from policyd.core.usage import Usage
from policyd.ext_proc.over_grpcio import GrpcioServer
from policyd.ext_proc.over_h2rpc import H2rpcServer
from policyd.ext_proc.servicer import METHOD, PROVIDER_METADATA, ExternalProcessor, ExtProcServer
from policyd.ext_proc.settings import ExchangeSettings
from policyd.ext_proc.states import State
from tests.builders import World, limit, policy, price_of
from tests.ext_proc import wire
from tests.ext_proc.trying_stores import Turnstile, slow
from tests.ext_proc.wire import chat, chat_stream, request_headers

END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in grpc-stubs

CHAT = chat(stream=True)

MESSAGE_BYTES_MAX = 2**20


def headers(values: dict[str, str]) -> base_pb2.HeaderMap:
    return base_pb2.HeaderMap(
        headers=[base_pb2.HeaderValue(key=name, raw_value=value.encode()) for name, value in values.items()]
    )


REQUEST_HEADERS = pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=headers(request_headers(CHAT))))
REQUEST_BODY = pb.ProcessingRequest(request_body=pb.HttpBody(body=CHAT, end_of_stream=True))
RESPONSE_HEADERS = pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=headers(wire.SSE)))


def response_body(chunk: bytes, *, end_of_stream: bool = False) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=chunk, end_of_stream=end_of_stream))


@dataclass
class Serving:
    """A running service, and a channel to it."""

    world: World
    server: ExtProcServer
    processor: ExternalProcessor
    channel: grpc.aio.Channel

    def open_stream(self, **metadata: str) -> Any:
        """A stream as Envoy opens it for one exchange."""
        process: Any = self.channel.stream_stream(
            METHOD,
            request_serializer=pb.ProcessingRequest.SerializeToString,
            response_deserializer=pb.ProcessingResponse.FromString,
        )
        return process(metadata=tuple((name.replace("_", "-"), value) for name, value in metadata.items()))

    async def forwarded(self) -> Any:
        """A stream whose request went upstream."""
        stream = self.open_stream()
        await stream.write(REQUEST_HEADERS)
        assert (await stream.read()).HasField("request_headers")
        await stream.write(REQUEST_BODY)
        assert (await stream.read()).HasField("request_body")
        return stream


class Serve(Protocol):
    """Serves an enforcer until the end of the block."""

    def __call__(
        self, world: World, settings: ExchangeSettings | None = None
    ) -> AbstractAsyncContextManager[Serving]: ...


@pytest.fixture(params=[GrpcioServer, H2rpcServer], ids=["grpcio", "h2rpc"])
def serving(request: pytest.FixtureRequest) -> Serve:
    """On each transport in turn."""

    @asynccontextmanager
    async def serve(world: World, settings: ExchangeSettings | None = None) -> AsyncIterator[Serving]:
        processor = ExternalProcessor(world.enforcer, settings or ExchangeSettings())
        server: ExtProcServer = request.param(processor, message_bytes_max=MESSAGE_BYTES_MAX)
        port = await server.listen("127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Serving(world, server, processor, channel)
        await server.stop(grace_seconds=0)
        await processor.finish_endings()
        assert processor.open_exchanges == 0

    return serve


async def test_a_whole_exchange(world: World, serving: Serve) -> None:
    async with serving(world) as service:
        stream = await service.forwarded()
        assert service.processor.open_exchanges == 1
        await stream.write(RESPONSE_HEADERS)
        assert (await stream.read()).HasField("response_headers")
        events = chat_stream()
        for event in events[:-1]:
            await stream.write(response_body(event))
            if event != wire.usage_chunk():
                piece = (await stream.read()).response_body.response.body_mutation.streamed_response
                assert (piece.body, piece.end_of_stream) == (event, False)
        await stream.write(response_body(events[-1], end_of_stream=True))
        piece = (await stream.read()).response_body.response.body_mutation.streamed_response
        assert (piece.body, piece.end_of_stream) == (wire.DONE, True)
        await stream.done_writing()
        assert await stream.read() is END
        assert await stream.code() is grpc.StatusCode.OK
    assert world.record.request_id.startswith("pd-")
    assert await world.spent() == price_of("gpt-4o").cost_nanos(wire.CHAT_USED)


async def test_a_refusal(serving: Serve) -> None:
    world = World(policy(limit(amount=1)))
    async with serving(world) as service:
        stream = service.open_stream()
        await stream.write(REQUEST_HEADERS)
        await stream.read()
        await stream.write(REQUEST_BODY)
        assert (await stream.read()).immediate_response.status.code == 402
        stream.cancel()
    assert world.record.outcome is Outcome.DENIED


async def test_the_route_names_the_provider(world: World, serving: Serve) -> None:
    async with serving(world) as service:
        stream = service.open_stream(**{PROVIDER_METADATA: "groq"})
        await stream.write(REQUEST_HEADERS)
        await stream.read()
        await stream.write(REQUEST_BODY)
        await stream.read()
        stream.cancel()
    assert world.record.provider == "groq"


async def test_every_exchange_has_an_id_of_its_own(world: World, serving: Serve) -> None:
    async with serving(world) as service:
        streams = [await service.forwarded() for _ in range(3)]
        assert service.processor.open_exchanges == 3
        for stream in streams:
            stream.cancel()
    assert len({record.request_id for record in world.seen.records}) == 3


@pytest.mark.parametrize("half_closes", [True, False])
async def test_a_client_that_hangs_up_amid_the_reply(world: World, half_closes: bool, serving: Serve) -> None:
    """Envoy ends the stream in an orderly way, or resets it."""
    async with serving(world) as service:
        stream = await service.forwarded()
        await stream.write(RESPONSE_HEADERS)
        await stream.read()
        await stream.write(response_body(wire.chat_chunk({"content": " hello"})))
        await stream.read()
        if half_closes:
            await stream.done_writing()
            assert await stream.read() is END
        else:
            stream.cancel()
    assert (world.record.outcome, world.record.usage) == (Outcome.DISCONNECTED, Usage(input=10, output=1))
    assert await world.spent() == world.record.actual_cost_nanos


@pytest.mark.parametrize("waits_before", [True, False])
async def test_a_client_that_hangs_up_while_it_is_decided(waits_before: bool, serving: Serve) -> None:
    turnstile = Turnstile()
    world = World(wrap=slow(turnstile, waits_before=waits_before))
    async with serving(world) as service:
        stream = service.open_stream()
        await stream.write(REQUEST_HEADERS)
        await stream.read()
        await stream.write(REQUEST_BODY)
        await turnstile.arrival()
        stream.cancel()
        # gRPC tells the server in its own time.
        (exchange,) = (stream._exchange for stream in service.processor._open)
        assert exchange is not None
        while exchange.state is not State.ABANDONED:  # noqa: ASYNC110 (it tells nobody else)
            await asyncio.sleep(0.001)
        turnstile.open()
        # The release.
        await turnstile.arrival()
        turnstile.open()
    assert (world.record.outcome, world.record.usage) == (Outcome.DISCONNECTED, None)
    assert await world.spent() == 0


@pytest.mark.parametrize(
    "message", [pb.ProcessingRequest(), response_body(b"out of place")], ids=["unknown kind", "out of place"]
)
async def test_a_message_that_cannot_be_ends_the_stream_with_an_error(
    world: World, message: pb.ProcessingRequest, serving: Serve
) -> None:
    """An end with OK would let the request through unmetered."""
    async with serving(world) as service:
        stream = await service.forwarded()
        await stream.write(message)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stream.read()
        assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert world.record.outcome is Outcome.FAILED
    assert await world.spent() == world.record.actual_cost_nanos


async def test_a_first_message_that_cannot_be_is_answered_with_503(world: World, serving: Serve) -> None:
    async with serving(world) as service:
        stream = service.open_stream()
        await stream.write(pb.ProcessingRequest())
        assert (await stream.read()).immediate_response.status.code == 503
        stream.cancel()


async def test_a_server_that_stops_ends_its_streams_with_an_error_and_settles_them(
    world: World, serving: Serve
) -> None:
    async with serving(world) as service:
        stream = await service.forwarded()
        await service.server.stop(grace_seconds=0)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await stream.read()
        assert await stream.code() is not grpc.StatusCode.OK
        await service.processor.finish_endings()
        assert service.processor.open_exchanges == 0
        assert world.record.outcome is Outcome.DISCONNECTED
        assert await world.spent() == world.record.actual_cost_nanos


async def test_a_body_that_does_not_come_is_refused_in_time(world: World, serving: Serve) -> None:
    async with serving(world, ExchangeSettings(request_body_seconds_max=0.2)) as service:
        # One whose body came in time, two that begin one after the other, and one when nothing else is waited for.
        await service.forwarded()
        for begun in (2, 1):
            streams = [service.open_stream() for _ in range(begun)]
            for stream in streams:
                await stream.write(REQUEST_HEADERS)
                assert (await stream.read()).HasField("request_headers")
                await asyncio.sleep(0.05)
            for stream in streams:
                refusal = await stream.read()
                assert refusal.immediate_response.status.code == 408
                assert b"body_too_slow" in refusal.immediate_response.body
                assert await stream.read() is END

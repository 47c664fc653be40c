"""Bytes that are no message, and messages that no Envoy sends, over real gRPC: an error, and never an orderly end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.policy import FailureMode
from policyd.ext_proc.over_grpcio import GrpcioServer
from policyd.ext_proc.over_h2rpc import H2rpcServer
from policyd.ext_proc.servicer import METHOD, ExternalProcessor, ExtProcServer
from policyd.ext_proc.settings import ExchangeSettings
from policyd.stores.memory import MemoryStore
from policyd.v1.policy_service_pb2 import DESCRIPTOR
from tests.api.serving import Api, raw_call
from tests.api.serving import serving as serving_api
from tests.builders import World, policy
from tests.ext_proc.test_servicer import REQUEST_BODY, REQUEST_HEADERS, RESPONSE_HEADERS
from tests.hostile.limits import BOUNDED

ANSWER_SECONDS_MAX = 20

UNKNOWN_KIND = bytes([0xA2, 0x06, 0x01, 0x00])
"""Field 100, as a kind of message that a newer Envoy might send."""

GARBAGE = {
    "nothing": b"",
    "an unknown kind": UNKNOWN_KIND,
    "no protobuf": b"\xff" * 40,
    "a broken length": b"\x12\xff\xff\xff\xff\x0f" + b"a" * 10,
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "groups without end": b"\x0b" * 10_000,
    "an unknown body mode": pb.ProcessingRequest(
        protocol_config=pb.ProtocolConfiguration(request_body_mode=77),
        request_headers=REQUEST_HEADERS.request_headers,
    ).SerializeToString(),
    "the reply before the request": RESPONSE_HEADERS.SerializeToString(),
    "the body before the headers": REQUEST_BODY.SerializeToString(),
}

PASSES_OR_IS_REFUSED = ("the reply before the request",)
"""What Envoy itself answered before it was asked about: its own reply to its client."""


@asynccontextmanager
async def opened(world: World, transport: type[GrpcioServer | H2rpcServer]) -> AsyncIterator[Any]:
    """A stream of bytes to the ext_proc service."""
    processor = ExternalProcessor(world.enforcer, ExchangeSettings())
    server: ExtProcServer = transport(processor, message_bytes_max=2**20)
    port = await server.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        process: Any = channel.stream_stream(METHOD, request_serializer=bytes, response_deserializer=bytes)
        yield process(timeout=ANSWER_SECONDS_MAX)
    await server.stop(grace_seconds=0)
    await processor.finish_endings()
    assert processor.open_exchanges == 0


async def told(stream: Any, message: bytes) -> pb.ProcessingResponse | grpc.StatusCode:
    """What comes back for a message: a reply, or the stream's end."""
    await stream.write(message)
    await stream.done_writing()
    try:
        reply = await stream.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    if isinstance(reply, bytes):
        return pb.ProcessingResponse.FromString(reply)
    code: grpc.StatusCode = await stream.code()
    return code


@pytest.mark.parametrize("transport", [GrpcioServer, H2rpcServer], ids=["grpcio", "h2rpc"])
@pytest.mark.parametrize("failure_mode", FailureMode)
class TestExtProc:
    @pytest.mark.parametrize("message", GARBAGE.values(), ids=GARBAGE)
    async def test_first(
        self, transport: type[GrpcioServer | H2rpcServer], failure_mode: FailureMode, message: bytes
    ) -> None:
        world = World(policy(failure_mode=failure_mode))
        async with opened(world, transport) as stream:
            answer = await told(stream, message)
        if isinstance(answer, grpc.StatusCode):
            assert answer is not grpc.StatusCode.OK
        elif message not in (GARBAGE[name] for name in PASSES_OR_IS_REFUSED):
            assert answer.WhichOneof("response") == "immediate_response"
        assert await world.spent() == 0

    @pytest.mark.parametrize("message", GARBAGE.values(), ids=GARBAGE)
    async def test_once_the_request_went_upstream(
        self, transport: type[GrpcioServer | H2rpcServer], failure_mode: FailureMode, message: bytes
    ) -> None:
        """It has been served by then, whatever the failure mode: it is charged."""
        world = World(policy(failure_mode=failure_mode))
        async with opened(world, transport) as stream:
            for good in (REQUEST_HEADERS, REQUEST_BODY):
                await stream.write(good.SerializeToString())
                await stream.read()
            answer = await told(stream, message)
        if message not in (GARBAGE[name] for name in PASSES_OR_IS_REFUSED):
            assert answer is grpc.StatusCode.INTERNAL
        assert await world.spent() == world.record.actual_cost_nanos
        assert world.record.actual_cost_nanos


METHODS = sorted(DESCRIPTOR.services_by_name["PolicyService"].methods_by_name)


@pytest.mark.parametrize("message", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("method", METHODS)
async def test_policy_service(method: str, message: bytes) -> None:
    async with serving_api(MemoryStore()) as api:
        code = await code_of(api, method, message)
    assert code not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)


@given(method=st.sampled_from(METHODS), message=st.binary(max_size=80))
@BOUNDED
async def test_policy_service_with_any_bytes(method: str, message: bytes) -> None:
    async with serving_api(MemoryStore()) as api:
        code = await code_of(api, method, message)
    assert code not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)


async def code_of(api: Api, method: str, message: bytes) -> grpc.StatusCode:
    """How a call of bytes that no stub would send ends."""
    try:
        await raw_call(api, method, message)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK

"""The service as a peer on the network: strange bytes, callers that hang up, health and reflection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from policyd.api.service import SERVICE, SERVICE_NAME
from policyd.core.estimate import Confidence
from policyd.core.policy import Action, Metric
from policyd.core.record import Outcome, UsageSource
from policyd.core.reservation import State
from policyd.core.usage import KINDS
from policyd.v1 import reservation_pb2, usage_pb2, verdict_pb2
from tests.api.messages import HELD_NANOS, USED_NANOS, counted, record, reserve, settle
from tests.api.serving import Api, balance, raw_call

METHODS = [method.name for method in SERVICE.methods]


def test_every_method_of_the_design_is_there() -> None:
    assert set(METHODS) == {
        "CheckBudget",
        "EstimateCost",
        "Reserve",
        "Extend",
        "Settle",
        "Release",
        "RecordUsage",
        "GetBudget",
        "ListUsage",
    }


@pytest.mark.parametrize("method", METHODS)
async def test_garbage_ends_in_a_clean_status(api: Api, method: str) -> None:
    """Random bytes, and a real message with random bytes in it."""
    chance = random.Random(method)
    sound = reserve(request=counted()).SerializeToString()
    codes = set()
    for _ in range(60):
        garbled = bytearray(sound)
        for _ in range(chance.randrange(1, 6)):
            garbled[chance.randrange(len(garbled))] = chance.randrange(256)
        for request in (chance.randbytes(chance.randrange(200)), bytes(garbled)):
            codes.add(await code_of(raw_call(api, method, request)))
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    assert codes <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
    await api.stub.RecordUsage(record("still-here"))


async def test_an_unknown_method_is_unimplemented(api: Api) -> None:
    assert await code_of(raw_call(api, "PrintMoney", b"")) is grpc.StatusCode.UNIMPLEMENTED


async def code_of(call: Awaitable[object]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_settle_whose_caller_hangs_up_is_finished(api: Api) -> None:
    await api.stub.Reserve(reserve())
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await go_on.wait()

    api.troubles["settle"] = wait
    call = api.stub.Settle(settle())
    await reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    # The server learns of it before it learns of a later call on the same connection.
    assert await balance(api) == (0, HELD_NANOS)
    go_on.set()
    await api.calls.finish()
    assert [each.actual_cost_nanos for each in api.seen.records] == [USED_NANOS]
    assert await balance(api) == (USED_NANOS, 0)


class TestStandardServices:
    async def test_health_answers_for_the_server_and_the_service(self, api: Api) -> None:
        health = health_pb2_grpc.HealthStub(api.channel)
        for name in ("", SERVICE_NAME):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await api.health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.NOT_SERVING)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING

    async def test_reflection_lists_what_is_served(self, api: Api) -> None:
        (answer,) = await reflect(api, reflection_pb2.ServerReflectionRequest(list_services=""))
        assert {each.name for each in answer.list_services_response.service} == {
            "policyd.v1.PolicyService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }

    async def test_reflection_describes_the_service_and_all_that_it_needs(self, api: Api) -> None:
        """What a client such as grpcurl asks: the file of the service, then every file that it imports."""
        wanted = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE_NAME)]
        described: dict[str, FileDescriptorProto] = {}
        while wanted:
            for answer in await reflect(api, *wanted):
                for content in answer.file_descriptor_response.file_descriptor_proto:
                    file = FileDescriptorProto.FromString(content)
                    described[file.name] = file
            missing = {name for file in described.values() for name in file.dependency} - described.keys()
            wanted = [reflection_pb2.ServerReflectionRequest(file_by_filename=name) for name in sorted(missing)]
        assert "google/type/money.proto" in described
        (described_service,) = described["policyd/v1/policy_service.proto"].service
        assert [method.name for method in described_service.method] == METHODS


async def reflect(
    api: Api, *asked: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        for request in asked:
            yield request

    stub = reflection_pb2_grpc.ServerReflectionStub(api.channel)
    return [answer async for answer in stub.ServerReflectionInfo(requests())]


def test_the_contract_has_a_name_for_everything_that_is_written() -> None:
    for prefix, written, contract in (
        ("METRIC", Metric, verdict_pb2.Metric),
        ("LIMIT_ACTION", Action, verdict_pb2.LimitAction),
        ("CONFIDENCE", Confidence, verdict_pb2.Confidence),
        ("RESERVATION_STATE", State, reservation_pb2.ReservationState),
        ("OUTCOME", Outcome, usage_pb2.Outcome),
        ("USAGE_SOURCE", UsageSource, usage_pb2.UsageSource),
    ):
        names = {f"{prefix}_{each.upper()}" for each in written}
        assert names == set(contract.keys()) - {f"{prefix}_UNSPECIFIED"}
    assert tuple(field.name for field in usage_pb2.Usage.DESCRIPTOR.fields) == KINDS

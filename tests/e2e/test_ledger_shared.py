"""Requests through Envoy and calls over gRPC spend one budget."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from policyd.core.money import NANOS_PER_USD
from policyd.core.usage import Usage
from policyd.v1 import usage_pb2
from policyd.v1.model_request_pb2 import ModelRequest, TokenCounts
from policyd.v1.policy_service_pb2 import (
    CheckBudgetRequest,
    ListUsageRequest,
    ReserveRequest,
    SettleRequest,
)
from policyd.v1.policy_service_pb2_grpc import PolicyServiceStub
from policyd.v1.verdict_pb2 import DECISION_ALLOW, DECISION_DENY
from tests.e2e.books import BUDGET, cost
from tests.e2e.conftest import Start
from tests.e2e.mesh import Balance, Mesh
from tests.e2e.sdks import OpenAI, policyd_object

POLICY = """
version: 1
limits:
  - name: project-spend
    per: [project]
    cost_usd: 0.01
    window: lifetime
"""


@pytest.fixture(scope="module")
def mesh(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return start(POLICY, store=f"sqlite:///{tmp_path_factory.mktemp('store')}/policyd.db")


@pytest.fixture
def service(mesh: Mesh) -> Iterator[PolicyServiceStub]:
    with grpc.insecure_channel(mesh.grpc) as channel:
        yield PolicyServiceStub(channel)


def request_of(project: str, *, output_tokens: int) -> ModelRequest:
    return ModelRequest(
        attributes={"project": project},
        provider="openai",
        endpoint="chat.completions",
        counts=TokenCounts(model="gpt-4o", input_tokens=0, max_output_tokens=output_tokens),
    )


def test_what_another_service_holds_is_missing_here(mesh: Mesh, service: PolicyServiceStub, project: str) -> None:
    sdk = OpenAI()
    # 0.009 of the 0.01 USD.
    reserve = ReserveRequest(request_id=project, model_request=request_of(project, output_tokens=900))
    reserved = service.Reserve(reserve)
    assert reserved.verdict.decision == DECISION_ALLOW
    assert mesh.balance(BUDGET, project=project) == Balance(spent=0, reserved=cost(sdk, Usage(output=900)))

    with pytest.raises(sdk.status_errors[402]) as raised:
        sdk.ask(mesh, project=project, max_tokens=200)
    assert policyd_object(raised.value)["limits"][0]["reserved"] == 0.009

    # It used a third of what it held, and the rest is free for everybody.
    service.Settle(SettleRequest(reservation_id=reserved.reservation_id, usage=usage_pb2.Usage(output=300)))
    reply = sdk.ask(mesh, project=project, max_tokens=200)
    assert reply.usage is not None
    spent = cost(sdk, Usage(output=300)) + cost(sdk, reply.usage)
    assert mesh.balance(BUDGET, project=project) == Balance(spent=spent, reserved=0)


def test_what_is_spent_here_is_missing_there(mesh: Mesh, service: PolicyServiceStub, project: str) -> None:
    before = service.CheckBudget(CheckBudgetRequest(model_request=request_of(project, output_tokens=1000)))
    OpenAI().ask(mesh, project=project)
    after = service.CheckBudget(CheckBudgetRequest(model_request=request_of(project, output_tokens=1000)))

    assert (before.verdict.decision, after.verdict.decision) == (DECISION_ALLOW, DECISION_DENY)
    (denial,) = after.verdict.denials
    assert denial.name == BUDGET


def test_both_kinds_of_record_are_in_one_list(mesh: Mesh, service: PolicyServiceStub, project: str) -> None:
    reply = OpenAI().ask(mesh, project=project)
    reserve = ReserveRequest(
        request_id=project, model_request=request_of(project, output_tokens=100), ttl=Duration(seconds=60)
    )
    held = service.Reserve(reserve)
    service.Settle(SettleRequest(reservation_id=held.reservation_id, usage=usage_pb2.Usage(output=10)))

    page = service.ListUsage(ListUsageRequest(attributes={"project": project}))
    assert [record.request_id for record in page.usage_records] == [held.reservation_id, reply.request_id]
    spent = sum(record.actual_cost.units * NANOS_PER_USD + record.actual_cost.nanos for record in page.usage_records)
    assert mesh.balance(BUDGET, project=project) == Balance(spent=spent, reserved=0)


def test_an_exchange_of_envoys_cannot_be_ended_by_another_service(
    mesh: Mesh, service: PolicyServiceStub, project: str
) -> None:
    sdk = OpenAI()
    call = sdk.call(mesh, project=project, script={"output-tokens": 100, "chunk-delay-ms": 50}, stream=True)
    with sdk.client(call) as client:
        raw = client.chat.completions.with_raw_response.create(**call.members)
        with raw.parse() as stream:
            next(iter(stream))
            settle = SettleRequest(reservation_id=raw.headers["x-policyd-request-id"], usage=usage_pb2.Usage(output=1))
            with pytest.raises(grpc.RpcError) as raised:
                service.Settle(settle)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND

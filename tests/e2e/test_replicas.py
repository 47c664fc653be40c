"""Two policyd, each behind its own Envoy, on one Redis: one ledger, also while Redis hangs and after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from functools import partial

import openai
import pytest

from policyd.core.money import parse_usd
from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from tests.e2e.books import BUDGET, calls, cost, nanos, wait_until_idle
from tests.e2e.conftest import Start
from tests.e2e.mesh import Balance, Mesh
from tests.e2e.sdks import OpenAI, Reply, policyd_object
from tests.stores.redis_server import RedisServer, running, wait_until

POLICY = """
version: 1
default_max_output_tokens: 20
limits:
  - name: project-spend
    per: [project]
    cost_usd: 0.01
    window: lifetime
"""

LIMIT_NANOS = parse_usd("0.01")

REQUESTS_EACH = 60


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def replicas(start: Start, redis_server: RedisServer) -> Sequence[Mesh]:
    return [start(POLICY, store=f"redis://{redis_server.address}/0") for _ in range(2)]


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider) -> None:
    wait_until_idle(provider)
    provider.reset()


async def _ask(mesh: Mesh, project: str) -> tuple[list[Reply], int]:
    """The replies, and how many were refused for lack of money."""
    call = OpenAI().call(mesh, project=project, max_tokens=30, script={"output-tokens": 25, "delay-ms": 50})
    async with OpenAI.async_client(call) as client:
        asked = (OpenAI.ask_by(client, call) for _ in range(REQUESTS_EACH))
        results = await asyncio.gather(*asked, return_exceptions=True)
    refused = [result for result in results if isinstance(result, openai.APIStatusError)]
    assert {error.status_code for error in refused} <= {402}
    return [result for result in results if isinstance(result, Reply)], len(refused)


async def test_both_together_never_overspend(
    replicas: Sequence[Mesh], provider: SimulatedProvider, project: str
) -> None:
    (first, first_refused), (second, second_refused) = await asyncio.gather(*(_ask(mesh, project) for mesh in replicas))
    assert len(first) + len(second) + first_refused + second_refused == 2 * REQUESTS_EACH
    assert first_refused
    assert second_refused
    served = provider.served
    true_cost = cost(OpenAI, Usage(input=served.input_tokens, output=served.output_tokens))
    assert LIMIT_NANOS // 2 < true_cost <= LIMIT_NANOS
    logged = [
        nanos(mesh.record(reply.request_id)["actual_cost_usd"])
        for mesh, replies in zip(replicas, (first, second), strict=True)
        for reply in replies
    ]
    assert sum(logged) == true_cost
    for mesh in replicas:
        assert mesh.balance(BUDGET, project=project) == Balance(spent=true_cost, reserved=0)


def test_while_redis_hangs_requests_are_refused_and_go_on_after(
    replicas: Sequence[Mesh], redis_server: RedisServer, provider: SimulatedProvider, project: str
) -> None:
    sdk = OpenAI()
    redis_server.hang()
    try:
        for mesh in replicas:
            with pytest.raises(sdk.status_errors[503]) as raised:
                sdk.ask(mesh, project=project)
            assert policyd_object(raised.value)["reason"] == "policy_unavailable"
        began = time.monotonic()
        assert replicas[0].get("/readyz")[0] == 503
        assert time.monotonic() - began < 2
        assert calls(provider) == 0
    finally:
        redis_server.go_on()
    for mesh in replicas:
        wait_until(partial(_is_ready, mesh), "policyd is ready again")
    reply = sdk.ask(replicas[1], project=project)
    assert reply.usage is not None
    assert replicas[0].balance(BUDGET, project=project).spent == cost(sdk, reply.usage)


def _is_ready(mesh: Mesh) -> bool:
    status, _ = mesh.get("/readyz")
    return status == 200

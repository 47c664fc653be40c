"""Two hundred requests at once on one budget never overspend it: by the ledger, by the log, and by the provider."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from policyd.core.money import parse_usd
from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from policyd.demo.simulated.text import text
from tests.e2e.books import BUDGET, cost, nanos, wait_until_idle
from tests.e2e.conftest import BOTH_TRANSPORTS, Start
from tests.e2e.mesh import Balance, Mesh
from tests.e2e.sdks import Anthropic, OpenAI, Reply

pytestmark = BOTH_TRANSPORTS

LIMIT_NANOS = parse_usd("0.03")

POLICY = """
version: 1
default_max_output_tokens: 20
limits:
  - name: project-spend
    per: [project]
    cost_usd: 0.03
    window: lifetime
  - name: everybody
    cost_usd: 100.00
    window: month
"""

REQUESTS = 200

REFUSED = (openai.APIStatusError, anthropic.APIStatusError)


@pytest.fixture(scope="module")
def anthropic_provider(provider: SimulatedProvider) -> Iterator[SimulatedProvider]:
    """Anthropic apart from OpenAI, so that each one's tokens can be priced."""
    with SimulatedProvider(count_text=len) as running:
        yield running


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def mesh(
    request: pytest.FixtureRequest,
    start: Start,
    provider: SimulatedProvider,
    anthropic_provider: SimulatedProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Mesh:
    folder: Path = tmp_path_factory.mktemp("store")
    store = {"memory": "memory://", "sqlite": f"sqlite:///{folder}/policyd.db"}[request.param]
    return start(POLICY, store=store, upstreams={"openai": provider.url, "anthropic": anthropic_provider.url})


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider, anthropic_provider: SimulatedProvider) -> None:
    for each in (provider, anthropic_provider):
        wait_until_idle(each)
        each.reset()


async def all_at_once(calls: list[Coroutine[Any, Any, Reply]]) -> tuple[list[Reply], Counter[int]]:
    """The replies, and how many were refused, by status."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    replies = [result for result in results if isinstance(result, Reply)]
    errors = [result for result in results if not isinstance(result, Reply)]
    assert not [error for error in errors if not isinstance(error, REFUSED)], errors
    return replies, Counter(error.status_code for error in errors if isinstance(error, REFUSED))


def charged(mesh: Mesh, replies: list[Reply]) -> int:
    """What the log says that these cost together."""
    return sum(nanos(mesh.record(reply.request_id)["actual_cost_usd"]) for reply in replies)


async def test_bounded_requests_are_charged_what_the_providers_served(
    mesh: Mesh, provider: SimulatedProvider, anthropic_provider: SimulatedProvider, project: str
) -> None:
    everybody_before = mesh.balance("everybody").spent
    script = {"output-tokens": 25, "delay-ms": 50}
    calls: list[Coroutine[Any, Any, Reply]] = []
    openai_call, openai_stream, anthropic_call, anthropic_stream = (
        sdk.call(mesh, project=project, max_tokens=30, script=script, stream=streamed)
        for sdk in (OpenAI(), Anthropic())
        for streamed in (False, True)
    )
    async with OpenAI.async_client(openai_call) as openai_client, Anthropic.async_client(anthropic_call) as client:
        for _ in range(REQUESTS // 4):
            calls += [
                OpenAI.ask_by(openai_client, openai_call),
                OpenAI.stream_by(openai_client, openai_stream),
                Anthropic.ask_by(client, anthropic_call),
                Anthropic.stream_by(client, anthropic_stream),
            ]
        replies, refused = await all_at_once(calls)

    assert refused == {402: REQUESTS - len(replies)}
    served, anthropic_served = provider.served, anthropic_provider.served
    assert served.requests_completed + anthropic_served.requests_completed == len(replies)
    true_cost = cost(OpenAI, Usage(input=served.input_tokens, output=served.output_tokens))
    true_cost += cost(Anthropic, Usage(input=anthropic_served.input_tokens, output=anthropic_served.output_tokens))
    assert charged(mesh, replies) == true_cost
    assert mesh.balance(BUDGET, project=project) == Balance(spent=true_cost, reserved=0)
    assert mesh.balance("everybody") == Balance(spent=everybody_before + true_cost, reserved=0)
    assert LIMIT_NANOS // 2 < true_cost <= LIMIT_NANOS


async def test_unbounded_streams_among_them_are_cut_in_time(
    mesh: Mesh, provider: SimulatedProvider, project: str
) -> None:
    sdk = OpenAI()
    bounded = sdk.call(mesh, project=project, max_tokens=30, script={"output-tokens": 30, "delay-ms": 50})
    script = {"output-tokens": 200, "chunk-delay-ms": 2}
    unbounded = sdk.call(mesh, project=project, max_tokens=None, script=script, stream=True)
    async with OpenAI.async_client(bounded) as client:
        calls = [
            OpenAI.stream_by(client, unbounded) if number % 2 else OpenAI.ask_by(client, bounded)
            for number in range(REQUESTS)
        ]
        replies, refused = await all_at_once(calls)

    assert refused == {402: REQUESTS - len(replies)}
    wait_until_idle(provider)
    served = provider.served
    assert served.requests_completed + served.streams_cancelled == len(replies)
    cut = [reply for reply in replies if reply.error is not None]
    assert cut
    spent = charged(mesh, replies)
    for reply in cut:
        line = mesh.record(reply.request_id)
        assert line["outcome"] == "cut"
        assert reply.text == text(tokens=line["usage"]["output"])
    assert mesh.balance(BUDGET, project=project) == Balance(spent=spent, reserved=0)
    assert LIMIT_NANOS // 2 < spent <= LIMIT_NANOS

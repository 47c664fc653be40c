"""Redis goes away under load and comes back: what passes meanwhile, and that all of it is charged, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from policyd.core.money import parse_usd
from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from tests.e2e import raw
from tests.e2e.books import BUDGET, cost, wait_until_idle
from tests.e2e.conftest import Start
from tests.e2e.load import load
from tests.e2e.mesh import Balance, Mesh
from tests.e2e.sdks import OpenAI
from tests.stores.redis_server import RedisServer, running, wait_until

POLICY = """
version: 1
failure_mode: {failure_mode}
reservations: {{ttl: 5s, grace: 0s, on_expiry: nothing}}
limits:
  - name: project-spend
    per: [project]
    cost_usd: 100.00
    window: month
  - name: project-requests
    per: [project]
    requests: 100000
    window: hour
"""

# What Redis held without being able to say so belongs to a request that was refused: it expires, and costs nothing.

REQUESTS = 60
"""How many pass during an outage."""


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider) -> None:
    wait_until_idle(provider)
    provider.reset()


def started(start: Start, redis_server: RedisServer, failure_mode: str) -> Mesh:
    store = f"redis://{redis_server.address}/0"
    return start(POLICY.format(failure_mode=failure_mode), store=store, environ={"POLICYD_STORE_TIMEOUT": "500ms"})


def true_cost(provider: SimulatedProvider) -> int:
    served = provider.served
    return cost(OpenAI, Usage(input=served.input_tokens, output=served.output_tokens))


@pytest.mark.parametrize("hangs", [True, False], ids=["hung", "dead"])
def test_open_all_passes_and_is_charged_once(
    start: Start, redis_server: RedisServer, provider: SimulatedProvider, project: str, hangs: bool
) -> None:
    mesh = started(start, redis_server, "open")
    with load(mesh.listen, project=project) as clients:
        clients.wait_for(10)
        redis_server.hang() if hangs else redis_server.kill()
        clients.wait_for(REQUESTS)
        assert mesh.metric("policyd_journal_bytes")
        redis_server.go_on() if hangs else redis_server.start()
        mesh.wait_for_metric("policyd_store_away", 0)
        clients.wait_for(10)

    # Envoy waits 2 s for a decision: none took as long.
    assert set(clients.outcomes) == {"200"}
    wait_until_idle(provider)
    mesh.wait_for_metric("policyd_journal_bytes", 0)
    wait_until(
        lambda: mesh.balance(BUDGET, project=project) == Balance(spent=true_cost(provider), reserved=0),
        "what the provider has served is what is charged",
    )
    requests = mesh.balance("project-requests", project=project)
    assert requests == Balance(spent=clients.requests, reserved=0)
    assert mesh.metric("policyd_journal_unapplied_total") == 0


def test_closed_nothing_new_passes_and_what_had_passed_is_charged(
    start: Start, redis_server: RedisServer, provider: SimulatedProvider, project: str
) -> None:
    mesh = started(start, redis_server, "closed")
    with load(mesh.listen, project=project) as clients:
        clients.wait_for(10)
        redis_server.kill()
        wait_until(lambda: clients.outcomes["503"] >= 20, "requests are refused")
        assert mesh.get("/readyz")[0] == 503
        redis_server.start()
        clients.wait_for(10)

    assert set(clients.outcomes) == {"200", "503"}
    wait_until_idle(provider)
    mesh.wait_for_metric("policyd_journal_bytes", 0)
    wait_until(
        lambda: mesh.balance(BUDGET, project=project) == Balance(spent=true_cost(provider), reserved=0),
        "what the provider has served is what is charged",
    )


def test_degraded_what_is_leased_is_spent_and_no_more(
    start: Start, redis_server: RedisServer, provider: SimulatedProvider, project: str
) -> None:
    """A percent of 100 USD is more than the requests cost that pass meanwhile."""
    mesh = started(start, redis_server, "degraded")
    leased = parse_usd("1")
    with load(mesh.listen, project=project) as clients:
        clients.wait_for(10)
        wait_until(lambda: mesh.balance(BUDGET, project=project).reserved >= leased, "a part of the budget is leased")
        redis_server.kill()
        clients.wait_for(REQUESTS)
        # Nobody has used this one's budget before.
        assert raw.post(mesh.listen, body=raw.chat(), headers={"x-policyd-project": "another"}).status == 503
        redis_server.start()
        mesh.wait_for_metric("policyd_store_away", 0)
        clients.wait_for(10)

    # What may have been held when Redis went is refused: it could be charged twice.
    assert set(clients.outcomes) <= {"200", "503"}
    wait_until_idle(provider)
    wait_until(
        lambda: mesh.balance(BUDGET, project=project).spent == true_cost(provider),
        "what the provider has served is what is charged",
    )
    assert mesh.metric("policyd_journal_unapplied_total") == 0

"""What an exchange has to cost, and whether every place that tells it agrees: log line, ledger, provider."""

from __future__ import annotations

from policyd.core.money import parse_usd
from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from policyd.stores.url import open_store
from tests.builders import price_of
from tests.e2e.mesh import Balance, Line, Mesh
from tests.e2e.sdks import Sdk

ENDED_SECONDS_MAX = 10

BUDGET = "project-spend"
"""The limit of cost that every policy here gives to each project."""


def cost(sdk: Sdk | type[Sdk], usage: Usage) -> int:
    """What `usage` costs by the published prices, in nano-USD."""
    return price_of(sdk.model, sdk.provider).cost_nanos(usage)


def nanos(usd: float) -> int:
    """Nano-USD of a JSON number of dollars: the shortest text of a float is the text it was read from."""
    return parse_usd(str(usd))


def assert_charged(mesh: Mesh, project: str, usage: Usage, *, sdk: Sdk, request_id: str) -> Line:
    """The exchange's log line and the project's ledger both say `usage`, to the nano-USD, and nothing is held."""
    line = mesh.record(request_id)
    assert line["usage"] == {"input": usage.input, "output": usage.output}
    assert nanos(line["actual_cost_usd"]) == cost(sdk, usage)
    assert mesh.balance(BUDGET, project=project) == Balance(spent=cost(sdk, usage), reserved=0)
    return line


def assert_free(mesh: Mesh, project: str) -> None:
    """The project was charged nothing, and nothing is held for it."""
    assert mesh.balance(BUDGET, project=project) == Balance(spent=0, reserved=0)


async def open_holds(store_url: str) -> int:
    """How many holds there are in a store that no policyd has open."""
    store = open_store(store_url)
    try:
        # At the beginning of time nothing is due and nothing is old.
        return (await store.sweep(now_ms=0, ended_before_ms=0, usage_before_ms=0)).open_reservations
    finally:
        await store.close()


def calls(provider: SimulatedProvider) -> int:
    """How many requests have reached the provider."""
    return sum(provider.served.requests_received.values())


def wait_until_idle(provider: SimulatedProvider) -> None:
    """Waits until the provider has no open request."""
    provider.wait_until(lambda served: served.requests_open == 0, timeout_seconds=ENDED_SECONDS_MAX)

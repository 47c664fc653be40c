"""What the SDKs do by themselves after a refusal: wait where waiting helps, and give up where it does not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from policyd.demo.provider import SimulatedProvider
from tests.e2e.books import calls, wait_until_idle
from tests.e2e.conftest import Start
from tests.e2e.mesh import Mesh
from tests.e2e.sdks import SDKS, Reply, Sdk, policyd_object

POLICY = """
version: 1
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: month
  - name: one-in-two-seconds
    match: {tier: slow}
    per: [project]
    requests: 1
    window: {sliding: 2s}
  - name: one-an-hour
    match: {tier: slower}
    per: [project]
    requests: 1
    window: {sliding: 1h}
"""

RETRIES = 5


@pytest.fixture(scope="module")
def mesh(start: Start) -> Mesh:
    return start(POLICY)


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider) -> None:
    wait_until_idle(provider)
    provider.reset()


def decided(mesh: Mesh, project: str, *, last: str) -> list[str]:
    """How the project's requests were decided, up to the one with the id `last`."""
    mesh.record(last)
    return [line["decision"] for line in mesh.lines if line.get("attributes", {}).get("project") == project]


def test_a_spent_budget_is_not_tried_again(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    with pytest.raises(sdk.status_errors[402]) as raised:
        sdk.ask(mesh, project=project, max_tokens=1_000_000, retries=RETRIES)

    assert decided(mesh, project, last=policyd_object(raised.value)["request_id"]) == ["deny"]
    assert calls(provider) == 0


def test_a_rate_that_frees_in_an_hour_is_not_waited_for(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    identity = {"x-policyd-tier": "slower"}
    sdk.ask(mesh, project=project, headers=identity)
    with pytest.raises(sdk.status_errors[429]) as raised:
        sdk.ask(mesh, project=project, headers=identity, retries=RETRIES)

    assert decided(mesh, project, last=policyd_object(raised.value)["request_id"]) == ["allow", "deny"]
    assert calls(provider) == 1


def test_a_rate_that_frees_in_a_moment_is_waited_for(mesh: Mesh, provider: SimulatedProvider) -> None:
    identity = {"x-policyd-tier": "slow"}

    def ask_twice(sdk: Sdk) -> Reply:
        sdk.ask(mesh, project=f"hasty-{sdk}", headers=identity)
        return sdk.ask(mesh, project=f"hasty-{sdk}", headers=identity, retries=RETRIES)

    # Side by side, because each of them waits.
    with ThreadPoolExecutor(len(SDKS)) as threads:
        replies = list(threads.map(ask_twice, SDKS))

    for sdk, reply in zip(SDKS, replies, strict=True):
        assert decided(mesh, f"hasty-{sdk}", last=reply.request_id) == ["allow", "deny", "allow"], sdk
    assert calls(provider) == 2 * len(SDKS)

"""Limits that change a request, or only warn: what the provider gets, and what client and operator are told."""

from __future__ import annotations

import json

import pytest

from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from tests.builders import price_of
from tests.e2e.books import nanos
from tests.e2e.conftest import Start
from tests.e2e.mesh import Balance, Mesh
from tests.e2e.sdks import Reply, Sdk

POLICY = """
version: 1
model_groups:
  dear: [gpt-4o, "claude-opus-*"]
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
  - name: written
    match: {tier: short}
    per: [project]
    output_tokens: 40
    window: day
    action: clamp
    min_output_tokens: 30
  - name: dear-openai
    match: {tier: frugal, provider: openai, model_group: dear}
    per: [project]
    requests: 0
    window: {days: 30}
    action: switch_model
    switch_to: gpt-4o-mini
  - name: dear-anthropic
    match: {tier: frugal, provider: anthropic, model_group: dear}
    per: [project]
    requests: 0
    window: {days: 30}
    action: switch_model
    switch_to: claude-haiku-4-5
  - name: soft
    match: {tier: told}
    per: [project]
    windows: [{window: day, requests: 0}, {window: month, requests: 100}]
    action: warn
"""

DEAR = {"openai": "gpt-4o", "anthropic": "claude-opus-4-6"}
CHEAPER = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}


@pytest.fixture(scope="module")
def mesh(start: Start) -> Mesh:
    return start(POLICY)


@pytest.fixture(params=["json", "stream"])
def asking(request: pytest.FixtureRequest) -> str:
    """The two ways to ask, by the name of the SDK's method."""
    return "ask" if request.param == "json" else "stream"


def asked(mesh: Mesh, sdk: Sdk, asking: str, *, project: str, tier: str) -> Reply:
    reply: Reply = getattr(sdk, asking)(
        mesh,
        project=project,
        headers={"x-policyd-tier": tier},
        script={"output-tokens": 60},
        model=DEAR[sdk.provider],
    )
    return reply


def arrived(provider: SimulatedProvider) -> dict[str, object]:
    """The body that the provider got last."""
    request = provider.served.last_request
    assert request is not None
    document: dict[str, object] = json.loads(request.body)
    return document


def test_a_request_is_clamped_to_what_is_left(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, asking: str, project: str
) -> None:
    reply = asked(mesh, sdk, asking, project=project, tier="short")

    assert arrived(provider)["max_tokens"] == 40
    assert (reply.headers["x-policyd-clamped-by"], reply.headers["x-policyd-max-output-tokens"]) == ("written", "40")
    line = mesh.record(reply.request_id)
    assert (line["decision"], line["clamped_by"]) == ("allow", ["written"])
    assert line["usage"]["output"] == 40
    assert mesh.balance("written", project=project, tier="short") == Balance(spent=40, reserved=0)


def test_a_request_for_a_dear_model_goes_to_a_cheaper_one(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, asking: str, project: str
) -> None:
    reply = asked(mesh, sdk, asking, project=project, tier="frugal")

    model = CHEAPER[sdk.provider]
    assert arrived(provider)["model"] == model
    limit = f"dear-{sdk.provider}"
    assert (reply.headers["x-policyd-switched-by"], reply.headers["x-policyd-model"]) == (limit, model)
    line = mesh.record(reply.request_id)
    assert (line["model"], line["requested_model"], line["switched_by"]) == (model, DEAR[sdk.provider], [limit])
    used = Usage(input=line["usage"]["input"], output=line["usage"]["output"])
    assert nanos(line["actual_cost_usd"]) == price_of(model, sdk.provider).cost_nanos(used)
    assert mesh.balance("project-spend", project=project).spent == nanos(line["actual_cost_usd"])


def test_a_warning_is_told(mesh: Mesh, sdk: Sdk, asking: str, project: str) -> None:
    reply = asked(mesh, sdk, asking, project=project, tier="told")

    assert reply.headers["x-policyd-warned-by"] == "soft/day"
    assert reply.headers["x-policyd-decision"] == "allow"
    assert mesh.record(reply.request_id)["warned_by"] == ["soft/day"]

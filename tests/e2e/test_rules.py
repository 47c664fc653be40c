"""Rules: what the provider gets, what clients are told through their SDKs, and what operators see."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from policyd.demo.provider import SimulatedProvider
from tests.e2e.conftest import Start
from tests.e2e.mesh import Mesh
from tests.e2e.sdks import Sdk, policyd_object

POLICY = """
version: 1
limits:
  - {name: asks, per: [project], requests: 5, window: {days: 30}}
anomalies:
  - {name: loop, per: [project, session], match: {session: "*"}, repeats: 3, action: deny}
  - {name: stuck, per: [project], match: {tier: agent}, repeats: 2, action: freeze, for: 1h}
  - {name: odd, per: [project], match: {tier: odd}, repeats: 2, action: warn}
rules:
  - name: not-for-guests
    when: {match: {tier: guest}}
    action: deny
    status: 403
    refusal: {message: "Sign in first.", upgrade_url: "https://example.com/sign-in"}
  - name: too-dear
    when: {cel: 'attributes.tier == "careful" && request.estimated_cost_usd > 0.000001'}
    action: deny
    status: 429
  - name: brief
    when: {tier_match: brief}
    action: clamp
    max_output_tokens: 30
  - name: frugal-openai
    when: {match: {tier: frugal, provider: openai}}
    action: switch_model
    switch_to: gpt-4o-mini
  - name: frugal-anthropic
    when: {match: {tier: frugal, provider: anthropic}}
    action: switch_model
    switch_to: claude-haiku-4-5
  - name: nearly-used
    when: {usage_percent: {asks: 80}}
    action: add_headers
    headers: {x-asks: nearly used}
  - {name: tell, when: {usage_percent: {asks: 80}}, action: notify, per: [project], every: 30d}
  - name: runaway
    when: {tier_match: runaway, usage_absolute: {asks: 1}}
    action: freeze
    per: [project]
    for: 1h
    refusal: {message: "This project was stopped."}
"""

DEAR = {"openai": "gpt-4o", "anthropic": "claude-opus-4-6"}
CHEAPER = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
COMMAND_SECONDS_MAX = 30


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/policyd.db"


@pytest.fixture(scope="module")
def mesh(start: Start, store: str) -> Mesh:
    return start(POLICY, store=store)


def tier(name: str) -> dict[str, str]:
    return {"x-policyd-tier": name}


def told(store: str, mesh: Mesh, *arguments: str) -> list[dict[str, Any]]:
    """What a command of an operator's lists."""
    command = [sys.executable, "-m", "policyd", *arguments, "--json", "--store", store, "--config", str(mesh.policy)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=True)
    listed: list[dict[str, Any]] = json.loads(ran.stdout)
    return listed


def arrived(provider: SimulatedProvider) -> dict[str, Any]:
    """The body that the provider got last."""
    request = provider.served.last_request
    assert request is not None
    document: dict[str, Any] = json.loads(request.body)
    return document


def test_a_denial_is_the_sdks_own_exception_with_the_operators_words(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    provider.reset()
    with pytest.raises(sdk.status_errors[403], match=r"Sign in first\.") as raised:
        sdk.ask(mesh, project=project, headers=tier("guest"))
    said = policyd_object(raised.value)
    assert (said["reason"], said["rule"]) == ("denied_by_rule", "not-for-guests")
    assert said["upgrade_url"] == "https://example.com/sign-in"
    assert not provider.served.requests_received
    line = mesh.record(said["request_id"])
    assert (line["denied_by"], line["rules"]) == (["rule:not-for-guests"], ["not-for-guests"])


def test_an_expression_decides(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    provider.reset()
    with pytest.raises(sdk.status_errors[429]) as raised:
        sdk.ask(mesh, project=project, headers=tier("careful"))
    assert policyd_object(raised.value)["rule"] == "too-dear"
    assert not provider.served.requests_received
    sdk.ask(mesh, project=project, headers=tier("other"))


def test_a_request_is_clamped(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    reply = sdk.ask(mesh, project=project, headers=tier("brief"), max_tokens=100)
    assert arrived(provider)["max_tokens"] == 30
    assert reply.headers["x-policyd-clamped-by"] == "rule:brief"
    assert reply.headers["x-policyd-rules"] == "brief"


def test_a_request_goes_to_another_model(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    reply = sdk.ask(mesh, project=project, headers=tier("frugal"), model=DEAR[sdk.provider])
    assert arrived(provider)["model"] == CHEAPER[sdk.provider]
    assert reply.headers["x-policyd-model"] == CHEAPER[sdk.provider]
    assert reply.headers["x-policyd-switched-by"] == f"rule:frugal-{sdk.provider}"


def test_from_80_percent_on_client_and_operator_are_told(mesh: Mesh, store: str, sdk: Sdk, project: str) -> None:
    for _ in range(4):
        assert "x-asks" not in sdk.ask(mesh, project=project).headers
    reply = sdk.ask(mesh, project=project)
    assert reply.headers["x-asks"] == "nearly used"
    assert reply.headers["x-policyd-rules"] == "nearly-used, tell"
    assert mesh.record(reply.request_id)["rules"] == ["nearly-used", "tell"]
    (event,) = [each for each in told(store, mesh, "events", "list") if each["scope"] == f"project={project}"]
    assert (event["source"], event["request_id"]) == ("rule:tell", reply.request_id)
    assert event["limits"] == [{"name": "asks", "metric": "requests", "used": 4, "limit": 5}]


def test_a_freeze_refuses_at_once_and_is_lifted_by_hand(
    mesh: Mesh, store: str, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    sdk.ask(mesh, project=project)
    provider.reset()
    with pytest.raises(sdk.status_errors[403], match=r"This project was stopped\.") as first:
        sdk.ask(mesh, project=project, headers=tier("runaway"))
    said = policyd_object(first.value)
    assert (said["reason"], said["rule"]) == ("frozen", "runaway")
    with pytest.raises(sdk.status_errors[403]) as second:
        sdk.stream(mesh, project=project)
    assert policyd_object(second.value)["block"]["reason"] == "This project was stopped."
    assert not provider.served.requests_received

    (freeze,) = [each for each in told(store, mesh, "blocks", "list") if each["scope"] == f"project={project}"]
    assert (freeze["kind"], freeze["reason"]) == ("freeze", "This project was stopped.")
    lift = [sys.executable, "-m", "policyd", "unfreeze", f"project={project}", "--store", store]
    subprocess.run([*lift, "--config", str(mesh.policy)], timeout=COMMAND_SECONDS_MAX, check=True, capture_output=True)
    sdk.ask(mesh, project=project)


def test_the_same_request_in_a_row_is_a_loop(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    session = {"x-policyd-session": "s1"}
    for _ in range(2):
        sdk.ask(mesh, project=project, headers=session)
    provider.reset()
    with pytest.raises(sdk.status_errors[429]) as raised:
        sdk.ask(mesh, project=project, headers=session, retries=2)
    said = policyd_object(raised.value)
    assert (said["reason"], said["rule"]) == ("anomaly_detected", "anomaly:loop")
    assert provider.served.requests_received == {}
    assert mesh.record(said["request_id"])["denied_by"] == ["anomaly:loop"]
    sdk.ask(mesh, project=project, headers=session, max_tokens=99)


def test_a_loop_freezes_and_tells_operators(mesh: Mesh, store: str, sdk: Sdk, project: str) -> None:
    sdk.ask(mesh, project=project, headers=tier("agent"))
    with pytest.raises(sdk.status_errors[403]) as first:
        sdk.ask(mesh, project=project, headers=tier("agent"))
    assert policyd_object(first.value)["reason"] == "frozen"
    with pytest.raises(sdk.status_errors[403]) as second:
        sdk.ask(mesh, project=project, max_tokens=99)
    assert policyd_object(second.value)["block"]["reason"] == "anomaly:stuck has fired"
    scope = f"project={project}"
    assert [each["kind"] for each in told(store, mesh, "blocks", "list") if each["scope"] == scope] == ["freeze"]
    events = [each for each in told(store, mesh, "events", "list") if each["scope"] == scope]
    assert [(each["source"], each["action"]) for each in events] == [("anomaly:stuck", "freeze")]


def test_a_warning_is_told(mesh: Mesh, sdk: Sdk, project: str) -> None:
    assert "x-policyd-rules" not in sdk.ask(mesh, project=project, headers=tier("odd")).headers
    reply = sdk.ask(mesh, project=project, headers=tier("odd"))
    assert reply.headers["x-policyd-rules"] == "anomaly:odd"
    assert mesh.record(reply.request_id)["rules"] == ["anomaly:odd"]

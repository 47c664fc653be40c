"""Requests that do not fit or cannot be priced: refused before the provider sees a byte, in its own words.

Each refusal surfaces as the exception that the SDK has for such a status, with policyd's numbers in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anthropic
import openai
import pytest

from policyd.core.money import NANOS_PER_USD
from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from tests.e2e.books import assert_free, calls, cost, nanos, wait_until_idle
from tests.e2e.conftest import Start
from tests.e2e.envoy_version import SHOWS_ITS_OWN_REPLIES
from tests.e2e.mesh import Line, Mesh
from tests.e2e.sdks import Anthropic, OpenAI, Sdk, policyd_object

POLICY = """
version: 1
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
    refusal: {message: "Ask the platform team for more.", upgrade_url: "https://example.com/upgrade"}
  - name: monthly-spend
    match: {tier: monthly}
    per: [project]
    cost_usd: 0.01
    window: month
  - name: request-rate
    match: {tier: slow}
    per: [project, user]
    requests: 2
    window: {sliding: 1h}
  - name: token-rate
    match: {tier: terse}
    per: [project]
    tokens: 1000
    window: hour
  - name: one-at-a-time
    match: {tier: serial}
    per: [project]
    concurrent_requests: 1
  - name: watched
    match: {tier: watched}
    cost_usd: 0.000001
    window: lifetime
    action: shadow
  - name: gone-for-good
    match: {tier: blocked}
    requests: 0
    window: lifetime
    status: 451
"""

CAREFUL_POLICY = """
version: 1
identity:
  project: [{header: x-policyd-project}]
strict: true
unknown_model: deny
unbounded: deny
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
"""

TOO_MANY_TOKENS = 1_000_000


@pytest.fixture(scope="module")
def mesh(start: Start) -> Mesh:
    return start(POLICY)


@pytest.fixture(scope="module")
def careful_mesh(start: Start) -> Mesh:
    return start(CAREFUL_POLICY, environ={"POLICYD_REQUEST_BODY_MAX": "64KiB"})


@pytest.fixture(params=["json", "stream"])
def asking(request: pytest.FixtureRequest) -> str:
    """The two ways to ask, by the name of the SDK's method."""
    return "ask" if request.param == "json" else "stream"


@dataclass
class Refusal:
    """A refusal as the application got it."""

    error: Any = None

    @property
    def told(self) -> dict[str, Any]:
        return policyd_object(self.error)

    @property
    def headers(self) -> Any:
        return self.error.response.headers


@contextmanager
def refused(sdk: Sdk, status: int, provider: SimulatedProvider) -> Iterator[Refusal]:
    """The block ends in the SDK's exception for `status`, and the provider sees nothing of it."""
    wait_until_idle(provider)
    provider.reset()
    refusal = Refusal()
    with pytest.raises(sdk.status_errors.get(status, sdk.stream_error)) as raised:
        yield refusal
    refusal.error = raised.value
    assert refusal.error.status_code == status
    assert refusal.headers["content-type"] == "application/json"
    served = provider.served
    assert (served.requests_received, served.bytes_received) == ({}, 0)


def logged(mesh: Mesh, refusal: Refusal) -> Line:
    """The log line of what was refused."""
    assert refusal.told["request_id"] == refusal.headers["x-policyd-request-id"]
    return mesh.record(refusal.told["request_id"])


# --- limits ---


def test_402_what_the_budget_cannot_pay(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, asking: str, project: str
) -> None:
    spent = sdk.ask(mesh, project=project)
    with refused(sdk, 402, provider) as refusal:
        getattr(sdk, asking)(mesh, project=project, max_tokens=TOO_MANY_TOKENS)

    assert spent.usage is not None
    spent_nanos = cost(sdk, spent.usage)
    held = Usage(input=int(spent.headers["x-policyd-estimated-input-tokens"]), output=TOO_MANY_TOKENS)
    told = refusal.told
    assert told.pop("request_id")
    assert nanos(told.pop("limit_usd")) == NANOS_PER_USD
    assert nanos(told.pop("spent_usd")) == spent_nanos
    assert nanos(told.pop("remaining_usd")) == NANOS_PER_USD - spent_nanos
    assert nanos(told.pop("estimated_cost_usd")) == cost(sdk, held)
    (limit,) = told.pop("limits")
    assert {name: nanos(limit.pop(name)) for name in ("limit", "spent", "reserved", "requested", "remaining")} == {
        "limit": NANOS_PER_USD,
        "spent": spent_nanos,
        "reserved": 0,
        "requested": cost(sdk, held),
        "remaining": NANOS_PER_USD - spent_nanos,
    }
    assert limit == {
        "name": "project-spend",
        "metric": "cost_usd",
        "scope": f"project={project}",
        "window": "lifetime",
        "resets_at": None,
    }
    assert told == {"reason": "budget_exceeded", "upgrade_url": "https://example.com/upgrade"}
    assert "Ask the platform team for more." in str(refusal.error)


def test_a_refusal_says_that_trying_again_is_no_use_and_costs_nothing(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, asking: str, project: str
) -> None:
    with refused(sdk, 402, provider) as refusal:
        getattr(sdk, asking)(mesh, project=project, max_tokens=TOO_MANY_TOKENS)

    assert refusal.headers["x-should-retry"] == "false"
    assert "retry-after" not in refusal.headers
    assert refusal.headers["x-policyd-decision"] == "deny"
    line = logged(mesh, refusal)
    assert (line["decision"], line["outcome"], line["status"]) == ("deny", "denied", 402)
    assert line["denied_by"] == ["project-spend"]
    assert line["actual_cost_usd"] == 0
    assert_free(mesh, project)


def test_402_of_a_month_tells_when_it_ends(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, asking: str, project: str
) -> None:
    half = NANOS_PER_USD // 100 // 2 // cost(sdk, Usage(output=1))
    ask = partial(getattr(sdk, asking), mesh, project=project, headers={"x-policyd-tier": "monthly"}, max_tokens=half)
    ask(script={"output-tokens": half})
    with refused(sdk, 402, provider) as refusal:
        ask()

    (limit,) = refusal.told["limits"]
    assert (limit["name"], limit["window"]) == ("monthly-spend", "month")
    assert limit["resets_at"].endswith("-01T00:00:00.000Z")
    assert int(refusal.headers["retry-after"]) > 0
    assert "USD this month are left" in str(refusal.error)


def test_429_too_many_requests(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, asking: str, project: str) -> None:
    identity = {"x-policyd-tier": "slow", "x-policyd-user": "ann"}
    ask = getattr(sdk, asking)
    for _ in range(2):
        ask(mesh, project=project, headers=identity)
    with refused(sdk, 429, provider) as refusal:
        ask(mesh, project=project, headers=identity)

    assert 0 < int(refusal.headers["retry-after"]) <= 7200
    assert refusal.told["reason"] == "rate_limit_exceeded"
    (limit,) = refusal.told["limits"]
    assert limit.pop("resets_at").endswith("Z")
    assert limit == {
        "name": "request-rate",
        "metric": "requests",
        "scope": f"project={project},user=ann",
        "window": "sliding 3600s",
        "limit": 2,
        "spent": 2,
        "reserved": 0,
        "requested": 1,
        "remaining": 0,
    }
    assert logged(mesh, refusal)["denied_by"] == ["request-rate"]


def test_429_too_many_tokens(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, asking: str, project: str) -> None:
    with refused(sdk, 429, provider) as refusal:
        getattr(sdk, asking)(mesh, project=project, max_tokens=1001, headers={"x-policyd-tier": "terse"})

    assert refusal.told["reason"] == "token_limit_exceeded"
    # An hour's wait would not help: it asks for more than the limit gives in any.
    assert "retry-after" not in refusal.headers
    assert refusal.headers["x-should-retry"] == "false"


def test_429_too_many_at_once(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    identity = {"x-policyd-tier": "serial"}
    sdk = OpenAI()
    slow = sdk.call(
        mesh, project=project, headers=identity, script={"output-tokens": 100, "chunk-delay-ms": 50}, stream=True
    )
    with sdk.client(slow) as client, client.chat.completions.create(**slow.members) as stream:
        next(stream)
        calls_before = calls(provider)
        with pytest.raises(openai.RateLimitError) as raised:
            sdk.ask(mesh, project=project, headers=identity)
        assert calls(provider) == calls_before
    told = policyd_object(raised.value)
    assert told["reason"] == "concurrency_limit_exceeded"
    assert told["limits"][0]["reserved"] == 1
    assert raised.value.response.headers["retry-after"] == "1"


def test_every_limit_that_refused_is_told_the_binding_one_first(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    with refused(sdk, 402, provider) as refusal:
        sdk.ask(mesh, project=project, max_tokens=TOO_MANY_TOKENS, headers={"x-policyd-tier": "terse"})

    assert [limit["name"] for limit in refusal.told["limits"]] == ["project-spend", "token-rate"]
    assert logged(mesh, refusal)["denied_by"] == ["project-spend", "token-rate"]


def test_a_limit_answers_with_the_status_that_it_is_given(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    with refused(sdk, 451, provider) as refusal:
        sdk.ask(mesh, project=project, headers={"x-policyd-tier": "blocked"})
    assert refusal.told["limits"][0]["name"] == "gone-for-good"


def test_a_shadow_limit_refuses_nobody_and_is_reported(mesh: Mesh, sdk: Sdk, project: str) -> None:
    reply = sdk.ask(mesh, project=project, headers={"x-policyd-tier": "watched"})

    line = mesh.record(reply.request_id)
    assert (line["decision"], line["denied_by"], line["shadow_denied_by"]) == ("allow", [], ["watched"])


# --- requests that cannot be priced ---


def test_400_a_member_of_the_wrong_type(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    with refused(sdk, 400, provider) as refusal:
        sdk.ask(mesh, project=project, extra_body={"max_tokens": "many"})

    assert refusal.told["reason"] == "body_unreadable"
    assert "max_tokens" in str(refusal.error)
    assert logged(mesh, refusal)["outcome"] == "rejected"
    assert_free(mesh, project)


@pytest.mark.parametrize("body", [b"what?", b"", b"[]", b'{"model": "gpt-4o"', b"\xff\xfe"], ids=repr)
def test_400_what_is_no_json_object(mesh: Mesh, provider: SimulatedProvider, project: str, body: bytes) -> None:
    openai_sdk, anthropic_sdk = OpenAI(), Anthropic()
    with (
        openai_sdk.client(openai_sdk.call(mesh, project=project)) as openai_client,
        refused(openai_sdk, 400, provider) as refusal,
    ):
        openai_client.post("/chat/completions", cast_to=object, content=body)
    assert refusal.told["reason"] == "body_unreadable"
    with (
        anthropic_sdk.client(anthropic_sdk.call(mesh, project=project)) as anthropic_client,
        refused(anthropic_sdk, 400, provider) as refusal,
    ):
        anthropic_client.post("/v1/messages", cast_to=object, content=body)
    assert refusal.told["reason"] == "body_unreadable"


@SHOWS_ITS_OWN_REPLIES
def test_413_a_body_over_the_limit(careful_mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    with refused(sdk, 413, provider) as refusal:
        sdk.ask(careful_mesh, project=project, messages=[{"role": "user", "content": "x" * 65_536}])

    assert refusal.told["reason"] == "body_too_large"
    assert refusal.headers["x-should-retry"] == "false"


def test_404_an_endpoint_that_nobody_can_price(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    openai_sdk, anthropic_sdk = OpenAI(), Anthropic()
    with (
        openai_sdk.client(openai_sdk.call(mesh, project=project)) as openai_client,
        refused(openai_sdk, 404, provider) as refusal,
    ):
        openai_client.post("/made-up", cast_to=object, body={})
    assert refusal.told["reason"] == "endpoint_unknown"
    with (
        anthropic_sdk.client(anthropic_sdk.call(mesh, project=project)) as anthropic_client,
        refused(anthropic_sdk, 404, provider) as refusal,
    ):
        anthropic_client.post("/v1/messages/made-up", cast_to=object, body={})
    assert refusal.told["reason"] == "endpoint_unknown"


def test_400_a_model_without_a_price(careful_mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    with refused(sdk, 400, provider) as refusal:
        sdk.ask(careful_mesh, project=project, model="made-up-1")

    assert refusal.told["reason"] == "model_unpriced"
    assert "made-up-1" in str(refusal.error)


def test_400_an_output_without_a_maximum(careful_mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    with refused(OpenAI(), 400, provider) as refusal:
        OpenAI().ask(careful_mesh, project=project, max_tokens=None)

    assert refusal.told["reason"] == "output_unbounded"


def test_400_an_attribute_that_a_strict_policy_needs(careful_mesh: Mesh, provider: SimulatedProvider, sdk: Sdk) -> None:
    with refused(sdk, 400, provider) as refusal:
        sdk.ask(careful_mesh, project="")

    assert refusal.told["reason"] == "attribute_missing"
    assert "project" in str(refusal.error)


@pytest.mark.parametrize("value", ["x" * 257, "tab\there"], ids=["long", "control"])
def test_400_an_attribute_that_cannot_be_booked(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, value: str) -> None:
    with refused(sdk, 400, provider) as refusal:
        sdk.ask(mesh, project=value)

    assert refusal.told["reason"] == "attribute_invalid"


def test_an_anthropic_refusal_is_typed_as_anthropics_own(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    sdk = Anthropic()
    with refused(sdk, 402, provider) as refusal:
        sdk.ask(mesh, project=project, max_tokens=TOO_MANY_TOKENS)
    assert isinstance(refusal.error, anthropic.PaymentRequiredError)
    assert refusal.error.type == "billing_error"


def test_an_openai_refusal_is_typed_as_openais_own(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    sdk = OpenAI()
    with refused(sdk, 402, provider) as refusal:
        sdk.ask(mesh, project=project, max_tokens=TOO_MANY_TOKENS)
    assert (refusal.error.type, refusal.error.code) == ("insufficient_quota", "budget_exceeded")

"""Every wire format on a real Envoy, called by the provider's own SDK: replies, books, refusals and cuts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec
import pytest

from policyd.core.usage import Usage
from tests.e2e.books import BUDGET, ENDED_SECONDS_MAX, assert_free, nanos
from tests.e2e.conftest import Start
from tests.e2e.mesh import Balance, Line, Mesh
from tests.e2e.providers import (
    anthropic_calls,
    aws_calls,
    cohere_calls,
    google_calls,
    ollama_calls,
    openai_calls,
    openai_media_calls,
    signature,
    simulated,
)
from tests.e2e.providers.case import OWN_PRICE, Caller, Case, Charge
from tests.e2e.providers.simulated import Arrival, Provider

CASES: tuple[Case, ...] = (
    *openai_calls.CASES,
    *openai_media_calls.CASES,
    *anthropic_calls.CASES,
    *google_calls.CASES,
    *aws_calls.CASES,
    *cohere_calls.CASES,
    *ollama_calls.CASES,
    # Without this SDK the others can be tested all the same.
    *(import_module("tests.e2e.providers.mistral_calls").CASES if find_spec("mistralai") else ()),
)

POLICY = f"""
version: 1
default_max_output_tokens: 50
prices:
  - {{provider: ollama, model: "*", usd_per_million: {OWN_PRICE}}}
limits:
  - name: project-spend
    per: [project]
    cost_usd: 10.00
    window: lifetime
  - name: almost-nothing
    match: {{tier: poor}}
    per: [project]
    cost_usd: 0.000000001
    window: lifetime
  - name: few-tokens
    match: {{tier: brief}}
    per: [project]
    output_tokens: 80
    window: lifetime
    hold: expected
"""

ENDLESS_WORDS = [f" word{number}" for number in range(400)]
"""More than the limit on output has room for."""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with simulated.running() as running:
        yield running


@pytest.fixture(scope="module")
def mesh(start: Start, provider: Provider) -> Mesh:
    return start(POLICY, upstreams={case.upstream: provider.url for case in CASES})


@contextmanager
def calling(mesh: Mesh, provider: Provider, project: str, **identity: str) -> Iterator[Caller]:
    headers = {f"x-policyd-{name}": value for name, value in {"project": project, **identity}.items()}
    with closing(Caller(url=mesh.url, headers=headers, upstream=provider.url)) as caller:
        yield caller


def only_record(mesh: Mesh, project: str) -> Line:
    (line,) = mesh.records_of(project)
    return line


def shown(usage: Usage) -> Mapping[str, int]:
    """Usage as a log line has it: output with the reasoning in it."""
    return {**usage.by_kind(), **({"output": usage.output + usage.reasoning} if usage.reasoning else {})}


def assert_unchanged(case: Case, arrival: Arrival, caller: Caller) -> None:
    """The provider got what the SDK sent, to the byte, but for what policy changes in it."""
    assert (arrival.method, arrival.target) == (case.method, case.target)
    (sent,) = caller.sent
    if case.adds_usage:
        asked = {**msgspec.json.decode(sent), "stream_options": {"include_usage": True}}
        assert msgspec.json.decode(arrival.body) == asked
    else:
        assert arrival.body == (sent or b"")
    assert not [name for name in arrival.headers if name.startswith("x-policyd")]
    if case.upstream == "aws":
        assert signature.holds(arrival, secret_key=aws_calls.SECRET_KEY)


def assert_unmetered(mesh: Mesh, case: Case, project: str) -> None:
    """The call is in the log, and cost nothing."""
    line = mesh.wait_for(is_unmetered, count=1 + sum(map(is_unmetered, mesh.lines)))[-1]
    assert (line["provider"], line["usage"], line["actual_cost_usd"]) == (case.upstream, None, 0)
    assert_free(mesh, project)


def is_unmetered(line: Line) -> bool:
    return line.get("outcome") == "unmetered"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_call_is_answered_and_charged(mesh: Mesh, provider: Provider, case: Case, project: str) -> None:
    provider.expect(case.answer)

    with calling(mesh, provider, project) as caller:
        assert case.ask(caller) == case.heard

    (arrival,) = provider.arrivals
    assert_unchanged(case, arrival, caller)
    if case.charged is Charge.NOTHING:
        assert_unmetered(mesh, case, project)
        return
    line = only_record(mesh, project)
    assert (line["outcome"], line["provider"], line["model"]) == ("served", case.upstream, case.model)
    if case.charged is Charge.HOLD:
        assert nanos(line["actual_cost_usd"]) == nanos(line["estimated_cost_usd"]) > 0
    else:
        assert line["usage_source"] == "reported"
        assert {kind: units for kind, units in line["usage"].items() if units} == shown(case.charged)
        assert nanos(line["actual_cost_usd"]) == case.cost_nanos
    assert mesh.balance(BUDGET, project=project) == Balance(spent=nanos(line["actual_cost_usd"]), reserved=0)


@pytest.mark.parametrize("case", [case for case in CASES if case.charged is not Charge.NOTHING], ids=str)
def test_a_refusal_is_the_sdks_own_exception_and_is_not_retried(
    mesh: Mesh, provider: Provider, case: Case, project: str
) -> None:
    provider.expect(case.answer)

    with calling(mesh, provider, project, tier="poor") as caller, pytest.raises(case.sdk.refused) as raised:
        case.ask(caller)

    assert provider.arrivals == []
    assert len(caller.sent) == 1
    line = only_record(mesh, project)
    assert (line["outcome"], line["status"], line["denied_by"]) == ("denied", 402, ["almost-nothing"])
    assert "Budget almost-nothing exceeded" in str(raised.value)
    assert "0.000000001 of 0.000000001 USD are left" in str(raised.value)
    if case.sdk.told is not None:
        assert_told(case.sdk.told(raised.value), line)
    assert_free(mesh, project)


def assert_told(told: Mapping[str, Any], line: Line) -> None:
    """What an application reads in the SDK's exception is what policyd logged."""
    assert told["reason"] == "budget_exceeded"
    assert told["request_id"] == line["request_id"]
    assert nanos(told["remaining_usd"]) == 1
    assert told["estimated_cost_usd"] == line["estimated_cost_usd"]
    assert [limit["name"] for limit in told["limits"]] == ["almost-nothing"]


@pytest.mark.parametrize("case", [case for case in CASES if case.stream is not None], ids=str)
def test_a_stream_that_is_cut_ends_as_the_sdk_has_it(mesh: Mesh, provider: Provider, case: Case, project: str) -> None:
    provider.expect(case.endless(ENDLESS_WORDS))

    with calling(mesh, provider, project, tier="brief") as caller:
        if case.sdk.cut is not None:
            with pytest.raises(case.sdk.cut):
                case.ask(caller)
        else:
            assert "".join(ENDLESS_WORDS).startswith(case.ask(caller))

    assert provider.hung_up.wait(ENDED_SECONDS_MAX)
    line = only_record(mesh, project)
    assert (line["outcome"], line["error"]) == ("cut", "budget_exceeded")
    spent = nanos(line["actual_cost_usd"])
    assert spent > 0
    assert mesh.balance(BUDGET, project=project) == Balance(spent=spent, reserved=0)

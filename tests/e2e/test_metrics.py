"""What policyd's own pages say after known traffic."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from policyd.core.money import NANOS_PER_USD
from policyd.core.usage import Usage
from tests.e2e.books import cost
from tests.e2e.conftest import Start
from tests.e2e.mesh import Mesh
from tests.e2e.sdks import Anthropic, OpenAI

POLICY = """
version: 1
default_max_output_tokens: 20
limits:
  - name: project-spend
    per: [project]
    cost_usd: 0.01
    window: lifetime
  - name: watched
    requests: 0
    window: lifetime
    action: shadow
"""

OPENAI = {"provider": "openai", "model": "gpt-4o"}
ANTHROPIC = {"provider": "anthropic", "model": "claude-haiku-4-5"}


@pytest.fixture(scope="module")
def mesh(start: Start) -> Mesh:
    """Has served a reply and a stream, cut a stream, refused two requests and passed on an error."""
    mesh = start(POLICY, environ={"POLICYD_METRIC_ATTRIBUTES": "tier"})
    openai, anthropic = OpenAI(), Anthropic()
    replies = [
        openai.ask(mesh, project="one", headers={"x-policyd-tier": "free"}),
        anthropic.stream(mesh, project="one"),
        openai.stream(mesh, project="two", max_tokens=None, script={"output-tokens": 5000, "chunk-delay-ms": 1}),
    ]
    for sdk, options in (
        (openai, {"max_tokens": 10_000}),
        (openai, {"extra_body": {"max_tokens": "many"}}),
        (anthropic, {"script": {"status": 529}}),
    ):
        with pytest.raises(sdk.stream_error):
            sdk.ask(mesh, project="three", **options)
    for reply in replies:
        mesh.record(reply.request_id)
    mesh.records_of("three", count=2)
    return mesh


@pytest.fixture(scope="module")
def count(mesh: Mesh) -> Callable[..., float]:
    """The sum of a metric's samples with some labels, on one scrape."""
    _, page = mesh.get("/metrics")
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    def counted(name: str, **labels: str) -> float:
        assert any(sample.name == name for sample in samples), f"there is no {name}"
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    return counted


def test_exchanges_by_outcome(count: Callable[..., float]) -> None:
    exchanges = "policyd_exchanges_total"
    assert count(exchanges, decision="allow", outcome="served", **OPENAI) == 1
    assert count(exchanges, decision="allow", outcome="served", **ANTHROPIC) == 1
    assert count(exchanges, decision="allow", outcome="cut", **OPENAI) == 1
    assert count(exchanges, decision="allow", outcome="provider_error", **ANTHROPIC) == 1
    assert count(exchanges, decision="deny", outcome="denied", **OPENAI) == 1
    assert count(exchanges, decision="deny", outcome="rejected", provider="openai") == 1
    assert count(exchanges) == 6


def test_denials_by_limit(count: Callable[..., float]) -> None:
    denials = "policyd_denials_total"
    assert count(denials, limit="project-spend", action="deny", **OPENAI) == 1
    # It would have refused all but the one that could not be read.
    assert count(denials, limit="watched", action="shadow") == 5


def test_tokens_and_money_are_those_of_the_log(mesh: Mesh, count: Callable[..., float]) -> None:
    lines = [line for line in mesh.lines if line.get("usage")]
    assert len(lines) == 3
    for kind in ("input", "output"):
        assert count("policyd_tokens_total", kind=kind) == sum(line["usage"][kind] for line in lines)
    sdks = {"openai": OpenAI, "anthropic": Anthropic}
    spent = sum(cost(sdks[line["provider"]], Usage(**line["usage"])) for line in lines)
    assert round(count("policyd_cost_usd_total") * NANOS_PER_USD) == spent


def test_a_cut_and_errors(count: Callable[..., float]) -> None:
    assert count("policyd_cut_streams_total", **OPENAI) == 1
    assert count("policyd_errors_total", error="budget_exceeded") == 1
    assert count("policyd_errors_total", error="body_unreadable") == 1
    assert count("policyd_errors_total", error="overloaded_error") == 1
    assert count("policyd_errors_total") == 3


def test_estimates_against_what_was_charged(count: Callable[..., float]) -> None:
    for name in ("policyd_actual_to_expected_cost_ratio", "policyd_actual_to_held_cost_ratio"):
        assert count(f"{name}_count", provider="openai", confidence="high") == 1
        assert count(f"{name}_count", provider="anthropic", confidence="low") == 1
    assert 0 < count("policyd_actual_to_held_cost_ratio_sum", provider="openai") <= 1


def test_times(count: Callable[..., float]) -> None:
    assert count("policyd_decision_seconds_count", decision="allow") == 4
    assert count("policyd_decision_seconds_count", decision="deny") >= 1
    assert count("policyd_exchange_seconds_count") == 4
    assert count("policyd_store_seconds_count", operation="reserve") == 5
    assert count("policyd_store_seconds_count", operation="settle") == 3
    assert count("policyd_store_seconds_count", operation="release") == 1
    assert count("policyd_store_seconds_count", operation="extend") >= 1


def test_what_is_open_now(mesh: Mesh) -> None:
    sdk = OpenAI()
    call = sdk.call(mesh, project="four", script={"output-tokens": 100, "chunk-delay-ms": 100}, stream=True)
    with sdk.client(call) as client, client.chat.completions.create(**call.members) as stream:
        next(stream)
        mesh.wait_for_metric("policyd_open_exchanges", 1)
    mesh.wait_for_metric("policyd_open_exchanges", 0)


def test_who_runs_here(count: Callable[..., float]) -> None:
    assert count("policyd_build_info") == 1
    assert count("policyd_policy_info") == 1


def test_attributes_are_labels_only_where_that_was_asked_for(mesh: Mesh, count: Callable[..., float]) -> None:
    assert count("policyd_exchanges_total", tier="free") == 1
    _, page = mesh.get("/metrics")
    assert "project=" not in page
    assert "user=" not in page


def test_no_page_tells_what_was_said(mesh: Mesh) -> None:
    _, page = mesh.get("/metrics")
    told = page + str(mesh.lines)
    assert not re.search("double last month|the budget holds|sk-made-up", told)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health(mesh: Mesh, path: str) -> None:
    assert mesh.get(path) == (200, "ok\n")


def test_other_pages_are_not_there(mesh: Mesh) -> None:
    assert mesh.get("/")[0] == 404

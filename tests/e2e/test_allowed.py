"""Requests that fit: what the client gets, what the log says, and what the ledger is charged."""

from __future__ import annotations

from functools import partial

import pytest

from policyd.core.money import NANOS_PER_USD, format_usd
from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from policyd.demo.simulated.text import text
from tests.e2e.books import assert_charged, assert_free, cost, nanos
from tests.e2e.conftest import BOTH_TRANSPORTS
from tests.e2e.mesh import Line, Mesh
from tests.e2e.sdks import Anthropic, OpenAI, Reply, Sdk

pytestmark = BOTH_TRANSPORTS

PREFIX = "x-policyd-"


def own_headers(reply: Reply) -> dict[str, str]:
    """The headers that policyd added, without their prefix."""
    return {name.removeprefix(PREFIX): value for name, value in reply.headers.items() if name.startswith(PREFIX)}


def test_a_json_reply_carries_the_decision_and_the_cost(mesh: Mesh, sdk: Sdk, project: str) -> None:
    reply = sdk.ask(mesh, project=project, max_tokens=100, script={"output-tokens": 60})

    assert reply.text == text(tokens=60)
    usage = reply.usage
    assert usage is not None
    assert usage.output == 60
    line = assert_charged(mesh, project, usage, sdk=sdk, request_id=reply.request_id)
    told = own_headers(reply)
    held = Usage(input=int(told["estimated-input-tokens"]), output=100)
    assert told == {
        "request-id": line["request_id"],
        "decision": "allow",
        "estimated-input-tokens": str(held.input),
        "estimated-output-tokens": "100",
        "estimated-cost-usd": format_usd(cost(sdk, held)),
        "confidence": "high" if sdk.provider == "openai" else "low",
        "budget-remaining-usd": format_usd(NANOS_PER_USD - cost(sdk, held)),
        "input-tokens": str(usage.input),
        "output-tokens": "60",
        "cost-usd": format_usd(cost(sdk, usage)),
    }


def test_what_is_held_covers_what_is_charged(mesh: Mesh, sdk: Sdk, project: str) -> None:
    reply = sdk.ask(mesh, project=project, max_tokens=100, script={"output-tokens": 100})

    line = mesh.record(reply.request_id)
    assert nanos(line["estimated_cost_usd"]) >= nanos(line["actual_cost_usd"])


def test_the_input_of_an_openai_request_is_counted_exactly(mesh: Mesh, project: str) -> None:
    reply = OpenAI().ask(mesh, project=project)

    assert reply.usage is not None
    assert int(own_headers(reply)["estimated-input-tokens"]) == reply.usage.input


def test_a_stream_carries_the_decision_and_is_charged_at_its_end(mesh: Mesh, sdk: Sdk, project: str) -> None:
    reply = sdk.stream(mesh, project=project, max_tokens=100, script={"output-tokens": 60})

    assert reply.error is None
    assert reply.text == text(tokens=60)
    line = mesh.record(reply.request_id)
    usage = Usage(input=line["usage"]["input"], output=60)
    assert_charged(mesh, project, usage, sdk=sdk, request_id=reply.request_id)
    assert line["usage_source"] == "reported"
    assert own_headers(reply).keys() == {
        "request-id",
        "decision",
        "estimated-input-tokens",
        "estimated-output-tokens",
        "estimated-cost-usd",
        "confidence",
        "budget-remaining-usd",
    }


def test_an_openai_stream_is_billed_what_its_json_twin_is(mesh: Mesh, project: str) -> None:
    whole = OpenAI().ask(mesh, project=f"{project}-json")
    streamed = OpenAI().stream(mesh, project=f"{project}-stream")

    assert streamed.text == whole.text
    assert mesh.record(streamed.request_id)["usage"] == mesh.record(whole.request_id)["usage"]


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "stream"])
def test_the_log_line_says_everything(mesh: Mesh, sdk: Sdk, project: str, streamed: bool) -> None:
    identity = {"x-policyd-user": "ann", "x-policyd-session": "s-1", "x-policyd-tier": "free"}
    script = {"model": f"{sdk.model}-served"}
    reply = (sdk.stream if streamed else sdk.ask)(mesh, project=project, headers=identity, script=script)

    line = mesh.record(reply.request_id)
    assert line.pop("timestamp").endswith("Z")
    assert line.pop("duration_ms") >= 0
    assert line.pop("policy_ms") > 0
    estimated, actual = line.pop("estimated_cost_usd"), line.pop("actual_cost_usd")
    assert estimated > actual > 0
    assert line.pop("usage").keys() == {"input", "output"}
    assert line == {
        "event": "exchange",
        "request_id": reply.request_id,
        "decision": "allow",
        "outcome": "served",
        "denied_by": [],
        "shadow_denied_by": [],
        "warned_by": [],
        "clamped_by": [],
        "switched_by": [],
        "status": 200,
        "provider": sdk.provider,
        "endpoint": "chat.completions" if sdk.provider == "openai" else "messages",
        "tier": "free",
        "model": sdk.model,
        "requested_model": None,
        "response_model": f"{sdk.model}-served",
        "attributes": {"project": project, "user": "ann", "session": "s-1", "tier": "free"},
        "streamed": streamed,
        "usage_source": "reported",
        "confidence": "high" if sdk.provider == "openai" else "low",
        "error": None,
    }


def test_several_choices_are_held_and_charged_together(mesh: Mesh, project: str) -> None:
    reply = OpenAI().ask(mesh, project=project, max_tokens=50, script={"output-tokens": 20}, n=3)

    assert own_headers(reply)["estimated-output-tokens"] == "150"
    assert reply.usage is not None
    assert reply.usage.output == 60
    assert_charged(mesh, project, reply.usage, sdk=OpenAI(), request_id=reply.request_id)


def test_without_a_maximum_the_default_is_held(mesh: Mesh, project: str) -> None:
    reply = OpenAI().ask(mesh, project=project, max_tokens=None)

    told = own_headers(reply)
    assert told["estimated-output-tokens"] == "4096"
    assert told["confidence"] == "medium"


def test_a_reply_without_usage_is_counted(mesh: Mesh, project: str) -> None:
    sdk = OpenAI()
    whole = sdk.ask(mesh, project=f"{project}-json", script={"no-usage": 1})
    streamed = sdk.stream(mesh, project=f"{project}-stream", script={"no-usage": 1})

    for reply in (whole, streamed):
        line = mesh.record(reply.request_id)
        assert line["usage_source"] == "counted"
        # The simulated provider writes words that are one token each, and its input is counted exactly.
        assert line["usage"] == {"input": int(own_headers(reply)["estimated-input-tokens"]), "output": 40}


def test_a_project_is_taken_from_the_query_and_else_by_default(mesh: Mesh) -> None:
    sdk = OpenAI()
    reply = sdk.ask(mesh, project="", extra_query={"project_id": "of-the-query"})
    assert mesh.record(reply.request_id)["attributes"] == {"project": "of-the-query"}

    reply = sdk.ask(mesh, project="")
    assert mesh.record(reply.request_id)["attributes"] == {"project": "default"}


def test_what_costs_nothing_passes_and_is_logged(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    with OpenAI.client(OpenAI().call(mesh, project=project)) as client:
        assert {model.id for model in client.models.list()} == {"gpt-4o", "gpt-4o-mini"}
    with Anthropic.client(Anthropic().call(mesh, project=project)) as client:
        counted = client.messages.count_tokens(model="claude-haiku-4-5", messages=[{"role": "user", "content": "Hi"}])
        assert counted.input_tokens == 1
    for endpoint in ("models", "messages.count_tokens"):
        (line,) = mesh.wait_for(partial(is_of, endpoint))
        assert (line["decision"], line["outcome"]) == ("allow", "unmetered")
    assert_free(mesh, project)


def is_of(endpoint: str, line: Line) -> bool:
    return bool(line.get("endpoint") == endpoint)

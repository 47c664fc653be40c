"""A client that hangs up: the provider is told, what was used is charged as the policy says, and nothing stays held."""

from __future__ import annotations

import pytest

from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from tests.e2e import raw
from tests.e2e.books import BUDGET, ENDED_SECONDS_MAX, assert_charged, cost, nanos, wait_until_idle
from tests.e2e.conftest import BOTH_TRANSPORTS, Start
from tests.e2e.mesh import Balance, Line, Mesh
from tests.e2e.sdks import OpenAI, Sdk

pytestmark = BOTH_TRANSPORTS

POLICY = """
version: 1
on_disconnect: {on_disconnect}
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
"""

MAX_TOKENS = 400
EXPECTED_TOKENS = 300
"""Three quarters of the client's own maximum."""

SLOW = {"output-tokens": 400, "chunk-delay-ms": 10}


@pytest.fixture(scope="module")
def mesh(start: Start) -> Mesh:
    return start(POLICY.format(on_disconnect="observed"))


@pytest.fixture
def observing(mesh: Mesh) -> Mesh:
    mesh.put_in_force(POLICY.format(on_disconnect="observed"))
    return mesh


@pytest.fixture
def expecting(mesh: Mesh) -> Mesh:
    mesh.put_in_force(POLICY.format(on_disconnect="expected"))
    return mesh


@pytest.fixture
def fearing(mesh: Mesh) -> Mesh:
    mesh.put_in_force(POLICY.format(on_disconnect="maximum"))
    return mesh


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider) -> None:
    wait_until_idle(provider)
    provider.reset()


def hung_up(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> Line:
    """Hangs up in mid-stream, and returns the log line once the provider has been told."""
    sdk.hang_up(mesh, project=project, after_events=25, max_tokens=MAX_TOKENS, script=SLOW)
    provider.wait_until(lambda served: served.streams_cancelled == 1, timeout_seconds=ENDED_SECONDS_MAX)
    (line,) = mesh.records_of(project)
    assert (line["decision"], line["outcome"], line["status"]) == ("allow", "disconnected", 200)
    assert_charged(mesh, project, Usage(**line["usage"]), sdk=sdk, request_id=line["request_id"])
    return line


def gone_before_the_reply(mesh: Mesh, provider: SimulatedProvider, project: str) -> Line:
    """Hangs up while the provider thinks, and returns the log line."""
    headers = {"x-policyd-project": project, "x-sim-delay-ms": "60000"}
    with raw.connected(mesh.listen) as connection:
        raw.send_only(connection, body=raw.chat(max_tokens=MAX_TOKENS), headers=headers)
        provider.wait_until(lambda served: served.bytes_received > 0, timeout_seconds=ENDED_SECONDS_MAX)
    provider.wait_until(lambda served: served.requests_abandoned == 1, timeout_seconds=ENDED_SECONDS_MAX)
    (line,) = mesh.records_of(project)
    assert (line["decision"], line["outcome"], line["status"]) == ("allow", "disconnected", None)
    assert_charged(mesh, project, Usage(**line["usage"]), sdk=OpenAI(), request_id=line["request_id"])
    return line


def test_observed_what_came_is_charged(observing: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    line = hung_up(observing, provider, sdk, project)

    assert line["usage_source"] == "counted"
    # What the client has read policyd has seen; what the provider has not sent it has not.
    if sdk.provider == "openai":
        assert 24 <= line["usage"]["output"] <= provider.served.output_tokens < MAX_TOKENS
    else:
        assert 10 <= line["usage"]["output"] < MAX_TOKENS


def test_expected_no_less_is_charged_than_was_expected(
    expecting: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    line = hung_up(expecting, provider, sdk, project)

    assert (line["usage"]["output"], line["usage_source"]) == (EXPECTED_TOKENS, "none")


def test_maximum_the_whole_hold_is_charged(fearing: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    line = hung_up(fearing, provider, sdk, project)

    assert (line["usage"]["output"], line["usage_source"]) == (MAX_TOKENS, "none")


def test_observed_before_the_reply_its_input_is_charged(
    observing: Mesh, provider: SimulatedProvider, project: str
) -> None:
    line = gone_before_the_reply(observing, provider, project)

    assert line["usage"]["output"] == 0
    assert line["actual_cost_usd"] > 0


def test_expected_before_the_reply_what_was_expected_is_charged(
    expecting: Mesh, provider: SimulatedProvider, project: str
) -> None:
    assert gone_before_the_reply(expecting, provider, project)["usage"]["output"] == EXPECTED_TOKENS


def test_maximum_before_the_reply_the_whole_hold_is_charged(
    fearing: Mesh, provider: SimulatedProvider, project: str
) -> None:
    line = gone_before_the_reply(fearing, provider, project)

    assert line["actual_cost_usd"] == line["estimated_cost_usd"]


def test_a_document_left_before_its_usage_came_may_have_cost_all_that_it_could(
    observing: Mesh, provider: SimulatedProvider, project: str
) -> None:
    headers = {"x-policyd-project": project, "x-sim-pad-bytes": "30000000"}
    with raw.connected(observing.listen) as connection:
        reply = raw.send(connection, body=raw.chat(max_tokens=MAX_TOKENS), headers=headers)
        assert reply.read(1_000_000)

    (line,) = observing.records_of(project)
    assert (line["outcome"], line["usage"]["output"]) == ("disconnected", MAX_TOKENS)
    assert observing.balance(BUDGET, project=project) == Balance(spent=nanos(line["estimated_cost_usd"]), reserved=0)


def test_many_who_hang_up_leave_nothing_held(observing: Mesh, provider: SimulatedProvider, project: str) -> None:
    """At every moment of an exchange: with the request half sent, while it is decided, before and in the reply."""
    body = raw.chat(stream=True, max_tokens=MAX_TOKENS)
    headers = {"x-policyd-project": project, "x-sim-chunk-delay-ms": "1", "x-sim-output-tokens": "100"}
    sent = [len(body) // 2, *[len(body)] * 40]
    for count, length in enumerate(sent):
        with raw.connected(observing.listen) as connection:
            partial = {**headers, "content-length": str(len(body))}
            raw.send_only(connection, body=body[:length], headers=partial)
            if length == len(body) and count % 4 == 3:
                connection.getresponse().read(count * 10)
    wait_until_idle(provider)
    observing.wait_for_metric("policyd_open_exchanges", 0)
    # Log lines come in order: with this one all the others are read.
    observing.record(OpenAI().ask(observing, project="afterwards").request_id)

    charged = [
        nanos(line["actual_cost_usd"])
        for line in observing.lines
        if line.get("attributes", {}).get("project") == project
    ]
    assert observing.balance(BUDGET, project=project) == Balance(spent=sum(charged), reserved=0)
    assert sum(charged) > cost(OpenAI, Usage(output=1))

"""A stream whose budget is used up ends at the last cent: paid text, a last event that says why, an orderly end."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from policyd.core.money import parse_usd
from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from policyd.demo.simulated.text import text
from tests.e2e import raw
from tests.e2e.books import BUDGET, ENDED_SECONDS_MAX, assert_charged, cost, wait_until_idle
from tests.e2e.conftest import BOTH_TRANSPORTS, Start
from tests.e2e.mesh import Balance, Mesh
from tests.e2e.sdks import Anthropic, OpenAI, Reply, Sdk, policyd_object

pytestmark = BOTH_TRANSPORTS

LIMIT_NANOS = parse_usd("0.002")

POLICY = """
version: 1
default_max_output_tokens: 20
limits:
  - name: project-spend
    per: [project]
    cost_usd: 0.002
    window: lifetime
    hold: maximum
  - name: token-budget
    match: {tier: tokens}
    per: [project]
    tokens: 100
    window: lifetime
"""

GUESSING_POLICY = """
version: 1
limits:
  - name: project-spend
    per: [project]
    cost_usd: 0.002
    window: lifetime
    hold: expected
"""

ENDLESS_TOKENS = 100_000
ENDLESS = {"output-tokens": ENDLESS_TOKENS, "chunk-delay-ms": 1}


@pytest.fixture(scope="module")
def mesh(start: Start) -> Mesh:
    return start(POLICY)


@pytest.fixture(scope="module")
def guessing_mesh(start: Start) -> Mesh:
    return start(GUESSING_POLICY)


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider) -> None:
    wait_until_idle(provider)
    provider.reset()


def assert_cut(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str, reply: Reply) -> Usage:
    """The stream was cut, on both sides and in the books; returns what was charged."""
    assert isinstance(reply.error, sdk.stream_error)
    told = policyd_object(reply.error)
    assert told["reason"] == "budget_exceeded"
    assert told["request_id"] == reply.request_id
    line = mesh.record(reply.request_id)
    assert (line["decision"], line["outcome"], line["error"]) == ("allow", "cut", "budget_exceeded")
    assert line["usage_source"] == "counted"
    usage = Usage(**line["usage"])
    assert_charged(mesh, project, usage, sdk=sdk, request_id=reply.request_id)
    served = provider.wait_until(lambda served: served.requests_open == 0, timeout_seconds=ENDED_SECONDS_MAX)
    assert (served.streams_cancelled, served.requests_completed) == (1, 0)
    assert served.output_tokens < ENDLESS_TOKENS
    return usage


@pytest.mark.parametrize("delay_ms", [0, 1], ids=["in-bursts", "steadily"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stream_without_a_maximum_is_cut_at_the_last_cent(
    mesh: Mesh, provider: SimulatedProvider, project: str, is_async: bool, delay_ms: int
) -> None:
    sdk = OpenAI(is_async)
    reply = sdk.stream(mesh, project=project, max_tokens=None, script={**ENDLESS, "chunk-delay-ms": delay_ms})

    usage = assert_cut(mesh, provider, sdk, project, reply)
    # One token a word, so that what was charged and what arrived can be compared.
    assert reply.text == text(tokens=usage.output)
    assert 0 <= LIMIT_NANOS - cost(sdk, usage) < cost(sdk, Usage(output=1))


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stream_that_outgrows_what_was_expected_is_cut(
    guessing_mesh: Mesh, provider: SimulatedProvider, project: str, is_async: bool
) -> None:
    sdk = Anthropic(is_async)
    reply = sdk.stream(guessing_mesh, project=project, max_tokens=500, script=ENDLESS)

    usage = assert_cut(guessing_mesh, provider, sdk, project, reply)
    assert reply.text
    assert text(tokens=500).startswith(reply.text)
    # The count is an approximation.
    assert LIMIT_NANOS // 2 <= cost(sdk, usage) <= LIMIT_NANOS


def test_a_stream_is_cut_by_any_limit_of_what_it_uses(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    reply = OpenAI().stream(
        mesh, project=project, max_tokens=None, script=ENDLESS, headers={"x-policyd-tier": "tokens"}
    )

    usage = assert_cut(mesh, provider, OpenAI(), project, reply)
    assert usage.tokens == 100
    tokens = mesh.balance("token-budget", project=project, tier="tokens")
    assert tokens == Balance(spent=100, reserved=0)


def test_after_the_cut_the_next_request_is_refused(mesh: Mesh, project: str) -> None:
    sdk = OpenAI()
    sdk.stream(mesh, project=project, max_tokens=None, script=ENDLESS)

    with pytest.raises(sdk.status_errors[402]):
        sdk.ask(mesh, project=project)


def test_several_streams_on_one_budget_share_it_to_the_last_cent(
    mesh: Mesh, provider: SimulatedProvider, project: str
) -> None:
    sdk = OpenAI()
    first = sdk.stream(mesh, project=project, max_tokens=50, script={"output-tokens": 50})
    reply = sdk.stream(mesh, project=project, max_tokens=None, script=ENDLESS)

    lines = [mesh.record(each.request_id) for each in (first, reply)]
    spent = sum(cost(sdk, Usage(**line["usage"])) for line in lines)
    assert mesh.balance(BUDGET, project=project) == Balance(spent=spent, reserved=0)
    assert 0 <= LIMIT_NANOS - spent < cost(sdk, Usage(output=1))


@pytest.mark.parametrize("transfer", [{"chunk-bytes": 7}, {"crlf": 1}, {"encoding": "br"}], ids=str)
def test_a_cut_comes_between_two_events_however_they_travel(
    mesh: Mesh, provider: SimulatedProvider, project: str, transfer: dict[str, object]
) -> None:
    reply = OpenAI().stream(mesh, project=project, max_tokens=None, script={**ENDLESS, "chunk-delay-ms": 0, **transfer})

    usage = assert_cut(mesh, provider, OpenAI(), project, reply)
    assert reply.text == text(tokens=usage.output)


def test_on_the_wire_a_cut_stream_ends_in_order_and_its_connection_goes_on(mesh: Mesh, project: str) -> None:
    headers = {"x-policyd-project": project, **{f"x-sim-{name}": str(value) for name, value in ENDLESS.items()}}
    with raw.connected(mesh.listen) as connection:
        # Reading fails unless the last chunk is there.
        reply = raw.read(raw.send(connection, body=raw.chat(stream=True), headers=headers))
        socket = connection.sock
        after = raw.read(raw.send(connection, body=raw.chat(max_tokens=10), headers={"x-policyd-project": "another"}))
        assert connection.sock is socket

    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, error, done, end = reply.body.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    assert data(error)["error"]["code"] == "budget_exceeded"
    assert all("choices" in data(event) for event in events)
    assert after.status == 200


def test_an_anthropic_cut_is_an_error_event_of_its_own(guessing_mesh: Mesh, project: str) -> None:
    headers = {"x-policyd-project": project, **{f"x-sim-{name}": str(value) for name, value in ENDLESS.items()}}
    body = raw.chat(model="claude-haiku-4-5", max_tokens=500, stream=True)
    reply = raw.post(guessing_mesh.listen, "/v1/messages", body=body, headers=headers)

    *_, error, end = reply.body.split(b"\n\n")
    assert end == b""
    name, _, payload = error.partition(b"\n")
    assert name == b"event: error"
    assert data(payload)["error"]["type"] == "billing_error"
    assert data(payload)["error"]["policyd"]["reason"] == "budget_exceeded"


def test_an_sdks_own_reader_of_a_stream_keeps_what_came_before_the_cut(guessing_mesh: Mesh, project: str) -> None:
    call = Anthropic().call(guessing_mesh, project=project, max_tokens=500, script=ENDLESS)
    with Anthropic.client(call) as client, client.messages.stream(**call.members) as stream:
        with pytest.raises(anthropic.APIStatusError) as raised:
            stream.until_done()
        (block,) = stream.current_message_snapshot.content

    assert block.type == "text"
    assert block.text
    assert text(tokens=500).startswith(block.text)
    assert policyd_object(raised.value)["reason"] == "budget_exceeded"
    assert guessing_mesh.records_of(project)[0]["outcome"] == "cut"


def data(event: bytes) -> Any:
    """The JSON of an event of one data line."""
    return json.loads(event.removeprefix(b"data: "))

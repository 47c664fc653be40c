"""The lean profile on a real Envoy: requests are decided as ever, and charged by what Envoy logs of their replies."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.client import IncompleteRead

import pytest

from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from tests.e2e import raw
from tests.e2e.books import (
    BUDGET,
    ENDED_SECONDS_MAX,
    assert_charged,
    assert_free,
    calls,
    cost,
    nanos,
    wait_until_idle,
)
from tests.e2e.conftest import BOTH_TRANSPORTS, Start
from tests.e2e.envoy_version import READS_STREAMS
from tests.e2e.mesh import Balance, Line, Mesh
from tests.e2e.sdks import OpenAI, Sdk, policyd_object

pytestmark = [BOTH_TRANSPORTS, READS_STREAMS]

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
EVENTS_READ = 5


@pytest.fixture(scope="module")
def mesh(start: Start) -> Mesh:
    return start(POLICY.format(on_disconnect="observed"), environ={"POLICYD_PROFILE": "lean"})


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider) -> None:
    wait_until_idle(provider)
    provider.reset()


@pytest.mark.parametrize("asking", ["ask", "stream"])
def test_what_the_provider_reports_is_charged(mesh: Mesh, sdk: Sdk, project: str, asking: str) -> None:
    reply = getattr(sdk, asking)(mesh, project=project)

    assert reply.usage is not None
    line = assert_charged(mesh, project, reply.usage, sdk=sdk, request_id=reply.request_id)
    assert (line["outcome"], line["status"], line["usage_source"]) == ("served", 200, "reported")
    assert (line["streamed"], line["response_model"]) == (asking == "stream", sdk.model)


def test_the_reply_tells_what_was_decided_and_not_what_it_cost(mesh: Mesh, sdk: Sdk, project: str) -> None:
    reply = sdk.ask(mesh, project=project)

    line = mesh.record(reply.request_id)
    assert reply.headers["x-policyd-decision"] == "allow"
    assert nanos(float(reply.headers["x-policyd-estimated-cost-usd"])) == nanos(line["estimated_cost_usd"])
    assert "x-policyd-budget-remaining-usd" in reply.headers
    assert "x-policyd-cost-usd" not in reply.headers


def test_the_provider_sees_no_identity_and_is_asked_for_a_plain_reply(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    sdk.ask(mesh, project=project, headers={"x-policyd-user": "ann"})

    assert provider.served.last_request is not None
    headers = dict(provider.served.last_request.headers)
    assert not [name for name in headers if name.startswith("x-policyd-")]
    assert headers["accept-encoding"] == "identity"


def test_a_client_sees_the_usage_that_policyd_asks_for(mesh: Mesh, project: str) -> None:
    body = raw.chat(max_tokens=5, stream=True)
    reply = raw.post(mesh.listen, body=body, headers={"x-policyd-project": project})

    assert b'"choices":[]' in reply.body.replace(b" ", b"")
    assert mesh.record(reply.headers["x-policyd-request-id"])["usage_source"] == "reported"


def test_a_request_over_the_budget_is_refused(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    with pytest.raises(sdk.status_errors[402]) as raised:
        sdk.ask(mesh, project=project, max_tokens=1_000_000)

    assert policyd_object(raised.value)["limits"][0]["name"] == BUDGET
    assert calls(provider) == 0
    assert_free(mesh, project)


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_of_the_provider_is_free(mesh: Mesh, sdk: Sdk, project: str, status: int) -> None:
    with pytest.raises(sdk.status_errors[status]) as raised:
        sdk.ask(mesh, project=project, script={"status": status})

    line = mesh.record(raised.value.response.headers["x-policyd-request-id"])  # type: ignore[attr-defined]
    assert (line["outcome"], line["status"]) == ("provider_error", status)
    assert_free(mesh, project)


def test_a_reply_without_usage_is_charged_what_was_held(mesh: Mesh, project: str) -> None:
    headers = {"x-policyd-project": project, "x-sim-no-usage": "1"}
    reply = raw.post(mesh.listen, body=raw.chat(max_tokens=20), headers=headers)

    line = mesh.record(reply.headers["x-policyd-request-id"])
    assert (line["outcome"], line["usage"]["output"], line["usage_source"]) == ("served", 20, "none")
    assert mesh.balance(BUDGET, project=project) == Balance(spent=nanos(line["estimated_cost_usd"]), reserved=0)


def hung_up(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> Line:
    sdk.hang_up(mesh, project=project, after_events=EVENTS_READ, max_tokens=MAX_TOKENS, script=SLOW)
    provider.wait_until(lambda served: served.streams_cancelled == 1, timeout_seconds=ENDED_SECONDS_MAX)
    (line,) = mesh.records_of(project)
    assert (line["outcome"], line["status"]) == ("disconnected", 200)
    assert_charged(mesh, project, Usage(**line["usage"]), sdk=sdk, request_id=line["request_id"])
    return line


@pytest.mark.parametrize(
    ("on_disconnect", "least"), [("observed", EVENTS_READ), ("expected", EXPECTED_TOKENS), ("maximum", MAX_TOKENS)]
)
def test_a_client_that_hangs_up(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str, on_disconnect: str, least: int
) -> None:
    mesh.put_in_force(POLICY.format(on_disconnect=on_disconnect))
    line = hung_up(mesh, provider, sdk, project)

    # What is known of what came are its bytes: more than tokens.
    assert least <= line["usage"]["output"] <= MAX_TOKENS
    assert line["usage"]["output"] == least or on_disconnect == "observed"


def test_a_reply_that_breaks_off(mesh: Mesh, project: str) -> None:
    mesh.put_in_force(POLICY.format(on_disconnect="maximum"))
    headers = {"x-policyd-project": project, "x-sim-reset-after-chunks": "3"}
    with pytest.raises(IncompleteRead):
        raw.post(mesh.listen, body=raw.chat(max_tokens=MAX_TOKENS, stream=True), headers=headers)

    (line,) = mesh.records_of(project)
    assert (line["outcome"], line["actual_cost_usd"]) == ("disconnected", line["estimated_cost_usd"])


def test_a_client_that_goes_before_the_reply(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    mesh.put_in_force(POLICY.format(on_disconnect="observed"))
    headers = {"x-policyd-project": project, "x-sim-delay-ms": "60000"}
    with raw.connected(mesh.listen) as connection:
        raw.send_only(connection, body=raw.chat(max_tokens=MAX_TOKENS), headers=headers)
        provider.wait_until(lambda served: served.bytes_received > 0, timeout_seconds=ENDED_SECONDS_MAX)

    (line,) = mesh.records_of(project)
    assert (line["outcome"], line["usage"].get("output", 0)) == ("disconnected", 0)
    assert line["actual_cost_usd"] > 0


def test_many_at_once_are_charged_what_the_provider_has_served(
    mesh: Mesh, provider: SimulatedProvider, project: str
) -> None:
    sdk = OpenAI()
    with ThreadPoolExecutor(8) as threads:
        ways = [sdk.ask, sdk.stream] * 20
        replies = list(threads.map(lambda way: way(mesh, project=project, max_tokens=30), ways))

    for reply in replies:
        mesh.record(reply.request_id)
    served = provider.served
    used = Usage(input=served.input_tokens, output=served.output_tokens)
    assert mesh.balance(BUDGET, project=project) == Balance(spent=cost(sdk, used), reserved=0)


# --- what takes the default profile's way ---


def metered_by_default(mesh: Mesh, reply: raw.RawReply) -> None:
    """Only who has seen the whole reply can tell its cost in its headers."""
    assert reply.status == 200
    paid = nanos(float(reply.headers["x-policyd-cost-usd"]))
    assert nanos(mesh.record(reply.headers["x-policyd-request-id"])["actual_cost_usd"]) == paid > 0


def test_identity_in_the_query(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    path = f"{raw.CHAT}?project_id={project}"
    metered_by_default(mesh, raw.post(mesh.listen, path, body=raw.chat(max_tokens=20)))

    assert mesh.balance(BUDGET, project=project).spent > 0
    assert provider.served.last_request is not None
    assert provider.served.last_request.target == raw.CHAT


def test_a_body_of_unknown_length(mesh: Mesh, project: str) -> None:
    body = raw.chat(max_tokens=20)
    headers = {"x-policyd-project": project, "transfer-encoding": "chunked"}
    metered_by_default(mesh, raw.post(mesh.listen, body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), headers=headers))


def test_a_reply_that_lists_what_it_costs(mesh: Mesh, project: str) -> None:
    beta = {"x-policyd-project": project, "anthropic-beta": "claude-code-20250219,compact-2026-01-12"}
    message = {"model": "claude-haiku-4-5", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello."}]}
    metered_by_default(mesh, raw.post(mesh.listen, "/v1/messages", body=json.dumps(message).encode(), headers=beta))


@pytest.mark.parametrize(
    "headers",
    [{"content-encoding": "gzip"}, {"content-length": "0"}, {"upgrade": "websocket", "connection": "upgrade"}],
)
def test_what_is_refused_as_by_default(
    mesh: Mesh, provider: SimulatedProvider, project: str, headers: dict[str, str]
) -> None:
    body = b"" if "content-length" in headers else raw.chat(max_tokens=20)
    reply = raw.post(mesh.listen, body=body, headers={"x-policyd-project": project, **headers})

    assert 400 <= reply.status < 500
    assert calls(provider) == 0
    assert_free(mesh, project)


def test_an_endpoint_that_is_not_known(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    headers = {"x-policyd-project": project}
    reply = raw.post(mesh.listen, "/v1/elsewhere/chat/completions", body=raw.chat(), headers=headers)

    assert reply.status == 404
    assert calls(provider) == 0


def test_several_values_make_no_new_identity(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    headers = (("x-policyd-project", project), ("x-policyd-project", "another"))
    assert raw.post(mesh.listen, body=raw.chat(), headers=headers).status == 400
    assert calls(provider) == 0

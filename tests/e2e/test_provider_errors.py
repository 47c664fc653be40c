"""What a provider does wrong: the client is told as the provider told it, and only what was served is charged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.client import IncompleteRead

import openai
import pytest

from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from tests.e2e import raw
from tests.e2e.books import BUDGET, assert_charged, assert_free, calls, nanos, wait_until_idle
from tests.e2e.conftest import POLICY, Start
from tests.e2e.envoy_version import SHOWS_ITS_OWN_REPLIES
from tests.e2e.mesh import Balance, Line, Mesh
from tests.e2e.sdks import OpenAI, Sdk
from tests.e2e.upstream import Upstream, kept_open, refusing, response, upstream

# One token a word, for a model whose vocabulary is public.
EVENT = b'data: {"model":"gpt-4o","choices":[{"index":0,"delta":{"content":" hello"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def odd() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@pytest.fixture(scope="module")
def mesh(start: Start, provider: SimulatedProvider, odd: Upstream) -> Iterator[Mesh]:
    simulated = {"openai": provider.url, "anthropic": provider.url}
    with refusing() as down:
        yield start(POLICY, upstreams={**simulated, "odd": odd.url, "down": down})


@pytest.fixture(params=["json", "stream"])
def asking(request: pytest.FixtureRequest) -> str:
    """The two ways to ask, by the name of the SDK's method."""
    return "ask" if request.param == "json" else "stream"


# --- errors that the provider answers ---


@pytest.mark.parametrize("status", [400, 429, 500, 529])
def test_an_error_of_the_provider_comes_through_and_costs_nothing(
    mesh: Mesh, sdk: Sdk, asking: str, project: str, status: int
) -> None:
    with pytest.raises(sdk.status_errors[status], match=f"asked to answer {status}") as raised:
        getattr(sdk, asking)(mesh, project=project, script={"status": status})

    headers = raised.value.response.headers  # type: ignore[attr-defined]
    assert headers["x-policyd-decision"] == "allow"
    assert "x-policyd-cost-usd" not in headers
    line = mesh.record(headers["x-policyd-request-id"])
    assert (line["decision"], line["outcome"], line["status"]) == ("allow", "provider_error", status)
    assert line["error"]
    assert (line["usage"], line["usage_source"], line["actual_cost_usd"]) == (None, "none", 0)
    assert_free(mesh, project)


def test_each_attempt_of_an_sdk_is_an_exchange_of_its_own(
    mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    wait_until_idle(provider)
    provider.reset()
    with pytest.raises(sdk.status_errors[500]):
        sdk.ask(mesh, project=project, script={"status": 500}, retries=1)

    lines = mesh.records_of(project, count=2)
    assert len({line["request_id"] for line in lines}) == calls(provider) == 2
    assert_free(mesh, project)


# --- connections that break ---


BROKEN_STREAM = response(
    content_type="text/event-stream", transfer_encoding="chunked", body=b"%x\r\n%s\r\n" % (len(EVENT * 20), EVENT * 20)
)
"""Twenty events and no end."""


def test_a_stream_that_breaks_off_costs_what_came(mesh: Mesh, odd: Upstream, project: str) -> None:
    odd.reply = BROKEN_STREAM
    with kept_open(odd) as go_on, raw.connected(mesh.listen) as connection:
        reply = raw.send(
            connection, f"/odd{raw.CHAT}", body=raw.chat(stream=True), headers={"x-policyd-project": project}
        )
        assert reply.read(len(EVENT * 20)) == EVENT * 20
        go_on.set()
        with pytest.raises(IncompleteRead):
            reply.read()

    line = mesh.record(reply.headers["x-policyd-request-id"])
    assert (line["outcome"], line["usage_source"]) == ("disconnected", "counted")
    assert line["usage"]["output"] == 20
    assert mesh.balance(BUDGET, project=project) == Balance(spent=nanos(line["actual_cost_usd"]), reserved=0)


def test_to_an_sdk_a_stream_that_breaks_off_is_a_connection_error(mesh: Mesh, odd: Upstream, project: str) -> None:
    odd.reply = BROKEN_STREAM
    call = OpenAI().call(mesh, project=project, stream=True)
    client = OpenAI.client(replace(call, url=f"{mesh.url}/odd"))
    with kept_open(odd) as go_on, client, client.chat.completions.create(**call.members) as stream:
        for _ in range(20):
            next(stream)
        go_on.set()
        with pytest.raises(openai.APIConnectionError):
            next(stream)

    (line,) = mesh.records_of(project)
    assert (line["outcome"], line["usage"]["output"]) == ("disconnected", 20)


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "stream"])
def test_a_reply_that_breaks_off_before_its_body_costs_its_input(mesh: Mesh, project: str, streamed: bool) -> None:
    headers = {"x-policyd-project": project, "x-sim-reset-after-chunks": "0"}
    # Whether the headers have passed by then is a matter of luck.
    with raw.connected(mesh.listen) as connection, suppress(IncompleteRead):
        assert raw.read(raw.send(connection, body=raw.chat(stream=streamed), headers=headers)).status == 502

    (line,) = mesh.records_of(project)
    assert line["outcome"] == "disconnected"
    usage = Usage(input=line["usage"]["input"])
    assert usage.input > 0
    assert_charged(mesh, project, usage, sdk=OpenAI(), request_id=line["request_id"])


@SHOWS_ITS_OWN_REPLIES
def test_a_provider_that_hangs_up_without_a_reply_costs_nothing(mesh: Mesh, odd: Upstream, project: str) -> None:
    odd.reply = b""
    reply = raw.post(mesh.listen, f"/odd{raw.CHAT}", body=raw.chat(), headers={"x-policyd-project": project})

    assert reply.status == 503
    line = mesh.records_of(project)[0]
    assert (line["decision"], line["outcome"], line["status"]) == ("allow", "provider_error", 503)
    assert_free(mesh, project)


@SHOWS_ITS_OWN_REPLIES
def test_a_provider_that_is_down_costs_nothing(mesh: Mesh, project: str) -> None:
    reply = raw.post(mesh.listen, f"/down{raw.CHAT}", body=raw.chat(), headers={"x-policyd-project": project})

    assert reply.status == 503
    line = mesh.records_of(project)[0]
    assert (line["decision"], line["outcome"], line["status"]) == ("allow", "provider_error", 503)
    assert_free(mesh, project)


# --- replies that are not what they should be ---


def odd_reply(mesh: Mesh, odd: Upstream, project: str, reply: bytes, **members: object) -> tuple[raw.RawReply, Line]:
    """Sends a request to which the upstream answers `reply`."""
    odd.reply = reply
    headers = {"x-policyd-project": project}
    got = raw.post(mesh.listen, f"/odd{raw.CHAT}", body=raw.chat(max_tokens=100, **members), headers=headers)
    return got, mesh.record(got.headers["x-policyd-request-id"])


def assert_charged_its_hold(mesh: Mesh, project: str, line: Line) -> None:
    """What cannot be read may have cost all that it could."""
    assert line["usage"]["output"] == 100
    assert line["usage_source"] == "none"
    assert line["actual_cost_usd"] == line["estimated_cost_usd"]
    assert mesh.balance(BUDGET, project=project) == Balance(spent=nanos(line["actual_cost_usd"]), reserved=0)


def test_a_stream_that_is_not_compressed_as_it_says_is_ended_in_order(mesh: Mesh, odd: Upstream, project: str) -> None:
    reply = response(content_type="text/event-stream", content_encoding="gzip", body=EVENT + DONE)
    got, line = odd_reply(mesh, odd, project, reply, stream=True)

    error, done, end = got.body.split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "reply_unreadable"
    assert (done, end) == (b"data: [DONE]", b"")
    assert line["error"] == "reply_unreadable"
    assert_charged_its_hold(mesh, project, line)


@pytest.mark.parametrize("length", [True, False], ids=["length", "no-length"])
@pytest.mark.parametrize(
    ("content_type", "encoding", "body"),
    [
        ("application/json", "gzip", b'{"usage":{}}'),
        ("application/json", "unheard-of", b'{"usage":{}}'),
        ("text/html", "identity", b"<h1>It works!</h1>"),
        ("application/json", "identity", b'{"usage":{"prompt_tokens":'),
        ("application/json", "identity", b"[1, 2]"),
    ],
    ids=["no-gzip", "unknown-encoding", "html", "half", "list"],
)
def test_a_document_that_cannot_be_read_passes_and_costs_its_hold(
    mesh: Mesh, odd: Upstream, project: str, content_type: str, encoding: str, body: bytes, length: bool
) -> None:
    headers = {"content_encoding": encoding, **({"content_length": str(len(body))} if length else {})}
    got, line = odd_reply(mesh, odd, project, response(content_type=content_type, body=body, **headers))

    assert (got.status, got.body) == (200, body)
    assert_charged_its_hold(mesh, project, line)


def test_a_stream_in_an_unknown_encoding_passes_and_costs_its_hold(mesh: Mesh, odd: Upstream, project: str) -> None:
    reply = response(content_type="text/event-stream", content_encoding="unheard-of", body=EVENT + DONE)
    got, line = odd_reply(mesh, odd, project, reply, stream=True)

    assert got.body == EVENT + DONE
    assert got.headers["content-encoding"] == "unheard-of"
    assert_charged_its_hold(mesh, project, line)


def test_a_reply_without_a_body_costs_its_input(mesh: Mesh, odd: Upstream, project: str) -> None:
    got, line = odd_reply(mesh, odd, project, response(content_length="0"))

    assert (got.status, got.body) == (200, b"")
    assert line["usage"]["output"] == 0
    assert mesh.balance(BUDGET, project=project) == Balance(spent=nanos(line["actual_cost_usd"]), reserved=0)


def test_a_stream_that_does_not_say_so_is_one_all_the_same(mesh: Mesh, odd: Upstream, project: str) -> None:
    got, line = odd_reply(mesh, odd, project, response(body=EVENT * 3 + DONE), stream=True)

    assert got.body == EVENT * 3 + DONE
    assert line["streamed"]
    assert line["usage"]["output"] == 3


def test_a_document_in_place_of_a_stream_is_one_all_the_same(mesh: Mesh, odd: Upstream, project: str) -> None:
    body = b'{"model":"gpt-4o","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}'
    got, line = odd_reply(mesh, odd, project, response(body=body), stream=True)

    assert got.body == body
    assert line["usage"] == {"input": 5, "output": 7}


def test_a_stream_may_end_with_trailers(mesh: Mesh, odd: Upstream, project: str) -> None:
    events = EVENT * 2 + DONE
    chunked = b"%x\r\n%s\r\n0\r\nx-checksum: 1\r\n\r\n" % (len(events), events)
    reply = response(content_type="text/event-stream", transfer_encoding="chunked", body=chunked)
    got, line = odd_reply(mesh, odd, project, reply, stream=True)

    assert got.body == events
    assert (line["outcome"], line["usage"]["output"]) == ("served", 2)


def test_a_last_event_without_its_blank_line_is_one_all_the_same(mesh: Mesh, odd: Upstream, project: str) -> None:
    events = EVENT * 2 + EVENT.strip()
    got, line = odd_reply(mesh, odd, project, response(content_type="text/event-stream", body=events), stream=True)

    assert got.body == events
    assert line["usage"]["output"] == 3


def test_a_document_that_breaks_off_after_its_usage_costs_that(mesh: Mesh, odd: Upstream, project: str) -> None:
    body = b'{"model":"gpt-4o","usage":{"prompt_tokens":5,"completion_tokens":7},"choices":['
    odd.reply = response(body=body, content_length=str(1_000_000))
    with kept_open(odd) as go_on, raw.connected(mesh.listen) as connection:
        reply = raw.send(connection, f"/odd{raw.CHAT}", body=raw.chat(), headers={"x-policyd-project": project})
        assert reply.read(len(body)) == body
        go_on.set()
        with pytest.raises(IncompleteRead):
            reply.read()

    line = mesh.record(reply.headers["x-policyd-request-id"])
    assert (line["outcome"], line["usage"]) == ("disconnected", {"input": 5, "output": 7})
    assert mesh.balance(BUDGET, project=project) == Balance(spent=nanos(line["actual_cost_usd"]), reserved=0)

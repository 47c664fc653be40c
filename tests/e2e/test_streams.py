"""Streams arrive whole and are metered, however their bytes travel, and hold more as they grow."""

from __future__ import annotations

import pytest

from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from policyd.demo.simulated.text import text
from tests.e2e import raw
from tests.e2e.books import BUDGET, assert_charged, assert_free, cost
from tests.e2e.conftest import BOTH_TRANSPORTS, Start
from tests.e2e.mesh import Mesh
from tests.e2e.sdks import Anthropic, OpenAI, Sdk

pytestmark = BOTH_TRANSPORTS

DEFAULT_MAX_TOKENS = 20

POLICY = f"""
version: 1
default_max_output_tokens: {DEFAULT_MAX_TOKENS}
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
  - name: guessed-spend
    match: {{tier: guessed}}
    per: [project]
    cost_usd: 1.00
    window: lifetime
    hold: expected
"""

TRANSFERS = {
    "1-byte": {"chunk-bytes": 1, "output-tokens": 25},
    "3-bytes": {"chunk-bytes": 3},
    "7-bytes": {"chunk-bytes": 7},
    "crlf": {"crlf": 1},
    "crlf-1-byte": {"crlf": 1, "chunk-bytes": 1, "output-tokens": 25},
    "gzip": {"encoding": "gzip"},
    "gzip-7-bytes": {"encoding": "gzip", "chunk-bytes": 7},
    "br": {"encoding": "br"},
    "br-7-bytes": {"encoding": "br", "chunk-bytes": 7},
    "zstd": {"encoding": "zstd"},
    "zstd-crlf-1-byte": {"encoding": "zstd", "crlf": 1, "chunk-bytes": 1, "output-tokens": 25},
}


@pytest.fixture(scope="module")
def mesh(start: Start) -> Mesh:
    return start(POLICY)


@pytest.mark.parametrize("sdk", [OpenAI(), Anthropic(is_async=True)], ids=str)
@pytest.mark.parametrize("transfer", TRANSFERS.values(), ids=TRANSFERS.keys())
def test_a_stream_arrives_whole_however_it_travels(
    mesh: Mesh, sdk: Sdk, project: str, transfer: dict[str, object]
) -> None:
    output_tokens = int(str(transfer.get("output-tokens", 40)))
    reply = sdk.stream(mesh, project=project, script=transfer)

    assert reply.error is None
    assert reply.text == text(tokens=output_tokens)
    line = mesh.record(reply.request_id)
    assert line["usage_source"] == "reported"
    usage = Usage(input=line["usage"]["input"], output=output_tokens)
    assert_charged(mesh, project, usage, sdk=sdk, request_id=reply.request_id)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_a_stream_that_was_compressed_all_the_same_is_sent_plain(mesh: Mesh, project: str, encoding: str) -> None:
    body = raw.chat(stream=True, stream_options={"include_usage": True})
    plain = raw.post(mesh.listen, body=body, headers={"x-policyd-project": project})
    decoded = raw.post(mesh.listen, body=body, headers={"x-policyd-project": project, "x-sim-encoding": encoding})

    assert "content-encoding" not in decoded.headers
    assert [len(event) for event in decoded.body.split(b"\n\n")] == [len(event) for event in plain.body.split(b"\n\n")]
    assert decoded.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stream_without_a_maximum_is_topped_up_as_it_grows(mesh: Mesh, project: str, is_async: bool) -> None:
    sdk = OpenAI(is_async)
    reply = sdk.stream(mesh, project=project, max_tokens=None, script={"output-tokens": 600})

    assert reply.error is None
    assert reply.text == text(tokens=600)
    assert reply.headers["x-policyd-estimated-output-tokens"] == str(DEFAULT_MAX_TOKENS)
    line = mesh.record(reply.request_id)
    usage = Usage(input=line["usage"]["input"], output=600)
    assert_charged(mesh, project, usage, sdk=sdk, request_id=reply.request_id)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stream_that_outgrows_what_was_expected_is_topped_up(mesh: Mesh, project: str, is_async: bool) -> None:
    sdk = Anthropic(is_async)
    reply = sdk.stream(
        mesh,
        project=project,
        max_tokens=400,
        script={"output-tokens": 400},
        headers={"x-policyd-tier": "guessed"},
    )

    assert reply.error is None
    assert reply.text == text(tokens=400)
    line = mesh.record(reply.request_id)
    usage = Usage(input=line["usage"]["input"], output=400)
    assert_charged(mesh, project, usage, sdk=sdk, request_id=reply.request_id)
    assert mesh.balance("guessed-spend", project=project, tier="guessed").reserved == 0


def test_what_a_growing_stream_has_used_is_held_while_it_runs(
    mesh: Mesh, provider: SimulatedProvider, project: str
) -> None:
    sdk = OpenAI()
    call = sdk.call(
        mesh,
        project=project,
        max_tokens=None,
        stream=True,
        script={"output-tokens": 400, "chunk-delay-ms": 2},
    )
    with sdk.client(call) as client, client.chat.completions.create(**call.members) as stream:
        held_at_first = mesh.balance(BUDGET, project=project).reserved
        for _ in range(300):
            next(stream)
        balance = mesh.balance(BUDGET, project=project)
        for _ in stream:
            pass

    assert held_at_first >= cost(sdk, Usage(output=DEFAULT_MAX_TOKENS))
    # The first chunk has no text.
    assert balance.reserved >= cost(sdk, Usage(output=299))
    assert balance.spent == 0


def test_an_error_event_before_anything_costs_nothing(mesh: Mesh, sdk: Sdk, project: str) -> None:
    reply = sdk.stream(mesh, project=project, script={"error-after-chunks": 0})

    assert isinstance(reply.error, sdk.stream_error)
    line = mesh.record(reply.request_id)
    assert (line["outcome"], line["status"]) == ("provider_error", 200)
    assert line["error"] == {"openai": "server_error", "anthropic": "overloaded_error"}[sdk.provider]
    assert_free(mesh, project)


def test_an_error_event_after_text_costs_the_text(mesh: Mesh, sdk: Sdk, project: str) -> None:
    reply = sdk.stream(mesh, project=project, script={"error-after-chunks": 23})

    assert isinstance(reply.error, sdk.stream_error)
    line = mesh.record(reply.request_id)
    assert (line["outcome"], line["usage_source"]) == ("provider_error", "counted")
    usage = Usage(**line["usage"])
    assert_charged(mesh, project, usage, sdk=sdk, request_id=reply.request_id)
    if sdk.provider == "openai":
        assert usage.output == 22
        assert reply.text == text(tokens=22)
    else:
        assert reply.text == text(tokens=20)

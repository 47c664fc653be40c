"""What reaches the provider: the client's request to the byte, except for what policy changes in it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from policyd.demo.provider import LastRequest, SimulatedProvider
from tests.e2e import raw
from tests.e2e.conftest import Start
from tests.e2e.mesh import Mesh
from tests.e2e.sdks import API_KEY, Anthropic, OpenAI, Sdk

POLICY = """
version: 1
identity:
  project: [{header: x-policyd-project}, {query: project_id}, {default: default}]
  user: [{header: x-policyd-user}, {body: user}]
  team: [{header: x-team, strip: false}]
  tier: [{body: tier, strip: true}]
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
"""

BOUNDING_POLICY = """
version: 1
unbounded: set_maximum
default_max_output_tokens: 25
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
"""

ODD_BODY = (
    b'{ "messages":[{"role":"user","content":"\\u00fcber \xf0\x9f\x98\x80"}] ,\r\n\t"model" : "gpt-4o",'
    b'"max_tokens":5,"temperature":1.0e0,"unknown_member":{"a":[1,2 ]}, "user": "ann"}\n'
)


@pytest.fixture(scope="module")
def mesh(start: Start) -> Mesh:
    return start(POLICY)


@pytest.fixture(scope="module")
def bounding_mesh(start: Start) -> Mesh:
    return start(BOUNDING_POLICY)


def arrived(provider: SimulatedProvider) -> LastRequest:
    """The request that the provider got last."""
    request = provider.served.last_request
    assert request is not None
    return request


def headers_of(request: LastRequest) -> Mapping[str, str]:
    names = [name for name, _ in request.headers]
    assert len(names) == len(set(names)), f"a header came twice: {names}"
    return dict(request.headers)


def test_headers_and_body_arrive_as_they_were_sent(mesh: Mesh, provider: SimulatedProvider) -> None:
    kept = {
        "content-type": "application/json; charset=utf-8",
        "content-length": str(len(ODD_BODY)),
        "authorization": f"Bearer {API_KEY}",
        "cookie": "a=b; c=d",
        "openai-organization": "org-1",
        "user-agent": "something/1.0 (odd; ü)",
        "x-team": "research",
        "x-stainless-retry-count": "0",
    }
    identity = {"X-Policyd-Project": "forwarding", "x-policyd-user": "ann"}
    reply = raw.post(mesh.listen, body=ODD_BODY, headers={**kept, **identity, "accept-encoding": "gzip, br"})

    assert reply.status == 200
    request = arrived(provider)
    assert request.body == ODD_BODY
    headers = {name: value.encode("latin-1").decode() for name, value in headers_of(request).items()}
    # Envoy's, for tracing.
    assert headers.pop("x-request-id")
    assert headers == {
        **kept,
        "host": provider.url.removeprefix("http://"),
        # A compressed reply would have to be decoded to be read.
        "accept-encoding": "identity",
    }
    line = mesh.record(reply.headers["x-policyd-request-id"])
    assert line["attributes"] == {"project": "forwarding", "user": "ann", "team": "research"}


def test_identity_is_taken_out_of_the_query(mesh: Mesh, provider: SimulatedProvider) -> None:
    reply = raw.post(mesh.listen, f"{raw.CHAT}?beta=true&project_id=of-the-query&x=%20y&&z", body=raw.chat())

    assert reply.status == 200
    assert arrived(provider).target == f"{raw.CHAT}?beta=true&x=%20y&&z"
    assert mesh.record(reply.headers["x-policyd-request-id"])["attributes"]["project"] == "of-the-query"


def test_a_query_of_identity_alone_leaves_none(mesh: Mesh, provider: SimulatedProvider) -> None:
    raw.post(mesh.listen, f"{raw.CHAT}?project_id=of-the-query", body=raw.chat())

    assert arrived(provider).target == raw.CHAT


def test_identity_is_taken_out_of_the_body_only_where_told(mesh: Mesh, provider: SimulatedProvider) -> None:
    body = b'{"model":"gpt-4o","tier":"free","messages":[{"role":"user","content":"Hi"}],"user":"ann"}'
    reply = raw.post(mesh.listen, body=body)

    assert arrived(provider).body == body.replace(b'"tier":"free",', b"")
    line = mesh.record(reply.headers["x-policyd-request-id"])
    assert line["attributes"] == {"project": "default", "user": "ann", "tier": "free"}


def test_of_a_repeated_identity_header_the_first_counts_and_none_arrives(
    mesh: Mesh, provider: SimulatedProvider
) -> None:
    repeated = [("x-policyd-project", "first"), ("x-policyd-project", "second")]
    reply = raw.post(mesh.listen, body=raw.chat(), headers=repeated)

    assert "x-policyd-project" not in headers_of(arrived(provider))
    assert mesh.record(reply.headers["x-policyd-request-id"])["attributes"]["project"] == "first"


def test_a_named_upstream_gets_the_path_without_its_name(mesh: Mesh, provider: SimulatedProvider) -> None:
    reply = raw.post(mesh.listen, "/openai/v1/chat/completions", body=raw.chat())

    assert reply.status == 200
    assert arrived(provider).target == raw.CHAT


def test_what_an_sdk_sends_arrives(mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str) -> None:
    reply = sdk.ask(mesh, project=project)

    request = arrived(provider)
    assert request.body == reply.sent
    headers = headers_of(request)
    assert not [name for name in headers if name.startswith("x-policyd")]
    assert API_KEY in headers.get("authorization", "") + headers.get("x-api-key", "")


def test_an_openai_stream_is_made_to_tell_its_usage_unseen_by_the_client(
    mesh: Mesh, provider: SimulatedProvider, project: str
) -> None:
    reply = OpenAI().stream(mesh, project=project)

    assert arrived(provider).body == b'{"stream_options":{"include_usage":true},' + reply.sent.removeprefix(b"{")
    assert reply.usage is None
    assert mesh.record(reply.request_id)["usage_source"] == "reported"


def test_stream_options_that_are_there_are_completed(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    reply = OpenAI().stream(mesh, project=project, stream_options={"include_obfuscation": False})

    options = json.loads(arrived(provider).body)["stream_options"]
    assert options == {"include_obfuscation": False, "include_usage": True}
    assert reply.usage is None


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_who_asked_for_usage_gets_it_and_sends_what_it_sent(
    mesh: Mesh, provider: SimulatedProvider, project: str, is_async: bool
) -> None:
    reply = OpenAI(is_async).stream(mesh, project=project, stream_options={"include_usage": True})

    assert arrived(provider).body == reply.sent
    assert reply.usage is not None
    assert mesh.record(reply.request_id)["usage"] == {"input": reply.usage.input, "output": reply.usage.output}


def test_an_anthropic_stream_arrives_as_it_was_sent(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    reply = Anthropic().stream(mesh, project=project)

    assert arrived(provider).body == reply.sent


def test_the_withheld_chunk_is_all_that_the_client_misses(mesh: Mesh, provider: SimulatedProvider) -> None:
    asked = raw.post(mesh.listen, body=raw.chat(stream=True, stream_options={"include_usage": True}))
    unasked = raw.post(mesh.listen, body=raw.chat(stream=True))

    asked_events, unasked_events = asked.body.split(b"\n\n"), unasked.body.split(b"\n\n")
    usage_event, done, end = asked_events[-3:]
    assert b'"usage":{' in usage_event
    assert (done, end) == (b"data: [DONE]", b"")
    assert len(unasked_events) == len(asked_events) - 1
    assert b'"usage":{' not in unasked.body
    assert unasked_events[-2:] == [done, end]


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "stream"])
def test_a_request_without_a_maximum_is_given_one(
    bounding_mesh: Mesh, provider: SimulatedProvider, project: str, streamed: bool
) -> None:
    sdk = OpenAI()
    reply = (sdk.stream if streamed else sdk.ask)(bounding_mesh, project=project, max_tokens=None)

    assert json.loads(arrived(provider).body)["max_completion_tokens"] == 25
    assert reply.headers["x-policyd-estimated-output-tokens"] == "25"
    assert bounding_mesh.record(reply.request_id)["usage"]["output"] == 25


def test_a_maximum_that_is_there_is_kept(
    bounding_mesh: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    reply = sdk.ask(bounding_mesh, project=project, max_tokens=30)

    assert arrived(provider).body == reply.sent

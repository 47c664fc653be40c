"""Ways around the meter that a client might try: it is metered like any other, or the provider sees nothing."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from contextlib import suppress

import pytest

from policyd.core.money import parse_usd
from policyd.demo.provider import SimulatedProvider
from tests.e2e import raw
from tests.e2e.books import BUDGET, calls, wait_until_idle
from tests.e2e.conftest import BOTH_TRANSPORTS
from tests.e2e.mesh import Mesh
from tests.e2e.raw import CHAT

pytestmark = BOTH_TRANSPORTS

BODY_BYTES_MAX = 16 * 2**20


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider) -> None:
    wait_until_idle(provider)
    provider.reset()


def send(
    mesh: Mesh,
    project: str,
    path: str = CHAT,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
) -> raw.RawReply:
    with raw.connected(mesh.listen) as connection:
        reply = raw.send(
            connection,
            path,
            body=raw.chat(max_tokens=100) if body is None else body,
            headers={"x-policyd-project": project, **(headers or {})},
            method=method,
        )
        return raw.read(reply)


def chunked(body: bytes, *, trailers: bytes = b"") -> bytes:
    return b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(body), body, trailers)


def assert_metered(mesh: Mesh, provider: SimulatedProvider, project: str, reply: raw.RawReply) -> None:
    """The request was served once and paid for."""
    assert reply.status == 200
    assert calls(provider) == 1
    paid = parse_usd(reply.headers["x-policyd-cost-usd"])
    assert mesh.balance(BUDGET, project=project).spent == paid > 0


def assert_refused(provider: SimulatedProvider, reply: raw.RawReply, *, status: int) -> None:
    assert reply.status == status
    assert calls(provider) == 0


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1/chat/./completions",
        "/v1//chat/completions",
        "/v1/models/../chat/completions",
        "/v1/models/%2e%2e/chat/completions",
        "/openai/v1/models/../chat/completions",
        "/openai//v1/chat/completions",
        "/v1/chat\\completions",
        "/v1/chat/completion%73",
        "/v1/chat/completions?path=/v1/models",
    ],
)
def test_another_spelling_of_the_path_is_the_same_path(
    mesh: Mesh, provider: SimulatedProvider, project: str, path: str
) -> None:
    reply = send(mesh, project, path)

    assert_metered(mesh, provider, project, reply)
    assert provider.served.requests_received == {CHAT: 1}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/V1/chat/completions", 404),
        ("/v1/chat/completions/", 404),
        ("/v1/chat/completions;v=1", 404),
        ("/v1/chat%2Fcompletions", 404),
        ("/v1/models/..%2fchat/completions", 404),
        ("/v1/chat/completions#models", 400),
        ("/v1/engines/gpt-4o/chat/completions", 404),
    ],
)
def test_a_path_that_is_no_endpoint_is_refused(
    mesh: Mesh, provider: SimulatedProvider, project: str, path: str, status: int
) -> None:
    assert_refused(provider, send(mesh, project, path), status=status)


def test_another_method_is_another_endpoint(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    assert_refused(provider, send(mesh, project, method="PUT"), status=404)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-http-method-override": "GET"},
        {"x-policyd-provider": "nobody"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"host": "free.example.com"},
        {"expect": "100-continue"},
        {"x-envoy-original-path": "/v1/models"},
        {"x-envoy-upstream-rq-timeout-ms": "1", "x-sim-delay-ms": "50"},
        {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_a_header_changes_nothing(
    mesh: Mesh, provider: SimulatedProvider, project: str, headers: Mapping[str, str]
) -> None:
    assert_metered(mesh, provider, project, send(mesh, project, headers=headers))


def test_a_client_cannot_have_envoy_try_again(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    headers = {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "3", "x-sim-status": "500"}

    assert send(mesh, project, headers=headers).status == 500
    assert calls(provider) == 1


def test_an_upgrade_is_refused(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    reply = send(mesh, project, headers={"connection": "Upgrade", "upgrade": "websocket"})

    assert_refused(provider, reply, status=403)


def test_a_body_in_chunks_is_read_like_any_other(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    body = chunked(raw.chat(max_tokens=100), trailers=b"x-policyd-project: somebody-else\r\n")
    reply = send(mesh, project, body=body, headers={"transfer-encoding": "chunked"})

    assert_metered(mesh, provider, project, reply)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(raw.chat()), {"content-encoding": "gzip"}),
        (b'{"model":"gpt-4o-mini","model":"o1-pro","messages":[{"role":"user","content":"Hi"}]}', {}),
        (b'{"model":"gpt-4o","max_tokens":1,"max_tokens":9999,"messages":[{"role":"user","content":"Hi"}]}', {}),
        (raw.chat(n=10**9), {}),
        (raw.chat(max_tokens=10**12), {}),
        (raw.chat(max_tokens=-1), {}),
        (raw.chat(stream=1), {}),
        (b'{"model":"gpt-4o","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}),
        (b"\xef\xbb\xbf" + raw.chat(), {}),
    ],
    ids=["gzip", "two-models", "two-maxima", "choices", "maximum", "negative", "stream", "deep", "byte-order-mark"],
)
def test_a_body_that_two_could_read_two_ways_is_refused(
    mesh: Mesh, provider: SimulatedProvider, project: str, body: bytes, headers: Mapping[str, str]
) -> None:
    reply = send(mesh, project, body=body, headers=headers)

    assert_refused(provider, reply, status=400)
    assert b'"body_unreadable"' in reply.body


def test_a_body_that_is_announced_as_too_large_is_refused_before_it_comes(
    mesh: Mesh, provider: SimulatedProvider, project: str
) -> None:
    reply = send(mesh, project, body=b"", headers={"content-length": str(BODY_BYTES_MAX + 1)})

    assert_refused(provider, reply, status=413)
    assert b'"body_too_large"' in reply.body


def test_a_body_that_turns_out_too_large_is_refused(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    with raw.connected(mesh.listen) as connection:
        # Envoy may answer, and close, while it is still being sent.
        with suppress(ConnectionError):
            headers = {"x-policyd-project": project, "transfer-encoding": "chunked"}
            raw.send_only(connection, body=chunked(bytes(BODY_BYTES_MAX + 1)), headers=headers)
        reply = raw.read(connection.getresponse())

    assert_refused(provider, reply, status=413)


def test_a_project_that_is_no_text_is_refused(mesh: Mesh, provider: SimulatedProvider) -> None:
    with raw.connected(mesh.listen) as connection:
        connection.putrequest("POST", CHAT)
        connection.putheader("x-policyd-project", b"\xff\xfe")
        connection.putheader("content-length", str(len(raw.chat())))
        connection.endheaders(raw.chat())
        reply = raw.read(connection.getresponse())

    assert_refused(provider, reply, status=400)
    assert b'"attribute_invalid"' in reply.body


def test_two_requests_on_one_connection_are_two(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    with raw.connected(mesh.listen) as connection:
        for _ in range(2):
            headers = {"x-policyd-project": project}
            assert raw.read(raw.send(connection, body=raw.chat(max_tokens=100), headers=headers)).status == 200

    lines = mesh.records_of(project, count=2)
    assert len({line["request_id"] for line in lines}) == calls(provider) == 2


def test_the_clients_request_id_is_not_policyds(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    """It could be repeated, and the second request would pass for the first."""
    replies = [send(mesh, project, headers={"x-request-id": "the-same"}) for _ in range(2)]

    assert len({reply.headers["x-policyd-request-id"] for reply in replies}) == 2
    paid = sum(parse_usd(reply.headers["x-policyd-cost-usd"]) for reply in replies)
    assert mesh.balance(BUDGET, project=project).spent == paid

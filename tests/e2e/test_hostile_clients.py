"""Clients and providers that mean harm: each attack has its outcome, memory is bounded, and the next one is served."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import pytest

from policyd.demo.provider import SimulatedProvider
from tests.e2e import raw
from tests.e2e.books import BUDGET, calls, wait_until_idle
from tests.e2e.conftest import Start
from tests.e2e.mesh import Balance, Mesh
from tests.e2e.upstream import response, upstream

MIB = 2**20

MEMORY_BYTES_MAX = 500 * MIB
"""What policyd may take beyond what it has at rest: a few of the largest bodies, and what is decoded of one reply."""

SECONDS_MAX = 20

POLICY = """
version: 1
limits:
  - {name: project-spend, per: [project], cost_usd: 1.00, window: lifetime}
"""


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider) -> None:
    wait_until_idle(provider)
    provider.reset()


@pytest.fixture(scope="module")
def mesh(start: Start) -> Mesh:
    """One of our own: its memory is looked at."""
    return start(POLICY)


@pytest.fixture(autouse=True)
def bounded_memory(mesh: Mesh) -> Iterator[None]:
    before = resident_bytes_max(mesh)
    yield
    assert resident_bytes_max(mesh) - before < MEMORY_BYTES_MAX


@pytest.fixture(autouse=True)
def next_is_served(mesh: Mesh, project: str) -> Iterator[None]:
    yield
    headers = {"x-policyd-project": f"{project}-next"}
    assert raw.post(mesh.listen, body=raw.chat(max_tokens=10), headers=headers).status == 200


def resident_bytes_max(mesh: Mesh) -> int:
    """The most memory that policyd has had so far."""
    lines = Path(f"/proc/{mesh.process.pid}/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) * 1024


def head(project: str, *lines: str) -> bytes:
    return "\r\n".join(
        [f"POST {raw.CHAT} HTTP/1.1", "host: gateway", f"x-policyd-project: {project}", *lines, "", ""]
    ).encode()


def talk(mesh: Mesh, *pieces: bytes) -> int:
    """Sends `pieces`, as far as they are taken; the status of the first answer, 0 where the connection just ends."""
    host, _, port = mesh.listen.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS_MAX) as connection:
        with suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        reply = HTTPResponse(connection)
        try:
            reply.begin()
        except (HTTPException, ConnectionError):
            return 0
        return reply.status


def endless(chunk: bytes, *, bytes_max: int) -> Iterator[bytes]:
    framed = b"%x\r\n%s\r\n" % (len(chunk), chunk)
    yield from (framed for _ in range(bytes_max // len(chunk)))


def assert_free(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    assert calls(provider) == 0
    assert mesh.balance(BUDGET, project=project) == Balance(spent=0, reserved=0)


CHUNKED = "transfer-encoding: chunked"
ONE_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(raw.chat()), raw.chat())

REFUSED = (400, 501, 0)
"""How Envoy answers what is no HTTP/1.1. It closes at once: a client that still sends may not get the answer."""

ATTACKS = {
    "100 MB announced": (["content-length: 100000000"], [], (413,)),
    "100 MB sent": (["content-length: 100000000"], [bytes(MIB)] * 95, (413, 0)),
    "body without end": ([CHUNKED], list(endless(bytes(MIB), bytes_max=64 * MIB)), (413, 0)),
    "100,000 headers": ([f"x-{number}: a" for number in range(100_000)], [], (431, 0)),
    "header of 1 MiB": (["x-a: " + "a" * MIB], [], (431, 0)),
    "negative length": (["content-length: -1"], [raw.chat()], REFUSED),
    "two lengths": (["content-length: 10", "content-length: 400"], [raw.chat()], REFUSED),
    "length and chunks": ([f"content-length: {len(raw.chat())}", CHUNKED], [ONE_CHUNK], REFUSED),
    "unknown transfer coding": (["transfer-encoding: xchunked"], [ONE_CHUNK], REFUSED),
    "chunked, twice": (["transfer-encoding: chunked, chunked"], [ONE_CHUNK], REFUSED),
    "blank before the colon": (["content-length : 5"], [raw.chat()], REFUSED),
    "chunk size beyond 64 bits": ([CHUNKED], [b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n"], REFUSED),
    "upgrade to WebSocket": (["connection: upgrade", "upgrade: websocket", "content-length: 0"], [], (403,)),
}
"""The header lines and the pieces of each body, and the statuses that may answer; 0: the connection just ends."""


@pytest.mark.parametrize(("lines", "pieces", "statuses"), ATTACKS.values(), ids=ATTACKS)
def test_an_attack_has_its_outcome_and_costs_nothing(
    mesh: Mesh,
    provider: SimulatedProvider,
    project: str,
    lines: list[str],
    pieces: list[bytes],
    statuses: tuple[int, ...],
) -> None:
    assert talk(mesh, head(project, *lines), *pieces) in statuses
    assert_free(mesh, provider, project)


def test_a_second_request_in_the_body_of_the_first_is_a_body(
    mesh: Mesh, provider: SimulatedProvider, project: str
) -> None:
    """No length leaves a rest that would pass for a request of its own."""
    body = raw.chat(max_tokens=10)
    smuggled = head(f"{project}-smuggled", f"content-length: {len(body)}") + body
    assert talk(mesh, head(project, f"content-length: {len(body) + len(smuggled)}") + body + smuggled) == 400
    assert_free(mesh, provider, project)


def test_many_of_the_largest_bodies_at_once(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"' + b"a " * (7 * MIB) + b'"}]}'
    with ThreadPoolExecutor(4) as pool:
        statuses = pool.map(
            lambda _: raw.post(mesh.listen, body=body, headers={"x-policyd-project": project}).status, range(4)
        )
        # Counting 14 MB exactly takes a second; where it takes longer than Envoy waits, the request has failed.
        assert set(statuses) <= {402, 504}
    assert_free(mesh, provider, project)


def test_clients_that_send_nothing_more_hold_nobody_up(mesh: Mesh, provider: SimulatedProvider, project: str) -> None:
    """Slowloris: some stop in their headers, others in their body. Nothing is held for any of them."""
    host, _, port = mesh.listen.rpartition(":")
    unfinished = [head(project)[:-2], head(project, "content-length: 400"), head(project, CHUNKED) + b"5\r\n{"]
    with ExitStack() as stack:
        for number in range(150):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=SECONDS_MAX))
            connection.sendall(unfinished[number % 3])
        reply = raw.post(mesh.listen, body=raw.chat(max_tokens=10), headers={"x-policyd-project": f"{project}-other"})
        assert reply.status == 200
        assert mesh.balance(BUDGET, project=project) == Balance(spent=0, reserved=0)
    assert calls(provider) == 1


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_a_reply_that_expands_without_measure_is_charged_its_hold(
    start: Start, project: str, content_type: str
) -> None:
    bomb = gzip.compress(bytes(300 * MIB))
    with upstream() as provider:
        provider.reply = response(content_type=content_type, content_encoding="gzip", body=bomb)
        mesh = start(POLICY, upstreams={"openai": provider.url})
        before = resident_bytes_max(mesh)
        streamed = content_type == "text/event-stream"
        with raw.connected(mesh.listen) as connection:
            body = raw.chat(max_tokens=100, stream=streamed)
            reply = raw.send(connection, body=body, headers={"x-policyd-project": project})
            with suppress(HTTPException):
                reply.read()
        (line,) = mesh.records_of(project)
        assert resident_bytes_max(mesh) - before < MEMORY_BYTES_MAX
    assert line["usage_source"] == "none"
    assert line["actual_cost_usd"] == line["estimated_cost_usd"] > 0

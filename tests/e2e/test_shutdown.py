"""policyd is told to stop: what is open ends, is settled, and nothing new begins."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path

import pytest

from policyd.core.usage import Usage
from policyd.stores.base import UsageFilter
from policyd.stores.url import open_store
from tests.e2e import raw
from tests.e2e.books import cost, open_holds
from tests.e2e.conftest import POLICY, written
from tests.e2e.mesh import policyd_up
from tests.e2e.sdks import OpenAI
from tests.e2e.upstream import Upstream, kept_open, response, upstream

EVENT = b'data: {"model":"gpt-4o","choices":[{"index":0,"delta":{"content":" hello"}}]}\n\n'
DONE = b"data: [DONE]\n\n"

STOPPED_SECONDS_MAX = 10
POLL_SECONDS = 0.01


@pytest.fixture
def slow() -> Iterator[Upstream]:
    """Streams three events, and an end once it is let go on."""
    with upstream() as running:
        running.reply = response(content_type="text/event-stream", transfer_encoding="chunked", body=chunk(EVENT * 3))
        running.rest = chunk(DONE) + b"0\r\n\r\n"
        with kept_open(running):
            yield running


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def begin(connection: HTTPConnection) -> HTTPResponse:
    """Asks for a stream, and reads the events that come at once."""
    reply = raw.send(connection, body=raw.chat(stream=True), headers={"x-policyd-project": "shutdown"})
    assert reply.read(len(EVENT) * 3) == EVENT * 3
    return reply


def wait_until_refused(address: str) -> None:
    """Polls until nothing listens at `address` any more."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + STOPPED_SECONDS_MAX
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except ConnectionRefusedError:
            return
        assert time.monotonic() < deadline, f"{address} still takes connections"
        time.sleep(POLL_SECONDS)


async def assert_settled(store_url: str, *, exchanges: int, output_tokens: int) -> None:
    """What the store holds once nobody has it open: nothing reserved, and a record of each exchange."""
    assert await open_holds(store_url) == 0
    store = open_store(store_url)
    try:
        page = await store.usage(UsageFilter(attributes={"project": "shutdown"}), limit=100)
    finally:
        await store.close()
    assert len(page.records) == exchanges
    for record in page.records:
        assert record.usage is not None
        assert record.usage.output == output_tokens
        assert record.actual_cost_nanos == cost(OpenAI, Usage(input=record.usage.input, output=output_tokens))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_open_streams_end_and_are_settled_and_no_request_begins(
    slow: Upstream, tmp_path: Path, number: signal.Signals
) -> None:
    store = f"sqlite:///{tmp_path}/policyd.db"
    with (
        policyd_up(upstreams={"openai": slow.url}, store=store, policy=written(POLICY, folder=tmp_path)) as mesh,
        raw.connected(mesh.listen) as one,
        raw.connected(mesh.listen) as other,
    ):
        replies = [begin(one), begin(other)]
        mesh.process.send_signal(number)
        wait_until_refused(mesh.listen)
        assert mesh.get("/healthz") == (200, "ok\n")
        assert mesh.get("/readyz") == (503, "stopping\n")
        slow.go_on.set()
        assert [reply.read() for reply in replies] == [DONE, DONE]
        assert mesh.stop() == 0

        lines = [line for line in mesh.drain_log() if line["event"] == "exchange"]
    assert [line["outcome"] for line in lines] == ["served", "served"]
    await assert_settled(store, exchanges=2, output_tokens=3)


async def test_a_stream_that_does_not_end_in_time_is_cut_off_and_settled(slow: Upstream, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/policyd.db"
    with (
        policyd_up(
            upstreams={"openai": slow.url},
            store=store,
            policy=written(POLICY, folder=tmp_path),
            environ={"POLICYD_SHUTDOWN_GRACE": "1s"},
        ) as mesh,
        raw.connected(mesh.listen) as connection,
    ):
        reply = begin(connection)
        mesh.process.send_signal(signal.SIGTERM)
        with pytest.raises(IncompleteRead):
            reply.read()
        assert mesh.stop() == 0

        (line,) = [line for line in mesh.drain_log() if line["event"] == "exchange"]
    assert (line["outcome"], line["usage"]["output"]) == ("disconnected", 3)
    await assert_settled(store, exchanges=1, output_tokens=3)


async def test_a_policyd_that_is_killed_takes_its_envoy_with_it(slow: Upstream, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/policyd.db"
    with (
        policyd_up(upstreams={"openai": slow.url}, store=store, policy=written(POLICY, folder=tmp_path)) as mesh,
        raw.connected(mesh.listen) as connection,
    ):
        reply = begin(connection)
        mesh.kill()
        with pytest.raises((IncompleteRead, ConnectionError)):
            reply.read()
        wait_until_refused(mesh.listen)

    assert await open_holds(store) == 1

"""policyd goes away and comes back while Envoy stays: nothing passes unmetered, and nothing that was held is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path

import pytest

from policyd.config import UnixSocket
from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from policyd.envoy_config import build_bootstrap
from policyd.up import EnvoyProcess, find_envoy
from tests.e2e import raw
from tests.e2e.books import BUDGET, ENDED_SECONDS_MAX, calls, cost, nanos, open_holds, wait_until_idle
from tests.e2e.conftest import written
from tests.e2e.mesh import Balance, Policyd, policyd_serve
from tests.e2e.sdks import OpenAI
from tests.envoy.rig import loopback
from tests.stores.redis_server import running, wait_until

POLICY = """
version: 1
failure_mode: {failure_mode}
reservations: {{ttl: {ttl_seconds}s, grace: 0s}}
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
"""

MAX_TOKENS = 300

REFUSED_SECONDS_MAX = 10


@dataclass
class Place:
    """An Envoy, and where its policyd runs."""

    folder: Path
    envoy: EnvoyProcess

    @property
    def listen(self) -> str:
        return str(self.envoy.listen_address)

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder}/policyd.db"

    def policyd(
        self, *, ttl_seconds: int = 120, grace: str = "30s", store: str | None = None, failure_mode: str = "closed"
    ) -> AbstractContextManager[Policyd]:
        policy = POLICY.format(ttl_seconds=ttl_seconds, failure_mode=failure_mode)
        return policyd_serve(
            ext_proc=f"unix:{self.folder}/policyd.sock",
            store=store or self.store,
            policy=written(policy, folder=self.folder),
            environ={"POLICYD_SHUTDOWN_GRACE": grace, "POLICYD_JOURNAL": str(self.folder / "journal")},
        )


@pytest.fixture
async def place(provider: SimulatedProvider, tmp_path: Path) -> AsyncIterator[Place]:
    wait_until_idle(provider)
    provider.reset()
    bootstrap = build_bootstrap(
        loopback(f"openai={provider.url}"), policyd_addresses=[UnixSocket(tmp_path / "policyd.sock")]
    )
    async with EnvoyProcess(bootstrap, binary=find_envoy()) as envoy:
        yield Place(tmp_path, envoy)


def ask(place: Place, project: str) -> raw.RawReply:
    return raw.post(place.listen, body=raw.chat(max_tokens=MAX_TOKENS), headers={"x-policyd-project": project})


def begin(connection: HTTPConnection, project: str, *, tokens: int, token_ms: int) -> HTTPResponse:
    """Asks for a stream, and reads the beginning of it."""
    script = {"x-sim-output-tokens": str(tokens), "x-sim-chunk-delay-ms": str(token_ms)}
    headers = {"x-policyd-project": project, **script}
    reply = raw.send(connection, body=raw.chat(max_tokens=MAX_TOKENS, stream=True), headers=headers)
    assert reply.status == 200
    assert reply.read(1000)
    return reply


async def test_without_policyd_nothing_passes_and_what_it_acknowledged_is_not_lost(
    place: Place, provider: SimulatedProvider, project: str
) -> None:
    assert ask(place, project).status == 500
    with place.policyd() as policyd:
        spent = sum(nanos(float(ask(place, project).headers["x-policyd-cost-usd"])) for _ in range(5))
        policyd.kill()
    assert ask(place, project).status == 500
    assert calls(provider) == 5
    with place.policyd() as policyd:
        assert policyd.balance(BUDGET, project=project) == Balance(spent=spent, reserved=0)
        assert ask(place, project).status == 200


async def test_what_a_killed_policyd_held_is_charged_when_it_is_back(
    place: Place, provider: SimulatedProvider, project: str
) -> None:
    with (
        place.policyd(ttl_seconds=1) as policyd,
        raw.connected(place.listen) as streaming,
        raw.connected(place.listen) as waiting,
    ):
        reply = begin(streaming, project, tokens=MAX_TOKENS, token_ms=20)
        headers = {"x-policyd-project": project, "x-sim-delay-ms": "60000"}
        raw.send_only(waiting, body=raw.chat(max_tokens=MAX_TOKENS), headers=headers)
        provider.wait_until(lambda served: calls(provider) == 2, timeout_seconds=ENDED_SECONDS_MAX)
        policyd.kill()
        with pytest.raises(IncompleteRead):
            reply.read()
        assert waiting.getresponse().status == 500
    wait_until_idle(provider)
    assert (provider.served.streams_cancelled, provider.served.requests_abandoned) == (1, 1)
    assert await open_holds(place.store) == 2

    with place.policyd(ttl_seconds=1) as policyd:
        lines = policyd.records_of(project, count=2)
        assert [(line["outcome"], line["error"]) for line in lines] == [
            ("expired", "the reservation expired unsettled")
        ] * 2
        assert all(line["actual_cost_usd"] == line["estimated_cost_usd"] for line in lines)
        spent = sum(nanos(line["actual_cost_usd"]) for line in lines)
        assert spent > 2 * cost(OpenAI, Usage(output=MAX_TOKENS))
        assert policyd.balance(BUDGET, project=project) == Balance(spent=spent, reserved=0)
        assert policyd.metric("policyd_expired_reservations_total") == 2


async def test_a_policyd_that_is_told_to_stop_ends_what_is_open_and_begins_nothing(
    place: Place, provider: SimulatedProvider, project: str
) -> None:
    with place.policyd() as policyd, raw.connected(place.listen) as connection:
        reply = begin(connection, project, tokens=150, token_ms=10)
        policyd.process.send_signal(signal.SIGTERM)
        passed = pass_until_refused(place)
        assert reply.read().endswith(b"data: [DONE]\n\n")
        assert policyd.process.wait(timeout=ENDED_SECONDS_MAX) == 0
        (line,) = policyd.records_of(project)
    assert (line["outcome"], line["usage"]["output"]) == ("served", 150)
    assert calls(provider) == 1 + passed
    assert await open_holds(place.store) == 0


def pass_until_refused(place: Place) -> int:
    """Sends requests until they are refused, as they must be; returns how many passed until then."""
    deadline = time.monotonic() + REFUSED_SECONDS_MAX
    passed = 0
    while (status := ask(place, "late").status) == 200:
        passed += 1
        assert time.monotonic() < deadline, "requests pass still"
    assert status == 500
    return passed


async def test_a_stream_that_outlasts_the_stop_breaks_off_and_is_charged(
    place: Place, provider: SimulatedProvider, project: str
) -> None:
    with (
        place.policyd(grace="1s") as policyd,
        raw.connected(place.listen) as connection,
    ):
        reply = begin(connection, project, tokens=MAX_TOKENS, token_ms=50)
        policyd.process.send_signal(signal.SIGTERM)
        with pytest.raises(IncompleteRead):
            reply.read()
        assert policyd.process.wait(timeout=ENDED_SECONDS_MAX) == 0
        (line,) = policyd.records_of(project)
    assert line["outcome"] == "disconnected"
    assert 0 < line["usage"]["output"] < MAX_TOKENS
    assert await open_holds(place.store) == 0


async def test_an_envoy_that_is_killed_is_a_client_that_hung_up(place: Place, project: str) -> None:
    with place.policyd() as policyd, raw.connected(place.listen) as connection:
        begin(connection, project, tokens=MAX_TOKENS, token_ms=20)
        os.kill(place.envoy.pid, signal.SIGKILL)
        (line,) = policyd.records_of(project)
        assert line["outcome"] == "disconnected"
        assert policyd.balance(BUDGET, project=project) == Balance(spent=nanos(line["actual_cost_usd"]), reserved=0)


async def test_what_a_killed_policyd_had_journalled_is_charged_once_by_the_next(
    place: Place, provider: SimulatedProvider, project: str
) -> None:
    """Redis is away, policyd is killed, and the next one is killed while it charges what the first has left."""
    with running(place.folder / "redis", "--appendonly", "yes", "--appendfsync", "always") as redis:
        store = f"redis://{redis.address}/0"
        with place.policyd(store=store, failure_mode="open") as policyd:
            ask(place, project)
            redis.kill()
            for _ in range(5):
                assert ask(place, project).status == 200
            policyd.kill()
        with place.policyd(store=store, failure_mode="open") as policyd:  # starts without its store
            assert ask(place, project).status == 200
            redis.start()
            policyd.kill()
        with place.policyd(store=store, failure_mode="open") as policyd:
            policyd.wait_for_metric("policyd_journal_bytes", 0)
            served = provider.served
            true_cost = cost(OpenAI, Usage(input=served.input_tokens, output=served.output_tokens))
            wait_until(
                lambda: policyd.balance(BUDGET, project=project) == Balance(spent=true_cost, reserved=0),
                "all is charged, once",
            )
        assert not list((place.folder / "journal").glob("*.journal"))

"""policyd goes away while exchanges of the lean profile are open: each is charged once, as soon as anybody can."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from policyd.config import UnixSocket
from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from policyd.envoy_config import Profile, build_bootstrap
from policyd.up import EnvoyProcess, find_envoy
from tests.e2e import raw
from tests.e2e.books import BUDGET, ENDED_SECONDS_MAX, calls, cost, nanos, open_holds, wait_until_idle
from tests.e2e.conftest import BOTH_TRANSPORTS, written
from tests.e2e.envoy_version import READS_STREAMS
from tests.e2e.mesh import Balance, Policyd, policyd_serve
from tests.e2e.sdks import OpenAI
from tests.envoy.rig import loopback

pytestmark = [BOTH_TRANSPORTS, READS_STREAMS]

POLICY = """
version: 1
reservations: {{lean_ttl: {ttl_seconds}s, grace: 0s}}
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
"""

MAX_TOKENS = 300


@dataclass
class Place:
    """An Envoy, and where its policyd runs."""

    folder: Path
    envoy: EnvoyProcess
    transport: Mapping[str, str]
    envoys: AsyncExitStack

    @property
    def listen(self) -> str:
        return str(self.envoy.listen_address)

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder}/policyd.db"

    def policyd(self, *, ttl_seconds: int = 600) -> AbstractContextManager[Policyd]:
        return policyd_serve(
            ext_proc=f"unix:{self.folder}/policyd.sock",
            store=self.store,
            policy=written(POLICY.format(ttl_seconds=ttl_seconds), folder=self.folder),
            environ=self.transport,
        )


@pytest.fixture
async def place(provider: SimulatedProvider, tmp_path: Path, transport: Mapping[str, str]) -> AsyncIterator[Place]:
    wait_until_idle(provider)
    provider.reset()
    settings = replace(loopback(f"openai={provider.url}"), profile=Profile.LEAN)
    bootstrap = build_bootstrap(settings, policyd_addresses=[UnixSocket(tmp_path / "policyd.sock")])
    async with AsyncExitStack() as envoys:
        envoy = await envoys.enter_async_context(EnvoyProcess(bootstrap, binary=find_envoy()))
        yield Place(tmp_path, envoy, transport, envoys)


def begin(connection: HTTPConnection, project: str, *, tokens: int, token_ms: int) -> HTTPResponse:
    """Asks for a stream, and reads the beginning of it."""
    script = {"x-sim-output-tokens": str(tokens), "x-sim-chunk-delay-ms": str(token_ms)}
    headers = {"x-policyd-project": project, **script}
    reply = raw.send(connection, body=raw.chat(max_tokens=MAX_TOKENS, stream=True), headers=headers)
    assert reply.status == 200
    assert reply.read(1000)
    return reply


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
async def test_what_ends_after_a_restart_is_settled_by_the_next_policyd(
    place: Place, provider: SimulatedProvider, project: str, ending: signal.Signals
) -> None:
    with raw.connected(place.listen) as connection:
        with place.policyd() as policyd:
            reply = begin(connection, project, tokens=100, token_ms=20)
            policyd.process.send_signal(ending)
            policyd.process.wait(timeout=ENDED_SECONDS_MAX)
        with place.policyd() as policyd:
            assert reply.read().endswith(b"data: [DONE]\n\n")
            (line,) = policyd.records_of(project)
            assert (line["outcome"], line["usage"]["output"]) == ("served", 100)
            used = Usage(input=provider.served.input_tokens, output=provider.served.output_tokens)
            assert policyd.balance(BUDGET, project=project) == Balance(spent=cost(OpenAI, used), reserved=0)


async def test_what_ends_while_policyd_is_away_is_told_when_it_is_back(
    place: Place, provider: SimulatedProvider, project: str
) -> None:
    with raw.connected(place.listen) as connection:
        with place.policyd() as policyd:
            reply = begin(connection, project, tokens=20, token_ms=5)
            policyd.kill()
        assert reply.read().endswith(b"data: [DONE]\n\n")
        assert await open_holds(place.store) == 1
        with place.policyd() as policyd:
            (line,) = policyd.records_of(project)
            assert (line["outcome"], line["usage"]["output"]) == ("served", 20)
            assert policyd.balance(BUDGET, project=project).reserved == 0


async def test_what_envoy_never_tells_is_found_by_the_holds_expiry(
    place: Place, provider: SimulatedProvider, project: str
) -> None:
    with place.policyd(ttl_seconds=1) as policyd, raw.connected(place.listen) as connection:
        begin(connection, project, tokens=MAX_TOKENS, token_ms=50)
        os.kill(place.envoy.pid, signal.SIGKILL)
        (line,) = policyd.records_of(project)
        assert (line["outcome"], line["error"]) == ("expired", "the reservation expired unsettled")
        assert line["actual_cost_usd"] == line["estimated_cost_usd"]
        spent = nanos(line["actual_cost_usd"])
        assert policyd.balance(BUDGET, project=project) == Balance(spent=spent, reserved=0)
    assert await open_holds(place.store) == 0


async def test_an_exchange_that_outlives_its_hold_is_charged_what_it_used_in_the_end(
    place: Place, provider: SimulatedProvider, project: str
) -> None:
    with place.policyd(ttl_seconds=1) as policyd:
        with raw.connected(place.listen) as connection:
            begin(connection, project, tokens=MAX_TOKENS, token_ms=200)
            (expired,) = policyd.wait_for(lambda line: line.get("outcome") == "expired")
            assert expired["actual_cost_usd"] == expired["estimated_cost_usd"]
        (settled,) = policyd.wait_for(lambda line: line.get("outcome") == "disconnected")
        assert settled["request_id"] == expired["request_id"]
        spent = nanos(settled["actual_cost_usd"])
        assert policyd.balance(BUDGET, project=project) == Balance(spent=spent, reserved=0)
        assert calls(provider) == 1

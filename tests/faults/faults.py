"""What breaks, how it is mended, and what may differ between bill and ledger afterwards: the table of faults.

A fault is what happens to one stage, from the moment it breaks to the moment it is mended. Whatever had to be started
again by somebody is started again here; whatever has to come back by itself is left alone.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from http.client import HTTPConnection

from policyd.config import Transport
from tests.e2e import raw
from tests.e2e.load import MAX_TOKENS
from tests.faults.provider import SESSION
from tests.faults.stage import WIDE, Kind, Setting, Stage

OUTAGE_SECONDS = 2.0
LONG_OUTAGE_SECONDS = 4.0
"""Longer than a hold lives unrenewed."""

PATIENT_EACH = 50
SLOW_DELAY_MS = 3_000
SLOW_CHUNK_DELAY_MS = 150

HUNG_WORKER_SECONDS_MAX = 30
"""Until one that hangs is found out, killed and started again."""

HANGERS_UP = 1_000
BEGUN_TOGETHER = 50
HANG_UP_OUTPUT_TOKENS = MAX_TOKENS
HANG_UP_CHUNK_DELAY_MS = 3_000

WORKER_RESTARTS = "policyd_worker_restarts_total"
POLICY_RELOADS = "policyd_policy_reloads_total"


class Promise(Enum):
    """What the setting promises about the difference between ledger and bill. The value is how the table says it."""

    EXACT = "0"
    HOLDS = "+ holds that expired"
    OBSERVED = "- what policyd could not see"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    name: str
    setting: Setting
    happen: Callable[[Stage], Awaitable[None]]
    """Breaks and mends."""
    promise: Promise
    fails: bool = True
    """Whether requests may fail between the break and the moment at which all is well again."""
    back_seconds_max: float = 5.0
    """How long after it was mended the last request may fail."""


# --- policyd ---


async def policyd_killed(stage: Stage) -> None:
    stage.policyd.kill()
    await asyncio.sleep(OUTAGE_SECONDS)
    stage.start_policyd()


async def worker_killed(stage: Stage) -> None:
    before = stage.policyd.metric(WORKER_RESTARTS)
    os.kill(stage.worker_pids()[0], signal.SIGKILL)
    await asyncio.to_thread(stage.policyd.wait_for_metric, WORKER_RESTARTS, before + 1)


async def worker_hangs(stage: Stage) -> None:
    """For good: it is not told to go on."""
    before = stage.policyd.metric(WORKER_RESTARTS)
    os.kill(stage.worker_pids()[0], signal.SIGSTOP)
    await asyncio.to_thread(
        stage.policyd.wait_for_metric, WORKER_RESTARTS, before + 1, seconds_max=HUNG_WORKER_SECONDS_MAX
    )


async def worker_held_up(stage: Stage) -> None:
    """As by a machine that has no time for it."""
    pid = stage.worker_pids()[0]
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(LONG_OUTAGE_SECONDS)
    os.kill(pid, signal.SIGCONT)


async def rolled(stage: Stage) -> None:
    """Every worker is told to stop, one after the other, and the policy is read again in between."""
    for number, pid in enumerate(stage.worker_pids(), start=1):
        stage.policyd.process.send_signal(signal.SIGHUP)
        os.kill(pid, signal.SIGTERM)
        await asyncio.to_thread(stage.policyd.wait_for_metric, WORKER_RESTARTS, number)
        await asyncio.to_thread(stage.policyd.wait_for_metric, "policyd_workers", stage.setting.workers)


async def disk_full(stage: Stage) -> None:
    """No file of policyd grows any more."""
    pid = stage.policyd.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    await asyncio.sleep(OUTAGE_SECONDS)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


# --- Redis ---


async def redis_killed(stage: Stage) -> None:
    stage.redis_running.kill()
    await asyncio.sleep(OUTAGE_SECONDS)
    await asyncio.to_thread(stage.redis_running.start)


async def redis_hangs(stage: Stage) -> None:
    stage.redis_running.hang()
    await asyncio.sleep(LONG_OUTAGE_SECONDS)
    stage.redis_running.go_on()


async def partitioned(stage: Stage) -> None:
    stage.network.there.clear()
    stage.network.back.clear()
    await asyncio.sleep(LONG_OUTAGE_SECONDS)
    stage.network.mend()


async def answers_lost(stage: Stage) -> None:
    """Redis does what it is asked, and nobody hears of it."""
    stage.network.back.clear()
    await asyncio.sleep(LONG_OUTAGE_SECONDS)
    stage.network.mend()


# --- Envoy, the provider, the clients ---


async def envoy_killed(stage: Stage) -> None:
    os.kill(stage.envoy.pid, signal.SIGKILL)
    await asyncio.sleep(OUTAGE_SECONDS)
    await stage.start_envoy()


async def provider_killed(stage: Stage) -> None:
    stage.provider.kill()
    await asyncio.sleep(OUTAGE_SECONDS)
    await asyncio.to_thread(stage.provider.start)


async def provider_hangs(stage: Stage) -> None:
    stage.provider.hang()
    await asyncio.sleep(LONG_OUTAGE_SECONDS)
    stage.provider.go_on()


async def provider_slow(stage: Stage) -> None:
    """For those who ask now; the others' replies come as ever."""
    script = {"x-sim-delay-ms": str(SLOW_DELAY_MS), "x-sim-chunk-delay-ms": str(SLOW_CHUNK_DELAY_MS)}
    await asyncio.to_thread(_ask_and_wait, stage, script)


def _ask_and_wait(stage: Stage, script: Mapping[str, str]) -> None:
    with ExitStack() as connections:
        asked = [
            *_ask_together(stage, connections, name="document", count=PATIENT_EACH, stream=False, script=script),
            *_ask_together(stage, connections, name="stream", count=PATIENT_EACH, stream=True, script=script),
        ]
        statuses = {raw.read(each.getresponse()).status for each in asked}
        assert statuses == {200}, f"slow replies came as {statuses}"


async def many_hang_up(stage: Stage) -> None:
    with ExitStack() as connections:
        await asyncio.to_thread(_begin_streams, stage, connections)


def _begin_streams(stage: Stage, connections: ExitStack) -> None:
    """As many together as are decided well within Envoy's patience; all have begun before the first one is left."""
    script = {"x-sim-output-tokens": str(HANG_UP_OUTPUT_TOKENS), "x-sim-chunk-delay-ms": str(HANG_UP_CHUNK_DELAY_MS)}
    for first in range(0, HANGERS_UP, BEGUN_TOGETHER):
        name = f"hanger-up-{first}"
        for each in _ask_together(stage, connections, name=name, count=BEGUN_TOGETHER, stream=True, script=script):
            reply = each.getresponse()
            assert (reply.status, len(reply.read(100))) == (200, 100), f"a stream did not begin: {reply.status}"


def _ask_together(
    stage: Stage, connections: ExitStack, *, name: str, count: int, stream: bool, script: Mapping[str, str]
) -> list[HTTPConnection]:
    """Sends so many requests, each on a connection of its own, and waits for no reply."""
    body = raw.chat(max_tokens=MAX_TOKENS, stream=stream)
    asked = [connections.enter_context(raw.connected(str(stage.listen))) for _ in range(count)]
    for number, connection in enumerate(asked):
        headers = {"x-policyd-project": WIDE, SESSION: f"{name}-{number}", **script}
        raw.send_only(connection, body=body, headers=headers)
    return asked


# --- the table ---

HANG_UP = f"{HANGERS_UP:,} clients hang up"

SQLITE = Setting(store=Kind.SQLITE)
EVERYSEC = Setting(store=Kind.REDIS_EVERYSEC)
ALWAYS = Setting(store=Kind.REDIS_ALWAYS)
WORKERS_ON_REDIS = Setting(store=Kind.REDIS_EVERYSEC, workers=2)
CHARGING_THE_MOST = Setting(store=Kind.SQLITE, on_disconnect="maximum")
H2RPC = Setting(store=Kind.REDIS_EVERYSEC, transport=Transport.H2RPC)
H2RPC_WORKERS = Setting(store=Kind.SQLITE, transport=Transport.H2RPC, workers=2)
H2RPC_CHARGING_THE_MOST = Setting(store=Kind.SQLITE, transport=Transport.H2RPC, on_disconnect="maximum")

_ROWS = (
    Fault(name="policyd killed", setting=SQLITE, happen=policyd_killed, promise=Promise.HOLDS),
    Fault(name="policyd killed", setting=EVERYSEC, happen=policyd_killed, promise=Promise.HOLDS),
    Fault(name="policyd killed", setting=H2RPC, happen=policyd_killed, promise=Promise.HOLDS),
    Fault(name="worker killed", setting=WORKERS_ON_REDIS, happen=worker_killed, promise=Promise.HOLDS),
    Fault(name="worker killed", setting=H2RPC_WORKERS, happen=worker_killed, promise=Promise.HOLDS),
    Fault(name="worker hangs", setting=WORKERS_ON_REDIS, happen=worker_hangs, promise=Promise.HOLDS),
    Fault(name="worker held up", setting=WORKERS_ON_REDIS, happen=worker_held_up, promise=Promise.OBSERVED),
    Fault(name="workers restarted", setting=WORKERS_ON_REDIS, happen=rolled, promise=Promise.EXACT, fails=False),
    Fault(name="workers restarted", setting=H2RPC_WORKERS, happen=rolled, promise=Promise.EXACT, fails=False),
    Fault(name="disk full", setting=SQLITE, happen=disk_full, promise=Promise.HOLDS),
    Fault(name="Redis killed", setting=EVERYSEC, happen=redis_killed, promise=Promise.HOLDS),
    Fault(name="Redis killed", setting=ALWAYS, happen=redis_killed, promise=Promise.HOLDS),
    Fault(name="Redis hangs", setting=EVERYSEC, happen=redis_hangs, promise=Promise.HOLDS),
    Fault(name="partition from Redis", setting=EVERYSEC, happen=partitioned, promise=Promise.HOLDS),
    Fault(name="Redis's answers lost", setting=EVERYSEC, happen=answers_lost, promise=Promise.HOLDS),
    Fault(name="Envoy killed", setting=SQLITE, happen=envoy_killed, promise=Promise.OBSERVED),
    Fault(name="Envoy killed", setting=CHARGING_THE_MOST, happen=envoy_killed, promise=Promise.HOLDS),
    Fault(name="provider killed", setting=SQLITE, happen=provider_killed, promise=Promise.OBSERVED),
    Fault(name="provider killed", setting=CHARGING_THE_MOST, happen=provider_killed, promise=Promise.HOLDS),
    Fault(name="provider hangs", setting=SQLITE, happen=provider_hangs, promise=Promise.EXACT, fails=False),
    Fault(name="provider slow", setting=EVERYSEC, happen=provider_slow, promise=Promise.EXACT, fails=False),
    Fault(name=HANG_UP, setting=SQLITE, happen=many_hang_up, promise=Promise.OBSERVED, fails=False),
    Fault(name=HANG_UP, setting=CHARGING_THE_MOST, happen=many_hang_up, promise=Promise.HOLDS, fails=False),
    Fault(name=HANG_UP, setting=H2RPC_CHARGING_THE_MOST, happen=many_hang_up, promise=Promise.HOLDS, fails=False),
)

FAULTS: Mapping[str, Fault] = {f"{fault.name} ({fault.setting})": fault for fault in _ROWS}

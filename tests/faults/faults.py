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

from tests.e2e import raw
from tests.faults.provider import SESSION
from tests.faults.stage import WIDE, Kind, Setting, Stage

OUTAGE_SECONDS = 2.0
LONG_OUTAGE_SECONDS = 4.0
"""Longer than a hold lives unrenewed."""

HANGERS_UP = 1_000
BEGUN_TOGETHER = 50
HANG_UP_OUTPUT_TOKENS = 40
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


async def many_hang_up(stage: Stage) -> None:
    with ExitStack() as connections:
        await asyncio.to_thread(_begin_streams, stage, connections)


def _begin_streams(stage: Stage, connections: ExitStack) -> None:
    """As many together as are decided well within Envoy's patience; all have begun before the first one is left."""
    script = {"x-sim-output-tokens": str(HANG_UP_OUTPUT_TOKENS), "x-sim-chunk-delay-ms": str(HANG_UP_CHUNK_DELAY_MS)}
    body = raw.chat(max_tokens=HANG_UP_OUTPUT_TOKENS, stream=True)
    for first in range(0, HANGERS_UP, BEGUN_TOGETHER):
        asking = []
        for number in range(first, first + BEGUN_TOGETHER):
            connection = connections.enter_context(raw.connected(str(stage.listen)))
            headers = {"x-policyd-project": WIDE, SESSION: f"hanger-up-{number}", **script}
            raw.send_only(connection, body=body, headers=headers)
            asking.append(connection)
        for connection in asking:
            reply = connection.getresponse()
            assert (reply.status, len(reply.read(100))) == (200, 100), f"a stream did not begin: {reply.status}"


# --- the table ---

SQLITE = Setting(store=Kind.SQLITE)
EVERYSEC = Setting(store=Kind.REDIS_EVERYSEC)
ALWAYS = Setting(store=Kind.REDIS_ALWAYS)
WORKERS_ON_REDIS = Setting(store=Kind.REDIS_EVERYSEC, workers=2)
CHARGING_THE_MOST = Setting(store=Kind.SQLITE, on_disconnect="maximum")

_ROWS = (
    Fault(name="policyd killed", setting=SQLITE, happen=policyd_killed, promise=Promise.HOLDS),
    Fault(name="policyd killed", setting=EVERYSEC, happen=policyd_killed, promise=Promise.HOLDS),
    Fault(name="worker killed", setting=WORKERS_ON_REDIS, happen=worker_killed, promise=Promise.HOLDS),
    Fault(name="worker hangs", setting=WORKERS_ON_REDIS, happen=worker_hangs, promise=Promise.HOLDS),
    Fault(
        name="workers restarted, SIGHUP",
        setting=WORKERS_ON_REDIS,
        happen=rolled,
        promise=Promise.EXACT,
        fails=False,
    ),
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
    Fault(name="1,000 clients hang up", setting=SQLITE, happen=many_hang_up, promise=Promise.OBSERVED, fails=False),
    Fault(
        name="1,000 clients hang up",
        setting=CHARGING_THE_MOST,
        happen=many_hang_up,
        promise=Promise.HOLDS,
        fails=False,
    ),
)

FAULTS: Mapping[str, Fault] = {f"{fault.name} ({fault.setting})": fault for fault in _ROWS}

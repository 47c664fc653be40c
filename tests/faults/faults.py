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
from dataclasses import dataclass
from enum import Enum

from policyd.config import Transport
from tests.faults import clients
from tests.faults.stage import Kind, Setting, Stage

OUTAGE_SECONDS = 2.0
LONG_OUTAGE_SECONDS = 4.0
"""Longer than a hold lives unrenewed."""

BACK_SECONDS_MAX = 5.0
"""How long after a fault was mended the last request may fail."""

RESTART_SECONDS_MAX = 30
"""Until a worker that hangs is found out, or one that was told to stop has ended, and another is there."""

WORKER_RESTARTS = "policyd_worker_restarts_total"
WORKERS = "policyd_workers"


class Promise(Enum):
    """What the setting promises about the difference between ledger and bill. The value is how the table says it."""

    EXACT = "0"
    HOLDS = "+ the holds of what was open"
    OBSERVED = "- what policyd did not see"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a fault may do, and no more."""

    promise: Promise
    fails: bool = True
    """Whether requests may fail between the break and the moment at which all is well again."""
    streams_go_on: bool = False
    """Whether streams that were open when it broke come to their end, and are charged what they cost."""
    overspends: bool = False
    """Whether budgets may be overspent meanwhile."""
    serves: bool = False
    """Whether requests are served meanwhile, whether others fail or not."""


BREAKS_OFF = Expectation(promise=Promise.HOLDS)
BREAKS_OFF_UNSEEN = Expectation(promise=Promise.OBSERVED)
REFUSES = Expectation(promise=Promise.HOLDS, streams_go_on=True)
BREAKS_OFF_OPEN = Expectation(promise=Promise.HOLDS, overspends=True)
LETS_PASS = Expectation(promise=Promise.EXACT, fails=False, streams_go_on=True, overspends=True)
SPENDS_LEASES = Expectation(promise=Promise.HOLDS, streams_go_on=True, serves=True)
UNNOTICED = Expectation(promise=Promise.EXACT, fails=False, streams_go_on=True)


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    setting: Setting
    happen: Callable[[Stage], Awaitable[None]]
    """Breaks and mends."""
    expected: Expectation

    def __str__(self) -> str:
        return f"{self.name} ({self.setting})"


# --- policyd ---


async def policyd_killed(stage: Stage) -> None:
    stage.policyd.kill()
    await asyncio.sleep(OUTAGE_SECONDS)
    stage.start_policyd()


async def worker_killed(stage: Stage) -> None:
    os.kill(stage.worker_pids()[0], signal.SIGKILL)
    await asyncio.to_thread(_until_restarted, stage, times=1)


async def worker_hangs(stage: Stage) -> None:
    """For good: it is not told to go on."""
    os.kill(stage.worker_pids()[0], signal.SIGSTOP)
    await asyncio.to_thread(_until_restarted, stage, times=1)


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
        await asyncio.to_thread(_until_restarted, stage, times=number)


def _until_restarted(stage: Stage, *, times: int) -> None:
    """Waits until workers were started again so many times in all, and all are ready."""
    for metric, value in ((WORKER_RESTARTS, times), (WORKERS, stage.setting.workers)):
        stage.policyd.wait_for_metric(metric, value, seconds_max=RESTART_SECONDS_MAX)


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


async def redis_and_policyd_killed(stage: Stage) -> None:
    """First Redis, so that policyd dies with what it could not book: the next one finds it in the journal."""
    stage.redis_running.kill()
    await asyncio.sleep(OUTAGE_SECONDS)
    stage.policyd.kill()
    await asyncio.to_thread(stage.redis_running.start)
    stage.start_policyd()


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
    await asyncio.to_thread(clients.wait_for_slow_replies, str(stage.listen))


async def many_hang_up(stage: Stage) -> None:
    await asyncio.to_thread(clients.hang_up, str(stage.listen))


# --- the table ---

HANG_UP = f"{clients.HANGERS_UP:,} clients hang up"

SQLITE = Setting(store=Kind.SQLITE)
EVERYSEC = Setting(store=Kind.REDIS_EVERYSEC)
ALWAYS = Setting(store=Kind.REDIS_ALWAYS)
WORKERS_ON_REDIS = Setting(store=Kind.REDIS_EVERYSEC, workers=2)
CHARGING_THE_MOST = Setting(store=Kind.SQLITE, on_disconnect="maximum")
GRPCIO = Setting(store=Kind.REDIS_EVERYSEC, transport=Transport.GRPCIO)
GRPCIO_WORKERS = Setting(store=Kind.SQLITE, transport=Transport.GRPCIO, workers=2)
GRPCIO_CHARGING_THE_MOST = Setting(store=Kind.SQLITE, transport=Transport.GRPCIO, on_disconnect="maximum")

OPEN = Setting(store=Kind.REDIS_EVERYSEC, failure_mode="open")
OPEN_WORKERS = Setting(store=Kind.REDIS_EVERYSEC, failure_mode="open", workers=2)

DEGRADED = Setting(store=Kind.REDIS_EVERYSEC, failure_mode="degraded")
DEGRADED_WORKERS = Setting(store=Kind.REDIS_EVERYSEC, failure_mode="degraded", workers=2)

_ROWS = (
    Fault("policyd killed", SQLITE, policyd_killed, BREAKS_OFF),
    Fault("policyd killed", EVERYSEC, policyd_killed, BREAKS_OFF),
    Fault("policyd killed", GRPCIO, policyd_killed, BREAKS_OFF),
    Fault("worker killed", WORKERS_ON_REDIS, worker_killed, BREAKS_OFF),
    Fault("worker killed", GRPCIO_WORKERS, worker_killed, BREAKS_OFF),
    Fault("worker hangs", WORKERS_ON_REDIS, worker_hangs, BREAKS_OFF),
    Fault("worker held up", WORKERS_ON_REDIS, worker_held_up, BREAKS_OFF_UNSEEN),
    Fault("workers restarted", WORKERS_ON_REDIS, rolled, UNNOTICED),
    Fault("workers restarted", GRPCIO_WORKERS, rolled, UNNOTICED),
    Fault("disk full", SQLITE, disk_full, REFUSES),
    Fault("Redis killed", EVERYSEC, redis_killed, REFUSES),
    Fault("Redis killed", ALWAYS, redis_killed, REFUSES),
    Fault("Redis killed", OPEN_WORKERS, redis_killed, LETS_PASS),
    Fault("Redis killed", DEGRADED_WORKERS, redis_killed, SPENDS_LEASES),
    Fault("Redis hangs", EVERYSEC, redis_hangs, REFUSES),
    Fault("Redis hangs", OPEN, redis_hangs, LETS_PASS),
    Fault("Redis hangs", DEGRADED, redis_hangs, SPENDS_LEASES),
    Fault("partition from Redis", EVERYSEC, partitioned, REFUSES),
    Fault("partition from Redis", OPEN, partitioned, LETS_PASS),
    Fault("partition from Redis", DEGRADED, partitioned, SPENDS_LEASES),
    Fault("Redis's answers lost", EVERYSEC, answers_lost, REFUSES),
    Fault("Redis's answers lost", OPEN, answers_lost, LETS_PASS),
    Fault("Redis's answers lost", DEGRADED, answers_lost, SPENDS_LEASES),
    Fault("Redis and policyd killed", EVERYSEC, redis_and_policyd_killed, BREAKS_OFF),
    Fault("Redis and policyd killed", OPEN, redis_and_policyd_killed, BREAKS_OFF_OPEN),
    Fault("Redis and policyd killed", DEGRADED, redis_and_policyd_killed, BREAKS_OFF),
    Fault("Envoy killed", SQLITE, envoy_killed, BREAKS_OFF_UNSEEN),
    Fault("Envoy killed", CHARGING_THE_MOST, envoy_killed, BREAKS_OFF),
    Fault("provider killed", SQLITE, provider_killed, BREAKS_OFF_UNSEEN),
    Fault("provider killed", CHARGING_THE_MOST, provider_killed, BREAKS_OFF),
    Fault("provider hangs", SQLITE, provider_hangs, UNNOTICED),
    Fault("provider slow", EVERYSEC, provider_slow, UNNOTICED),
    Fault(HANG_UP, SQLITE, many_hang_up, BREAKS_OFF_UNSEEN),
    Fault(HANG_UP, CHARGING_THE_MOST, many_hang_up, BREAKS_OFF),
    Fault(HANG_UP, GRPCIO_CHARGING_THE_MOST, many_hang_up, BREAKS_OFF),
)

FAULTS: Mapping[str, Fault] = {str(fault): fault for fault in _ROWS}

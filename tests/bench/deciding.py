"""A process that decides when it is asked to: python -m tests.bench.deciding STORE_URL [--accounts N]

It has no sockets but its store's, and answers each line of JSON on its standard input with one on its output:

    {"do": "fill"}                     puts so many accounts into the store that there are N
    {"do": "decide", "seconds": 1.0}   decides, one request after the other, each of a user of those N
    {"do": "sweep"}                    lets holds expire, and sweeps
    {"do": "cost", "limits": 50, "rules": 50, "calls": 1000}     holds and charges under such a policy, in memory
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final
from urllib.parse import urlsplit

import redis
import uvloop

from policyd.config import parse_policy
from policyd.core.ledger import Account, Entry
from policyd.core.money import NANOS_PER_USD
from policyd.core.policy import Metric
from policyd.core.record import Outcome, Record
from policyd.estimator import Ask
from tests.bench import decisions
from tests.bench.decisions import ENDING, Subject, cpu_us, subject
from tests.bench.load import Load
from tests.bench.plan import CALLS_AT_ONCE
from tests.bench.processes import resident_mb
from tests.bench.samples import Figure

BATCH_ACCOUNTS: Final = 250
"""How many accounts one hold puts into the store: filling it one by one would take an hour."""

BATCHES_AT_ONCE: Final = 4

EXPIRING: Final = 1_000
"""How many holds are due when it is swept, if there are that many users."""

LIMIT: Final = "user-monthly-spend"

POLICY: Final = f"""
version: 1
identity:
  project: [{{header: x-policyd-project}}]
  user: [{{header: x-policyd-user}}]
limits:
  - {{name: project-monthly-spend, per: [project], cost_usd: 1000000, window: month}}
  - {{name: {LIMIT}, per: [user], cost_usd: 1000, window: month}}
"""

_SEED = 6
_TICK_SECONDS = 0.001


class Decider:
    """An enforcer whose store holds the accounts of `users`."""

    def __init__(self, stack: AsyncExitStack, subject: Subject, url: str, *, users: int) -> None:
        self._stack = stack
        self._subject = subject
        self._costings: dict[tuple[int, int], Subject] = {}
        self._store = subject.enforcer.store
        self._url = url
        self._users = users
        self._chance = random.Random(_SEED)

    async def fill(self) -> Mapping[Figure, float]:
        began, before = perf_counter(), self._held_mb()
        await self._decide(user=0)
        page = await self._store.accounts(limit_name=LIMIT, page=1)
        account = page.rows[0][0]
        batches = iter(range(0, self._users, BATCH_ACCOUNTS))

        async def worker() -> None:
            for first in batches:
                await self._put_in(account, first)

        await asyncio.gather(*(worker() for _ in range(BATCHES_AT_ONCE)))
        now_ms = self._subject.enforcer.now_ms()
        await self._store.sweep(now_ms=now_ms, ended_before_ms=now_ms + 1, usage_before_ms=now_ms + 1)
        return {
            Figure.FILL_SECONDS: perf_counter() - began,
            Figure.RESIDENT_MB: self._held_mb() - before,
            **self._disk(),
        }

    async def decide(self, seconds: float) -> Mapping[Figure, float]:
        latencies: list[float] = []
        cpu_began, began = process_time(), perf_counter()
        while perf_counter() < began + seconds:
            latencies.append(await self._decide(user=self._chance.randrange(self._users)))
        cpu_seconds = process_time() - cpu_began
        load = Load.of(latencies, requests=len(latencies), seconds=perf_counter() - began)
        return {
            Figure.P50_MS: load.p50_ms,
            Figure.P99_MS: load.p99_ms,
            Figure.SERVER_CPU_US: cpu_seconds * 1e6 / load.requests,
        }

    async def sweep(self) -> Mapping[Figure, float]:
        expiring = min(EXPIRING, self._users)
        for user in range(expiring):
            await self._subject.enforcer.reserve(self._ask(user))
        now_ms = self._subject.enforcer.now_ms() + self._subject.policy.reservations.ttl_seconds * 1000
        longest = asyncio.create_task(_longest_stall())
        await asyncio.sleep(0)
        began = perf_counter()
        swept = await self._store.sweep(now_ms=now_ms, ended_before_ms=now_ms, usage_before_ms=0)
        took = perf_counter() - began
        assert len(swept.expired) == expiring
        await asyncio.sleep(_TICK_SECONDS)
        longest.cancel()
        (stalled,) = await asyncio.gather(longest)
        return {Figure.SWEEP_MS: took * 1000, Figure.STALL_MS: stalled * 1000}

    async def cost(self, limits: int, rules: int, calls: int) -> Mapping[Figure, float]:
        costing = await self._costing(limits, rules)
        _freeze()
        held = await cpu_us(costing.reserve, at_once=CALLS_AT_ONCE, calls=calls)
        charged = await cpu_us(costing.settle, at_once=CALLS_AT_ONCE, calls=calls)
        return {Figure.SERVER_CPU_US: held, Figure.ALL_CPU_US: held + charged}

    async def _costing(self, limits: int, rules: int) -> Subject:
        """An enforcer under a policy of so many, kept for the next time."""
        if (limits, rules) not in self._costings:
            context = subject("memory://", decisions.policy(limits=limits, rules=rules))
            self._costings[limits, rules] = await self._stack.enter_async_context(context)
        return self._costings[limits, rules]

    async def _decide(self, *, user: int) -> float:
        """A hold, whose seconds are returned, and the charge that ends it."""
        began = perf_counter()
        verdict = await self._subject.enforcer.reserve(self._ask(user))
        took = perf_counter() - began
        assert verdict.decision.allowed
        await self._subject.enforcer.end(verdict.record, verdict.decision.estimate, ENDING)
        return took

    def _ask(self, user: int) -> Ask:
        return replace(self._subject.ask(), identity={"project": "bench", "user": f"user-{user}"})

    async def _put_in(self, account: Account, first: int) -> None:
        """The accounts of a batch of users, alike to the one of user 0."""
        now_ms = self._subject.enforcer.now_ms()
        name = f"fill-{first}"
        record = Record(
            request_id=name,
            at_ms=now_ms,
            outcome=Outcome.SERVED,
            decision="allow",
            provider="openai",
            endpoint="chat.completions",
            model="gpt-4o-mini",
            attributes={},
        )
        entries = [
            Entry(
                replace(account, scope=account.scope.replace("user-0", f"user-{user}")), Metric.COST, 1, NANOS_PER_USD
            )
            for user in range(first, min(first + BATCH_ACCOUNTS, self._users))
        ]
        await self._store.reserve(name, entries=entries, record=record, now_ms=now_ms, expires_at_ms=now_ms + 600_000)
        await self._store.settle(name, amounts={Metric.COST: 1}, record=record, now_ms=now_ms)

    def _held_mb(self) -> float:
        """What this process and, if it is Redis, the store hold."""
        parts = urlsplit(self._url)
        if parts.scheme != "redis":
            return resident_mb(os.getpid())
        with redis.Redis(host="127.0.0.1", port=parts.port or 0) as client:
            used: int = client.info("memory")["used_memory"]
        return used / 1e6

    def _disk(self) -> Mapping[Figure, float]:
        parts = urlsplit(self._url)
        if parts.scheme != "sqlite":
            return {}
        path = Path(parts.path.removeprefix("/"))
        files = path.parent.glob(f"{path.name}*")
        return {Figure.DISK_MB: sum(file.stat().st_size for file in files) / 1e6}


def _freeze() -> None:
    """As policyd does once it has started: what is there by now is not what a decision leaves behind."""
    gc.collect()
    gc.freeze()


async def _longest_stall() -> float:
    """Until it is cancelled; then, by how many seconds the event loop was late at worst."""
    late = 0.0
    try:
        while True:
            due = perf_counter() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            late = max(late, perf_counter() - due)
    except asyncio.CancelledError:
        return late


async def answer(url: str, *, users: int) -> None:
    """Answers until the standard input ends."""
    async with AsyncExitStack() as stack:
        policy = parse_policy(POLICY, source="the benchmark's policy")
        decider = Decider(stack, await stack.enter_async_context(subject(url, policy)), url, users=users)
        _freeze()
        while line := await asyncio.to_thread(sys.stdin.readline):
            question: dict[str, Any] = json.loads(line)
            do = getattr(decider, question.pop("do"))
            print(json.dumps(await do(**question)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.deciding", description=__doc__)
    parser.add_argument("store", metavar="STORE_URL")
    parser.add_argument("--accounts", type=int, default=1, help="of one user each, once it is told to fill the store")
    given = parser.parse_args()
    uvloop.run(answer(given.store, users=given.accounts))


if __name__ == "__main__":
    main()

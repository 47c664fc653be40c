"""python -m tests.bench.redis_store

What a call to the Redis store costs policyd's own process, in CPU time, by how many are under way at once on the event
loop. Those of one turn of the loop are one write, and their replies mostly one read. They are compared with the same
store on redis-py's client, where each call is a write and a read of its own.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Final

import hiredis
import uvloop
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from policyd.core.policy import Metric
from policyd.stores.base import Store
from policyd.stores.redis.connection import Argument, Reply
from policyd.stores.redis.options import Address, Arrangement, RedisOptions
from policyd.stores.redis.shards import Shard
from policyd.stores.redis.store import RedisStore
from tests.stores.building import NOW_MS, TTL_MS, account, entry, record
from tests.stores.redis_server import running

AT_ONCE: Final = (1, 16, 64)
ROUNDS: Final = 5
EXCHANGES: Final = 2_000

ACCOUNT: Final = account()
RECORD: Final = record()
CAP: Final = 2**53 - 1


class OneCallEach:
    """The way to Redis by its usual client, which waits for one reply a connection."""

    def __init__(self, port: int) -> None:
        self._client = Redis(port=port, max_connections=max(AT_ONCE))

    async def call(self, shard: Shard, *arguments: Argument) -> Reply:
        try:
            return await self._client.execute_command(*arguments)  # type: ignore[no-untyped-call]
        except NoScriptError as error:
            raise hiredis.ReplyError(str(error)) from error

    async def close(self) -> None:
        await self._client.aclose()


async def hold_and_charge(store: Store, name: str) -> None:
    await store.reserve(
        name, entries=[entry(10, on=ACCOUNT, cap=CAP)], record=RECORD, now_ms=NOW_MS, expires_at_ms=NOW_MS + TTL_MS
    )
    await store.settle(name, amounts={Metric.COST: 7}, record=RECORD, now_ms=NOW_MS)


async def cpu_us(store: Store, *, at_once: int, prefix: str) -> float:
    """Of this process, for one call."""
    names: Iterator[str] = (f"{prefix}-{number}" for number in range(EXCHANGES))

    async def worker() -> None:
        for name in names:
            await hold_and_charge(store, name)

    began = process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return (process_time() - began) / EXCHANGES / 2 * 1_000_000


async def measure(port: int) -> None:
    options = RedisOptions(
        arrangement=Arrangement.STANDALONE, addresses=(Address("127.0.0.1", port),), timeout_seconds=20
    )
    coalescing, one_each = RedisStore(options), RedisStore(options)
    one_each._runner._nodes = OneCallEach(port)
    samples: dict[tuple[str, int], list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        for at_once in AT_ONCE:
            for how, store in (("one call each", one_each), ("coalesced", coalescing)):
                prefix = f"{how}-{number}-{at_once}"
                samples[how, at_once].append(await cpu_us(store, at_once=at_once, prefix=prefix))
    print("CPU time of a call in policyd's process (reserve and settle, half each; the least of the rounds)")
    for at_once in AT_ONCE:
        one, many = min(samples["one call each", at_once]), min(samples["coalesced", at_once])
        print(f"{at_once:3} at once: one call each {one:6.1f} us, coalesced {many:6.1f} us, ratio {many / one:.2f}")
    await coalescing.close()
    await one_each.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "redis") as server:
        uvloop.run(measure(server.port))


if __name__ == "__main__":
    main()

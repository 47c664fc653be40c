"""What the child processes of `test_sqlite` run: `python -m tests.stores.child COMMAND FILE`.

They say on stdout what the store has acknowledged, one line in one write each, so that a kill cuts no line in two.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path

from policyd.core.errors import StoreError
from policyd.core.policy import Metric
from policyd.stores.base import Granted
from policyd.stores.sqlite import checkpoints
from policyd.stores.sqlite.store import SqliteStore
from tests.stores.building import NOW_MS, TTL_MS, entry, record

STORM_WORKERS = 16
STORM_CAP = 10**12
STORM_HOLD = 10

COMPETE_RESERVES = 300
COMPETE_CAP = 400

FULL_RESERVES = 200

SYNC_RESERVES = 200
SYNC_ROWS_MAX = 20


def say(*words: object) -> None:
    os.write(1, f"{' '.join(map(str, words))}\n".encode())


async def reserve(store: SqliteStore, reservation_id: str, amount: int, *, cap: int) -> bool:
    result = await store.reserve(
        reservation_id,
        entries=[entry(amount, cap=cap)],
        record=record(reservation_id),
        now_ms=NOW_MS,
        expires_at_ms=NOW_MS + TTL_MS,
    )
    return isinstance(result, Granted)


async def storm(store: SqliteStore) -> None:
    """Reserves and settles until it is killed."""

    async def worker(name: int) -> None:
        number = 0
        while True:
            reservation_id = f"{name}-{number}"
            await reserve(store, reservation_id, STORM_HOLD, cap=STORM_CAP)
            say("reserved", reservation_id)
            await store.settle(
                reservation_id,
                amounts={Metric.COST: number},
                record=record(reservation_id, actual_cost_nanos=number),
                now_ms=NOW_MS,
            )
            say("settled", reservation_id)
            number += 1

    await asyncio.gather(*(worker(name) for name in range(STORM_WORKERS)))


async def compete(store: SqliteStore) -> None:
    """Reserves one unit at a time against a cap that another process reserves against too."""
    say("ready")
    sys.stdin.readline()
    granted = 0
    for first in range(0, COMPETE_RESERVES, 10):
        names = [f"{os.getpid()}-{number}" for number in range(first, first + 10)]
        granted += sum(await asyncio.gather(*(reserve(store, name, 1, cap=COMPETE_CAP) for name in names)))
    say(granted)


async def full(store: SqliteStore, file: Path) -> None:
    """Reserves while no file can grow, then once more when it can again."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_log_bytes(file) + 64 * 1024, hard_limit))
    names = [f"r{number}" for number in range(FULL_RESERVES)]
    failed = []
    for name in names:
        try:
            await reserve(store, name, 1, cap=STORM_CAP)
            say("reserved", name)
        except StoreError as error:
            failed.append(name)
            say("failed", name, type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard_limit, hard_limit))
    for name in failed:
        await reserve(store, name, 1, cap=STORM_CAP)
        say("recovered", name)


async def sync(store: SqliteStore) -> None:
    """Reserves through many checkpoints: some calls come while one is under way, others right after it."""
    checkpoints.ROWS_MAX = SYNC_ROWS_MAX
    for number in range(SYNC_RESERVES):
        await reserve(store, f"r{number}", 1, cap=STORM_CAP)
        if number % 2 and (latest := store._checkpoints._latest):
            await asyncio.wrap_future(latest)
    say(os.getpid(), store._loop._connection.total_changes)


def _log_bytes(file: Path) -> int:
    return Path(f"{file}-wal").stat().st_size


async def main() -> None:
    command, file = sys.argv[1], Path(sys.argv[2])
    store = await asyncio.to_thread(SqliteStore, file)  # what it waits for is not the event loop's
    match command:
        case "storm":
            await storm(store)
        case "compete":
            await compete(store)
        case "full":
            await full(store, file)
        case "sync":
            await sync(store)
        case _:
            raise SystemExit(f"no command {command!r}")
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())

"""A Redis that takes everything and answers nothing: how long decisions wait, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from policyd.core.errors import StoreError
from policyd.core.ledger import Balance
from policyd.core.policy import FailureMode
from policyd.stores.base import Granted
from policyd.stores.outage.store import JournalledStore
from policyd.stores.url import open_store
from tests.stores.outage.rig import Rig
from tests.stores.redis_server import RedisServer, running

BOUND_SECONDS = 0.4

AT_ONCE = 100


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def process(rig: Rig, server: RedisServer) -> AsyncIterator[JournalledStore]:
    # Redis itself would wait for longer.
    store = open_store(f"redis://{server.address}/0?timeout=20s&connect_timeout=20s")
    rig.store.inner, rig.timeout_seconds = store, BOUND_SECONDS
    yield rig.process()
    await store.close()


async def timed_reserve(rig: Rig, process: JournalledStore, name: str) -> float:
    """How many seconds the decision took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await rig.reserve(process, name, amount=1)
    except StoreError:
        assert rig.policy.failure_mode is not FailureMode.OPEN
    return loop.time() - began


@pytest.mark.parametrize("mode", FailureMode)
async def test_few_wait_and_none_past_the_bound(
    rig: Rig, process: JournalledStore, server: RedisServer, mode: FailureMode
) -> None:
    rig.use(mode)
    await timed_reserve(rig, process, "before")
    server.hang()
    try:
        first = await asyncio.gather(*(timed_reserve(rig, process, f"a{number}") for number in range(AT_ONCE)))
        later = [await timed_reserve(rig, process, f"b{number}") for number in range(900)]
        assert max(first) < 3 * BOUND_SECONDS  # a busy machine takes its time
        assert sorted(later)[-10] < BOUND_SECONDS / 10, "99 of 100 do not wait at all"
        assert process.status.is_away
    finally:
        server.go_on()


async def test_all_that_passed_is_charged_when_it_goes_on(
    rig: Rig, process: JournalledStore, server: RedisServer
) -> None:
    server.hang()
    names = [f"r{number}" for number in range(AT_ONCE)]
    try:
        results = await asyncio.gather(*(rig.reserve(process, name) for name in names))
        assert all(isinstance(result, Granted) for result in results)
        for name in names:
            await rig.settle(process, name, 7)
    finally:
        server.go_on()
    # Some of what was sent has had its effect all the same.
    while process.status.waiting_bytes:
        await process.mend()
    assert await rig.balance() == Balance(7 * AT_ONCE, 0)

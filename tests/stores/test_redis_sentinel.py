"""A master that sentinels name: found, found again after a failover, and what a failover may lose."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from policyd.core.errors import ReservationNotFound, StoreError, StoreUnavailable
from policyd.core.ledger import Balance
from policyd.core.reservation import State
from policyd.stores.base import Granted
from policyd.stores.redis.store import RedisStore
from tests.stores.outage.rig import Rig
from tests.stores.redis_calls import balance, opened, reserve, settle
from tests.stores.redis_server import RedisServer, running, running_sentinel, wait_until

NAME = "policyd-master"


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica, in step."""
    with running(tmp_path / "master") as master, running(tmp_path / "replica") as replica:
        replica.command("REPLICAOF", "127.0.0.1", master.port)
        wait_until(partial(_is_linked, replica), "the replica follows its master")
        yield master, replica


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "journal")


@pytest.fixture
def sentinel(tmp_path: Path, replicated: tuple[RedisServer, RedisServer]) -> Iterator[RedisServer]:
    with running_sentinel(tmp_path / "sentinel", replicated[0], name=NAME) as sentinel:
        wait_until(lambda: len(sentinel.command("SENTINEL", "REPLICAS", NAME)) == 1, "the sentinel knows the replica")
        yield sentinel


def url(sentinels: Sequence[str], name: str = NAME) -> str:
    return f"redis+sentinel://{','.join(sentinels)}/{name}/0?timeout=1s&connect_timeout=1s"


async def test_a_failover_is_followed_and_what_was_not_replicated_is_lost(
    replicated: tuple[RedisServer, RedisServer], sentinel: RedisServer
) -> None:
    master, replica = replicated
    async with opened(url([sentinel.address])) as store:
        await reserve(store, "kept", amount=10)
        assert master.command("WAIT", 1, 20_000) == 1
        replica.hang()
        master.command("CLIENT", "KILL", "TYPE", "replica")  # what is written from now on does not get there
        assert isinstance(await reserve(store, "lost", amount=100), Granted)
        assert await balance(store) == Balance(0, 110)
        master.kill()
        replica.go_on()
        await _until_the_new_master_answers(store)
        # Whole calls are lost, and nothing that was in step.
        assert await balance(store) == Balance(0, 10)
        with pytest.raises(ReservationNotFound):
            await settle(store, "lost", 70)
        assert await settle(store, "kept", 7) is State.RESERVED
        assert isinstance(await reserve(store, "lost", amount=100), Granted)
        assert await balance(store) == Balance(7, 100)
        assert replica.command("ROLE")[0] == b"master"


async def test_an_exchange_whose_hold_a_failover_loses_is_charged(
    replicated: tuple[RedisServer, RedisServer], sentinel: RedisServer, rig: Rig
) -> None:
    """The store acknowledged it and lost it: it is charged when it is settled, and once, also when that comes again."""
    master, replica = replicated
    async with opened(url([sentinel.address])) as store:
        rig.store.inner = store
        process = rig.process()
        replica.hang()
        master.command("CLIENT", "KILL", "TYPE", "replica")
        await rig.reserve(process, "lost")
        master.kill()
        replica.go_on()
        await _until_the_new_master_answers(store)
        await process.mend()
        assert await rig.settle(process, "lost", 7) is State.RESERVED
        assert await rig.settle(process, "lost", 7) is State.SETTLED
        assert await rig.balance() == Balance(7, 0)


async def test_a_sentinel_that_is_gone_is_passed_over(
    replicated: tuple[RedisServer, RedisServer], sentinel: RedisServer, tmp_path: Path
) -> None:
    with running(tmp_path / "gone") as gone:
        pass
    async with opened(url([gone.address, sentinel.address])) as store:
        assert isinstance(await reserve(store, "r1"), Granted)


async def test_a_master_that_nobody_knows_is_unavailable(sentinel: RedisServer) -> None:
    async with opened(url([sentinel.address], name="another")) as store:
        with pytest.raises(StoreUnavailable, match="'another'"):
            await store.ping()


def _is_linked(replica: RedisServer) -> bool:
    return bool(replica.command("ROLE")[3] == b"connected")


async def _until_the_new_master_answers(store: RedisStore) -> None:
    """A call that writes: the old master's replica answers all others before it is the master."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(StoreError):
            await store.begin_window("w", now_ms=0, length_ms=1)
            return
        await asyncio.sleep(0.05)
    raise AssertionError("no new master within 30 s")

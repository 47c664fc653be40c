"""Short ways to call a Redis store in its tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from policyd.core.ledger import Account, Balance, Entry
from policyd.core.policy import Metric
from policyd.core.reservation import State
from policyd.stores.base import ReserveResult, Store, Swept
from policyd.stores.redis.store import RedisStore
from policyd.stores.url import open_store
from tests.stores.building import NOW_MS, TTL_MS, account, entry, record

EXPIRED_MS = NOW_MS + TTL_MS


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    store = open_store(url)
    assert isinstance(store, RedisStore)
    try:
        yield store
    finally:
        await store.close()


async def reserve(
    store: Store, reservation_id: str, *entries: Entry, amount: int = 1, fingerprint: str = ""
) -> ReserveResult:
    return await store.reserve(
        reservation_id,
        entries=entries or [entry(amount)],
        record=record(reservation_id),
        now_ms=NOW_MS,
        expires_at_ms=EXPIRED_MS,
        fingerprint=fingerprint,
    )


async def settle(store: Store, reservation_id: str, cost: int) -> State:
    ended = record(reservation_id, actual_cost_nanos=cost)
    return await store.settle(reservation_id, amounts={Metric.COST: cost}, record=ended, now_ms=NOW_MS)


async def sweep(store: Store, *, now_ms: int = EXPIRED_MS) -> Swept:
    """Forgets nothing but accounts."""
    return await store.sweep(now_ms=now_ms, ended_before_ms=0, usage_before_ms=0)


async def balance(store: Store, on: Account | None = None) -> Balance:
    (found,) = await store.balances([(on or account(), None)])
    return found


async def balances(store: Store, accounts: Sequence[Account]) -> tuple[Balance, ...]:
    return await store.balances([(each, None) for each in accounts])

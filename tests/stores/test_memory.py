"""What the memory store promises beyond the contract."""

from __future__ import annotations

import asyncio

from policyd.core.ledger import Balance
from policyd.stores.base import Granted
from policyd.stores.memory import SWEEP_ROWS_MAX, MemoryStore
from tests.stores.building import NOW_MS, TTL_MS, account, entry, record


async def test_a_long_sweep_lets_other_calls_go_on() -> None:
    store = MemoryStore()
    for number in range(SWEEP_ROWS_MAX * 2):
        await _reserve(store, f"r{number}")
    sweeping = asyncio.create_task(
        store.sweep(now_ms=NOW_MS + TTL_MS, ended_before_ms=0, usage_before_ms=0),
    )
    await asyncio.sleep(0)
    assert (await store.balances([(account(), None)])) == (Balance(SWEEP_ROWS_MAX, SWEEP_ROWS_MAX),)
    assert isinstance(await _reserve(store, "meanwhile", expires_at_ms=NOW_MS + 2 * TTL_MS), Granted)
    assert len((await sweeping).expired) == SWEEP_ROWS_MAX * 2
    assert await store.balances([(account(), None)]) == (Balance(SWEEP_ROWS_MAX * 2, 1),)


async def _reserve(store: MemoryStore, reservation_id: str, *, expires_at_ms: int = NOW_MS + TTL_MS) -> object:
    return await store.reserve(
        reservation_id,
        entries=[entry(1, on=account(), cap=SWEEP_ROWS_MAX * 4)],
        record=record(reservation_id),
        now_ms=NOW_MS,
        expires_at_ms=expires_at_ms,
    )

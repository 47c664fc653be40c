"""How budgets stand, at a moment that the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from policyd.control import blocks, budgets
from policyd.control.desk import ATTEMPTS_MAX, Desk
from policyd.core.errors import StaleState
from policyd.core.ledger import Account
from policyd.core.policy import Limit, Match, Metric
from policyd.core.runtime import Kind, Reset
from policyd.core.windows import CalendarUnit, CalendarWindow, FirstUseWindow, Lifetime, SlidingWindow, Window
from policyd.stores.base import StateItem, Store
from policyd.stores.url import open_store
from tests.builders import NOW_MS, policy
from tests.stores.building import TTL_MS, entry, record

DAY_MS = 86_400_000
MINUTE_MS = NOW_MS - NOW_MS % 60_000


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db")
    yield opened
    await opened.close()


MINUTE = SlidingWindow(60)


def limit(window: Window = MINUTE, *, name: str = "calls", pool: str | None = None) -> Limit:
    return Limit(name, Metric.REQUESTS, 10, window, per=("session",), pool=pool)


def desk_of(store: Store, *limits: Limit) -> Desk:
    return Desk(store, policy(*limits), NOW_MS)


async def charge(store: Store, amount: int, on: Account) -> None:
    await store.reserve(
        on.key, entries=[entry(amount, on=on)], record=record(on.key), now_ms=NOW_MS, expires_at_ms=NOW_MS + TTL_MS
    )


async def test_what_a_sliding_window_carries_over_is_told(store: Store) -> None:
    before = Account("calls", "session=s1", MINUTE_MS - 60_000, MINUTE_MS, None)
    await charge(store, 4, before)
    await charge(store, 4, Account("calls", "session=s2", MINUTE_MS - 120_000, MINUTE_MS - 60_000, None))
    (told,) = (await budgets.standing(desk_of(store, limit()), limit=None, per="session")).budgets
    assert (told.scope, told.balance.carried, told.remaining) == ("session=s1", 1, 9)  # a quarter of the window is left


async def test_limits_of_a_pool_stand_side_by_side(store: Store) -> None:
    desk = desk_of(store, limit(Lifetime(), name="a", pool="p"), limit(Lifetime(), name="b", pool="p"))
    await charge(store, 4, Account("p", "session=s1", 0, None, None))
    told = (await budgets.standing(desk, limit=None)).budgets
    assert [(each.limit.name, each.balance.used) for each in told] == [("a", 4), ("b", 4)]


async def test_takes_every_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "ACCOUNTS_PAGE", 2)
    monkeypatch.setattr(budgets, "BALANCES_MAX", 2)
    for number in range(5):
        await charge(store, number + 1, Account("calls", f"session=s{number}", 0, None, None))
    told = (await budgets.standing(desk_of(store, limit(Lifetime())), limit="calls")).budgets
    assert [(each.scope, each.balance.used) for each in told] == [(f"session=s{n}", n + 1) for n in range(5)]


async def test_variants_of_a_limit_are_told_apart(store: Store) -> None:
    free, pro = (
        Limit("calls", Metric.REQUESTS, amount, Lifetime(), match=Match({"tier": (tier,)}))
        for tier, amount in (("free", 1), ("pro", 9))
    )
    told = await budgets.budgets_of(desk_of(store, free, pro), "all", limit="calls")
    assert [(each.limit.match.patterns["tier"], each.limit.amount) for each in told] == [(("free",), 1), (("pro",), 9)]


@pytest.mark.parametrize(
    ("window", "expires_at_ms"),
    [
        (Lifetime(), None),
        (CalendarWindow(CalendarUnit.DAY), NOW_MS - NOW_MS % DAY_MS + DAY_MS),
        (MINUTE, MINUTE_MS + 120_000),  # the bucket is carried into the next one
        (FirstUseWindow(30), NOW_MS + 23 * DAY_MS),
    ],
)
async def test_a_reset_is_kept_as_long_as_it_matters(store: Store, window: Window, expires_at_ms: int | None) -> None:
    key = f"calls|session=s1|{window}"
    await store.begin_window(key, now_ms=NOW_MS - 7 * DAY_MS, length_ms=30 * DAY_MS)
    reset = await budgets.reset(desk_of(store, limit(window)), "session=s1", limit="calls")
    assert reset == Reset("calls", "session=s1", NOW_MS, expires_at_ms)
    assert (await store.state()).items[0].expires_at_ms == expires_at_ms


class Hasty:
    """A store that somebody else always changes in between a few times."""

    def __init__(self, store: Store, times: int) -> None:
        self._store = store
        self._times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def set_state(self, items: Sequence[StateItem], *, now_ms: int, expected_revision: int | None) -> int:
        if self._times:
            self._times -= 1
            await self._store.set_state([StateItem("other", "k", "1")], now_ms=now_ms)
        return await self._store.set_state(items, now_ms=now_ms, expected_revision=expected_revision)


@pytest.mark.parametrize(("times", "made"), [(0, True), (3, True), (ATTEMPTS_MAX, False)])
async def test_a_change_is_made_again_where_another_came_first(store: Store, times: int, made: bool) -> None:
    hasty = cast(Store, Hasty(store, times))
    change = blocks.block(desk_of(hasty, limit()), Kind.BLOCK, "all", reason="why", ends_at_ms=None)
    if made:
        await change
    else:
        with pytest.raises(StaleState):
            await change
    assert ("block" in {item.kind for item in (await store.state()).items}) == made

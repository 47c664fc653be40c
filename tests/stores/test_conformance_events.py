"""The contract in `policyd.stores.base` on events, sentence by sentence, on every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from policyd.core.errors import StoreUnavailable
from policyd.core.events import KEPT_MS, LimitUse, OperatorEvent
from policyd.core.policy import Metric
from policyd.core.rules import RuleAction
from policyd.stores.base import EventsPage, Store
from tests.stores.building import NOW_MS


def event(
    source: str = "rule:loops", *, at_ms: int = NOW_MS, scope: str = "user=ann", period: int = 0
) -> OperatorEvent:
    return OperatorEvent(
        source=source,
        action=RuleAction.FREEZE,
        scope=scope,
        period_starts_at_ms=period,
        at_ms=at_ms,
        request_id="r1",
        attributes={"user": "ann é|\n", "model": "gpt-4o"},
        estimated_cost_nanos=2**53 - 1,
        limits=(LimitUse("daily", Metric.COST, 7, 10),),
    )


async def ids(store: Store) -> list[str]:
    return [each.id for each in (await store.events(page=100)).events]


async def sweep(store: Store, now_ms: int) -> None:
    await store.sweep(now_ms=now_ms, ended_before_ms=0, usage_before_ms=0)


async def test_a_new_store_has_none(store: Store) -> None:
    assert await store.events(page=1) == EventsPage((), "")


async def test_answers_what_was_emitted(store: Store) -> None:
    assert await store.emit(event())
    assert await store.events(page=1) == EventsPage((event(),), "")


async def test_one_of_its_id_that_is_there_stays(store: Store) -> None:
    await store.emit(event())
    assert not await store.emit(replace(event(at_ms=NOW_MS + 1), request_id="r2"))
    assert (await store.events(page=2)).events == (event(),)


async def test_another_source_scope_or_period_is_another_event(store: Store) -> None:
    others = [event(), event("anomaly:loops"), event(scope="user=bob"), event(period=1)]
    assert [await store.emit(each) for each in others] == [True] * 4


async def test_of_many_at_once_exactly_one_is_new(store: Store) -> None:
    emitted = await asyncio.gather(*(store.emit(event(at_ms=NOW_MS + number)) for number in range(20)))
    assert sum(emitted) == 1
    assert len(await ids(store)) == 1


async def test_are_listed_oldest_first_then_by_id(store: Store) -> None:
    given = [event(scope=scope, at_ms=NOW_MS + late) for late, scope in ((5, "a"), (0, "é"), (0, "b"), (10, "A"))]
    for each in given:
        await store.emit(each)
    assert await ids(store) == [each.id for each in (given[2], given[1], given[0], given[3])]


async def test_pages_are_stable_while_events_arrive(store: Store) -> None:
    for number in range(10):
        await store.emit(event(at_ms=NOW_MS + number, period=number))
    pages = [await store.events(page=4)]
    while pages[-1].next_cursor:
        await store.emit(event(at_ms=NOW_MS - len(pages), period=100 + len(pages)))
        pages.append(await store.events(page=4, cursor=pages[-1].next_cursor))
    assert [each.period_starts_at_ms for page in pages for each in page.events] == list(range(10))
    assert [len(page.events) for page in pages] == [4, 4, 2]


@pytest.mark.parametrize("cursor", ["x", "!", "bnVsbA==", "IngiCg==", "☃"])
async def test_another_cursor_is_a_value_error(store: Store, cursor: str) -> None:
    with pytest.raises(ValueError, match="is not a cursor"):
        await store.events(page=1, cursor=cursor)


async def test_acknowledged_ones_leave_the_list_and_count_once(store: Store) -> None:
    first, second = event(), event(period=1)
    await store.emit(first)
    await store.emit(second)
    assert await store.acknowledge([first.id, "unknown"]) == 1
    assert await ids(store) == [second.id]
    assert await store.acknowledge([first.id]) == 0
    assert await store.acknowledge([]) == 0


async def test_an_acknowledged_one_does_not_come_back(store: Store) -> None:
    await store.emit(event())
    await store.acknowledge([event().id])
    assert not await store.emit(event())
    assert await ids(store) == []


async def test_are_forgotten_when_their_time_is_over_and_not_before(store: Store) -> None:
    seen, unseen = event(), event(period=1)
    await store.emit(seen)
    await store.emit(unseen)
    await store.acknowledge([seen.id])
    await sweep(store, NOW_MS + KEPT_MS - 1)
    assert not await store.emit(seen)
    assert await ids(store) == [unseen.id]
    await sweep(store, NOW_MS + KEPT_MS)
    assert await ids(store) == []
    assert await store.emit(seen)
    assert await ids(store) == [seen.id]


async def test_a_closed_store_refuses_every_call(store: Store) -> None:
    await store.close()
    for call in (store.emit(event()), store.events(page=1), store.acknowledge(["e"])):
        with pytest.raises(StoreUnavailable):
            await call

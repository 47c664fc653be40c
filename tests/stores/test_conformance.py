"""The contract in `policyd.stores.base`, sentence by sentence, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import product

import pytest

from policyd.core.errors import (
    ReservationEnded,
    ReservationMismatch,
    ReservationNotFound,
    StoreUnavailable,
)
from policyd.core.ledger import ZERO_BALANCE, Account, Balance, Carry, Entry
from policyd.core.policy import Metric
from policyd.core.record import Outcome, Record
from policyd.core.reservation import TRANSITIONS, Event, State
from policyd.core.usage import Usage
from policyd.stores.base import (
    Exists,
    Granted,
    Refused,
    Reservation,
    ReserveResult,
    Store,
    Swept,
    UsageFilter,
    UsagePage,
)
from tests.stores.building import NOW_MS, TTL_MS, account, entry, record

COST, REQUESTS, TOKENS = Metric.COST, Metric.REQUESTS, Metric.TOKENS


async def reserve(store: Store, reservation_id: str, *entries: Entry, fingerprint: str = "") -> ReserveResult:
    return await store.reserve(
        reservation_id,
        entries=entries,
        record=record(reservation_id),
        now_ms=NOW_MS,
        expires_at_ms=NOW_MS + TTL_MS,
        fingerprint=fingerprint,
    )


async def settle(store: Store, reservation_id: str, cost: int, *, now_ms: int = NOW_MS) -> State:
    ended = record(reservation_id, actual_cost_nanos=cost)
    return await store.settle(reservation_id, amounts={COST: cost}, record=ended, now_ms=now_ms)


async def release(store: Store, reservation_id: str) -> State:
    ended = record(reservation_id, outcome=Outcome.PROVIDER_ERROR)
    return await store.release(reservation_id, record=ended, now_ms=NOW_MS)


async def extend(store: Store, reservation_id: str, wanted_units: int, *, at_least_units: int = 1) -> int:
    return await store.extend(
        reservation_id,
        unit_amounts={COST: 1},
        wanted_units=wanted_units,
        at_least_units=at_least_units,
        now_ms=NOW_MS,
    )


async def expire(store: Store, *, now_ms: int = NOW_MS + TTL_MS) -> Swept:
    """A sweep that forgets nothing but accounts."""
    return await store.sweep(now_ms=now_ms, ended_before_ms=0, usage_before_ms=0)


async def balance(store: Store, of: Account | None = None, carry: Carry | None = None) -> Balance:
    (found,) = await store.balances([(of or account(), carry)])
    return found


async def usage_ids(store: Store, wanted: UsageFilter | None = None) -> list[str]:
    page = await store.usage(wanted or UsageFilter(), limit=1_000)
    return [each.request_id for each in page.records]


class TestReserve:
    async def test_holds_every_entry_and_answers_the_balances_before(self, store: Store) -> None:
        cost, requests = account("cost"), account("requests")
        await reserve(store, "before", entry(7, on=requests, metric=REQUESTS))
        result = await reserve(store, "r1", entry(100, on=cost), entry(1, on=requests, metric=REQUESTS))
        assert result == Granted((Balance(0, 0), Balance(0, 7)))
        assert await balance(store, cost) == Balance(0, 100)
        assert await balance(store, requests) == Balance(0, 8)

    async def test_holds_nothing_if_one_entry_does_not_fit(self, store: Store) -> None:
        roomy, full = account("roomy"), account("full")
        await reserve(store, "before", entry(95, on=full, cap=100))
        for entries in (
            (entry(6, on=roomy), entry(6, on=full, cap=100)),
            (entry(6, on=full, cap=100), entry(6, on=roomy)),
        ):
            result = await reserve(store, "r1", *entries)
            assert isinstance(result, Refused)
            assert sorted(each.reserved for each in result.balances) == [0, 95]
            assert await balance(store, roomy) == ZERO_BALANCE
            assert await balance(store, full) == Balance(0, 95)

    async def test_answers_balances_in_the_order_of_the_entries(self, store: Store) -> None:
        accounts = [account(name) for name in ("b", "c", "a")]
        for held, on in enumerate(accounts, start=1):
            await reserve(store, on.limit, entry(held, on=on))
        assert await reserve(store, "r1", *(entry(1, on=on) for on in accounts)) == Granted(
            (Balance(0, 1), Balance(0, 2), Balance(0, 3))
        )
        assert await reserve(store, "r2", *(entry(1, on=on, cap=1) for on in reversed(accounts))) == Refused(
            (Balance(0, 4), Balance(0, 3), Balance(0, 2))
        )

    async def test_fills_a_cap_to_the_last_unit(self, store: Store) -> None:
        assert isinstance(await reserve(store, "r1", entry(999)), Granted)
        assert isinstance(await reserve(store, "r2", entry(2)), Refused)
        assert isinstance(await reserve(store, "r3", entry(1)), Granted)
        assert await balance(store) == Balance(0, 1_000)

    async def test_counts_what_is_spent(self, store: Store) -> None:
        await reserve(store, "r1", entry(900))
        await settle(store, "r1", 900)
        assert isinstance(await reserve(store, "r2", entry(101)), Refused)
        assert isinstance(await reserve(store, "r3", entry(100)), Granted)

    async def test_an_entry_of_nothing_fits_where_the_cap_is_passed(self, store: Store) -> None:
        await reserve(store, "r1", entry(1_000))
        await settle(store, "r1", 5_000)
        assert await reserve(store, "free", entry(0)) == Granted((Balance(5_000, 0),))
        assert isinstance(await reserve(store, "r2", entry(1)), Refused)

    async def test_without_entries_is_granted_and_known(self, store: Store) -> None:
        assert await reserve(store, "r1") == Granted(())
        assert (await store.get("r1")).entries == ()
        assert await settle(store, "r1", 5) is State.RESERVED
        assert await usage_ids(store) == ["r1"]

    async def test_each_entry_has_its_own_cap(self, store: Store) -> None:
        assert isinstance(await reserve(store, "r1", entry(60, cap=100)), Granted)
        assert isinstance(await reserve(store, "r2", entry(60, cap=100)), Refused)
        assert isinstance(await reserve(store, "r3", entry(60, cap=200)), Granted)

    async def test_the_amounts_are_exact_up_to_the_largest(self, store: Store) -> None:
        largest = 2**53 - 1
        assert isinstance(await reserve(store, "r1", entry(largest - 1, cap=largest)), Granted)
        assert isinstance(await reserve(store, "r2", entry(2, cap=largest)), Refused)
        assert isinstance(await reserve(store, "r3", entry(1, cap=largest)), Granted)
        await settle(store, "r1", largest - 1)
        assert await balance(store) == Balance(largest - 1, 1)

    async def test_accounts_differ_by_limit_scope_and_start(self, store: Store) -> None:
        base = account()
        others = [account("other"), account(scope="project=other"), replace(base, starts_at_ms=1)]
        await reserve(store, "r1", entry(5, on=base))
        assert await store.balances([(each, None) for each in others]) == (ZERO_BALANCE,) * 3

    @pytest.mark.parametrize("name", ["ünïcode ☃", "quote'\"; DROP TABLE accounts", "line\nbreak\x00", "%_*?|"])
    async def test_takes_any_text(self, store: Store, name: str) -> None:
        on = account(name, name)
        pending = record(name, attributes={name: name})
        await store.reserve(
            name,
            entries=[entry(5, on=on)],
            record=pending,
            now_ms=NOW_MS,
            expires_at_ms=NOW_MS + TTL_MS,
            fingerprint=name,
        )
        kept = await store.get(name)
        assert (kept.id, kept.fingerprint, kept.record, kept.entries[0].account) == (name, name, pending, on)
        await store.settle(name, amounts={COST: 5}, record=pending, now_ms=NOW_MS)
        assert await balance(store, on) == Balance(5, 0)
        assert await usage_ids(store, UsageFilter({name: name})) == [name]


class TestShadowEntries:
    async def test_are_held_like_any_other_and_never_refuse(self, store: Store) -> None:
        shadow, enforced = account("shadow"), account("enforced")
        result = await reserve(store, "r1", entry(50, on=shadow, cap=10, enforce=False), entry(50, on=enforced))
        assert result == Granted((ZERO_BALANCE, ZERO_BALANCE))
        assert await balance(store, shadow) == Balance(0, 50)

    async def test_are_not_held_if_an_enforced_one_refuses(self, store: Store) -> None:
        shadow, enforced = account("shadow"), account("enforced")
        result = await reserve(store, "r1", entry(50, on=shadow, enforce=False), entry(50, on=enforced, cap=10))
        assert isinstance(result, Refused)
        assert await balance(store, shadow) == ZERO_BALANCE

    async def test_do_not_hold_back_an_extension_and_grow_with_it(self, store: Store) -> None:
        shadow, enforced = account("shadow"), account("enforced")
        await reserve(store, "r1", entry(50, on=shadow, cap=10, enforce=False), entry(50, on=enforced, cap=80))
        assert await extend(store, "r1", 100) == 30
        assert await balance(store, shadow) == Balance(0, 80)

    async def test_are_settled_and_expire_like_any_other(self, store: Store) -> None:
        shadow = account("shadow")
        await reserve(store, "r1", entry(50, on=shadow, cap=10, enforce=False))
        await reserve(store, "r2", entry(50, on=shadow, cap=10, enforce=False))
        await settle(store, "r1", 20)
        await expire(store)
        assert await balance(store, shadow) == Balance(70, 0)


class TestIdempotency:
    async def test_a_known_id_answers_its_reservation_and_changes_nothing(self, store: Store) -> None:
        await reserve(store, "before", entry(3))
        await reserve(store, "r1", entry(100), fingerprint="f")
        again = await reserve(store, "r1", entry(100), fingerprint="f")
        assert again == Exists(
            Reservation(
                id="r1",
                state=State.RESERVED,
                fingerprint="f",
                entries=(entry(100),),
                balances=(Balance(0, 3),),
                record=record("r1"),
                expires_at_ms=NOW_MS + TTL_MS,
            )
        )
        assert await balance(store) == Balance(0, 103)

    async def test_a_known_id_does_not_ask_for_room(self, store: Store) -> None:
        await reserve(store, "r1", entry(1_000))
        assert isinstance(await reserve(store, "r1", entry(1_000)), Exists)

    async def test_a_reservation_that_ended_answers_its_outcome(self, store: Store) -> None:
        await reserve(store, "r1", entry(100), fingerprint="f")
        await settle(store, "r1", 40)
        again = await reserve(store, "r1", entry(100), fingerprint="f")
        assert isinstance(again, Exists)
        assert again.reservation.state is State.SETTLED
        assert again.reservation.record == record("r1", actual_cost_nanos=40)
        assert await balance(store) == Balance(40, 0)

    @pytest.mark.parametrize("ended", [False, True])
    async def test_another_fingerprint_is_a_mismatch(self, store: Store, ended: bool) -> None:
        await reserve(store, "r1", entry(100), fingerprint="f")
        if ended:
            await settle(store, "r1", 40)
        before = await store.get("r1")
        with pytest.raises(ReservationMismatch):
            await reserve(store, "r1", entry(100), fingerprint="g")
        assert await store.get("r1") == before

    async def test_a_refused_id_is_free(self, store: Store) -> None:
        assert isinstance(await reserve(store, "r1", entry(2_000), fingerprint="f"), Refused)
        with pytest.raises(ReservationNotFound):
            await store.get("r1")
        assert isinstance(await reserve(store, "r1", entry(10), fingerprint="g"), Granted)

    async def test_a_repeated_settle_keeps_the_first_charge_and_record(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        assert await settle(store, "r1", 40) is State.RESERVED
        assert await settle(store, "r1", 77) is State.SETTLED
        assert await balance(store) == Balance(40, 0)
        assert (await store.get("r1")).record.actual_cost_nanos == 40
        assert (await store.usage(UsageFilter(), limit=10)).records == (record("r1", actual_cost_nanos=40),)


ENDED = "ended"
"""The call raises `ReservationEnded`."""

OUTCOMES: dict[tuple[State, Event], tuple[State, int, int] | str] = {
    # Of a hold of 100, extended by 10, settled with 30: the state after, and what is spent and reserved then.
    (State.RESERVED, Event.SETTLE): (State.SETTLED, 30, 0),
    (State.RESERVED, Event.RELEASE): (State.RELEASED, 0, 0),
    (State.RESERVED, Event.EXPIRE): (State.EXPIRED, 100, 0),
    (State.RESERVED, Event.EXTEND): (State.RESERVED, 0, 110),
    (State.RESERVED, Event.RENEW): (State.RESERVED, 0, 100),
    (State.SETTLED, Event.SETTLE): (State.SETTLED, 33, 0),
    (State.SETTLED, Event.RELEASE): ENDED,
    (State.SETTLED, Event.EXPIRE): (State.SETTLED, 33, 0),
    (State.SETTLED, Event.EXTEND): ENDED,
    (State.SETTLED, Event.RENEW): (State.SETTLED, 33, 0),
    (State.RELEASED, Event.SETTLE): ENDED,
    (State.RELEASED, Event.RELEASE): (State.RELEASED, 0, 0),
    (State.RELEASED, Event.EXPIRE): (State.RELEASED, 0, 0),
    (State.RELEASED, Event.EXTEND): ENDED,
    (State.RELEASED, Event.RENEW): (State.RELEASED, 0, 0),
    (State.EXPIRED, Event.SETTLE): (State.SETTLED, 30, 0),
    (State.EXPIRED, Event.RELEASE): (State.RELEASED, 0, 0),
    (State.EXPIRED, Event.EXPIRE): (State.EXPIRED, 100, 0),
    (State.EXPIRED, Event.EXTEND): ENDED,
    (State.EXPIRED, Event.RENEW): (State.EXPIRED, 100, 0),
}

BRING_TO: dict[State, Callable[[Store], Awaitable[object]]] = {
    State.RESERVED: lambda store: store.ping(),
    State.SETTLED: lambda store: settle(store, "r1", 33),
    State.RELEASED: lambda store: release(store, "r1"),
    State.EXPIRED: expire,
}

CALLS: dict[Event, Callable[[Store], Awaitable[object]]] = {
    Event.SETTLE: lambda store: settle(store, "r1", 30),
    Event.RELEASE: lambda store: release(store, "r1"),
    Event.EXPIRE: expire,
    Event.EXTEND: lambda store: extend(store, "r1", 10),
    Event.RENEW: lambda store: store.renew(["r1"], expires_at_ms=NOW_MS + 2 * TTL_MS),
}


class TestTransitions:
    def test_every_pair_is_here_and_agrees_with_the_table(self) -> None:
        assert set(OUTCOMES) == set(product(State, Event))
        for (state, event), outcome in OUTCOMES.items():
            if outcome == ENDED:
                assert (state, event) not in TRANSITIONS
            else:
                # Sweep and renew pass over what they do not concern.
                assert outcome[0] is TRANSITIONS.get((state, event), state)

    @pytest.mark.parametrize(("state", "event"), OUTCOMES)
    async def test_outcome(self, store: Store, state: State, event: Event) -> None:
        await reserve(store, "r1", entry(100))
        await BRING_TO[state](store)
        before = await store.get("r1")
        assert before.state is state
        outcome = OUTCOMES[state, event]
        if outcome == ENDED:
            balance_before = await balance(store)
            with pytest.raises(ReservationEnded) as raised:
                await CALLS[event](store)
            assert (raised.value.reservation_id, raised.value.state, raised.value.event) == ("r1", state, event)
            assert await store.get("r1") == before
            assert await balance(store) == balance_before
            return
        await CALLS[event](store)
        found = await balance(store)
        assert ((await store.get("r1")).state, found.spent, found.reserved) == outcome

    @pytest.mark.parametrize(
        ("state", "event"), [row for row in TRANSITIONS if row[1] in (Event.SETTLE, Event.RELEASE)]
    )
    async def test_settle_and_release_answer_the_state_they_found(
        self, store: Store, state: State, event: Event
    ) -> None:
        await reserve(store, "r1", entry(100))
        await BRING_TO[state](store)
        assert await CALLS[event](store) is state

    @pytest.mark.parametrize("event", [Event.SETTLE, Event.RELEASE, Event.EXTEND])
    async def test_an_unknown_reservation_is_not_found(self, store: Store, event: Event) -> None:
        with pytest.raises(ReservationNotFound) as raised:
            await CALLS[event](store)
        assert raised.value.reservation_id == "r1"
        assert await usage_ids(store) == []

    async def test_a_settle_after_a_late_settle_is_a_repetition(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        await expire(store)
        assert await settle(store, "r1", 30) is State.EXPIRED
        assert await settle(store, "r1", 99) is State.SETTLED
        with pytest.raises(ReservationEnded):
            await release(store, "r1")
        assert await balance(store) == Balance(30, 0)


class TestSettle:
    async def test_charges_each_entry_by_its_metric_and_nothing_where_it_is_absent(self, store: Store) -> None:
        cost, tokens, open_now = account("cost"), account("tokens"), account("open")
        await reserve(
            store,
            "r1",
            entry(100, on=cost),
            entry(50, on=tokens, metric=TOKENS),
            entry(1, on=open_now, metric=Metric.CONCURRENT_REQUESTS),
        )
        await store.settle("r1", amounts={COST: 70, TOKENS: 60, REQUESTS: 1}, record=record("r1"), now_ms=NOW_MS)
        assert await store.balances([(each, None) for each in (cost, tokens, open_now)]) == (
            Balance(70, 0),
            Balance(60, 0),
            Balance(0, 0),
        )

    async def test_may_pass_the_cap(self, store: Store) -> None:
        await reserve(store, "r1", entry(1_000))
        await settle(store, "r1", 1_500)
        assert await balance(store) == Balance(1_500, 0)

    async def test_charges_where_nothing_was_held(self, store: Store) -> None:
        await reserve(store, "r1", entry(0))
        await settle(store, "r1", 10)
        assert await balance(store) == Balance(10, 0)

    async def test_returns_what_extensions_hold_too(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        await extend(store, "r1", 50)
        await settle(store, "r1", 120)
        assert await balance(store) == Balance(120, 0)

    async def test_leaves_other_holds_on_the_account_alone(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        await reserve(store, "r2", entry(200))
        await settle(store, "r1", 10)
        assert await balance(store) == Balance(10, 200)

    async def test_charges_the_accounts_of_the_hold_whatever_the_clock_says(self, store: Store) -> None:
        january = replace(account("monthly"), starts_at_ms=NOW_MS - 1, ends_at_ms=NOW_MS + 1)
        february = replace(january, starts_at_ms=NOW_MS + 1, ends_at_ms=NOW_MS + 3)
        await reserve(store, "r1", entry(100, on=january))
        await settle(store, "r1", 40, now_ms=NOW_MS + 2)
        assert await store.balances([(january, None), (february, None)]) == (Balance(40, 0), ZERO_BALANCE)

    async def test_stores_the_record_with_everything_in_it(self, store: Store) -> None:
        full = record("r1", actual_cost_nanos=2**53 - 1)._replace(
            denied_by=("a", "b"),
            shadow_denied_by=("c",),
            status=200,
            response_model="gpt-4o-2024",
            streamed=True,
            usage=Usage(input=1, reasoning=2, web_searches=3),
            confidence="high",
            duration_ms=4,
            policy_us=5,
            error="none of note",
        )
        await reserve(store, "r1", entry(1))
        await store.settle("r1", amounts={}, record=full, now_ms=NOW_MS)
        assert (await store.usage(UsageFilter(), limit=1)).records == (full,)
        assert (await store.get("r1")).record == full


class TestRelease:
    async def test_returns_the_hold_and_stores_the_record(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        await release(store, "r1")
        assert await balance(store) == ZERO_BALANCE
        ended = record("r1", outcome=Outcome.PROVIDER_ERROR)
        assert (await store.usage(UsageFilter(), limit=10)).records == (ended,)
        assert (await store.get("r1")).record == ended

    async def test_makes_room_for_others(self, store: Store) -> None:
        await reserve(store, "r1", entry(1_000))
        await release(store, "r1")
        assert isinstance(await reserve(store, "r2", entry(1_000)), Granted)


class TestExtend:
    async def test_grants_all_if_it_fits(self, store: Store) -> None:
        await reserve(store, "r1", entry(100, cap=300))
        assert await extend(store, "r1", 200) == 200
        assert await balance(store) == Balance(0, 300)
        assert (await store.get("r1")).entries == (entry(300, cap=300),)

    async def test_grants_what_fits_if_that_is_enough(self, store: Store) -> None:
        await reserve(store, "r1", entry(100, cap=150))
        assert await extend(store, "r1", 200, at_least_units=50) == 50
        assert await balance(store) == Balance(0, 150)

    async def test_grants_nothing_if_too_little_fits(self, store: Store) -> None:
        await reserve(store, "r1", entry(100, cap=150))
        assert await extend(store, "r1", 200, at_least_units=51) == 0
        assert await balance(store) == Balance(0, 100)
        assert (await store.get("r1")).entries == (entry(100, cap=150),)

    async def test_grants_all_that_is_wanted_even_below_the_least(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        assert await extend(store, "r1", 5, at_least_units=10) == 5

    @pytest.mark.parametrize("at_least_units", [0, 1])
    async def test_grants_nothing_where_the_cap_is_passed(self, store: Store, at_least_units: int) -> None:
        await reserve(store, "r1", entry(100, cap=100))
        await reserve(store, "r2", entry(900))
        await settle(store, "r2", 900)
        assert await extend(store, "r1", 5, at_least_units=at_least_units) == 0

    async def test_counts_in_whole_units_of_every_metric(self, store: Store) -> None:
        cost, tokens, requests = account("cost"), account("tokens"), account("requests")
        await reserve(
            store,
            "r1",
            entry(10, on=cost, cap=100),
            entry(1, on=tokens, metric=TOKENS, cap=100),
            entry(1, on=requests, metric=REQUESTS, cap=1),
        )
        granted = await store.extend(
            "r1", unit_amounts={COST: 8, TOKENS: 1}, wanted_units=50, at_least_units=1, now_ms=NOW_MS
        )
        assert granted == 11  # 90 nano-USD at 8 a unit
        assert await store.balances([(each, None) for each in (cost, tokens, requests)]) == (
            Balance(0, 98),
            Balance(0, 12),
            Balance(0, 1),
        )

    async def test_the_tightest_account_decides(self, store: Store) -> None:
        wide, narrow = account("wide"), account("narrow")
        await reserve(store, "r1", entry(1, on=wide, cap=1_000), entry(1, on=narrow, cap=8))
        assert await extend(store, "r1", 100) == 7
        assert await balance(store, wide) == Balance(0, 8)

    async def test_counts_what_others_hold(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        await reserve(store, "r2", entry(860))
        assert await extend(store, "r1", 100) == 40

    async def test_is_due_but_not_swept(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        late_ms = NOW_MS + 10 * TTL_MS
        granted = await store.extend("r1", unit_amounts={COST: 1}, wanted_units=5, at_least_units=1, now_ms=late_ms)
        assert granted == 5

    async def test_what_was_granted_is_charged_at_expiry(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        await extend(store, "r1", 50)
        await expire(store)
        assert await balance(store) == Balance(150, 0)


class TestSlidingWindows:
    BEFORE = replace(account("rate"), starts_at_ms=0)
    CURRENT = replace(account("rate"), starts_at_ms=60_000)
    CARRY = Carry(BEFORE.key, weight=250_000)

    async def _fill_the_bucket_before(self, store: Store) -> None:
        await reserve(store, "spent", entry(60, on=self.BEFORE))
        await settle(store, "spent", 60)
        await reserve(store, "held", entry(40, on=self.BEFORE))

    async def test_a_part_of_the_bucket_before_counts(self, store: Store) -> None:
        await self._fill_the_bucket_before(store)
        refused = await reserve(store, "r1", entry(76, on=self.CURRENT, cap=100, carry=self.CARRY))
        assert refused == Refused((Balance(0, 0, carried=25),))
        granted = await reserve(store, "r2", entry(75, on=self.CURRENT, cap=100, carry=self.CARRY))
        assert granted == Granted((Balance(0, 0, carried=25),))

    async def test_balances_show_it(self, store: Store) -> None:
        await self._fill_the_bucket_before(store)
        await reserve(store, "r1", entry(5, on=self.CURRENT, carry=self.CARRY))
        assert await balance(store, self.CURRENT, self.CARRY) == Balance(0, 5, carried=25)
        assert await balance(store, self.CURRENT) == Balance(0, 5)

    async def test_it_is_rounded_up(self, store: Store) -> None:
        await reserve(store, "r1", entry(1, on=self.BEFORE))
        assert (await balance(store, self.CURRENT, Carry(self.BEFORE.key, weight=1))).carried == 1

    async def test_in_the_last_moment_of_the_current_one_nothing_of_it_counts(self, store: Store) -> None:
        """A millionth of a sliding hour is longer than a clock's millisecond."""
        await self._fill_the_bucket_before(store)
        over = Carry(self.BEFORE.key, weight=0)
        granted = await reserve(store, "r1", entry(100, on=self.CURRENT, cap=100, carry=over))
        assert granted == Granted((ZERO_BALANCE,))
        assert await balance(store, self.CURRENT, over) == Balance(0, 100)

    async def test_an_unknown_bucket_carries_nothing(self, store: Store) -> None:
        assert await balance(store, self.CURRENT, self.CARRY) == ZERO_BALANCE

    async def test_extensions_count_it(self, store: Store) -> None:
        await self._fill_the_bucket_before(store)
        await reserve(store, "r1", entry(5, on=self.CURRENT, cap=100, carry=self.CARRY))
        assert await extend(store, "r1", 100) == 70

    async def test_it_is_never_charged(self, store: Store) -> None:
        await self._fill_the_bucket_before(store)
        await reserve(store, "r1", entry(5, on=self.CURRENT, carry=self.CARRY))
        await settle(store, "r1", 5)
        assert await balance(store, self.CURRENT) == Balance(5, 0)


class TestRenew:
    async def test_sets_a_later_expiry(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        await store.renew(["r1"], expires_at_ms=NOW_MS + 2 * TTL_MS)
        assert (await store.get("r1")).expires_at_ms == NOW_MS + 2 * TTL_MS
        assert (await expire(store, now_ms=NOW_MS + 2 * TTL_MS - 1)).expired == ()
        assert len((await expire(store, now_ms=NOW_MS + 2 * TTL_MS)).expired) == 1

    async def test_never_sets_an_earlier_one(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        await store.renew(["r1"], expires_at_ms=NOW_MS + 1)
        assert (await store.get("r1")).expires_at_ms == NOW_MS + TTL_MS

    async def test_passes_over_what_is_unknown_or_ended(self, store: Store) -> None:
        for name in ("open", "settled", "released"):
            await reserve(store, name, entry(1))
        await settle(store, "settled", 1)
        await release(store, "released")
        before = [await store.get("settled"), await store.get("released")]
        await store.renew(["unknown", "settled", "released", "open"], expires_at_ms=NOW_MS + 2 * TTL_MS)
        assert [await store.get("settled"), await store.get("released")] == before
        assert (await store.get("open")).expires_at_ms == NOW_MS + 2 * TTL_MS

    async def test_takes_none_and_many(self, store: Store) -> None:
        await store.renew([], expires_at_ms=NOW_MS)
        names = [f"r{number}" for number in range(50)]
        for name in names:
            await reserve(store, name, entry(1))
        await store.renew(names, expires_at_ms=NOW_MS + 2 * TTL_MS)
        assert {(await store.get(name)).expires_at_ms for name in names} == {NOW_MS + 2 * TTL_MS}


class TestExpiry:
    async def test_begins_at_the_very_millisecond(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        assert await expire(store, now_ms=NOW_MS + TTL_MS - 1) == Swept((), open_reservations=1)
        assert (await expire(store, now_ms=NOW_MS + TTL_MS)).open_reservations == 0

    async def test_stores_and_answers_the_record_once(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        expected = record("r1").expired(charged_nanos=100)
        assert (await expire(store)).expired == (expected,)
        assert (await store.usage(UsageFilter(), limit=10)).records == (expected,)
        assert (await store.get("r1")).record == expected
        assert (await expire(store)).expired == ()

    async def test_the_record_says_the_most_that_a_cost_entry_is_charged(self, store: Store) -> None:
        await reserve(
            store,
            "r1",
            entry(10, on=account("a")),
            entry(900, on=account("b"), metric=TOKENS),
            entry(30, on=account("c"), on_expiry=20),
        )
        await reserve(store, "r2", entry(1, on=account("d"), metric=REQUESTS))
        expired = (await expire(store)).expired
        assert {each.request_id: each.actual_cost_nanos for each in expired} == {"r1": 20, "r2": 0}
        assert {each.outcome for each in expired} == {Outcome.EXPIRED}

    @pytest.mark.parametrize(("on_expiry", "charged"), [(None, 150), (0, 0), (60, 60), (400, 400)])
    @pytest.mark.parametrize("late", [None, 0, 40, 700])
    async def test_charges_as_told_and_a_late_settle_corrects_it(
        self, store: Store, on_expiry: int | None, charged: int, late: int | None
    ) -> None:
        await reserve(store, "other", entry(1))
        await settle(store, "other", 1)
        await reserve(store, "r1", entry(100, on_expiry=on_expiry))
        await extend(store, "r1", 50)
        await expire(store)
        assert await balance(store) == Balance(1 + charged, 0)
        if late is None:
            await release(store, "r1")
        else:
            await settle(store, "r1", late)
            assert (await store.get("r1")).record.actual_cost_nanos == late
        assert await balance(store) == Balance(1 + (late or 0), 0)
        assert sorted(await usage_ids(store)) == ["other", "r1"]

    async def test_expires_all_that_is_due_and_nothing_else(self, store: Store) -> None:
        for number in range(450):  # more than any store does in one step
            await reserve(store, f"due{number}", entry(1, cap=10_000))
        await reserve(store, "settled", entry(1))
        await settle(store, "settled", 1)
        await reserve(store, "open", entry(1, cap=10_000))
        await store.renew(["open"], expires_at_ms=NOW_MS + 2 * TTL_MS)
        swept = await expire(store)
        assert {each.request_id for each in swept.expired} == {f"due{number}" for number in range(450)}
        assert len(swept.expired) == 450
        assert swept.open_reservations == 1
        assert await balance(store) == Balance(451, 1)

    async def test_of_two_sweeps_at_once_each_reservation_is_in_one(self, store: Store) -> None:
        for number in range(50):
            await reserve(store, f"r{number}", entry(1))
        sweeps = await asyncio.gather(*(expire(store) for _ in range(4)))
        assert sorted(each.request_id for swept in sweeps for each in swept.expired) == sorted(
            f"r{number}" for number in range(50)
        )
        assert await balance(store) == Balance(50, 0)


class TestForgetting:
    async def test_reservations_that_ended_long_ago(self, store: Store) -> None:
        for name in ("settled", "released", "expired", "open"):
            await reserve(store, name, entry(1))
        await store.renew(["open"], expires_at_ms=NOW_MS + 9 * TTL_MS)
        await settle(store, "settled", 1)
        await release(store, "released")
        await expire(store)  # ends `expired` at NOW_MS + TTL_MS
        bounds = {NOW_MS: 4, NOW_MS + 1: 2, NOW_MS + TTL_MS: 2, NOW_MS + TTL_MS + 1: 1}
        for ended_before_ms, kept in bounds.items():
            await store.sweep(now_ms=NOW_MS + TTL_MS, ended_before_ms=ended_before_ms, usage_before_ms=0)
            assert sum([await _is_known(store, name) for name in ("settled", "released", "expired", "open")]) == kept
        assert await _is_known(store, "open")

    async def test_a_forgotten_reservation_is_not_found_and_its_id_is_free(self, store: Store) -> None:
        await reserve(store, "r1", entry(1), fingerprint="f")
        await settle(store, "r1", 1)
        await store.sweep(now_ms=NOW_MS, ended_before_ms=NOW_MS + 1, usage_before_ms=0)
        with pytest.raises(ReservationNotFound):
            await settle(store, "r1", 1)
        assert isinstance(await reserve(store, "r1", entry(1), fingerprint="g"), Granted)
        assert await balance(store) == Balance(1, 1)

    async def test_a_late_settle_is_remembered_from_then_on(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        await expire(store)
        late_ms = NOW_MS + 5 * TTL_MS
        await settle(store, "r1", 40, now_ms=late_ms)
        await store.sweep(now_ms=late_ms, ended_before_ms=late_ms, usage_before_ms=0)
        assert await settle(store, "r1", 40) is State.SETTLED

    async def test_usage_records_that_are_old(self, store: Store) -> None:
        for number in range(450):
            await store.append(record(f"r{number}", at_ms=NOW_MS + number))
        await store.sweep(now_ms=NOW_MS, ended_before_ms=0, usage_before_ms=NOW_MS + 447)
        assert await usage_ids(store) == ["r449", "r448", "r447"]

    async def test_forgotten_usage_does_not_touch_balances_or_reservations(self, store: Store) -> None:
        await reserve(store, "r1", entry(10))
        await settle(store, "r1", 10)
        await store.sweep(now_ms=NOW_MS, ended_before_ms=0, usage_before_ms=NOW_MS + 1)
        assert await usage_ids(store) == []
        assert await balance(store) == Balance(10, 0)
        assert (await store.get("r1")).record.actual_cost_nanos == 10

    async def test_accounts_past_their_time_unless_something_is_held(self, store: Store) -> None:
        old, young, eternal = (
            account("old", keep_until_ms=NOW_MS),
            account("young", keep_until_ms=NOW_MS + 1),
            account("eternal"),
        )
        accounts = [(each, None) for each in (old, young, eternal)]
        await reserve(store, "r1", *(entry(10, on=each) for each, _ in accounts))
        await store.sweep(now_ms=NOW_MS, ended_before_ms=0, usage_before_ms=0)
        assert await store.balances(accounts) == (Balance(0, 10),) * 3
        await settle(store, "r1", 10)
        await store.sweep(now_ms=NOW_MS, ended_before_ms=0, usage_before_ms=0)
        assert await store.balances(accounts) == (ZERO_BALANCE, Balance(10, 0), Balance(10, 0))

    async def test_a_late_settle_corrects_no_forgotten_account(self, store: Store) -> None:
        forgotten, kept = account("forgotten", keep_until_ms=NOW_MS), account("kept")
        await reserve(store, "r1", entry(100, on=forgotten), entry(100, on=kept))
        await expire(store)
        await settle(store, "r1", 30)
        assert await store.balances([(forgotten, None), (kept, None)]) == (ZERO_BALANCE, Balance(30, 0))

    async def test_counts_what_is_still_open(self, store: Store) -> None:
        for number in range(5):
            await reserve(store, f"r{number}", entry(1))
        await settle(store, "r0", 1)
        await release(store, "r1")
        assert (await expire(store, now_ms=NOW_MS)).open_reservations == 3


async def _is_known(store: Store, reservation_id: str) -> bool:
    try:
        await store.get(reservation_id)
    except ReservationNotFound:
        return False
    return True


class TestConcurrency:
    async def test_200_reserves_at_once_never_pass_a_cap(self, store: Store) -> None:
        wide, narrow = account("wide"), account("narrow")
        results = await asyncio.gather(
            *(
                reserve(store, f"r{number}", entry(7, on=wide, cap=10_000), entry(10, on=narrow, cap=105))
                for number in range(200)
            )
        )
        granted = [result for result in results if isinstance(result, Granted)]
        assert len(granted) == 10
        # One after the other: each found what the ones before it hold.
        assert sorted(result.balances[1].reserved for result in granted) == list(range(0, 100, 10))
        assert await store.balances([(wide, None), (narrow, None)]) == (Balance(0, 70), Balance(0, 100))

    async def test_no_call_sees_a_part_of_another(self, store: Store) -> None:
        accounts = [(account(name), None) for name in ("a", "b", "c")]
        seen: list[tuple[Balance, ...]] = []

        async def exchange(number: int) -> None:
            await reserve(store, f"r{number}", *(entry(5, on=each) for each, _ in accounts))
            seen.append(await store.balances(accounts))
            await extend(store, f"r{number}", 2)
            seen.append(await store.balances(accounts))
            await settle(store, f"r{number}", 3)
            seen.append(await store.balances(accounts))

        await asyncio.gather(*(exchange(number) for number in range(60)))
        assert all(first == second == third for first, second, third in seen)
        assert await store.balances(accounts) == (Balance(180, 0),) * 3

    async def test_reserves_and_extensions_share_a_cap(self, store: Store) -> None:
        for number in range(10):
            await reserve(store, f"open{number}", entry(10))
        await asyncio.gather(
            *(extend(store, f"open{number}", 60) for number in range(10)),
            *(reserve(store, f"new{number}", entry(35)) for number in range(20)),
        )
        found = await balance(store)
        assert 1_000 - 35 < found.used <= 1_000

    async def test_of_many_equal_reserves_one_is_granted(self, store: Store) -> None:
        results = await asyncio.gather(*(reserve(store, "r1", entry(10), fingerprint="f") for _ in range(50)))
        assert sum(isinstance(result, Granted) for result in results) == 1
        assert sum(isinstance(result, Exists) for result in results) == 49
        assert await balance(store) == Balance(0, 10)

    async def test_of_settles_and_releases_at_once_one_counts(self, store: Store) -> None:
        await reserve(store, "r1", entry(100))
        calls = [settle(store, "r1", 40) if number % 2 else release(store, "r1") for number in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers.count(State.RESERVED) == 1
        assert sum(isinstance(answer, ReservationEnded) for answer in answers) == 10
        assert await balance(store) in (Balance(40, 0), ZERO_BALANCE)
        assert len(await usage_ids(store)) == 1


class TestBalances:
    async def test_unknown_accounts_are_zero(self, store: Store) -> None:
        assert await store.balances([]) == ()
        assert await store.balances([(account("unknown"), None)] * 2) == (ZERO_BALANCE,) * 2

    async def test_a_refusal_makes_no_account(self, store: Store) -> None:
        await reserve(store, "r1", entry(5, cap=1))
        assert await balance(store) == ZERO_BALANCE

    async def test_takes_very_many(self, store: Store) -> None:
        await reserve(store, "r1", entry(5))
        found = await store.balances([(account(), None)] * 2_000)
        assert found == (Balance(0, 5),) * 2_000


class TestUsage:
    async def _append(self, store: Store, records: Sequence[Record]) -> None:
        for each in records:
            await store.append(each)

    async def test_lists_the_newest_first_and_then_by_id(self, store: Store) -> None:
        await self._append(
            store, [record("b", at_ms=5), record("z", at_ms=3), record("c", at_ms=5), record("a", at_ms=9)]
        )
        assert await usage_ids(store) == ["a", "c", "b", "z"]

    async def test_append_leaves_a_record_of_the_same_id(self, store: Store) -> None:
        await self._append(store, [record("r1", at_ms=5), record("r2", at_ms=6), record("r1", at_ms=7)])
        page = await store.usage(UsageFilter(), limit=10)
        assert page == UsagePage((record("r2", at_ms=6), record("r1", at_ms=5)), next_cursor="")

    async def test_a_refusal_that_comes_late_leaves_the_record_of_the_repetition_that_was_granted(
        self, store: Store
    ) -> None:
        await reserve(store, "r1", entry(5))
        await settle(store, "r1", 3)
        await store.append(record("r1", outcome=Outcome.DENIED)._replace(decision="deny"))
        assert (await store.usage(UsageFilter(), limit=2)).records == (record("r1", actual_cost_nanos=3),)

    async def test_open_reservations_are_not_listed(self, store: Store) -> None:
        await reserve(store, "r1", entry(1))
        assert await usage_ids(store) == []

    async def test_refusals_are_listed_with_the_rest(self, store: Store) -> None:
        denied = record("r1", outcome=Outcome.DENIED)._replace(decision="deny", denied_by=("budget",))
        await store.append(denied)
        assert (await store.usage(UsageFilter(), limit=1)).records == (denied,)

    @pytest.mark.parametrize(
        ("from_ms", "until_ms", "expected"),
        [
            (None, None, [4, 3, 2, 1]),
            (2, None, [4, 3, 2]),
            (None, 3, [2, 1]),
            (2, 4, [3, 2]),
            (3, 3, []),
            (5, None, []),
        ],
    )
    async def test_from_is_inclusive_and_until_is_not(
        self, store: Store, from_ms: int | None, until_ms: int | None, expected: list[int]
    ) -> None:
        await self._append(store, [record(f"r{at_ms}", at_ms=at_ms) for at_ms in range(1, 5)])
        found = await usage_ids(store, UsageFilter(from_ms=from_ms, until_ms=until_ms))
        assert found == [f"r{at_ms}" for at_ms in expected]

    async def test_every_wanted_attribute_has_to_be_equal(self, store: Store) -> None:
        await self._append(
            store,
            [
                record("1", attributes={"project": "acme", "user": "ann"}),
                record("2", attributes={"project": "acme", "user": "bob"}),
                record("3", attributes={"project": "acme"}),
                record("4", attributes={"project": "acme2", "user": "ann"}),
                record("5", attributes={}),
            ],
        )
        assert await usage_ids(store, UsageFilter({"project": "acme"})) == ["3", "2", "1"]
        assert await usage_ids(store, UsageFilter({"project": "acme", "user": "ann"})) == ["1"]
        assert await usage_ids(store, UsageFilter({"user": ""})) == []
        assert await usage_ids(store, UsageFilter({"project": "ac"})) == []
        assert await usage_ids(store, UsageFilter({"proj": "acme"})) == []
        assert len(await usage_ids(store)) == 5

    @pytest.mark.parametrize("value", ['x","project":"acme', 'x"\n"project":"acme', "acme%", '"', "\\", "\n"])
    async def test_a_value_cannot_pass_for_another_attribute(self, store: Store, value: str) -> None:
        await store.append(record("r1", attributes={"user": value, "zone": "z"}))
        assert await usage_ids(store, UsageFilter({"project": "acme"})) == []
        assert await usage_ids(store, UsageFilter({"user": value, "zone": "z"})) == ["r1"]

    async def test_a_replaced_record_is_found_by_its_new_attributes_only(self, store: Store) -> None:
        await store.append(record("r1", attributes={"user": "ann"}))
        await reserve(store, "r1", entry(5))
        await store.settle("r1", amounts={}, record=record("r1", attributes={"user": "bob"}), now_ms=NOW_MS)
        assert await usage_ids(store, UsageFilter({"user": "ann"})) == []
        assert await usage_ids(store, UsageFilter({"user": "bob"})) == ["r1"]

    async def test_pages_are_stable_while_records_arrive(self, store: Store) -> None:
        # Three a millisecond, so that pages end inside one.
        await self._append(store, [record(f"r{number:02}", at_ms=100 + number // 3) for number in range(20)])
        pages = [await store.usage(UsageFilter(), limit=4)]
        while pages[-1].next_cursor:
            await store.append(record(f"new{len(pages)}", at_ms=1_000 + len(pages)))
            pages.append(await store.usage(UsageFilter(), limit=4, cursor=pages[-1].next_cursor))
        assert [len(page.records) for page in pages] == [4] * 5
        found = [each.request_id for page in pages for each in page.records]
        assert found == [f"r{number:02}" for number in reversed(range(20))]

    async def test_pages_of_a_filter(self, store: Store) -> None:
        await self._append(
            store,
            [record(f"r{number:02}", at_ms=number, attributes={"parity": str(number % 2)}) for number in range(20)],
        )
        wanted = UsageFilter({"parity": "1"}, from_ms=3, until_ms=18)
        first = await store.usage(wanted, limit=5)
        second = await store.usage(wanted, limit=5, cursor=first.next_cursor)
        found = [each.at_ms for each in (*first.records, *second.records)]
        assert found == [17, 15, 13, 11, 9, 7, 5, 3]
        assert (bool(first.next_cursor), second.next_cursor) == (True, "")

    async def test_a_last_page_that_is_full_has_no_cursor(self, store: Store) -> None:
        await self._append(store, [record(f"r{number}") for number in range(4)])
        assert (await store.usage(UsageFilter(), limit=4)).next_cursor == ""
        assert (await store.usage(UsageFilter(), limit=3)).next_cursor != ""

    async def test_a_page_whose_rest_was_forgotten_is_empty(self, store: Store) -> None:
        await self._append(store, [record(f"r{number}") for number in range(4)])
        cursor = (await store.usage(UsageFilter(), limit=2)).next_cursor
        await store.sweep(now_ms=NOW_MS, ended_before_ms=0, usage_before_ms=NOW_MS + 1)
        assert await store.usage(UsageFilter(), limit=2, cursor=cursor) == UsagePage((), next_cursor="")

    @pytest.mark.parametrize(
        "cursor",
        ["x", "!", "WzFd", "bnVsbA==", "WyJhIiwxXQ==", "Wy0xLCJhIl0=", "WzkyMjMzNzIwMzY4NTQ3NzU4MDgsImEiXQ==", "☃"],
    )
    async def test_another_cursor_is_a_value_error(self, store: Store, cursor: str) -> None:
        await store.append(record("r1"))
        with pytest.raises(ValueError, match="is not a cursor"):
            await store.usage(UsageFilter(), limit=1, cursor=cursor)


class TestClosed:
    CALLS: tuple[Callable[[Store], Awaitable[object]], ...] = (
        lambda store: reserve(store, "r2", entry(1)),
        lambda store: extend(store, "r1", 1),
        lambda store: settle(store, "r1", 1),
        lambda store: release(store, "r1"),
        lambda store: store.renew(["r1"], expires_at_ms=NOW_MS),
        expire,
        lambda store: store.get("r1"),
        balance,
        lambda store: store.append(record("r2")),
        usage_ids,
        lambda store: store.ping(),
    )

    async def test_an_open_store_answers_a_ping(self, store: Store) -> None:
        await store.ping()

    async def test_every_later_call_is_refused(self, store: Store) -> None:
        await reserve(store, "r1", entry(1))
        await store.close()
        for call in self.CALLS:
            with pytest.raises(StoreUnavailable):
                await call(store)

    async def test_closing_twice_is_harmless(self, store: Store) -> None:
        await store.close()
        await store.close()

    async def test_what_was_called_before_is_carried_out(self, store: Store) -> None:
        calls = [asyncio.ensure_future(reserve(store, f"r{number}", entry(1))) for number in range(50)]
        await asyncio.sleep(0)  # every call is made
        await store.close()
        assert all(isinstance(result, Granted) for result in await asyncio.gather(*calls))

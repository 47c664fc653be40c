"""`failure_mode: degraded`: while the store is away a process spends what it has leased, and not more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.core.errors import StoreError, StoreUnavailable
from policyd.core.ledger import Account, Balance, Entry
from policyd.core.policy import FailureMode, Metric
from policyd.core.reservation import State
from policyd.stores.base import Granted
from policyd.stores.outage.leases import IDLE_MS, Leases, may_be_leased
from policyd.stores.outage.store import JournalledStore
from tests.builders import policy
from tests.stores.building import NOW_MS, TTL_MS, account, entry
from tests.stores.outage.rig import AWAY, Rig

CAP = 1_000
PERCENT = 10
LEASED = CAP * PERCENT // 100


@pytest.fixture
def rig(rig: Rig) -> Rig:
    rig.policy = policy(failure_mode=FailureMode.DEGRADED, lease_percent=PERCENT)
    return rig


async def leasing(rig: Rig) -> JournalledStore:
    """A process that has used the budget, and leased of it."""
    process = rig.process()
    await rig.reserve(process, "warm", amount=1)
    await rig.release(process, "warm")
    await process.mend()
    assert await rig.balance() == Balance(0, LEASED)
    return process


async def taking(rig: Rig) -> JournalledStore:
    """The same, which has let request `r1` pass for 10 of its lease while the store was away."""
    process = await leasing(rig)
    rig.store.error = AWAY
    await rig.reserve(process, "r1", amount=10)
    rig.store.error = None
    await process.mend()
    return process


class TestWhichBudgets:
    MONTH = entry(1, on=Account("budget", "", NOW_MS, NOW_MS + 30 * 86_400_000, None))
    MINUTE = entry(1, on=Account("rate", "", NOW_MS, NOW_MS + 60_000, None))

    @pytest.mark.parametrize(
        ("of", "leased"),
        [
            (entry(1), True),
            (MONTH, True),
            (MINUTE, False),
            (entry(1, enforce=False), False),
            (entry(1, metric=Metric.CONCURRENT_REQUESTS), False),
            (entry(1, metric=Metric.TOKENS), True),
        ],
    )
    def test_those_of_a_day_or_longer(self, of: Entry, leased: bool) -> None:
        assert may_be_leased(of) is leased

    def test_one_whose_window_is_over_is_leased_no_longer(self) -> None:
        leases, ends_at_ms = Leases(), NOW_MS + 30 * 86_400_000
        leases.note([self.MONTH], now_ms=ends_at_ms - 1)
        (lease,) = leases.wanted(share_percent=PERCENT, now_ms=ends_at_ms - 1)
        assert not leases.wanted(share_percent=PERCENT, now_ms=ends_at_ms)
        leases.add(lease)
        assert not leases.to_end(now_ms=ends_at_ms - 1)
        assert leases.to_end(now_ms=ends_at_ms) == [lease]

    def test_nothing_is_taken_of_one_that_ends(self) -> None:
        leases = Leases()
        leases.note([self.MONTH], now_ms=NOW_MS)
        (lease,) = leases.wanted(share_percent=PERCENT, now_ms=NOW_MS)
        leases.add(lease)
        assert leases.has_room([self.MONTH])
        lease.is_ending = True
        assert not leases.has_room([self.MONTH])


class TestWhileTheStoreIsThere:
    async def test_a_lease_lives_as_long_as_its_budget_is_used(self, rig: Rig) -> None:
        process = await leasing(rig)
        for _ in range(10):
            rig.now_ms += TTL_MS // 2
            await rig.reserve(process, f"r{rig.now_ms}", amount=1)
            await rig.release(process, f"r{rig.now_ms}")
            await process.mend()
            await rig.sweep()
            assert await rig.balance() == Balance(0, LEASED)
        rig.now_ms += IDLE_MS
        await process.mend()
        assert await rig.balance() == Balance(0, 0)
        assert not process.status.waiting_bytes

    async def test_it_is_returned_at_the_end(self, rig: Rig) -> None:
        process = await leasing(rig)
        await process.close()
        assert await rig.balance() == Balance(0, 0)
        assert not rig.journals

    async def test_it_is_returned_when_the_mode_is_another(self, rig: Rig) -> None:
        process = await leasing(rig)
        rig.use(FailureMode.CLOSED)
        await process.mend()
        await process.mend()
        assert await rig.balance() == Balance(0, 0)
        assert not rig.journals

    async def test_what_a_process_that_died_had_leased_is_returned_by_the_next(self, rig: Rig) -> None:
        process = await leasing(rig)
        process._journal.close()
        await rig.process().mend()
        assert await rig.balance() == Balance(0, 0)
        assert not rig.journals

    async def test_one_that_may_have_been_made_is_returned(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        process = rig.process()
        await rig.reserve(process, "r1", amount=1)
        await rig.release(process, "r1")
        make = rig.store.inner.reserve

        async def unheard(*arguments: Any, **keywords: Any) -> None:
            await make(*arguments, **keywords)
            raise StoreError("who knows")

        with monkeypatch.context() as patch:
            patch.setattr(rig.store.inner, "reserve", unheard)
            await process.mend()
        assert await rig.balance() == Balance(0, LEASED)
        rig.use(FailureMode.CLOSED)
        await process.mend()
        assert await rig.balance() == Balance(0, 0)

    async def test_a_budget_that_is_used_up_is_not_leased(self, rig: Rig) -> None:
        process = rig.process()
        await rig.reserve(process, "r1", amount=CAP - LEASED + 1)
        await process.mend()
        assert await rig.balance() == Balance(0, CAP - LEASED + 1)
        assert not rig.journals


class TestWhileItIsAway:
    async def test_only_what_was_leased_is_spent(self, rig: Rig) -> None:
        process = await leasing(rig)
        rig.store.error = AWAY
        for number in range(10):
            assert isinstance(await rig.reserve(process, f"r{number}", amount=LEASED // 10), Granted)
        with pytest.raises(StoreUnavailable):
            await rig.reserve(process, "one too many", amount=1)
        for number in range(10):
            assert await rig.settle(process, f"r{number}", 3) is State.RESERVED
        assert isinstance(await rig.reserve(process, "again", amount=LEASED - 30), Granted)
        await rig.release(process, "again")
        rig.store.error = None
        await process.mend()
        assert (await rig.balance()).spent == 30
        costs = await rig.costs()
        assert {name: costs[name] for name in costs if name.startswith("r")} == {f"r{n}": 3 for n in range(10)}

    async def test_the_end_of_one_request_frees_its_own_part_only(self, rig: Rig) -> None:
        process = await leasing(rig)
        rig.store.error = AWAY
        await rig.reserve(process, "small", amount=10)
        await rig.reserve(process, "large", amount=LEASED - 10)
        await rig.settle(process, "small", 4)
        with pytest.raises(StoreUnavailable):
            await rig.reserve(process, "too much", amount=7)
        assert isinstance(await rig.reserve(process, "fits", amount=6), Granted)

    async def test_a_budget_that_was_not_leased_refuses(self, rig: Rig) -> None:
        process = await leasing(rig)
        rig.store.error = AWAY
        with pytest.raises(StoreUnavailable):
            await rig.reserve(process, "r1", entry(1, on=account(scope="project=other")))
        with pytest.raises(StoreUnavailable):
            await rig.reserve(process, "r2", entry(1), entry(1, on=account(scope="project=other")))
        assert await rig.balance() == Balance(0, LEASED)

    async def test_a_rate_refuses_nothing_and_is_charged_afterwards(self, rig: Rig) -> None:
        process, minute = await leasing(rig), TestWhichBudgets.MINUTE
        rig.store.error = AWAY
        await rig.reserve(process, "r1", entry(10), minute)
        await rig.settle(process, "r1", 7)
        rig.store.error = None
        await process.mend()
        assert await rig.store.inner.balances([(minute.account, None)]) == (Balance(7, 0),)
        assert (await rig.balance()).spent == 7

    async def test_one_that_may_be_held_is_refused(self, rig: Rig) -> None:
        """It would be charged by its hold, and by the lease too."""
        process = await leasing(rig)
        rig.store.error, rig.store.after = StoreError("who knows"), True
        with pytest.raises(StoreError, match="who knows"):
            await rig.reserve(process, "r1")

    async def test_a_stream_that_outgrows_its_part_takes_more_of_the_lease(self, rig: Rig) -> None:
        process = await leasing(rig)
        rig.store.error = AWAY
        await rig.reserve(process, "r1", amount=10)

        async def extend(wanted: int) -> int:
            return await process.extend(
                "r1", unit_amounts={Metric.COST: 2}, wanted_units=wanted, at_least_units=5, now_ms=NOW_MS
            )

        assert await extend(10) == 10
        assert await extend(100) == (LEASED - 30) // 2
        assert await extend(5) == 0
        await rig.settle(process, "r1", LEASED)
        rig.store.error = None
        await process.mend()
        assert (await rig.balance()).spent == LEASED

    async def test_an_exchange_that_outlasts_the_outage_is_charged_once(self, rig: Rig) -> None:
        process = await taking(rig)
        assert await rig.balance() == Balance(0, LEASED)
        await rig.settle(process, "r1", 7)
        await process.mend()
        assert (await rig.balance()).spent == 7
        assert (await rig.costs())["r1"] == 7

    @pytest.mark.parametrize(("ending", "cost"), [("settled", 7), ("released", 0), ("expired", 10)])
    async def test_one_that_ended_elsewhere_gives_back_what_it_had_taken(
        self, rig: Rig, ending: str, cost: int
    ) -> None:
        """As an exchange of which an access log tells, or nobody does."""
        process = await taking(rig)
        match ending:
            case "settled":
                await rig.settle(rig.process(), "r1", 7)
            case "released":
                await rig.release(rig.process(), "r1")
            case _:
                pass
        await process.mend()
        assert await rig.balance() == Balance(0, LEASED)
        rig.now_ms += 2 * TTL_MS
        await rig.sweep()  # the lease itself has expired too; its end corrects that
        rig.use(FailureMode.CLOSED)
        for _ in range(3):
            await process.mend()
        assert await rig.balance() == Balance(cost, 0)
        assert (await rig.costs())["r1"] == cost
        assert not rig.journals

    async def test_one_that_is_under_way_keeps_what_it_has_taken(self, rig: Rig) -> None:
        process = await leasing(rig)
        rig.store.error = AWAY
        await rig.reserve(process, "r1", amount=10)
        rig.store.error = None
        for _ in range(5):
            rig.now_ms += TTL_MS // 2
            await process.renew(["r1"], expires_at_ms=rig.now_ms + TTL_MS)
            await process.mend()
            await rig.sweep()
        await rig.settle(process, "r1", 7)
        await process.mend()
        assert (await rig.balance()).spent == 7

    async def test_a_lease_that_expired_meanwhile_is_corrected(self, rig: Rig) -> None:
        process = await leasing(rig)
        rig.store.error = AWAY
        await rig.reserve(process, "r1", amount=10)
        await rig.settle(process, "r1", 7)
        rig.now_ms += 2 * TTL_MS
        await rig.sweep()  # by another replica
        assert await rig.balance() == Balance(LEASED, 0)
        rig.store.error = None
        await process.mend()
        assert (await rig.balance()).spent == 7

    @pytest.mark.parametrize("calls", range(14))
    async def test_a_process_that_died_is_charged_what_it_spent(self, rig: Rig, calls: int) -> None:
        """And so it is where the one that drains dies too."""
        process = await leasing(rig)
        rig.store.error = AWAY
        await rig.reserve(process, "ended", amount=10)
        await rig.settle(process, "ended", 7)
        await rig.reserve(process, "open", amount=20)
        process._journal.close()
        rig.store.error, rig.store.calls_left = None, calls
        second = rig.process()
        await second.mend()
        second._journal.close()
        rig.store.calls_left = None
        third = rig.process()
        await third.mend()
        assert await rig.balance() == Balance(0, LEASED)
        rig.now_ms += TTL_MS
        await rig.sweep()
        await third.mend()
        assert await rig.balance() == Balance(7 + 20, 0)
        costs = await rig.costs()
        assert (costs["ended"], costs["open"]) == (7, 20)
        assert not rig.journals

    @pytest.mark.parametrize("is_adopted", [False, True])
    @pytest.mark.parametrize(("ending", "cost"), [("settled", 7), ("released", 0), ("expired", 10)])
    async def test_one_that_outlives_its_process_is_charged_what_it_cost(
        self, rig: Rig, ending: str, cost: int, is_adopted: bool
    ) -> None:
        """An access log tells of it, before or after the next process has found the journal; or nobody does."""
        process = await taking(rig)
        process._journal.close()
        following, other = rig.process(), rig.process()
        if is_adopted:
            await following.mend()
            assert await rig.balance() == Balance(0, LEASED)
        match ending:
            case "settled":
                await rig.settle(other, "r1", 7)
            case "released":
                await rig.release(other, "r1")
            case _:
                rig.now_ms += TTL_MS
                await rig.sweep()
        rig.now_ms += TTL_MS // 4
        await following.mend()
        assert await rig.balance() == Balance(cost, 0)
        assert (await rig.costs())["r1"] == cost
        assert not rig.journals

    @pytest.mark.parametrize("calls", range(8))
    async def test_one_that_expires_is_charged_once_whoever_dies_then(self, rig: Rig, calls: int) -> None:
        process = await taking(rig)
        process._journal.close()
        rig.now_ms += TTL_MS
        await rig.sweep()
        rig.store.calls_left = calls
        second = rig.process()
        await second.mend()
        second._journal.close()
        rig.store.calls_left = None
        await rig.process().mend()
        assert await rig.balance() == Balance(10, 0)
        assert (await rig.costs())["r1"] == 10
        assert not rig.journals

    async def test_a_lease_lives_as_long_as_a_request_that_outlives_its_process(self, rig: Rig) -> None:
        process = await taking(rig)
        process._journal.close()
        following = rig.process()
        for _ in range(20):
            await rig.store.inner.renew(["r1"], expires_at_ms=rig.now_ms + TTL_MS)  # as a long one of the lean profile
            await following.mend()
            await rig.sweep()
            assert await rig.balance() == Balance(0, LEASED)
            rig.now_ms += TTL_MS // 3
        await rig.settle(rig.process(), "r1", 7)
        await following.mend()
        assert await rig.balance() == Balance(7, 0)

    async def test_one_whose_hold_was_put_aside_does_not_hold_up_the_next_process(self, rig: Rig) -> None:
        process = await leasing(rig)
        rig.store.error = AWAY
        await rig.reserve(process, "r1", amount=10)
        process._journal.close()
        rig.store.error = TypeError("a defect")
        second = rig.process()
        await second.mend()
        assert second.status.unapplied == 1
        rig.store.error = None
        await second.mend()
        assert await rig.balance() == Balance(10, 0)
        assert not rig.journals


@dataclass
class Pair:
    """Two processes on one budget, each with its own way to the store."""

    rigs: Sequence[Rig]
    processes: list[JournalledStore]
    under_way: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))
    """What the requests that each has let through hold."""
    cost: int = 0
    held_by_dead: int = 0

    @classmethod
    def of(cls, rig: Rig) -> Pair:
        rigs = [rig, replace(rig, store=replace(rig.store))]
        return cls(rigs, [each.process() for each in rigs])

    async def do(self, step: str, who: int, amount: int, *, name: str) -> None:
        rig, process, under_way = self.rigs[who], self.processes[who], self.under_way[who]
        self.wait(1_000)
        match step:
            case "reserve":
                with suppress(StoreUnavailable):
                    if isinstance(await rig.reserve(process, name, amount=amount), Granted):
                        under_way[name] = amount
            case "settle" if under_way:
                await self.settle(who, *under_way.popitem())
            case "go away":
                rig.store.error = AWAY
            case "come back":
                rig.store.error = None
            case "mend":
                await process.mend()
            case "sweep":
                await rig.sweep()
            case "die":
                process._journal.close()
                self.processes[who] = rig.process()
                self.held_by_dead += sum(under_way.values())
                under_way.clear()
            case "wait":
                self.wait(TTL_MS)
            case _:
                pass

    async def settle(self, who: int, name: str, cost: int) -> None:
        await self.rigs[who].settle(self.processes[who], name, cost)
        self.cost += cost

    def wait(self, ms: int) -> None:
        for rig in self.rigs:
            rig.now_ms += ms

    async def end(self) -> None:
        """The store is back, all that is under way ends, and nothing is leased any more."""
        for who, rig in enumerate(self.rigs):
            rig.store.error = None
            rig.use(FailureMode.CLOSED)
            while self.under_way[who]:
                await self.settle(who, *self.under_way[who].popitem())
        for process in (*self.processes, *self.processes):
            await process.mend()
        self.wait(2 * TTL_MS)
        await self.rigs[0].sweep()
        for process in self.processes:  # what was open in a process that died has expired now
            await process.mend()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["reserve", "reserve", "settle", "go away", "go away", "come back", "mend", "sweep", "die", "wait"]
        ),
        st.integers(0, 1),
        st.sampled_from([30, 90, 300]),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
async def test_never_overspent_and_all_is_charged(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """Whichever of two processes cannot reach the store, and whichever dies."""
    rig = Rig(tmp_path_factory.mktemp("journal"))
    rig.policy = policy(failure_mode=FailureMode.DEGRADED, lease_percent=30)
    pair = Pair.of(rig)
    for who in (0, 1):  # both have used the budget, and lease of it
        for step in ("reserve", "settle", "mend"):
            await pair.do(step, who, 1, name=f"warm{who}")
    for number, (step, who, amount) in enumerate(steps):
        await pair.do(step, who, amount, name=f"r{number}")
        assert pair.cost + pair.held_by_dead + sum(sum(each.values()) for each in pair.under_way) <= CAP
        assert (await rig.balance()).used <= CAP
    await pair.end()
    assert await rig.balance() == Balance(pair.cost + pair.held_by_dead, 0)
    assert not rig.journals

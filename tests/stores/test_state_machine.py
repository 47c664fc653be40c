"""The same random steps on every store, compared answer by answer with the memory model."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from policyd.core.errors import PolicydError
from policyd.core.events import OperatorEvent
from policyd.core.ledger import Carry, Entry
from policyd.core.policy import Metric
from policyd.core.reservation import State
from policyd.core.rules import RuleAction
from policyd.stores.base import Granted, Reservation, StateChanges, StateItem, Store, Swept, UsageFilter
from policyd.stores.url import open_store
from tests.stores.building import account, record
from tests.stores.conftest import STORES, StoreUrl

ETERNAL = [account("cost"), account("tokens", "user=ann"), account("rate", "user=ann")]
"""Accounts that are never forgotten: what is charged to them is still there at the end. A cluster has them in different
places; only a bucket and the one after it are of one scope, and so together."""

COST, TOKENS, RATE = ETERNAL
MINUTE = account("minute", scope="", keep_until_ms=30)
METRICS = {"cost": Metric.COST, "tokens": Metric.TOKENS, "rate": Metric.REQUESTS, "minute": Metric.COST}
CARRIES = {"rate": Carry(TOKENS.key, weight=333_333)}
TOGETHER = [[COST, TOKENS, MINUTE], [COST, RATE, MINUTE]]
"""Nothing is held on a bucket and on the one after it at once."""

IDS = st.sampled_from(["a", "b", "c", "d", "e"])
AMOUNTS = st.integers(0, 60)
SOURCES = st.sampled_from(["rule:loops", "anomaly:rate"])
PROJECTS = st.sampled_from(["acme", "zeta"])


@st.composite
def entry_lists(draw: st.DrawFn) -> list[Entry]:
    return [
        Entry(
            account=chosen,
            metric=METRICS[chosen.limit],
            amount=draw(AMOUNTS),
            cap=draw(st.sampled_from([0, 50, 100, 200])),
            enforce=draw(st.booleans()),
            on_expiry=draw(st.none() | AMOUNTS),
            carry=CARRIES.get(chosen.limit),
        )
        for chosen in draw(st.lists(st.sampled_from(draw(st.sampled_from(TOGETHER))), unique=True))
    ]


STATE_ITEMS = st.builds(
    StateItem, kind=st.sampled_from(["block", "override"]), key=st.sampled_from("xy"), value=st.sampled_from(["", "1"])
)


def expiry_charges(reservation: Reservation) -> Counter[str]:
    return Counter(
        {each.account.key: each.amount if each.on_expiry is None else each.on_expiry for each in reservation.entries}
    )


@pytest.fixture(autouse=True)
def stores_to_compare(store_url: StoreUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    Stores.store_url = staticmethod(store_url)
    monkeypatch.setattr("policyd.core.events.KEPT_MS", 40)  # so that sweeps forget events


class Stores(RuleBasedStateMachine):
    """The stores side by side, and what is known to be charged."""

    store_url: ClassVar[StoreUrl]
    kinds: ClassVar[tuple[str, ...]]
    """The stores that are compared, the memory store among them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.stores = {kind: open_store(Stores.store_url(kind, Path(self.folder.name))) for kind in self.kinds}
        self.now_ms = 0
        self.charged: dict[str, Counter[str]] = {}  # by reservation, what it has charged to each account
        self.events: dict[str, int] = {}  # the ids of those that were emitted, and until when each is kept
        self.pending: set[str] = set()  # those that nobody has acknowledged
        self.forgotten: Counter[str] = Counter()  # what forgotten reservations have charged

    def teardown(self) -> None:
        for store in self.stores.values():
            self.loop.run_until_complete(store.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    def on_all(self, call: Callable[[Store], Awaitable[object]]) -> object:
        """What every store answers, which has to be the same; an error counts as an answer."""
        answers = {kind: self.loop.run_until_complete(self._answer(store, call)) for kind, store in self.stores.items()}
        expected = answers["memory"]
        for kind, answer in answers.items():
            assert answer == expected, f"{kind} answers {answer}, memory {expected}"
        return expected

    @staticmethod
    async def _answer(store: Store, call: Callable[[Store], Awaitable[object]]) -> object:
        try:
            answer = await call(store)
        except PolicydError as error:
            return type(error), str(error)
        if isinstance(answer, Swept):  # in no promised order
            return Swept(tuple(sorted(answer.expired, key=lambda each: each.request_id)), answer.open_reservations)
        return answer

    def reservation(self, reservation_id: str) -> Reservation | None:
        found = self.on_all(lambda store: store.get(reservation_id))
        return found if isinstance(found, Reservation) else None

    def reservations(self) -> list[Reservation]:
        return [found for each in "abcde" if (found := self.reservation(each)) is not None]

    def check_caps(self, entries: list[Entry], added: dict[str, int]) -> None:
        balances = self.loop.run_until_complete(
            self.stores["memory"].balances([(each.account, each.carry) for each in entries])
        )
        for each, balance in zip(entries, balances, strict=True):
            if each.enforce and added[each.account.key]:
                assert balance.used <= each.cap

    @rule(
        reservation_id=IDS,
        entries=entry_lists(),
        fingerprint=st.sampled_from(["", "f"]),
        ttl_ms=st.integers(1, 40),
        project=PROJECTS,
        behind=st.none() | st.sampled_from([0, 0, 0, 1]),
    )
    def reserve(
        self,
        reservation_id: str,
        entries: list[Entry],
        fingerprint: str,
        ttl_ms: int,
        project: str,
        behind: int | None,
    ) -> None:
        known = None if behind is None else self.state_revision() - behind
        answer = self.on_all(
            lambda store: store.reserve(
                reservation_id,
                entries=entries,
                record=record(reservation_id, at_ms=self.now_ms, attributes={"project": project}),
                now_ms=self.now_ms,
                expires_at_ms=self.now_ms + ttl_ms,
                fingerprint=fingerprint,
                state_revision=known,
            )
        )
        if isinstance(answer, Granted):
            assert not behind
            self.charged[reservation_id] = Counter()
            self.check_caps(entries, {each.account.key: each.amount for each in entries})

    @rule(
        reservation_id=IDS,
        unit_amounts=st.dictionaries(st.sampled_from(Metric), st.integers(0, 9)),
        wanted_units=st.integers(0, 20),
        at_least_units=st.integers(0, 10),
    )
    def extend(
        self, reservation_id: str, unit_amounts: dict[Metric, int], wanted_units: int, at_least_units: int
    ) -> None:
        units = self.on_all(
            lambda store: store.extend(
                reservation_id,
                unit_amounts=unit_amounts,
                wanted_units=wanted_units,
                at_least_units=at_least_units,
                now_ms=self.now_ms,
            )
        )
        if isinstance(units, int):
            assert units in (0, wanted_units) or at_least_units <= units < wanted_units
            reservation = self.reservation(reservation_id)
            assert reservation is not None
            added = {each.account.key: units * unit_amounts.get(each.metric, 0) for each in reservation.entries}
            self.check_caps(list(reservation.entries), added)

    @rule(reservation_id=IDS, amounts=st.dictionaries(st.sampled_from(Metric), AMOUNTS), project=PROJECTS)
    def settle(self, reservation_id: str, amounts: dict[Metric, int], project: str) -> None:
        # The record may be of another moment and project than the pending one.
        ended = record(reservation_id, at_ms=self.now_ms, attributes={"project": project})
        found = self.on_all(
            lambda store: store.settle(reservation_id, amounts=amounts, record=ended, now_ms=self.now_ms)
        )
        if found in (State.RESERVED, State.EXPIRED):
            reservation = self.reservation(reservation_id)
            assert reservation is not None
            self.charged[reservation_id] = Counter(
                {each.account.key: amounts.get(each.metric, 0) for each in reservation.entries}
            )

    @rule(reservation_id=IDS)
    def release(self, reservation_id: str) -> None:
        ended = record(reservation_id, at_ms=self.now_ms)
        found = self.on_all(lambda store: store.release(reservation_id, record=ended, now_ms=self.now_ms))
        if found in (State.RESERVED, State.EXPIRED):
            self.charged[reservation_id] = Counter()

    @rule(reservation_ids=st.lists(IDS), ttl_ms=st.integers(0, 40))
    def renew(self, reservation_ids: list[str], ttl_ms: int) -> None:
        self.on_all(lambda store: store.renew(reservation_ids, expires_at_ms=self.now_ms + ttl_ms))

    @rule(passed_ms=st.integers(0, 30), ended_kept_ms=st.integers(0, 100), usage_kept_ms=st.integers(0, 100))
    def sweep(self, passed_ms: int, ended_kept_ms: int, usage_kept_ms: int) -> None:
        self.now_ms += passed_ms
        due = [
            each for each in self.reservations() if each.state is State.RESERVED and each.expires_at_ms <= self.now_ms
        ]
        swept = self.on_all(
            lambda store: store.sweep(
                now_ms=self.now_ms,
                ended_before_ms=self.now_ms - ended_kept_ms,
                usage_before_ms=self.now_ms - usage_kept_ms,
            )
        )
        assert isinstance(swept, Swept)
        assert [each.request_id for each in swept.expired] == sorted(each.id for each in due)
        for each in due:
            self.charged[each.id] = expiry_charges(each)
        known = {each.id for each in self.reservations()}
        self.events = {each: until_ms for each, until_ms in self.events.items() if until_ms > self.now_ms}
        self.pending &= self.events.keys()
        for reservation_id in self.charged.keys() - known:
            self.forgotten += self.charged.pop(reservation_id)

    @rule(request_id=st.sampled_from(["a", "x", "y"]), project=PROJECTS)
    def append(self, request_id: str, project: str) -> None:
        denied = record(request_id, at_ms=self.now_ms, attributes={"project": project})
        self.on_all(lambda store: store.append(denied))

    @rule(
        project=st.none() | PROJECTS,
        from_ms=st.none() | st.integers(0, 200),
        until_ms=st.none() | st.integers(0, 200),
        limit=st.integers(1, 3),
    )
    def list_usage(self, project: str | None, from_ms: int | None, until_ms: int | None, limit: int) -> None:
        wanted = UsageFilter({} if project is None else {"project": project}, from_ms, until_ms)

        async def pages(store: Store) -> list[object]:
            found = [await store.usage(wanted, limit=limit)]
            while found[-1].next_cursor:
                found.append(await store.usage(wanted, limit=limit, cursor=found[-1].next_cursor))
            return list(found)

        self.on_all(pages)

    @rule(
        limit_name=st.none() | st.sampled_from(["cost", "minute", "none"]),
        scope=st.none() | st.sampled_from([COST.scope, ""]),
        page=st.integers(1, 3),
    )
    def list_accounts(self, limit_name: str | None, scope: str | None, page: int) -> None:
        async def pages(store: Store) -> list[object]:
            found = [await store.accounts(limit_name=limit_name, scope=scope, page=page)]
            while cursor := found[-1].next_cursor:
                found.append(await store.accounts(limit_name=limit_name, scope=scope, page=page, cursor=cursor))
            return list(found)

        self.on_all(pages)

    def state_revision(self) -> int:
        changes = self.on_all(lambda store: store.state())
        assert isinstance(changes, StateChanges)
        return changes.revision

    @rule(items=st.lists(STATE_ITEMS, max_size=3), lived_ms=st.integers(0, 60), behind=st.sampled_from([None, 0, 1]))
    def set_state(self, items: list[StateItem], lived_ms: int, behind: int | None) -> None:
        dated = [replace(item, expires_at_ms=self.now_ms + lived_ms) if lived_ms else item for item in items]
        before = self.state_revision()
        expected = None if behind is None else before - behind
        self.on_all(lambda store: store.set_state(dated, now_ms=self.now_ms, expected_revision=expected))
        assert self.state_revision() == before + (not behind)
        self.on_all(lambda store: store.state(since=before))

    @rule(key=st.sampled_from("vw"), length_ms=st.integers(1, 50), late_ms=st.integers(-5, 5), begin=st.booleans())
    def begin_window(self, key: str, length_ms: int, late_ms: int, begin: bool) -> None:
        now_ms = self.now_ms + late_ms
        starts_at_ms = self.on_all(
            lambda store: store.begin_window(key, now_ms=now_ms, length_ms=length_ms, begin=begin)
        )
        assert not begin or (isinstance(starts_at_ms, int) and now_ms < starts_at_ms + length_ms)

    @rule(scope=st.sampled_from("st"), digest=st.sampled_from("ab"), forget_after_ms=st.integers(0, 50))
    def repeated(self, scope: str, digest: str, forget_after_ms: int) -> None:
        self.on_all(lambda store: store.repeated(scope, digest, now_ms=self.now_ms, forget_after_ms=forget_after_ms))

    @rule(
        deltas=st.dictionaries(st.sampled_from(["a/x", "a/y", "b"]), st.integers(-9, 9)),
        kept_ms=st.integers(-5, 50),
    )
    def count(self, deltas: dict[str, int], kept_ms: int) -> None:
        self.on_all(lambda store: store.count(deltas, now_ms=self.now_ms, keep_until_ms=self.now_ms + kept_ms))
        self.on_all(lambda store: store.counters("", now_ms=self.now_ms))
        self.on_all(lambda store: store.counters("a/", now_ms=self.now_ms))

    @rule(source=SOURCES, scope=st.sampled_from(["", "user=ann"]))
    def emit(self, source: str, scope: str) -> None:
        event = OperatorEvent(
            source=source,
            action=RuleAction.NOTIFY,
            scope=scope,
            period_starts_at_ms=0,
            at_ms=self.now_ms,
            request_id=f"at {self.now_ms}",
            attributes={"user": "ann"},
            estimated_cost_nanos=1,
        )
        is_new = self.on_all(lambda store: store.emit(event))
        assert is_new is (event.id not in self.events)
        if is_new:
            self.events[event.id] = event.keep_until_ms
            self.pending.add(event.id)

    @rule(
        ids=st.lists(st.builds("{}/{}/0".format, SOURCES, st.sampled_from(["", "user=ann"])), max_size=3, unique=True)
    )
    def acknowledge(self, ids: list[str]) -> None:
        assert self.on_all(lambda store: store.acknowledge(ids)) == len(self.pending & set(ids))
        self.pending -= set(ids)

    @rule(page=st.integers(1, 3))
    def list_events(self, page: int) -> None:
        async def listed(store: Store) -> list[OperatorEvent]:
            found = await store.events(page=page)
            events = [*found.events]
            while found.next_cursor:
                found = await store.events(page=page, cursor=found.next_cursor)
                events += found.events
            return events

        events = self.on_all(listed)
        assert isinstance(events, list)
        assert {each.id for each in events} == self.pending
        assert len(events) == len(self.pending)

    @invariant()
    def balances_are_equal_and_money_is_conserved(self) -> None:
        everywhere = [(each, CARRIES.get(each.limit)) for each in (*ETERNAL, MINUTE)]
        self.on_all(lambda store: store.balances(everywhere))
        spent = sum(self.charged.values(), self.forgotten.copy())
        reserved: Counter[str] = Counter()
        for reservation in self.reservations():
            if reservation.state is State.RESERVED:
                reserved.update({each.account.key: each.amount for each in reservation.entries})
        balances = self.loop.run_until_complete(self.stores["memory"].balances([(each, None) for each in ETERNAL]))
        for each, balance in zip(ETERNAL, balances, strict=True):
            assert (balance.spent, balance.reserved) == (spent[each.key], reserved[each.key])

    @invariant()
    def unknown_reservations_are_charged_no_more(self) -> None:
        assert self.charged.keys() == {each.id for each in self.reservations()}


class OneStep(Stores):
    """Stores in which every call is one step."""

    kinds = ("memory", "sqlite", "redis", "valkey")


class ManySteps(Stores):
    """A cluster, where a call may go to several nodes."""

    kinds = ("memory", "redis-cluster")


# Fewer for a cluster, whose sweeps and listings visit every shard.
TestOneStep = OneStep.TestCase
TestOneStep.settings = settings(max_examples=60, stateful_step_count=40)
TestManySteps = ManySteps.TestCase
TestManySteps.settings = settings(max_examples=20, stateful_step_count=40)


def test_every_store_is_compared() -> None:
    assert {*OneStep.kinds, *ManySteps.kinds} == set(STORES)

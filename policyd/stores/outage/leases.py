"""Leases: a share of each budget that this process holds in the store beforehand, to spend while the store is away.

    made        a hold in the store, of `share_percent` of the limit, on the account of a budget that was used lately
    taken from  the store is away: a request takes what it could cost at most, and at its end gives back what it did not
    settled     the store is back and no request has a part of it: what was spent of it is charged, the rest returned
    returned    nobody uses the budget any more, its window is over, or the process ends: nothing is charged

The hold stands in the account until then, so whatever is spent here is never more than what nobody else can spend. If
it expires meanwhile it is charged in full, and corrected when it is settled. Each lease is written into the journal
before it is made: whoever finds the journal of a process that died settles its leases, once the requests that had taken
of them have ended or expired.

A request may end in another process (an access log tells any of them), or nobody may tell of its end: one that was not
renewed for a while is looked up in the store, and gives back what it did not cost there. One that has expired there is
charged all that it had taken, and is settled with that: its lease is not kept for an end that may come late.

A lease is for one account of an enforced limit whose window is a day or longer, or has no end. Other limits, rates
above all, are too short-lived to lease ahead: while the store is away they refuse nothing, and are charged afterwards.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from policyd.core.decision import charges
from policyd.core.ledger import ZERO_BALANCE, Amounts, Balance, Entry
from policyd.core.policy import Metric
from policyd.core.record import Outcome, Record
from policyd.core.usage import NO_USAGE
from policyd.stores.outage.events import Ended, Held, Leased, Took
from policyd.stores.postings import expiry_charge

ACCOUNTS_MAX: Final = 1_000
"""How many budgets are leased at most: those that were used last."""

IDLE_MS: Final = 600_000
"""A budget that was not used for as long is leased no longer."""

_WINDOW_MS_MIN: Final = 23 * 3_600_000
"""The shortest day that daylight saving makes."""


def may_be_leased(entry: Entry) -> bool:
    """Whether the entry is on a budget that is leased ahead."""
    account = entry.account
    if not entry.enforce or entry.carry is not None or entry.metric is Metric.CONCURRENT_REQUESTS:
        return False
    return account.ends_at_ms is None or account.ends_at_ms - account.starts_at_ms >= _WINDOW_MS_MIN


@dataclass(slots=True)
class Lease:
    """One lease, as far as this process has spent it."""

    id: str
    entry: Entry
    """What is held in the store."""
    record: Record
    taken: int = 0
    """By requests that are under way."""
    spent: int = 0
    is_used: bool = False
    """Whether any request ever took of it."""
    is_ending: bool = False
    """Nothing more may be taken: its end is on its way to the store."""

    @property
    def left(self) -> int:
        return 0 if self.is_ending else max(0, self.entry.amount - self.taken - self.spent)

    @property
    def told(self) -> Leased:
        """What the journal is told of it."""
        return Leased(self.entry, self.record, self.record.at_ms)

    def end(self, *, now_ms: int) -> Ended:
        """What ends it in the store."""
        return lease_end(self.entry, self.record, self.spent if self.is_used else None, now_ms=now_ms)


def lease_end(entry: Entry, record: Record, spent: int | None, *, now_ms: int) -> Ended:
    """What ends a lease in the store; `None`: nobody took of it."""
    amounts = {entry.metric: spent} if spent is not None else None
    return Ended(amounts, record, (entry,), now_ms)


@dataclass(slots=True)
class _Seen:
    entry: Entry
    at_ms: int


@dataclass(slots=True)
class Leases:
    """The leases of this process, by the keys of their accounts."""

    _leases: dict[str, Lease] = field(default_factory=dict)
    _seen: dict[str, _Seen] = field(default_factory=dict)
    """The budgets that were used, the latest last."""
    _takers: dict[str, tuple[tuple[Lease, int], ...]] = field(default_factory=dict)
    """What the requests under way have taken."""
    _alive_at_ms: dict[str, int] = field(default_factory=dict)
    """When those were last known to be under way here."""

    def __iter__(self) -> Iterator[Lease]:
        return iter(tuple(self._leases.values()))

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, request_id: str) -> bool:
        """Whether the request has taken of a lease."""
        return request_id in self._takers

    @property
    def are_clean(self) -> bool:
        """Whether none has been used."""
        return not any(lease.is_used for lease in self)

    # --- while the store is there ---

    def note(self, entries: Sequence[Entry], *, now_ms: int) -> None:
        """These were used."""
        for entry in entries:
            if may_be_leased(entry):
                key = entry.account.key
                self._seen.pop(key, None)
                self._seen[key] = _Seen(entry, now_ms)
        while len(self._seen) > ACCOUNTS_MAX:
            del self._seen[next(iter(self._seen))]

    def wanted(self, *, share_percent: int, now_ms: int) -> Sequence[Lease]:
        """What is to be leased of what was used lately and is not yet."""
        return [
            _lease(seen.entry, share_percent=share_percent, now_ms=now_ms)
            for key, seen in self._seen.items()
            if key not in self._leases and not self._is_over(seen, now_ms=now_ms)
        ]

    def add(self, lease: Lease) -> None:
        """It is held in the store."""
        self._leases[lease.entry.account.key] = lease

    def drop(self, lease: Lease) -> None:
        """It is not, or no longer."""
        self._leases.pop(lease.entry.account.key, None)

    def to_end(self, *, now_ms: int, all_of_them: bool = False) -> Sequence[Lease]:
        """Those that were used and are in use no longer, and those that nobody needs."""
        return [
            lease
            for key, lease in self._leases.items()
            if not lease.taken
            and (
                all_of_them
                or lease.is_used
                or lease.is_ending
                or (seen := self._seen.get(key)) is None
                or self._is_over(seen, now_ms=now_ms)
            )
        ]

    def _is_over(self, seen: _Seen, *, now_ms: int) -> bool:
        return seen.at_ms + IDLE_MS <= now_ms or seen.entry.account.has_ended(now_ms)

    # --- while it is away ---

    def balances(self, entries: Sequence[Entry]) -> tuple[Balance, ...]:
        """The entries' accounts as this process may spend them: of others nothing is known, and they refuse nothing."""
        return tuple(
            Balance(max(0, entry.cap - self._left(entry)), 0) if may_be_leased(entry) else ZERO_BALANCE
            for entry in entries
        )

    def _left(self, entry: Entry) -> int:
        lease = self._leases.get(entry.account.key)
        return lease.left if lease is not None else 0

    def has_room(self, entries: Sequence[Entry]) -> bool:
        """Whether the leases have room for what the entries hold."""
        return all(entry.amount <= self._left(entry) for entry in entries if may_be_leased(entry))

    def take(self, request_id: str, entries: Sequence[Entry], *, now_ms: int) -> None:
        """Takes what the entries hold, which there has to be room for."""
        takes = tuple(
            (lease, entry.amount)
            for entry in entries
            if may_be_leased(entry) and (lease := self._leases.get(entry.account.key)) is not None
        )
        for lease, amount in takes:
            lease.taken += amount
            lease.is_used = True
        self._takers[request_id] = takes
        self._alive_at_ms[request_id] = now_ms

    def keep_alive(self, request_ids: Iterable[str], *, now_ms: int) -> None:
        """These are under way here."""
        for request_id in request_ids:
            if request_id in self._takers:
                self._alive_at_ms[request_id] = now_ms

    def unattended(self, *, since_ms: int) -> Sequence[str]:
        """The requests that have taken and of which nothing was heard since: they may have ended elsewhere."""
        return [request_id for request_id, at_ms in self._alive_at_ms.items() if at_ms <= since_ms]

    def expired(self, request_id: str, entries: Sequence[Entry], record: Record, *, now_ms: int) -> Ended:
        """What ends a request that has taken, and that expired: by itself it holds `entries`."""
        taken = ((lease.entry.metric, amount) for lease, amount in self._takers[request_id])
        return _expired(entries, taken, record, now_ms=now_ms)

    def taken(self, request_id: str) -> Mapping[str, int]:
        """How much of which lease the request has taken."""
        return {lease.id: amount for lease, amount in self._takers[request_id]}

    def take_more(self, request_id: str, *, unit_amounts: Amounts, wanted_units: int, at_least_units: int) -> int:
        """Like `Store.extend`, for a request that has taken before."""
        takes = self._takers[request_id]
        units = wanted_units
        for lease, _ in takes:
            if unit_amount := unit_amounts.get(lease.entry.metric, 0):
                units = min(units, lease.left // unit_amount)
        if units < at_least_units:
            return 0
        more = [units * unit_amounts.get(lease.entry.metric, 0) for lease, _ in takes]
        for (lease, _), amount in zip(takes, more, strict=True):
            lease.taken += amount
        self._takers[request_id] = tuple(
            (lease, before + amount) for (lease, before), amount in zip(takes, more, strict=True)
        )
        return units

    def give_back(self, request_id: str, amounts: Amounts | None) -> None:
        """The request has ended, and cost `amounts`; `None`: nothing."""
        del self._alive_at_ms[request_id]
        for lease, amount in self._takers.pop(request_id):
            lease.taken -= amount
            lease.spent += charged(amounts, lease.entry)


def charges_of(record: Record) -> Amounts:
    """What a request was charged that was settled with `record`."""
    return charges(record.usage or NO_USAGE, cost_nanos=record.actual_cost_nanos or 0)


def charged(amounts: Amounts | None, entry: Entry) -> int:
    """What a request that cost `amounts` is charged on `entry`."""
    return 0 if amounts is None else amounts.get(entry.metric, 0)


def _lease(entry: Entry, *, share_percent: int, now_ms: int) -> Lease:
    lease_id = f"lease-{uuid.uuid4().hex}"
    amount = max(1, entry.cap * share_percent // 100)
    held = Entry(entry.account, entry.metric, amount, entry.cap)
    record = Record(
        request_id=lease_id,
        at_ms=now_ms,
        outcome=Outcome.RELEASED,
        decision="allow",
        provider="",
        endpoint="lease",
        model="",
        attributes={},
        actual_cost_nanos=0,
    )
    return Lease(lease_id, held, record)


def _expired(entries: Sequence[Entry], taken: Iterable[tuple[Metric, int]], record: Record, *, now_ms: int) -> Ended:
    """What ends a request that expired: by each metric it is charged the most that it had taken, or that expiry charges
    on `entries`."""
    amounts: dict[Metric, int] = {}
    for metric, amount in (*((entry.metric, expiry_charge(entry)) for entry in entries), *taken):
        amounts[metric] = max(amount, amounts.get(metric, 0))
    return Ended(amounts, record.expired(charged_nanos=amounts.get(Metric.COST, 0)), tuple(entries), now_ms)


class LostLeases:
    """The leases of a process that died, as its journal tells of them."""

    def __init__(self) -> None:
        self._leased: dict[str, Leased] = {}
        self._spent: dict[str, int] = {}
        self._taken: dict[str, Mapping[str, int]] = {}
        """What requests have taken that did not end, by request and lease."""
        self._held: dict[str, Held] = {}
        """What those hold beside it."""

    def add(self, leased: Leased) -> None:
        self._leased[leased.record.request_id] = leased

    def take(self, took: Took) -> None:
        self._taken[took.request_id] = took.amounts

    def hold(self, held: Held) -> None:
        if self._taken.get(held.record.request_id):
            self._held[held.record.request_id] = held

    def give_back(self, request_id: str, amounts: Amounts | None) -> None:
        self._held.pop(request_id, None)
        for lease_id in self._taken.pop(request_id, {}):
            if (leased := self._leased.get(lease_id)) is not None:
                self._spend(lease_id, charged(amounts, leased.entry))

    @property
    def ids(self) -> Sequence[str]:
        return tuple(self._leased)

    @property
    def takers(self) -> Sequence[str]:
        """The requests that have taken, and of which the journal does not tell that they ended."""
        return tuple(self._taken)

    def held(self, request_id: str) -> Held | None:
        """What a taker holds beside what it has taken, if the journal tells."""
        return self._held.get(request_id)

    def expired(self, request_id: str, entries: Sequence[Entry], record: Record, *, now_ms: int) -> Ended:
        """What ends a taker that expired: by itself it holds `entries`."""
        return _expired(entries, self._taken_by(request_id), record, now_ms=now_ms)

    def keep(self, request_id: str) -> None:
        """The taker is charged all that it had taken."""
        self._held.pop(request_id, None)
        for lease_id, amount in self._taken.pop(request_id).items():
            self._spend(lease_id, amount)

    def ends(self, *, now_ms: int) -> Sequence[Ended]:
        """What ends them, once there are no takers."""
        return [
            lease_end(leased.entry, leased.record, self._spent.get(lease_id), now_ms=now_ms)
            for lease_id, leased in self._leased.items()
        ]

    def _taken_by(self, request_id: str) -> Iterator[tuple[Metric, int]]:
        for lease_id, amount in self._taken[request_id].items():
            if (leased := self._leased.get(lease_id)) is not None:
                yield leased.entry.metric, amount

    def _spend(self, lease_id: str, amount: int) -> None:
        self._spent[lease_id] = self._spent.get(lease_id, 0) + amount

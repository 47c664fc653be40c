"""What replicas decide by themselves while the store is away: what they lease, what requests take of it, what ends.

The truth is what stands in the replicas' journals: it is told here as it is written, before it is acted upon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace

from policyd.core.ledger import Amounts, Entry
from policyd.core.policy import Hold, Limit, Metric
from policyd.core.reservation import State
from policyd.core.windows import CalendarUnit, CalendarWindow, Lifetime
from policyd.stores.outage.events import Ended, Held, Leased, Line, Took
from tests.simulation.books import Books, Machine, Row, Share, Truth
from tests.simulation.demands import Demands
from tests.simulation.plan import Plan
from tests.simulation.promises import check

_MAKING_MS_MAX = 60_000
"""How long it takes to make the leases of one round, where the store is slow."""

_DAYS = (CalendarUnit.DAY, CalendarUnit.WEEK, CalendarUnit.MONTH)


class Life:
    """One life of a replica: from its start to its crash."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.is_over = False


@dataclass
class Lease:
    entry: Entry
    owner: Life
    spent: int = 0
    taken: dict[str, int] = field(default_factory=dict)
    """By requests that have not ended."""
    is_used: bool = False


@dataclass
class Alone:
    """A request that was let through without the store."""

    row: Row
    owner: Life


@dataclass
class Leasing:
    plan: Plan
    books: Books
    truths: Mapping[str, Truth]
    demands: Demands
    leases: dict[str, Lease] = field(default_factory=dict)
    alone: dict[str, Alone] = field(default_factory=dict)
    ends: dict[str, State] = field(default_factory=dict)
    """How requests end once the journal that says so is in the store."""
    _taken: dict[str, Mapping[str, int]] = field(default_factory=dict)

    # --- what is written into journals ---

    def journalled(self, line: Line, by: Life) -> None:
        """Raises `Broken`."""
        check(not by.is_over, "the dead write nothing")
        match line:
            case Leased(entry, record):
                self._leased(record.request_id, entry, by)
            case Took(name, amounts):
                self._took(name, amounts, by)
            case Held(entries, record):
                self._held(line, [*entries, *self._taken_of_leases(record.request_id)], by)
            case Ended(amounts, record):
                self._ended(record.request_id, amounts)
            case _:
                pass

    def _leased(self, name: str, entry: Entry, by: Life) -> None:
        share = max(1, entry.cap * self.plan.policy.lease_percent // 100)
        check(entry.amount == share, "a lease is the share that is configured", name)
        if name in self.leases:
            return  # a journal that was begun anew tells again what is leased still
        since_ms = by.machine.raw_now_ms() - _MAKING_MS_MAX
        check(not entry.account.has_ended(since_ms), "a window that is over is not leased", name)
        self.leases[name] = Lease(entry, by)

    def _took(self, name: str, amounts: Mapping[str, int], by: Life) -> None:
        check(name not in self.ends, "who has ended takes nothing", name)
        for lease_id, amount in amounts.items():
            lease, row = self.leases[lease_id], self.books.rows.get(lease_id)
            check(lease.owner is by, "a lease is spent by who has it", name)
            is_there = row is not None and row.state in (State.RESERVED, State.EXPIRED)
            check(is_there, "nothing is taken that is not leased", (name, lease_id))
            assert row is not None
            check(row.shares[lease.entry.account.key].enforced, "what is leased is within its limit", lease_id)
            lease.taken[name], lease.is_used = amount, True
            used = lease.spent + sum(lease.taken.values())
            check(used <= lease.entry.amount, "no overspend", (name, lease_id, used))
            if name in self.alone:
                self.alone[name].row.leased[lease.entry.account.key].held = amount
        self._taken[name] = amounts

    def _taken_of_leases(self, name: str) -> Sequence[Entry]:
        """What a request that was held alone holds on leases, as entries of its own."""
        taken = self._taken.get(name, {})
        found = []
        for lease_id, amount in taken.items():
            entry = self.leases[lease_id].entry
            found.append(Entry(entry.account, entry.metric, amount, entry.cap))
        return found

    def _held(self, held: Held, entries: Sequence[Entry], by: Life) -> None:
        name, record = held.record.request_id, held.record
        check(name not in self.books.rows, "what the store holds is not held twice", name)
        by_limit = {entry.account.limit: entry for entry in entries}
        check(len(by_limit) == len(entries), "every limit holds once", name)
        in_order = [by_limit[limit.name] for limit in self.plan.policy.limits if limit.name in by_limit]
        truth = self.truths[name]
        shares = self.demands.shares(truth, in_order, record, world_ms=by.machine.world_ms())
        own = {entry.account.key for entry in held.entries}
        row = Row(
            shares={},
            expires_at_ms=held.expires_at_ms,
            alive_by=by.machine,
            fingerprint="",
            output_tokens_max=self.demands.bound(truth.script, record),
        )
        for share in shares:
            key = share.account.key
            check((key in own) is not _is_leased(share.limit, share), "budgets are leased, rates are not", (name, key))
            (row.shares if key in own else row.leased)[key] = share
            share.enforced = share.enforced and key not in own
        self.alone[name] = Alone(row, by)

    def _ended(self, name: str, amounts: Amounts | None) -> None:
        self.ends[name] = State.RELEASED if amounts is None else State.SETTLED
        used = self.truths[name].used if amounts is not None else {}
        check(all((amounts or {}).get(metric) == amount for metric, amount in used.items()), "the real cost", name)
        for lease_id in self._taken.pop(name, {}):
            lease = self.leases[lease_id]
            share = self.alone[name].row.leased[lease.entry.account.key]
            del lease.taken[name]
            share.charged = used.get(lease.entry.metric, 0)
            is_bounded = share.limit.hold is Hold.MAXIMUM
            check(not is_bounded or share.charged <= share.held, "no overspend", (name, lease_id))
            lease.spent += share.charged

    # --- what reaches the store ---

    def lease_row(self, name: str, limits: Sequence[Limit], *, expires_at_ms: int, by: Machine) -> Row:
        """The row of a lease that is held in the store."""
        check(name in self.leases, "a lease is written down before it is made", name)
        entry = self.leases[name].entry
        limit = next(limit for limit in limits if limit.name == entry.account.limit)
        share = Share(limit, entry.account, entry.cap, enforced=True, held=entry.amount, on_expiry=None)
        return Row({entry.account.key: share}, expires_at_ms, by, fingerprint="", output_tokens_max=0)

    def lease_charge(self, name: str, ending: State) -> int:
        """What a lease has to be charged that ends."""
        lease = self.leases[name]
        check(not lease.taken or lease.owner.is_over, "no lease ends while a request has a part of it", name)
        check(lease.is_used is (ending is State.SETTLED), "a lease is settled if it was used", name)
        return lease.spent + sum(lease.taken.values())

    def died(self, name: str) -> bool:
        """Whether a request was let through alone by a life that ended before it."""
        return name in self.alone and name not in self.ends and self.alone[name].owner.is_over


def _is_leased(limit: Limit, share: Share) -> bool:
    """Whether a share is on a budget that is leased ahead."""
    window = limit.window
    long = isinstance(window, Lifetime) or (isinstance(window, CalendarWindow) and window.unit in _DAYS)
    return share.enforced and long and limit.metric is not Metric.CONCURRENT_REQUESTS


class NumberedIds:
    """Stands for the module `uuid`: what is random elsewhere is counted here, so that a seed is told alike."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def uuid4(self) -> SimpleNamespace:
        return SimpleNamespace(hex=f"{next(self._numbers):04}")

"""Deliberate defects, each of which the simulation has to find: proof that it can fail.

Each is put into policyd's own code for as long as a `with` block lasts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import current_thread
from typing import Any

from policyd.core import decision, limits
from policyd.core.ledger import Balance, Entry
from policyd.core.reservation import Event, State
from policyd.enforcer import deciding, enforcer
from policyd.stores import memory, postings
from policyd.stores.memory_state import MemoryState
from policyd.stores.outage.keeping import LeaseKeeper
from policyd.stores.outage.leases import Lease, Leases, LostLeases, lease_end
from policyd.stores.postings import Posting
from policyd.stores.sqlite.transactions import Locked, Transactions

Change = Callable[[Any], Any]
"""From what is right to what is wrong."""


def _posted_twice(right: Any) -> Any:
    def ending(entries: Sequence[Entry], **keywords: Any) -> list[Posting]:
        return [
            replace(each, spent=2 * each.spent) if keywords["event"] is Event.EXPIRE else each
            for each in right(entries, **keywords)
        ]

    return ending


def _shifted_window(right: Any) -> Any:
    def ending(entries: Sequence[Entry], **keywords: Any) -> list[Posting]:
        return [
            replace(each, account=replace(each.account, starts_at_ms=each.account.starts_at_ms + 60_000))
            if keywords["event"] is Event.SETTLE
            else each
            for each in right(entries, **keywords)
        ]

    return ending


def _late_settle_adds(right: Any) -> Any:
    def ending(entries: Sequence[Entry], *, state: State, event: Any, amounts: Any) -> list[Posting]:
        posted: list[Posting] = right(entries, state=state, event=event, amounts=amounts)
        if state is State.EXPIRED and event is Event.SETTLE:
            return [Posting(each.account, amounts.get(each.metric, 0), 0) for each in entries]
        return posted

    return ending


def _release_keeps(right: Any) -> Any:
    def ending(entries: Sequence[Entry], **keywords: Any) -> list[Posting]:
        return [] if keywords["event"] is Event.RELEASE else right(entries, **keywords)

    return ending


def _held_is_free(right: Any) -> Any:
    return lambda balance, amount, *, cap: amount == 0 or balance.spent + balance.carried + amount <= cap


def _without_last(right: Any) -> Any:
    return lambda entries: right(entries)[:-1]


def _all_granted(right: Any) -> Any:
    return lambda *_, wanted_units, **__: wanted_units


def _never(right: Any) -> Any:
    return lambda *_: False


def _no_grace(right: Any) -> Any:
    async def sweep(self: enforcer.Enforcer) -> None:
        settings = self.policy.reservations
        now_ms = self.now_ms()
        await self.store.sweep(
            now_ms=now_ms,
            ended_before_ms=now_ms - settings.ended_kept_seconds * 1000,
            usage_before_ms=now_ms - settings.usage_kept_days * 86_400_000,
        )

    return sweep


def _nothing(right: Any) -> Any:
    async def nothing(*_: Any, **__: Any) -> None:
        pass

    return nothing


def _forgets_all(right: Any) -> Any:
    async def sweep(self: Any, *, now_ms: int, ended_before_ms: int, usage_before_ms: int) -> Any:
        return await right(self, now_ms=now_ms, ended_before_ms=now_ms, usage_before_ms=usage_before_ms)

    return sweep


def _forgets_who_asked(right: Any) -> Any:
    async def reserve(self: Any, reservation_id: str, **keywords: Any) -> Any:
        self._reservations.pop(reservation_id, None)
        return await right(self, reservation_id, **keywords)

    return reserve


def _shadow_refuses(right: Any) -> Any:
    return lambda *arguments, **keywords: tuple(replace(each, enforce=True) for each in right(*arguments, **keywords))


def _nothing_carried(right: Any) -> Any:
    return lambda total, weight: 0


def _in_utc(right: Any) -> Any:
    return lambda window, now_ms: right(replace(window, timezone="UTC") if hasattr(window, "unit") else window, now_ms)


def _answered_before_the_commit(right: Any) -> Any:
    def carry_out(self: Any, batch: Any) -> Any:
        if not current_thread().name.startswith("policyd-sqlite"):
            raise Locked  # left to the thread: one connection has all that is not committed
        if not self._connection.in_transaction:
            self._connection.execute(self._begin)
        return [self._answer(call) for call in batch]

    return carry_out


def _never_stale(right: Any) -> Any:
    async def reserve(self: Any, reservation_id: str, *, state_revision: int | None, **keywords: Any) -> Any:
        return await right(self, reservation_id, state_revision=None, **keywords)

    return reserve


def _begins_again(right: Any) -> Any:
    def begin_window(self: Any, key: str, *, now_ms: int, length_ms: int, begin: bool) -> int | None:
        return now_ms if begin else None

    return begin_window


def _clamps_the_hold_alone(right: Any) -> Any:
    return lambda tried, *, policy_us: replace(right(tried, policy_us=policy_us), max_output_tokens=None)


def _holds_are_free(right: Any) -> Any:
    return property(lambda self: max(0, self.limit.amount - self.spent))


def _always(right: Any) -> Any:
    return lambda *_: True


def _spends_nothing(right: Any) -> Any:
    return lambda self, request_id, amounts: right(self, request_id, None)


def _ends_while_in_use(right: Any) -> Any:
    return lambda self, *, now_ms, all_of_them=False: [each for each in self if each.is_used or all_of_them]


def _charges_all_of_it(right: Any) -> Any:
    return lambda self, *, now_ms: lease_end(self.entry, self.record, self.entry.amount, now_ms=now_ms)


def _none(right: Any) -> Any:
    return lambda *_, **__: []


def _ignored(right: Any) -> Any:
    return lambda *_, **__: None


@dataclass(frozen=True, slots=True)
class Defect:
    what: str
    owner: object
    name: str
    change: Change
    """What becomes of `owner.name`."""


DEFECTS = (
    Defect("a repeated settle is charged again", memory, "is_repetition", _never),
    Defect("reserve ignores one entry", postings, "reserving", _without_last),
    Defect("an expired hold is charged twice", postings, "ending", _posted_twice),
    Defect("a late settle adds to what expiry charged", postings, "ending", _late_settle_adds),
    Defect("settle charges another window", postings, "ending", _shifted_window),
    Defect("release keeps what was held", postings, "ending", _release_keeps),
    Defect("what is held does not count as used", Balance, "fits", _held_is_free),
    Defect("extend passes the limit", postings, "units_granted", _all_granted),
    Defect("sweep knows no grace", enforcer.Enforcer, "sweep", _no_grace),
    Defect("holds are not renewed", memory.MemoryStore, "renew", _nothing),
    Defect("what has ended is forgotten at once", memory.MemoryStore, "sweep", _forgets_all),
    Defect("a repeated reserve holds again", memory.MemoryStore, "reserve", _forgets_who_asked),
    Defect("a shadow limit refuses", deciding, "entries", _shadow_refuses),
    Defect("a sliding window forgets the bucket before", memory, "carried", _nothing_carried),
    Defect("every window follows UTC", limits, "bounds", _in_utc),
    Defect("what was set meanwhile is not noticed", memory.MemoryStore, "reserve", _never_stale),
    Defect("a window of first use begins with every replica", MemoryState, "begin_window", _begins_again),
    Defect("a clamped request goes on with its own maximum", deciding, "verdict_on", _clamps_the_hold_alone),
    Defect("what is held is told to be free", decision.LimitReport, "remaining", _holds_are_free),
    Defect("leases have room for everything", Leases, "has_room", _always),
    Defect("a growing stream takes nothing more of its lease", Leases, "take_more", _all_granted),
    Defect("what was spent of a lease is forgotten", Leases, "give_back", _spends_nothing),
    Defect("a lease ends while a request has a part of it", Leases, "to_end", _ends_while_in_use),
    Defect("a lease is charged in full", Lease, "end", _charges_all_of_it),
    Defect("leases are not renewed", LeaseKeeper, "_renew", _nothing),
    Defect("the leases of a replica that died are left to expire", LostLeases, "ends", _none),
    Defect("what its open requests had taken is forgotten", LostLeases, "take", _ignored),
)

SQLITE_DEFECTS = (
    Defect("calls are answered before their commit", Transactions, "carry_out", _answered_before_the_commit),
)
"""What only a store that dies can show."""


@contextmanager
def put_in(defect: Defect) -> Iterator[None]:
    """Puts a defect in for as long as the block lasts."""
    right = inspect.getattr_static(defect.owner, defect.name)
    setattr(defect.owner, defect.name, defect.change(right))
    try:
        yield
    finally:
        setattr(defect.owner, defect.name, right)

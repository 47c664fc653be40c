"""The store's contract.

A store keeps a ledger: accounts (`spent`, `reserved`), reservations (entries, state, expiry) and usage records. Beside
it stands what has to be the same on every replica: run-time state (what operators and detectors set without a deploy),
windows that begin at first use, runs of repeated requests, and counters. It compares and adds integers, atomically, and
knows nothing of policies, prices or what a piece of state means. Events wait in it until an operator has seen them.

What every store promises:

- **One step.** `reserve` holds every entry or none; no other call ever sees a part of it. The same goes for `extend`,
  `settle` and `release` over all accounts that they touch.
- **No overspend.** `reserve` and `extend` never let `spent + reserved + carried` of an enforced entry's account pass
  its cap. `settle` may: what was really spent is charged in full.
- **Exactly once.** Reservations follow the table of `policyd.core.reservation`. Repeating the call that ended one
  changes nothing. An ended one is remembered until a sweep forgets it, then it is `ReservationNotFound`.
- **One revision.** Every change of the run-time state raises its revision by one, and `reserve` compares the caller's
  revision in the same step in which it holds: what was set before is known to whatever is held after.
- **Durable as documented.** When a call returns, its effect survives what the store's own page says that it survives.
- **The right account.** A charge goes to the accounts the hold was made on, whatever the clock says by then.
- **No clock.** `now_ms` is an argument; no store reads a clock.

Errors: `ReservationError`s as documented by each method; `StoreUnavailable` if the call had no effect; `StoreError` if
that is not known. A driver's own exceptions are logged by the store and never leave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from policyd.core.events import OperatorEvent
from policyd.core.ledger import Account, Amounts, Balance, Carry, Entry
from policyd.core.record import Record
from policyd.core.reservation import State


class Granted(Struct, frozen=True):
    """Everything is held. `balances` are the accounts' before the hold, in the order of the entries."""

    balances: tuple[Balance, ...]


class Refused(Struct, frozen=True):
    """At least one enforced entry did not fit; nothing is held. `balances` as they stood, in the entries' order."""

    balances: tuple[Balance, ...]


class Exists(Struct, frozen=True):
    """The id is known already, with the same fingerprint; nothing was changed."""

    reservation: Reservation


class Stale(Struct, frozen=True):
    """The run-time state is at another `revision` than the caller knew; nothing is held."""

    revision: int


ReserveResult = Granted | Refused | Exists | Stale


class Reservation(Struct, frozen=True):
    """A reservation as the store knows it."""

    id: str
    state: State
    fingerprint: str
    entries: tuple[Entry, ...]
    """With `amount` as held now, or at last; extensions included."""
    balances: tuple[Balance, ...]
    """The accounts' balances before the hold, as `reserve` answered them."""
    record: Record
    """The pending record while RESERVED, the final one after."""
    expires_at_ms: int


class Swept(Struct, frozen=True):
    """What a sweep found."""

    expired: tuple[Record, ...]
    """The records of the reservations that it expired, as stored."""
    open_reservations: int
    """How many are still RESERVED."""


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which usage records to list. `attributes` have to be equal; `from_ms <= at_ms < until_ms`."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    from_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class UsagePage:
    """Usage records, newest first. `next_cursor` is opaque and empty at the end."""

    records: tuple[Record, ...]
    next_cursor: str


@dataclass(frozen=True, slots=True)
class AccountsPage:
    """Accounts and their balances, ordered by key. `next_cursor` is opaque and empty at the end."""

    rows: tuple[tuple[Account, Balance], ...]
    next_cursor: str


@dataclass(frozen=True, slots=True)
class StateItem:
    """One piece of run-time state: what an operator or a detector set without a deploy."""

    kind: str
    key: str
    """Unique within its kind."""
    value: str
    """JSON text; empty: deleted."""
    expires_at_ms: int | None = None
    """Readers ignore the item from then on. A deleted item keeps what it had: whoever missed the deletion ignores it
    then too."""
    revision: int = 0
    """The state revision that set it; of no account on the way in."""


@dataclass(frozen=True, slots=True)
class StateChanges:
    """What was set after a revision that the reader knew."""

    revision: int
    """That of the store now; 0: nothing was ever set."""
    items: tuple[StateItem, ...]
    """Oldest first, deleted and expired ones included, each kind and key once, as it stands now."""


@dataclass(frozen=True, slots=True)
class EventsPage:
    """Events, oldest first. `next_cursor` is opaque and empty at the end."""

    events: tuple[OperatorEvent, ...]
    next_cursor: str


class Store(Protocol):
    """See the module's text for what every method promises."""

    async def reserve(
        self,
        reservation_id: str,
        *,
        entries: Sequence[Entry],
        record: Record,
        now_ms: int,
        expires_at_ms: int,
        fingerprint: str = "",
        state_revision: int | None = None,
    ) -> ReserveResult:
        """Holds every entry or none. No two entries have the same account.

        With a `state_revision` that is not the store's the answer is `Stale`, unless it is `Exists`.

        `record` is kept as the reservation's pending record. Raises `ReservationMismatch` if the id is known with
        another fingerprint. A refused reservation leaves no trace: its id is free.
        """
        ...

    async def extend(
        self, reservation_id: str, *, unit_amounts: Amounts, wanted_units: int, at_least_units: int, now_ms: int
    ) -> int:
        """Holds more on all entries at once, in units; returns how many were granted.

        A unit is `unit_amounts[metric]` on each entry of that metric (absent: 0). All of `wanted_units` are granted if
        they fit on every enforced entry, else as many as fit, if these are `at_least_units` or more, else none (0). A
        hold that is due but not swept yet is RESERVED still.
        Raises `ReservationNotFound`, `ReservationEnded`.
        """
        ...

    async def settle(self, reservation_id: str, *, amounts: Amounts, record: Record, now_ms: int) -> State:
        """Charges `amounts[metric]` on each entry (absent: 0) in place of what is held or expiry charged.

        Stores `record` in place of any usage record with the same request id. Returns the state it found: `SETTLED`
        means a repetition, which changed nothing.
        Raises `ReservationNotFound`, `ReservationEnded`.
        """
        ...

    async def release(self, reservation_id: str, *, record: Record, now_ms: int) -> State:
        """Returns the hold, or takes back what expiry charged; otherwise like `settle` with nothing to charge."""
        ...

    async def renew(self, reservation_ids: Sequence[str], *, expires_at_ms: int) -> None:
        """Sets a later expiry on those that are RESERVED; ignores all others. Never sets an earlier one."""
        ...

    async def sweep(self, *, now_ms: int, ended_before_ms: int, usage_before_ms: int) -> Swept:
        """Expires what is due, forgets what is old.

        Reservations with `expires_at_ms <= now_ms` become EXPIRED: each entry is charged its `on_expiry`, and
        `record.expired(...)` is stored, with the most that a cost entry is charged. Then reservations that ended before
        `ended_before_ms`, usage records with `at_ms < usage_before_ms` and accounts with nothing reserved and
        `keep_until_ms <= now_ms` are forgotten; and of the run-time state items with `expires_at_ms < ended_before_ms`,
        windows that ended, runs, counters and events whose time is over by `now_ms`. Other calls may come between the
        steps; a sweep that failed half-way is completed by the next one.
        """
        ...

    async def get(self, reservation_id: str) -> Reservation:
        """The reservation as it stands. Raises `ReservationNotFound`."""
        ...

    async def balances(self, accounts: Sequence[tuple[Account, Carry | None]]) -> tuple[Balance, ...]:
        """The accounts' balances in one consistent view; unknown ones are zero."""
        ...

    async def weigh(
        self, accounts: Sequence[tuple[Account, Carry | None]], *, state_revision: int
    ) -> tuple[Balance, ...] | Stale:
        """The same, if the run-time state is at the revision that the caller knows."""
        ...

    async def accounts(
        self,
        *,
        limit_name: str | None = None,
        scope: str | None = None,
        ends_after_ms: int | None = None,
        page: int,
        cursor: str = "",
    ) -> AccountsPage:
        """Accounts as they stand, at most `page` of them (1 or more).

        Those of the limit, of exactly the scope, without those with `ends_at_ms <= ends_after_ms`. A page starts after
        the one that gave `cursor`. Raises `ValueError` for a cursor that no page gave.
        """
        ...

    async def append(self, record: Record) -> None:
        """Stores the usage record of an exchange that held nothing (a refusal), unless there is one of its request id.

        A repeated request may have been granted and settled before the record of its first refusal arrives.
        """
        ...

    async def usage(self, wanted: UsageFilter, *, limit: int, cursor: str = "") -> UsagePage:
        """Ended exchanges, newest first (by `at_ms`, then request id), at most `limit`, which is 1 or more.

        A page starts where the one that gave `cursor` ended, whatever was stored meanwhile. Raises `ValueError` for a
        cursor that no page gave.
        """
        ...

    async def set_state(self, items: Sequence[StateItem], *, now_ms: int, expected_revision: int | None = None) -> int:
        """Sets every item or none; returns the new revision. Of items with one kind and key the last one counts.

        Raises `StaleState` if the revision is not `expected_revision`.
        """
        ...

    async def state(self, *, since: int = 0) -> StateChanges:
        """What was set after revision `since`, in one consistent view.

        What the sweep has forgotten is not told any more: whoever last asked longer ago than ended reservations are
        remembered asks for everything.
        """
        ...

    async def begin_window(self, key: str, *, now_ms: int, length_ms: int, begin: bool = True) -> int | None:
        """When the window of `key` began that `now_ms` is in: one that began less than `length_ms` ago.

        If there is none, one begins now, or, with `begin=False`, the answer is `None`. A `now_ms` from before the start
        (of a replica whose clock is behind) is in the window too. A window is forgotten when the longest `length_ms`
        that it was asked for to begin is over.
        """
        ...

    async def repeated(
        self, scope: str, digest: str, *, now_ms: int, forget_after_ms: int, counted: bool = True
    ) -> int:
        """How many times in a row, this one included, `digest` came in `scope`; with `counted=False` would have come.

        Another digest starts at 1, and so does the same one `forget_after_ms` (of the call before) or more after it.
        """
        ...

    async def count(self, deltas: Mapping[str, int], *, now_ms: int, keep_until_ms: int) -> None:
        """Adds to the counters named, all in one step; those that are not there, or are over, start at 0.

        A counter is over from the latest `keep_until_ms` on that it was given.
        """
        ...

    async def counters(self, prefix: str, *, now_ms: int) -> Mapping[str, int]:
        """The counters whose name starts with `prefix` and that are not over."""
        ...

    async def emit(self, event: OperatorEvent) -> bool:
        """Keeps the event until its `keep_until_ms`; returns whether it is new. One of its id that is there stays."""
        ...

    async def events(self, *, page: int, cursor: str = "") -> EventsPage:
        """The events that nobody has acknowledged, oldest first (by `at_ms`, then id), at most `page` (1 or more).

        A page starts after the one that gave `cursor`. Raises `ValueError` for a cursor that no page gave.
        """
        ...

    async def acknowledge(self, event_ids: Sequence[str]) -> int:
        """Takes events from the list; returns how many were on it. Their ids stay known until their time is over."""
        ...

    async def ping(self) -> None:
        """Returns if the store answers. Raises `StoreUnavailable`."""
        ...

    async def close(self) -> None:
        """Writes what is pending and lets go. Later calls raise `StoreUnavailable`."""
        ...

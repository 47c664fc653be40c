"""The store of plain dicts: `memory://`, and the model that the other stores are compared with.

Nothing outlives the process and nothing is shared: it is for trying policyd out and for tests, with one worker on one
event loop. No method awaits anything, so each is one step; a sweep therefore looks only at what is due.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import replace

from policyd.core.errors import ReservationMismatch, ReservationNotFound, StoreUnavailable
from policyd.core.events import OperatorEvent
from policyd.core.ledger import Account, Amounts, Balance, Carry, Entry, carried
from policyd.core.record import Record
from policyd.core.reservation import TRANSITIONS, Event, State, is_repetition, next_state
from policyd.stores import postings
from policyd.stores.agenda import Agenda
from policyd.stores.base import (
    AccountsPage,
    EventsPage,
    Exists,
    Granted,
    Refused,
    Reservation,
    ReserveResult,
    Stale,
    StateChanges,
    StateItem,
    Swept,
    UsageFilter,
    UsagePage,
)
from policyd.stores.codec import cursor_after, cursor_after_account, parse_account_cursor, parse_cursor
from policyd.stores.memory_state import MemoryState
from policyd.stores.postings import EndingEvent, Posting

_NO_AMOUNTS: Amounts = {}


@dataclass(slots=True)
class _AccountRow:
    account: Account
    spent: int
    reserved: int


class _ReservationRow(Struct, frozen=True):
    reservation: Reservation
    ended_at_ms: int | None = None


class MemoryStore:
    """See the module's text; every method is documented in `policyd.stores.base.Store`."""

    def __init__(self) -> None:
        self._accounts: dict[str, _AccountRow] = {}
        self._reservations: dict[str, _ReservationRow] = {}
        self._usage: dict[str, Record] = {}
        self._open_reservations = 0
        self._to_expire = Agenda()
        """Reservations by when they expire. Renewing one does not change it: it is found out when its time has come."""
        self._to_forget = Agenda()
        """Reservations by when they ended."""
        self._usage_to_forget = Agenda()
        self._accounts_to_forget = Agenda()
        self._state = MemoryState()
        self._closed = False

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
        self._check_open()
        if (row := self._reservations.get(reservation_id)) is not None:
            if row.reservation.fingerprint != fingerprint:
                raise ReservationMismatch(reservation_id)
            return Exists(row.reservation)
        if state_revision not in (None, self._state.revision):
            return Stale(self._state.revision)
        balances = self._entry_balances(entries)
        if not postings.all_fit(entries, balances):
            return Refused(balances)
        self._post(postings.reserving(entries))
        self._reservations[reservation_id] = _ReservationRow(
            Reservation(reservation_id, State.RESERVED, fingerprint, tuple(entries), balances, record, expires_at_ms)
        )
        self._open_reservations += 1
        self._to_expire.add(expires_at_ms, reservation_id)
        return Granted(balances)

    async def extend(
        self, reservation_id: str, *, unit_amounts: Amounts, wanted_units: int, at_least_units: int, now_ms: int
    ) -> int:
        self._check_open()
        reservation = self._find(reservation_id).reservation
        next_state(reservation.state, Event.EXTEND, reservation_id=reservation_id)
        units = postings.units_granted(
            reservation.entries,
            self._entry_balances(reservation.entries),
            unit_amounts=unit_amounts,
            wanted_units=wanted_units,
            at_least_units=at_least_units,
        )
        self._post(postings.extending(reservation.entries, unit_amounts=unit_amounts, units=units))
        entries = postings.extended(reservation.entries, unit_amounts=unit_amounts, units=units)
        self._reservations[reservation_id] = _ReservationRow(replace(reservation, entries=entries))
        return units

    async def settle(self, reservation_id: str, *, amounts: Amounts, record: Record, now_ms: int) -> State:
        return self._end(reservation_id, Event.SETTLE, amounts, record, now_ms)

    async def release(self, reservation_id: str, *, record: Record, now_ms: int) -> State:
        return self._end(reservation_id, Event.RELEASE, _NO_AMOUNTS, record, now_ms)

    def _end(self, reservation_id: str, event: EndingEvent, amounts: Amounts, record: Record, now_ms: int) -> State:
        self._check_open()
        reservation = self._find(reservation_id).reservation
        state = reservation.state
        following = next_state(state, event, reservation_id=reservation_id)
        if is_repetition(state, event):
            return state
        self._post(postings.ending(reservation.entries, state=state, event=event, amounts=amounts))
        ended = replace(reservation, state=following, record=record)
        self._reservations[reservation_id] = _ReservationRow(ended, ended_at_ms=now_ms)
        self._open_reservations -= state is State.RESERVED
        self._to_forget.add(now_ms, reservation_id)
        self._store_usage(record)
        return state

    async def renew(self, reservation_ids: Sequence[str], *, expires_at_ms: int) -> None:
        self._check_open()
        for reservation_id in reservation_ids:
            row = self._reservations.get(reservation_id)
            if row is not None and (row.reservation.state, Event.RENEW) in TRANSITIONS:
                latest_ms = max(expires_at_ms, row.reservation.expires_at_ms)
                renewed = replace(row.reservation, expires_at_ms=latest_ms)
                self._reservations[reservation_id] = _ReservationRow(renewed)

    async def sweep(self, *, now_ms: int, ended_before_ms: int, usage_before_ms: int) -> Swept:
        self._check_open()
        expired = tuple([self._expire(reservation, now_ms) for reservation in self._due(now_ms)])
        for reservation_id in self._to_forget.take(before_ms=ended_before_ms):
            row = self._reservations.get(reservation_id)
            if row is not None and row.ended_at_ms is not None and row.ended_at_ms < ended_before_ms:
                del self._reservations[reservation_id]
        for request_id in self._usage_to_forget.take(before_ms=usage_before_ms):
            record = self._usage.get(request_id)
            if record is not None and record.at_ms < usage_before_ms:
                del self._usage[request_id]
        self._forget_accounts(now_ms)
        self._state.sweep(now_ms=now_ms, ended_before_ms=ended_before_ms)
        return Swept(expired, open_reservations=self._open_reservations)

    def _due(self, now_ms: int) -> Collection[Reservation]:
        due: dict[str, Reservation] = {}  # an id that was forgotten and used again may be there twice
        for reservation_id in list(self._to_expire.take(before_ms=now_ms + 1)):
            row = self._reservations.get(reservation_id)
            if row is None or row.reservation.state is not State.RESERVED:
                continue
            if row.reservation.expires_at_ms <= now_ms:
                due[reservation_id] = row.reservation
            else:  # renewed
                self._to_expire.add(row.reservation.expires_at_ms, reservation_id)
        return due.values()

    def _forget_accounts(self, now_ms: int) -> None:
        for key in list(self._accounts_to_forget.take(before_ms=now_ms + 1)):
            row = self._accounts[key]
            if not row.reserved:
                del self._accounts[key]
            elif row.account.keep_until_ms is not None:  # once more at the next sweep
                self._accounts_to_forget.add(row.account.keep_until_ms, key)

    def _expire(self, reservation: Reservation, now_ms: int) -> Record:
        record = reservation.record.expired(charged_nanos=postings.expiry_cost_nanos(reservation.entries))
        self._end(reservation.id, Event.EXPIRE, _NO_AMOUNTS, record, now_ms)
        return record

    async def get(self, reservation_id: str) -> Reservation:
        self._check_open()
        return self._find(reservation_id).reservation

    async def balances(self, accounts: Sequence[tuple[Account, Carry | None]]) -> tuple[Balance, ...]:
        self._check_open()
        return tuple(self._balance(account, carry) for account, carry in accounts)

    async def weigh(
        self, accounts: Sequence[tuple[Account, Carry | None]], *, state_revision: int
    ) -> tuple[Balance, ...] | Stale:
        self._check_open()
        if state_revision != self._state.revision:
            return Stale(self._state.revision)
        return tuple(self._balance(account, carry) for account, carry in accounts)

    async def accounts(
        self,
        *,
        limit_name: str | None = None,
        scope: str | None = None,
        ends_after_ms: int | None = None,
        page: int,
        cursor: str = "",
    ) -> AccountsPage:
        self._check_open()
        after = parse_account_cursor(cursor) if cursor else ""
        found = [
            (row.account, Balance(row.spent, row.reserved))
            for key, row in sorted(self._accounts.items())
            if key > after
            and limit_name in (None, row.account.limit)
            and scope in (None, row.account.scope)
            and (ends_after_ms is None or not row.account.has_ended(ends_after_ms))
        ]
        rows = tuple(found[:page])
        return AccountsPage(rows, next_cursor=cursor_after_account(rows[-1][0].key) if len(found) > page else "")

    async def append(self, record: Record) -> None:
        self._check_open()
        if record.request_id not in self._usage:
            self._store_usage(record)

    async def usage(self, wanted: UsageFilter, *, limit: int, cursor: str = "") -> UsagePage:
        self._check_open()
        below = parse_cursor(cursor) if cursor else None
        found = [
            record
            for record in self._usage.values()
            if _is_wanted(record, wanted) and (below is None or _age_order(record) < below)
        ]
        found.sort(key=_age_order, reverse=True)
        page = tuple(found[:limit])
        return UsagePage(page, next_cursor=cursor_after(page[-1]) if len(found) > limit else "")

    async def set_state(self, items: Sequence[StateItem], *, now_ms: int, expected_revision: int | None = None) -> int:
        self._check_open()
        return self._state.set_state(items, expected_revision=expected_revision)

    async def state(self, *, since: int = 0) -> StateChanges:
        self._check_open()
        return self._state.state(since=since)

    async def begin_window(self, key: str, *, now_ms: int, length_ms: int, begin: bool = True) -> int | None:
        self._check_open()
        return self._state.begin_window(key, now_ms=now_ms, length_ms=length_ms, begin=begin)

    async def repeated(
        self, scope: str, digest: str, *, now_ms: int, forget_after_ms: int, counted: bool = True
    ) -> int:
        self._check_open()
        return self._state.repeated(scope, digest, now_ms=now_ms, forget_after_ms=forget_after_ms, counted=counted)

    async def count(self, deltas: Mapping[str, int], *, now_ms: int, keep_until_ms: int) -> None:
        self._check_open()
        self._state.count(deltas, now_ms=now_ms, keep_until_ms=keep_until_ms)

    async def counters(self, prefix: str, *, now_ms: int) -> Mapping[str, int]:
        self._check_open()
        return self._state.counters(prefix, now_ms=now_ms)

    async def emit(self, event: OperatorEvent) -> bool:
        self._check_open()
        return self._state.emit(event)

    async def events(self, *, page: int, cursor: str = "") -> EventsPage:
        self._check_open()
        return self._state.events(page=page, cursor=cursor)

    async def acknowledge(self, event_ids: Sequence[str]) -> int:
        self._check_open()
        return self._state.acknowledge(event_ids)

    async def ping(self) -> None:
        self._check_open()

    async def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _find(self, reservation_id: str) -> _ReservationRow:
        row = self._reservations.get(reservation_id)
        if row is None:
            raise ReservationNotFound(reservation_id)
        return row

    def _store_usage(self, record: Record) -> None:
        self._usage[record.request_id] = record
        self._usage_to_forget.add(record.at_ms, record.request_id)

    def _entry_balances(self, entries: Sequence[Entry]) -> tuple[Balance, ...]:
        return tuple([self._balance(entry.account, entry.carry) for entry in entries])

    def _balance(self, account: Account, carry: Carry | None) -> Balance:
        row = self._accounts.get(account.key)
        spent, reserved = (row.spent, row.reserved) if row is not None else (0, 0)
        before = self._accounts.get(carry.account_key) if carry is not None else None
        if carry is None or before is None:
            return Balance(spent, reserved)
        return Balance(spent, reserved, carried(before.spent + before.reserved, carry.weight))

    def _post(self, posted: Sequence[Posting]) -> None:
        for posting in posted:
            row = self._accounts.get(posting.account.key)
            if row is None:
                row = _AccountRow(posting.account, spent=posting.opening_spent, reserved=posting.reserved)
                self._accounts[posting.account.key] = row
                if posting.account.keep_until_ms is not None:
                    self._accounts_to_forget.add(posting.account.keep_until_ms, posting.account.key)
            else:
                row.spent += posting.spent
                row.reserved += posting.reserved


def _age_order(record: Record) -> tuple[int, str]:
    return record.at_ms, record.request_id


def _is_wanted(record: Record, wanted: UsageFilter) -> bool:
    return _has(record.attributes, wanted.attributes) and (
        (wanted.from_ms is None or wanted.from_ms <= record.at_ms)
        and (wanted.until_ms is None or record.at_ms < wanted.until_ms)
    )


def _has(attributes: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= attributes.items()

"""The store of one SQLite file: the embedded default, `sqlite:///path/file.db`.

**What survives.** A call returns after its commit, and a commit survives the end of the process, `kill -9` included.
What a power cut or a crash of the operating system may take depends on `?synchronous=`:

    normal (default)   the last commits, back to the last checkpoint (about 4 MB of the log); never a part of a commit
    full               nothing; every commit waits for the disk

**Who may share a file.** Any number of processes on one host, on a local disk: each batch takes SQLite's write lock
before it reads a balance, so their reservations line up, and a process that cannot get the lock in time answers
`StoreUnavailable`. Not over a network file system, on whose locks SQLite cannot rely: several hosts need another store.

**How.** One thread writes, with a group commit (`policyd.stores.group_commit`); a second one reads, so that a long
listing of usage holds up no reservation. The event loop itself never waits for SQLite. A sweep goes in steps of at most
`SWEEP_ROWS_MAX` rows (some 10 ms each), with other calls in between.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from policyd.core.errors import ReservationMismatch, ReservationNotFound
from policyd.core.ledger import ZERO_BALANCE, Account, Amounts, Balance, Carry, Entry, carried
from policyd.core.record import Record
from policyd.core.reservation import Event, State, is_repetition, next_state
from policyd.stores import codec, postings
from policyd.stores.base import (
    Exists,
    Granted,
    Refused,
    Reservation,
    ReserveResult,
    Swept,
    UsageFilter,
    UsagePage,
)
from policyd.stores.group_commit import GroupCommit
from policyd.stores.postings import EndingEvent, Posting
from policyd.stores.sqlite_file import Synchronous, open_file

BUSY_TIMEOUT_MS = 1_000
"""How long a batch waits for another process that writes to the same file. Envoy waits 2 s for a decision: whatever
takes longer it answers itself, and the policy's `failure_mode` is not asked."""

SWEEP_ROWS_MAX = 200
"""How many rows one step of a sweep touches, so that the calls that wait for it wait some 10 ms at most."""

_NO_AMOUNTS: Amounts = {}

_EARLIEST_MS, _LATEST_MS = -(2**63), 2**63 - 1  # what SQLite's integers hold


class SqliteStore:
    """See the module's text; every method is documented in `policyd.stores.base.Store`."""

    def __init__(
        self, path: Path, *, synchronous: Synchronous = Synchronous.NORMAL, busy_timeout_ms: int = BUSY_TIMEOUT_MS
    ) -> None:
        """Opens `path`, or creates it. Raises `ConfigError` if it cannot be used."""
        writing, reading = open_file(path, synchronous=synchronous, busy_timeout_ms=busy_timeout_ms)
        self._writer = GroupCommit(writing, begin="BEGIN IMMEDIATE", thread_name="policyd-sqlite-writer")
        self._reader = GroupCommit(reading, begin="BEGIN", thread_name="policyd-sqlite-reader")

    async def reserve(
        self,
        reservation_id: str,
        *,
        entries: Sequence[Entry],
        record: Record,
        now_ms: int,
        expires_at_ms: int,
        fingerprint: str = "",
    ) -> ReserveResult:
        return await self._writer.run(
            lambda db: _reserve(db, reservation_id, fingerprint, entries, record, expires_at_ms)
        )

    async def extend(
        self, reservation_id: str, *, unit_amounts: Amounts, wanted_units: int, at_least_units: int, now_ms: int
    ) -> int:
        return await self._writer.run(
            lambda db: _extend(db, reservation_id, unit_amounts, wanted_units, at_least_units)
        )

    async def settle(self, reservation_id: str, *, amounts: Amounts, record: Record, now_ms: int) -> State:
        return await self._writer.run(lambda db: _end(db, reservation_id, Event.SETTLE, amounts, record, now_ms))

    async def release(self, reservation_id: str, *, record: Record, now_ms: int) -> State:
        return await self._writer.run(lambda db: _end(db, reservation_id, Event.RELEASE, _NO_AMOUNTS, record, now_ms))

    async def renew(self, reservation_ids: Sequence[str], *, expires_at_ms: int) -> None:
        await self._writer.run(lambda db: _renew(db, reservation_ids, expires_at_ms))

    async def sweep(self, *, now_ms: int, ended_before_ms: int, usage_before_ms: int) -> Swept:
        expired: list[Record] = []
        while batch := await self._writer.run(lambda db: _expire_due(db, now_ms)):
            expired += batch
        await self._forget(_FORGET_RESERVATIONS, ended_before_ms)
        await self._forget(_FORGET_USAGE, usage_before_ms)
        await self._forget(_FORGET_ACCOUNTS, now_ms)
        return Swept(tuple(expired), open_reservations=await self._reader.run(_count_open))

    async def _forget(self, statement: str, bound_ms: int) -> None:
        while await self._writer.run(lambda db: db.execute(statement, (bound_ms, SWEEP_ROWS_MAX)).rowcount):
            pass

    async def get(self, reservation_id: str) -> Reservation:
        return await self._reader.run(lambda db: _get(db, reservation_id))

    async def balances(self, accounts: Sequence[tuple[Account, Carry | None]]) -> tuple[Balance, ...]:
        return await self._reader.run(lambda db: tuple(_balance(db, account, carry) for account, carry in accounts))

    async def append(self, record: Record) -> None:
        await self._writer.run(lambda db: _save_usage(db, record, codec.encode(record)))

    async def usage(self, wanted: UsageFilter, *, limit: int, cursor: str = "") -> UsagePage:
        return await self._reader.run(lambda db: _usage(db, wanted, limit, cursor))

    async def ping(self) -> None:
        # By way of the writer: a store that can only be read does not answer.
        await self._writer.run(lambda db: db.execute("SELECT 1").fetchone())

    async def close(self) -> None:
        await self._writer.close()
        await self._reader.close()


# The steps: what one call does inside its transaction. ---------------------------------------------------------------

_SELECT_ACCOUNT = "SELECT spent, reserved FROM accounts WHERE key = ?"
_POST = """
    INSERT INTO accounts (key, spent, reserved, keep_until_ms) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET spent = spent + ?, reserved = reserved + excluded.reserved
"""
_INSERT_RESERVATION = """
    INSERT INTO reservations (id, state, fingerprint, entries, balances, record, expires_at_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_SELECT_RESERVATION = """
    SELECT state, fingerprint, entries, balances, record, expires_at_ms FROM reservations WHERE id = ?
"""
_SELECT_HOLD = "SELECT state, entries FROM reservations WHERE id = ?"
_UPDATE_ENTRIES = "UPDATE reservations SET entries = ? WHERE id = ?"
_END_RESERVATION = "UPDATE reservations SET state = ?, record = ?, ended_at_ms = ? WHERE id = ?"
_RENEW = "UPDATE reservations SET expires_at_ms = ? WHERE id = ? AND state = 'reserved' AND expires_at_ms < ?"
_SELECT_DUE = """
    SELECT id, entries, record FROM reservations WHERE state = 'reserved' AND expires_at_ms <= ?
    ORDER BY expires_at_ms LIMIT ?
"""
_COUNT_OPEN = "SELECT count(*) FROM reservations WHERE state = 'reserved'"
_SELECT_USAGE = "SELECT record FROM usage WHERE at_ms >= ? AND (at_ms, request_id) < (?, ?)"
_WITH_ATTRIBUTE = " AND instr(attributes, ?)"
_NEWEST_FIRST = " ORDER BY at_ms DESC, request_id DESC LIMIT ?"
_SAVE_USAGE = "INSERT OR REPLACE INTO usage (request_id, at_ms, attributes, record) VALUES (?, ?, ?, ?)"
_FORGET_RESERVATIONS = """
    DELETE FROM reservations WHERE rowid IN (SELECT rowid FROM reservations WHERE ended_at_ms < ? LIMIT ?)
"""
_FORGET_USAGE = "DELETE FROM usage WHERE rowid IN (SELECT rowid FROM usage WHERE at_ms < ? LIMIT ?)"
_FORGET_ACCOUNTS = """
    DELETE FROM accounts WHERE key IN (SELECT key FROM accounts WHERE keep_until_ms <= ? AND reserved = 0 LIMIT ?)
"""


def _reserve(
    db: sqlite3.Connection,
    reservation_id: str,
    fingerprint: str,
    entries: Sequence[Entry],
    record: Record,
    expires_at_ms: int,
) -> ReserveResult:
    existing = _find(db, reservation_id)
    if existing is not None:
        if existing.fingerprint != fingerprint:
            raise ReservationMismatch(reservation_id)
        return Exists(existing)
    balances = _entry_balances(db, entries)
    if not postings.all_fit(entries, balances):
        return Refused(balances)
    _post(db, postings.reserving(entries))
    row = (
        reservation_id,
        State.RESERVED,
        fingerprint,
        codec.encode(entries),
        codec.encode(balances),
        codec.encode(record),
        expires_at_ms,
    )
    db.execute(_INSERT_RESERVATION, row)
    return Granted(balances)


def _extend(
    db: sqlite3.Connection, reservation_id: str, unit_amounts: Amounts, wanted_units: int, at_least_units: int
) -> int:
    state, entries = _find_hold(db, reservation_id)
    next_state(state, Event.EXTEND, reservation_id=reservation_id)
    units = postings.units_granted(
        entries,
        _entry_balances(db, entries),
        unit_amounts=unit_amounts,
        wanted_units=wanted_units,
        at_least_units=at_least_units,
    )
    _post(db, postings.extending(entries, unit_amounts=unit_amounts, units=units))
    extended = postings.extended(entries, unit_amounts=unit_amounts, units=units)
    db.execute(_UPDATE_ENTRIES, (codec.encode(extended), reservation_id))
    return units


def _end(
    db: sqlite3.Connection, reservation_id: str, event: EndingEvent, amounts: Amounts, record: Record, now_ms: int
) -> State:
    state, entries = _find_hold(db, reservation_id)
    following = next_state(state, event, reservation_id=reservation_id)
    if is_repetition(state, event):
        return state
    _post(db, postings.ending(entries, state=state, event=event, amounts=amounts))
    encoded = codec.encode(record)
    db.execute(_END_RESERVATION, (following, encoded, now_ms, reservation_id))
    _save_usage(db, record, encoded)
    return state


def _renew(db: sqlite3.Connection, reservation_ids: Sequence[str], expires_at_ms: int) -> None:
    db.executemany(_RENEW, [(expires_at_ms, reservation_id, expires_at_ms) for reservation_id in reservation_ids])


def _expire_due(db: sqlite3.Connection, now_ms: int) -> list[Record]:
    """Expires as many as one step of a sweep may; none if none is left."""
    records = []
    for reservation_id, entries, pending in db.execute(_SELECT_DUE, (now_ms, SWEEP_ROWS_MAX)).fetchall():
        charged_nanos = postings.expiry_cost_nanos(codec.decode_entries(entries))
        record = codec.decode_record(pending).expired(charged_nanos=charged_nanos)
        _end(db, reservation_id, Event.EXPIRE, _NO_AMOUNTS, record, now_ms)
        records.append(record)
    return records


def _count_open(db: sqlite3.Connection) -> int:
    count: int = db.execute(_COUNT_OPEN).fetchone()[0]
    return count


def _get(db: sqlite3.Connection, reservation_id: str) -> Reservation:
    reservation = _find(db, reservation_id)
    if reservation is None:
        raise ReservationNotFound(reservation_id)
    return reservation


def _find(db: sqlite3.Connection, reservation_id: str) -> Reservation | None:
    row = db.execute(_SELECT_RESERVATION, (reservation_id,)).fetchone()
    if row is None:
        return None
    state, fingerprint, entries, balances, record, expires_at_ms = row
    return Reservation(
        id=reservation_id,
        state=State(state),
        fingerprint=fingerprint,
        entries=codec.decode_entries(entries),
        balances=codec.decode_balances(balances),
        record=codec.decode_record(record),
        expires_at_ms=expires_at_ms,
    )


def _find_hold(db: sqlite3.Connection, reservation_id: str) -> tuple[State, tuple[Entry, ...]]:
    row = db.execute(_SELECT_HOLD, (reservation_id,)).fetchone()
    if row is None:
        raise ReservationNotFound(reservation_id)
    return State(row[0]), codec.decode_entries(row[1])


def _entry_balances(db: sqlite3.Connection, entries: Sequence[Entry]) -> tuple[Balance, ...]:
    return tuple(_balance(db, entry.account, entry.carry) for entry in entries)


def _balance(db: sqlite3.Connection, account: Account, carry: Carry | None) -> Balance:
    spent, reserved = _account_row(db, account.key)
    if carry is None:
        return Balance(spent, reserved)
    spent_before, reserved_before = _account_row(db, carry.account_key)
    return Balance(spent, reserved, carried(spent_before + reserved_before, carry.weight))


def _account_row(db: sqlite3.Connection, account_key: str) -> tuple[int, int]:
    row: tuple[int, int] | None = db.execute(_SELECT_ACCOUNT, (account_key,)).fetchone()
    return (ZERO_BALANCE.spent, ZERO_BALANCE.reserved) if row is None else row


def _post(db: sqlite3.Connection, posted: Sequence[Posting]) -> None:
    rows = [(p.account.key, p.opening_spent, p.reserved, p.account.keep_until_ms, p.spent) for p in posted]
    db.executemany(_POST, rows)


def _save_usage(db: sqlite3.Connection, record: Record, encoded: str) -> None:
    lines = "".join(f"{_attribute_line(name, value)}\n" for name, value in record.attributes.items())
    db.execute(_SAVE_USAGE, (record.request_id, record.at_ms, f"\n{lines}", encoded))


def _attribute_line(name: str, value: str) -> str:
    # As JSON strings, which hold no raw newline and no raw quote: a line is found in the column by text alone.
    return f"{codec.encode(name)}:{codec.encode(value)}"


def _usage(db: sqlite3.Connection, wanted: UsageFilter, limit: int, cursor: str) -> UsagePage:
    below = (_LATEST_MS if wanted.until_ms is None else wanted.until_ms, "")
    if cursor:
        below = min(below, codec.parse_cursor(cursor))
    from_ms = _EARLIEST_MS if wanted.from_ms is None else wanted.from_ms
    lines = [f"\n{_attribute_line(name, value)}\n" for name, value in wanted.attributes.items()]
    query = _SELECT_USAGE + _WITH_ATTRIBUTE * len(lines) + _NEWEST_FIRST
    found = [codec.decode_record(text) for (text,) in db.execute(query, (from_ms, *below, *lines, limit + 1))]
    page = tuple(found[:limit])
    return UsagePage(page, next_cursor=codec.cursor_after(page[-1]) if len(found) > limit else "")

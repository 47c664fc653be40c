"""The ledger in SQLite: what one call about accounts and reservations does inside its transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice

from policyd.core.errors import ReservationMismatch, ReservationNotFound
from policyd.core.ledger import Account, Amounts, Balance, Carry, Entry, carried
from policyd.core.record import Record
from policyd.core.reservation import Event, State, is_repetition, next_state
from policyd.stores import codec, postings
from policyd.stores.base import AccountsPage, Exists, Granted, Refused, Reservation, ReserveResult, Stale
from policyd.stores.postings import EndingEvent, Posting
from policyd.stores.sqlite import runtime, usage_records

KEYS_MAX = 100
"""How many accounts one statement asks for: SQLite takes a limited number of values, and prepares each number anew."""

_NO_AMOUNTS: Amounts = {}
_NOTHING = (0, 0)

_SELECT_STANDING = """
    SELECT EXISTS (SELECT 1 FROM reservations WHERE id = ?), revision FROM state_revision WHERE only_row = 1
"""
_SELECT_BY_KEYS = "SELECT key, spent, reserved FROM accounts WHERE key IN (?)"
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
_SELECT_ACCOUNTS = "SELECT key, spent, reserved, keep_until_ms FROM accounts WHERE key > ? ORDER BY key"
FORGET_RESERVATIONS = """
    DELETE FROM reservations WHERE rowid IN (SELECT rowid FROM reservations WHERE ended_at_ms < ? LIMIT ?)
"""
FORGET_ACCOUNTS = """
    DELETE FROM accounts WHERE key IN (SELECT key FROM accounts WHERE keep_until_ms <= ? AND reserved = 0 LIMIT ?)
"""


def reserve(
    db: sqlite3.Connection,
    reservation_id: str,
    *,
    entries: Sequence[Entry],
    record: Record,
    expires_at_ms: int,
    fingerprint: str,
    state_revision: int | None,
) -> ReserveResult:
    is_known, revision = db.execute(_SELECT_STANDING, (reservation_id,)).fetchone()
    if is_known:
        existing = get(db, reservation_id)
        if existing.fingerprint != fingerprint:
            raise ReservationMismatch(reservation_id)
        return Exists(existing)
    if state_revision not in (None, revision):
        return Stale(revision)
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
        codec.encode_record(record),
        expires_at_ms,
    )
    db.execute(_INSERT_RESERVATION, row)
    return Granted(balances)


def extend(
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


def end(
    db: sqlite3.Connection, reservation_id: str, event: EndingEvent, amounts: Amounts, record: Record, now_ms: int
) -> State:
    state, entries = _find_hold(db, reservation_id)
    following = next_state(state, event, reservation_id=reservation_id)
    if is_repetition(state, event):
        return state
    _post(db, postings.ending(entries, state=state, event=event, amounts=amounts))
    encoded = codec.encode_record(record)
    db.execute(_END_RESERVATION, (following, encoded, now_ms, reservation_id))
    usage_records.save(db, record, encoded)
    return state


def renew(db: sqlite3.Connection, reservation_ids: Sequence[str], expires_at_ms: int) -> None:
    db.executemany(_RENEW, [(expires_at_ms, reservation_id, expires_at_ms) for reservation_id in reservation_ids])


def expire_due(db: sqlite3.Connection, now_ms: int, *, rows_max: int) -> list[Record]:
    """Expires as many as `rows_max`; none if none is left."""
    records = []
    for reservation_id, entries, pending in db.execute(_SELECT_DUE, (now_ms, rows_max)).fetchall():
        charged_nanos = postings.expiry_cost_nanos(codec.decode_entries(entries))
        record = codec.decode_record(pending).expired(charged_nanos=charged_nanos)
        end(db, reservation_id, Event.EXPIRE, _NO_AMOUNTS, record, now_ms)
        records.append(record)
    return records


def count_open(db: sqlite3.Connection) -> int:
    count: int = db.execute(_COUNT_OPEN).fetchone()[0]
    return count


def get(db: sqlite3.Connection, reservation_id: str) -> Reservation:
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
    return balances(db, [(entry.account, entry.carry) for entry in entries])


def _post(db: sqlite3.Connection, posted: Sequence[Posting]) -> None:
    rows = [(p.account.key, p.opening_spent, p.reserved, p.account.keep_until_ms, p.spent) for p in posted]
    db.executemany(_POST, rows)


def balances(db: sqlite3.Connection, accounts: Sequence[tuple[Account, Carry | None]]) -> tuple[Balance, ...]:
    keys = [account.key for account, _ in accounts]
    before = [carry.account_key for _, carry in accounts if carry is not None]
    rows = _rows(db, [*keys, *before])
    return tuple([_balance(rows, key, carry) for key, (_, carry) in zip(keys, accounts, strict=True)])


def weigh(
    db: sqlite3.Connection, accounts: Sequence[tuple[Account, Carry | None]], state_revision: int
) -> tuple[Balance, ...] | Stale:
    revision = runtime.state_revision(db)
    return balances(db, accounts) if revision == state_revision else Stale(revision)


def _rows(db: sqlite3.Connection, keys: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    """What is spent and reserved, of those that are known."""
    rows: dict[str, tuple[int, int]] = {}
    for start in range(0, len(keys), KEYS_MAX):
        chosen = keys[start : start + KEYS_MAX]
        for key, spent, reserved in db.execute(_select_by_keys(len(chosen)), chosen):
            rows[key] = spent, reserved
    return rows


@cache
def _select_by_keys(count: int) -> str:
    return _SELECT_BY_KEYS.replace("?", ",".join("?" * count))


def _balance(rows: Mapping[str, tuple[int, int]], key: str, carry: Carry | None) -> Balance:
    spent, reserved = rows.get(key, _NOTHING)
    if carry is None:
        return Balance(spent, reserved)
    return Balance(spent, reserved, carried(sum(rows.get(carry.account_key, _NOTHING)), carry.weight))


def accounts(
    db: sqlite3.Connection,
    *,
    limit_name: str | None,
    scope: str | None,
    ends_after_ms: int | None,
    page: int,
    cursor: str,
) -> AccountsPage:
    after = codec.parse_account_cursor(cursor) if cursor else ""
    found = (
        row
        for row in _accounts_from(db, limit_name, after)
        if scope in (None, row[0].scope) and (ends_after_ms is None or not row[0].has_ended(ends_after_ms))
    )
    rows = tuple(islice(found, page))
    more = next(found, None) is not None
    return AccountsPage(rows, next_cursor=codec.cursor_after_account(rows[-1][0].key) if more else "")


def _accounts_from(db: sqlite3.Connection, limit_name: str | None, after: str) -> Iterator[tuple[Account, Balance]]:
    """The accounts with a key after `after`, of one limit or of all; read as they are asked for."""
    prefix = "" if limit_name is None else f"{limit_name}|"
    for key, spent, reserved, keep_until_ms in db.execute(_SELECT_ACCOUNTS, (max(after, prefix),)):
        if not key.startswith(prefix):
            return
        yield Account.of_key(key, keep_until_ms=keep_until_ms), Balance(spent, reserved)

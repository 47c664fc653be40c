"""Run-time state in SQLite, and what stands beside it: windows, runs of repeated requests, counters.

Each function is what one call does inside its transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from policyd.core.errors import StaleState
from policyd.stores.base import StateChanges, StateItem

_SELECT_REVISION = "SELECT revision FROM state_revision WHERE only_row = 1"
_RAISE_REVISION = "UPDATE state_revision SET revision = ? WHERE only_row = 1"
_SET_ITEM = """
    INSERT OR REPLACE INTO state_items (kind, key, value, expires_at_ms, revision, place) VALUES (?, ?, ?, ?, ?, ?)
"""
_SELECT_ITEMS = """
    SELECT kind, key, value, expires_at_ms, revision FROM state_items WHERE revision > ? ORDER BY revision, place
"""
_SELECT_WINDOW = "SELECT starts_at_ms, ends_at_ms FROM windows WHERE key = ?"
_SET_WINDOW = "INSERT OR REPLACE INTO windows (key, starts_at_ms, ends_at_ms) VALUES (?, ?, ?)"
_SELECT_RUN = "SELECT times FROM runs WHERE scope = ? AND digest = ? AND forget_at_ms > ?"
_SET_RUN = "INSERT OR REPLACE INTO runs (scope, digest, times, forget_at_ms) VALUES (?, ?, ?, ?)"
_COUNT = """
    INSERT INTO counters (name, value, keep_until_ms) VALUES (:name, :delta, :keep_until_ms)
    ON CONFLICT (name) DO UPDATE SET
        value = iif(keep_until_ms > :now_ms, value, 0) + :delta,
        keep_until_ms = max(keep_until_ms, :keep_until_ms)
"""
_SELECT_COUNTERS = "SELECT name, value, keep_until_ms FROM counters WHERE name >= ? ORDER BY name"
FORGET_ITEMS = """
    DELETE FROM state_items WHERE (kind, key) IN
        (SELECT kind, key FROM state_items WHERE expires_at_ms < ? LIMIT ?)
"""
FORGET_WINDOWS = "DELETE FROM windows WHERE key IN (SELECT key FROM windows WHERE ends_at_ms <= ? LIMIT ?)"
FORGET_RUNS = "DELETE FROM runs WHERE scope IN (SELECT scope FROM runs WHERE forget_at_ms <= ? LIMIT ?)"
FORGET_COUNTERS = "DELETE FROM counters WHERE name IN (SELECT name FROM counters WHERE keep_until_ms <= ? LIMIT ?)"


def state_revision(db: sqlite3.Connection) -> int:
    revision: int = db.execute(_SELECT_REVISION).fetchone()[0]
    return revision


def set_state(db: sqlite3.Connection, items: Sequence[StateItem], expected_revision: int | None) -> int:
    known = state_revision(db)
    if expected_revision not in (None, known):
        raise StaleState(known)
    revision = known + 1
    rows = [(item.kind, item.key, item.value, item.expires_at_ms, revision, place) for place, item in enumerate(items)]
    db.executemany(_SET_ITEM, rows)
    db.execute(_RAISE_REVISION, (revision,))
    return revision


def state(db: sqlite3.Connection, since: int) -> StateChanges:
    return StateChanges(state_revision(db), tuple(StateItem(*row) for row in db.execute(_SELECT_ITEMS, (since,))))


def find_window(db: sqlite3.Connection, key: str, now_ms: int, length_ms: int) -> int | None:
    row: tuple[int, int] | None = db.execute(_SELECT_WINDOW, (key,)).fetchone()
    return None if row is None or now_ms >= row[0] + length_ms else row[0]


def begin_window(db: sqlite3.Connection, key: str, now_ms: int, length_ms: int) -> int:
    row: tuple[int, int] | None = db.execute(_SELECT_WINDOW, (key,)).fetchone()
    starts_at_ms, ends_at_ms = (now_ms, 0) if row is None or now_ms >= row[0] + length_ms else row
    db.execute(_SET_WINDOW, (key, starts_at_ms, max(ends_at_ms, starts_at_ms + length_ms)))
    return starts_at_ms


def times_repeated(db: sqlite3.Connection, scope: str, digest: str, now_ms: int) -> int:
    row: tuple[int] | None = db.execute(_SELECT_RUN, (scope, digest, now_ms)).fetchone()
    return 1 if row is None else row[0] + 1


def repeated(db: sqlite3.Connection, scope: str, digest: str, now_ms: int, forget_after_ms: int) -> int:
    times = times_repeated(db, scope, digest, now_ms)
    db.execute(_SET_RUN, (scope, digest, times, now_ms + forget_after_ms))
    return times


def count(db: sqlite3.Connection, deltas: Mapping[str, int], now_ms: int, keep_until_ms: int) -> None:
    db.executemany(
        _COUNT,
        [
            {"name": name, "delta": delta, "now_ms": now_ms, "keep_until_ms": keep_until_ms}
            for name, delta in deltas.items()
        ],
    )


def counters(db: sqlite3.Connection, prefix: str, now_ms: int) -> Mapping[str, int]:
    found = {}
    for name, value, keep_until_ms in db.execute(_SELECT_COUNTERS, (prefix,)):
        if not name.startswith(prefix):
            break
        if keep_until_ms > now_ms:
            found[name] = value
    return found

"""Usage records in SQLite: what one call about them does inside its transaction."""

from __future__ import annotations

import sqlite3

from policyd.core.record import Record
from policyd.stores import codec
from policyd.stores.base import UsageFilter, UsagePage

_EARLIEST_MS, _LATEST_MS = -(2**63), 2**63 - 1  # what SQLite's integers hold

_SELECT_USAGE = "SELECT record FROM usage WHERE at_ms >= ? AND (at_ms, request_id) < (?, ?)"
_WITH_ATTRIBUTE = " AND instr(attributes, ?)"
_NEWEST_FIRST = " ORDER BY at_ms DESC, request_id DESC LIMIT ?"
_SAVE = "INSERT OR REPLACE INTO usage (request_id, at_ms, attributes, record) VALUES (?, ?, ?, ?)"
_SAVE_IF_NEW = "INSERT OR IGNORE INTO usage (request_id, at_ms, attributes, record) VALUES (?, ?, ?, ?)"
FORGET = "DELETE FROM usage WHERE rowid IN (SELECT rowid FROM usage WHERE at_ms < ? LIMIT ?)"


def save(db: sqlite3.Connection, record: Record, encoded: str) -> None:
    """Stores a record in place of any with its request id."""
    db.execute(_SAVE, _row(record, encoded))


def save_if_new(db: sqlite3.Connection, record: Record) -> None:
    """Stores a record unless there is one with its request id."""
    db.execute(_SAVE_IF_NEW, _row(record, codec.encode_record(record)))


def _row(record: Record, encoded: str) -> tuple[str, int, str, str]:
    lines = "".join(f"{_attribute_line(name, value)}\n" for name, value in record.attributes.items())
    return record.request_id, record.at_ms, f"\n{lines}", encoded


def _attribute_line(name: str, value: str) -> str:
    # As JSON strings, which hold no raw newline and no raw quote: a line is found in the column by text alone.
    return f"{codec.encode(name)}:{codec.encode(value)}"


def page(db: sqlite3.Connection, wanted: UsageFilter, limit: int, cursor: str) -> UsagePage:
    below = (_LATEST_MS if wanted.until_ms is None else wanted.until_ms, "")
    if cursor:
        below = min(below, codec.parse_cursor(cursor))
    from_ms = _EARLIEST_MS if wanted.from_ms is None else wanted.from_ms
    lines = [f"\n{_attribute_line(name, value)}\n" for name, value in wanted.attributes.items()]
    query = _SELECT_USAGE + _WITH_ATTRIBUTE * len(lines) + _NEWEST_FIRST
    found = [codec.decode_record(text) for (text,) in db.execute(query, (from_ms, *below, *lines, limit + 1))]
    records = tuple(found[:limit])
    return UsagePage(records, next_cursor=codec.cursor_after(records[-1]) if len(found) > limit else "")

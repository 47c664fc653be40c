"""Events in SQLite: what one call about them does inside its transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from policyd.core.events import OperatorEvent
from policyd.stores import codec
from policyd.stores.base import EventsPage

_EMIT = "INSERT OR IGNORE INTO events (id, at_ms, keep_until_ms, acknowledged, event) VALUES (?, ?, ?, FALSE, ?)"
_SELECT = """
    SELECT event FROM events WHERE NOT acknowledged AND (at_ms, id) > (?, ?) ORDER BY at_ms, id LIMIT ?
"""
_ACKNOWLEDGE = "UPDATE events SET acknowledged = TRUE WHERE id = ? AND NOT acknowledged"
FORGET = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE keep_until_ms <= ? LIMIT ?)"


def emit(db: sqlite3.Connection, event: OperatorEvent) -> bool:
    return db.execute(_EMIT, (event.id, event.at_ms, event.keep_until_ms, codec.encode(event))).rowcount == 1


def page(db: sqlite3.Connection, size: int, cursor: str) -> EventsPage:
    after = codec.parse_event_cursor(cursor) if cursor else (-1, "")
    found = [codec.decode_event(text) for (text,) in db.execute(_SELECT, (*after, size + 1))]
    events = tuple(found[:size])
    return EventsPage(events, next_cursor=codec.cursor_after_event(events[-1]) if len(found) > size else "")


def acknowledge(db: sqlite3.Connection, event_ids: Sequence[str]) -> int:
    return sum(db.execute(_ACKNOWLEDGE, (event_id,)).rowcount for event_id in event_ids)

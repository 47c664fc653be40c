"""The events that rules and anomalies have left for operators."""

from __future__ import annotations

from collections.abc import Sequence

from policyd.config.problems import did_you_mean
from policyd.control.desk import Desk
from policyd.core.errors import ConfigError
from policyd.core.events import OperatorEvent

PAGE = 200
"""How many events are read at a time."""


async def pending(desk: Desk) -> Sequence[OperatorEvent]:
    """Every event that nobody has acknowledged, the oldest first."""
    found: list[OperatorEvent] = []
    cursor, more = "", True
    while more:
        page = await desk.store.events(page=PAGE, cursor=cursor)
        found += page.events
        cursor, more = page.next_cursor, bool(page.next_cursor)
    return found


async def acknowledge(desk: Desk, ids: Sequence[str], *, every: bool) -> int:
    """Takes the events off the list; returns how many. Raises `ConfigError` for an id that is not on it."""
    if bool(ids) == every:
        raise ConfigError("expected the ids of events, or --all")
    known = [event.id for event in await pending(desk)]
    for event_id in ids:
        if event_id not in known:
            raise ConfigError(f'ID: there is no event "{event_id}" on the list{did_you_mean(event_id, known)}')
    return await desk.store.acknowledge(known if every else ids)

"""Events: all of them in the first shard, as the run-time state is.

The order of the list is that of the members of a sorted set: the time, padded, and the id.
"""

from __future__ import annotations

from collections.abc import Sequence

from policyd.core.events import OperatorEvent
from policyd.stores import codec
from policyd.stores.base import EventsPage
from policyd.stores.redis.runner import Runner
from policyd.stores.redis.shards import Shards


class Events:
    def __init__(self, runner: Runner, shards: Shards) -> None:
        self._runner = runner
        self._shard = shards.all[0]

    async def emit(self, event: OperatorEvent) -> bool:
        place = _place(event.at_ms, event.id)
        new = await self._runner.run("emit", self._shard, event.id, place, event.keep_until_ms, codec.encode(event))
        return bool(new)

    async def page(self, size: int, cursor: str) -> EventsPage:
        after = f"({_place(*codec.parse_event_cursor(cursor))}" if cursor else "-"
        found = [codec.decode_event(text) for text in await self._runner.run("events", self._shard, after, size + 1)]
        events = tuple(found[:size])
        return EventsPage(events, next_cursor=codec.cursor_after_event(events[-1]) if len(found) > size else "")

    async def acknowledge(self, event_ids: Sequence[str]) -> int:
        return int(await self._runner.run("acknowledge", self._shard, *event_ids))


def _place(at_ms: int, event_id: str) -> str:
    """Sorts as the times do. No event is older than 1970."""
    return f"{max(0, at_ms):016}{event_id}"

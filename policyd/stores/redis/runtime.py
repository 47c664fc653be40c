"""Run-time state, and what stands beside it: windows that begin at first use, runs of repeated requests, counters.

The state's items, and the counters, are all in the first shard; a window and a run go by their name. The *revision* of
the state is known to every shard, so that `reserve` can compare it in the step in which it holds. `set_state` tells all
of them before it returns. Where it failed on the way, a shard may be behind: it learns of the revision from the next
reservation that knows it, or from the next sweep, and the caller, who got an error, sets the state again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from msgspec.json import Decoder

from policyd.core.errors import StaleState, StoreError, StoreUnavailable
from policyd.stores.base import StateChanges, StateItem
from policyd.stores.redis.runner import Runner
from policyd.stores.redis.shards import Shard, Shards

PLACES = 2**20
"""How many places for items a revision has. They keep the order of items that were set together."""

_decode_item = Decoder(tuple[str, str, str, str]).decode


class Runtime:
    """Each method is what `policyd.stores.base.Store` says of the one with its name."""

    def __init__(self, runner: Runner, shards: Shards) -> None:
        self._runner = runner
        self._shards = shards

    @property
    def _first(self) -> Shard:
        return self._shards.all[0]

    async def set_state(self, items: Sequence[StateItem], *, expected_revision: int | None) -> int:
        fields = [
            field
            for item in items
            for field in (item.kind, item.key, item.value, "" if item.expires_at_ms is None else item.expires_at_ms)
        ]
        expected = "" if expected_revision is None else expected_revision
        done, revision = await self._runner.run("set_state", self._first, expected, PLACES, *fields)
        if not done:
            raise StaleState(revision)
        try:
            await self.tell(revision)
        except StoreUnavailable as error:
            raise StoreError("a shard of Redis does not know of the new run-time state yet; set it again") from error
        return int(revision)

    async def tell(self, revision: int) -> None:
        """Lets every shard know of a revision that was set."""
        others = self._shards.all[1:]
        await asyncio.gather(*(self._runner.run("advance", shard, revision) for shard in others))

    async def revision(self) -> int:
        return int(await self._runner.run("revision", self._first))

    async def state(self, *, since: int) -> StateChanges:
        revision, found = await self._runner.run("state", self._first, since, PLACES)
        items = []
        for text, place in zip(found[::2], found[1::2], strict=True):
            kind, key, value, expires_at_ms = _decode_item(text)
            items.append(
                StateItem(kind, key, value, int(expires_at_ms) if expires_at_ms else None, int(place) // PLACES)
            )
        return StateChanges(revision, tuple(items))

    async def begin_window(self, key: str, *, now_ms: int, length_ms: int, begin: bool) -> int | None:
        starts_at_ms: int | None = await self._runner.run(
            "begin_window", self._shards.home(key), key, now_ms, length_ms, int(begin)
        )
        return starts_at_ms

    async def repeated(self, scope: str, digest: str, *, now_ms: int, forget_after_ms: int, counted: bool) -> int:
        home = self._shards.home(scope)
        return int(await self._runner.run("repeated", home, scope, digest, now_ms, forget_after_ms, int(counted)))

    async def count(self, deltas: Mapping[str, int], *, now_ms: int, keep_until_ms: int) -> None:
        fields = [field for delta in deltas.items() for field in delta]
        await self._runner.run("count", self._first, now_ms, keep_until_ms, *fields)

    async def counters(self, prefix: str, *, now_ms: int) -> Mapping[str, int]:
        found = await self._runner.run("counters", self._first, prefix, now_ms)
        return {name.decode(): int(value) for name, value in zip(found[::2], found[1::2], strict=True)}

"""The store in Redis: see the package's text for what it promises and how it is laid out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from policyd.core.errors import ReservationNotFound
from policyd.core.events import OperatorEvent
from policyd.core.ledger import Account, Amounts, Balance, Carry, Entry
from policyd.core.record import Record
from policyd.core.reservation import Event, State
from policyd.stores import codec
from policyd.stores.base import (
    AccountsPage,
    EventsPage,
    Reservation,
    ReserveResult,
    Stale,
    StateChanges,
    StateItem,
    Swept,
    UsageFilter,
    UsagePage,
)
from policyd.stores.redis import ending, holding
from policyd.stores.redis.events import Events
from policyd.stores.redis.listing import AccountFilter, list_accounts, list_usage
from policyd.stores.redis.nodes import open_nodes
from policyd.stores.redis.options import Arrangement, RedisOptions
from policyd.stores.redis.rows import decode_row, encode_amounts
from policyd.stores.redis.runner import Gate, Runner
from policyd.stores.redis.runtime import Runtime
from policyd.stores.redis.shards import Shards

_NO_AMOUNTS: Amounts = {}


class RedisStore:
    """See the package's text; every method is documented in `policyd.stores.base.Store`. Belongs to one event loop.

    Amounts that Redis cannot count with, above 2^53 - 1, are an `OverflowError`.
    """

    def __init__(self, options: RedisOptions) -> None:
        """Connects to nothing yet."""
        self._shards = Shards(
            options.prefix, cluster=options.arrangement is Arrangement.CLUSTER, partition=options.partition
        )
        self._runner = Runner(open_nodes(options))
        self._runtime = Runtime(self._runner, self._shards)
        self._events = Events(self._runner, self._shards)
        self._gate = Gate()

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
        with self._gate:
            attempt = holding.Reserving(
                self._runner,
                self._shards,
                reservation_id,
                entries=entries,
                record=record,
                expires_at_ms=expires_at_ms,
                fingerprint=fingerprint,
                state_revision=state_revision,
            )
            return await attempt.run()

    async def extend(
        self, reservation_id: str, *, unit_amounts: Amounts, wanted_units: int, at_least_units: int, now_ms: int
    ) -> int:
        with self._gate:
            return await holding.extend(
                self._runner,
                self._shards,
                reservation_id,
                unit_amounts=unit_amounts,
                wanted_units=wanted_units,
                at_least_units=at_least_units,
            )

    async def settle(self, reservation_id: str, *, amounts: Amounts, record: Record, now_ms: int) -> State:
        return await self._end(reservation_id, Event.SETTLE, amounts, record, now_ms)

    async def release(self, reservation_id: str, *, record: Record, now_ms: int) -> State:
        return await self._end(reservation_id, Event.RELEASE, _NO_AMOUNTS, record, now_ms)

    async def _end(self, reservation_id: str, event: Event, amounts: Amounts, record: Record, now_ms: int) -> State:
        with self._gate:
            charges = encode_amounts(amounts)
            return await ending.end(
                self._runner, self._shards, reservation_id, event, charges=charges, record=record, now_ms=now_ms
            )

    async def renew(self, reservation_ids: Sequence[str], *, expires_at_ms: int) -> None:
        with self._gate:
            await holding.renew(self._runner, self._shards, reservation_ids, expires_at_ms=expires_at_ms)

    async def sweep(self, *, now_ms: int, ended_before_ms: int, usage_before_ms: int) -> Swept:
        with self._gate:
            sweep = ending.Sweep(self._runner, self._shards, now_ms=now_ms)
            return await sweep.run(ended_before_ms=ended_before_ms, usage_before_ms=usage_before_ms)

    async def get(self, reservation_id: str) -> Reservation:
        with self._gate:
            row, _ = await self._runner.run("get", self._shards.home(reservation_id), reservation_id)
        if not row:
            raise ReservationNotFound(reservation_id)
        return decode_row(reservation_id, row).reservation

    async def balances(self, accounts: Sequence[tuple[Account, Carry | None]]) -> tuple[Balance, ...]:
        with self._gate:
            return await holding.balances(self._runner, self._shards, accounts)

    async def weigh(
        self, accounts: Sequence[tuple[Account, Carry | None]], *, state_revision: int
    ) -> tuple[Balance, ...] | Stale:
        with self._gate:
            balances, revision = await asyncio.gather(
                holding.balances(self._runner, self._shards, accounts), self._runtime.revision()
            )
        return balances if revision == state_revision else Stale(revision)

    async def accounts(
        self,
        *,
        limit_name: str | None = None,
        scope: str | None = None,
        ends_after_ms: int | None = None,
        page: int,
        cursor: str = "",
    ) -> AccountsPage:
        wanted = AccountFilter(limit_name, scope, ends_after_ms)
        with self._gate:
            return await list_accounts(self._runner, self._shards, wanted, page=page, cursor=cursor)

    async def append(self, record: Record) -> None:
        with self._gate:
            home = self._shards.home(record.request_id)
            await self._runner.run("append", home, codec.encode_record(record), record.request_id, record.at_ms)

    async def usage(self, wanted: UsageFilter, *, limit: int, cursor: str = "") -> UsagePage:
        with self._gate:
            return await list_usage(self._runner, self._shards, wanted, limit=limit, cursor=cursor)

    async def set_state(self, items: Sequence[StateItem], *, now_ms: int, expected_revision: int | None = None) -> int:
        with self._gate:
            return await self._runtime.set_state(items, expected_revision=expected_revision)

    async def state(self, *, since: int = 0) -> StateChanges:
        with self._gate:
            return await self._runtime.state(since=since)

    async def begin_window(self, key: str, *, now_ms: int, length_ms: int, begin: bool = True) -> int | None:
        with self._gate:
            return await self._runtime.begin_window(key, now_ms=now_ms, length_ms=length_ms, begin=begin)

    async def repeated(
        self, scope: str, digest: str, *, now_ms: int, forget_after_ms: int, counted: bool = True
    ) -> int:
        with self._gate:
            return await self._runtime.repeated(
                scope, digest, now_ms=now_ms, forget_after_ms=forget_after_ms, counted=counted
            )

    async def count(self, deltas: Mapping[str, int], *, now_ms: int, keep_until_ms: int) -> None:
        with self._gate:
            await self._runtime.count(deltas, now_ms=now_ms, keep_until_ms=keep_until_ms)

    async def counters(self, prefix: str, *, now_ms: int) -> Mapping[str, int]:
        with self._gate:
            return await self._runtime.counters(prefix, now_ms=now_ms)

    async def emit(self, event: OperatorEvent) -> bool:
        with self._gate:
            return await self._events.emit(event)

    async def events(self, *, page: int, cursor: str = "") -> EventsPage:
        with self._gate:
            return await self._events.page(page, cursor)

    async def acknowledge(self, event_ids: Sequence[str]) -> int:
        with self._gate:
            return await self._events.acknowledge(event_ids)

    async def ping(self) -> None:
        with self._gate:
            # One node of a cluster that is down takes its shards with it, and no replica is better off than this one.
            pings = (self._runner.ping(shard) for shard in self._shards.all)
            failed = [found for found in await asyncio.gather(*pings, return_exceptions=True) if found is not None]
            if len(failed) == len(self._shards.all):
                raise failed[0]

    async def close(self) -> None:
        await self._gate.close()
        await self._runner.close()

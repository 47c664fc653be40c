"""Brings what the journal tells of into the store, each thing once.

    event   the store knows the reservation                 it does not, and the usage records
                                                            do          do not
    held    nothing is done                                 nothing     it is held, past every cap
    ended   it is settled or released; again: nothing       nothing     it is held and settled

Leases stand in the store already; see `policyd.stores.outage.leases`.

A reservation is not known where the hold never got there, where the store has lost it, and where it ended so long ago
that it is forgotten: the usage records, which are kept for longer, tell the last from the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from policyd.core.errors import ReservationError, ReservationNotFound
from policyd.core.ledger import Account, Entry
from policyd.core.record import Outcome, Record
from policyd.core.reservation import State
from policyd.stores.base import Store, UsageFilter
from policyd.stores.outage.events import Begun, Ended, Event, Held, Leased, Took
from policyd.stores.outage.leases import LostLeases, charges_of

PAGE = 100

LOOKS_PER_TTL: Final = 4
"""How often in the life of a hold the requests are looked up that had taken of leases, and these are renewed."""

log = logging.getLogger(__name__)


class Replay:
    """The events of one file have to come in order. `ended_kept_ms`: for how long the store surely remembers."""

    def __init__(self, store: Store, *, ended_kept_ms: int) -> None:
        self._store = store
        self._ended_kept_ms = ended_kept_ms
        self.leases = LostLeases()
        """Those that the file tells of: to be ended once it is drained, if its process has died."""
        self._looked_at_ms: int | None = None
        """When takers were looked up last."""
        self._begun: dict[tuple[str, int, int], int] = {}
        """When windows of first use really began, by limit and scope, when they counted as begun, and length."""

    async def apply(self, event: Event, *, now_ms: int) -> None:
        """Raises `StoreError`s: the event has to come again; and `ReservationError`s: it cannot be charged."""
        match event:
            case Begun(key, began_ms, length_ms):
                begun = await self._store.begin_window(key, now_ms=began_ms, length_ms=length_ms)
                self._begun[event.limit_and_scope, began_ms, length_ms] = began_ms if begun is None else begun
            case Held(entries, record, held_ms, expires_at_ms):
                self.leases.hold(event)
                # Its exchange may be open still, and renews it once it is held.
                lives_until_ms = max(expires_at_ms, now_ms + expires_at_ms - held_ms)
                if now_ms - record.at_ms < self._ended_kept_ms or not await self._is_recorded(record):
                    await self._hold(record, entries, now_ms=now_ms, expires_at_ms=lives_until_ms)
            case Ended(amounts, record):
                await self.end(event, now_ms=now_ms)
                self.leases.give_back(record.request_id, amounts)
            case Leased():
                self.leases.add(event)
            case Took():
                self.leases.take(event)

    async def end(self, event: Ended, *, now_ms: int) -> State:
        """Settles or releases, also what the store has lost. Returns the state that it was found in."""
        try:
            return await self._end(event)
        except ReservationNotFound:
            if await self._is_recorded(event.record):
                return State.SETTLED
            if not event.entries:
                raise
        await self._hold(event.record, event.entries, now_ms=now_ms, expires_at_ms=now_ms)
        return await self._end(event)

    async def end_leases(self, *, now_ms: int, ttl_ms: int) -> bool:
        """Ends the leases of a file that is drained and whose process has died; returns whether they have ended.

        A request that had taken of them may end elsewhere still, as an access log tells any process: so they are kept
        until it has, or has expired, and it is looked up again and again. Raises `StoreError`s.
        """
        if self._looked_at_ms is not None and now_ms - self._looked_at_ms < ttl_ms // LOOKS_PER_TTL:
            return False
        for request_id in self.leases.takers:
            await self._look_up_taker(request_id, now_ms=now_ms)
        if self.leases.takers:
            await self._store.renew(self.leases.ids, expires_at_ms=now_ms + ttl_ms)
            self._looked_at_ms = now_ms
            return False
        for end in self.leases.ends(now_ms=now_ms):
            await self._end_anyhow(end, now_ms=now_ms)
        return True

    async def _look_up_taker(self, request_id: str, *, now_ms: int) -> None:
        """Counts what a request has cost that had taken of the leases, if it has ended."""
        leases = self.leases
        try:
            found = await self._store.get(request_id)
        except ReservationNotFound:
            if (held := leases.held(request_id)) is not None:
                await self._end_anyhow(
                    leases.expired(request_id, held.entries, held.record, now_ms=now_ms), now_ms=now_ms
                )
            leases.keep(request_id)
            return
        match found.state:
            case State.RESERVED:
                pass
            case State.EXPIRED:
                end = leases.expired(request_id, found.entries, found.record, now_ms=now_ms)
                # It may have been settled just now: that is found the next time.
                if await self._end_anyhow(end, now_ms=now_ms) is State.EXPIRED:
                    leases.keep(request_id)
            case State.SETTLED if found.record.outcome is Outcome.EXPIRED:  # as above, by a process that died then
                leases.keep(request_id)
            case State.SETTLED:
                leases.give_back(request_id, charges_of(found.record))
            case State.RELEASED:
                leases.give_back(request_id, None)

    async def _end_anyhow(self, event: Ended, *, now_ms: int) -> State | None:
        """`end`, or nothing where it has ended otherwise, or cannot be charged."""
        try:
            return await self.end(event, now_ms=now_ms)
        except ReservationError as error:
            log.warning("what a process that died had open is not ended: %s", error)
            return None

    async def _end(self, event: Ended) -> State:
        record = event.record
        if event.amounts is None:
            return await self._store.release(record.request_id, record=record, now_ms=event.now_ms)
        return await self._store.settle(record.request_id, amounts=event.amounts, record=record, now_ms=event.now_ms)

    async def _hold(self, record: Record, entries: Iterable[Entry], *, now_ms: int, expires_at_ms: int) -> None:
        await self._store.reserve(
            record.request_id,
            entries=tuple(replace(entry, account=self._account(entry.account), enforce=False) for entry in entries),
            record=record,
            now_ms=now_ms,
            expires_at_ms=expires_at_ms,
        )

    def _account(self, account: Account) -> Account:
        """The account in the window of first use that it really is in, where that had to be guessed."""
        if not self._begun or account.ends_at_ms is None:
            return account
        guessed_ms = account.starts_at_ms
        length_ms = account.ends_at_ms - guessed_ms
        begun_ms = self._begun.get((f"{account.limit}|{account.scope}", guessed_ms, length_ms), guessed_ms)
        return _moved(account, begun_ms - guessed_ms)

    async def _is_recorded(self, record: Record) -> bool:
        wanted = UsageFilter(from_ms=record.at_ms, until_ms=record.at_ms + 1)
        cursor = ""
        while True:
            page = await self._store.usage(wanted, limit=PAGE, cursor=cursor)
            if any(found.request_id == record.request_id for found in page.records):
                return True
            cursor = page.next_cursor
            if not cursor:
                return False


def _moved(account: Account, by_ms: int) -> Account:
    ends_at_ms, keep_until_ms = account.ends_at_ms, account.keep_until_ms
    return replace(
        account,
        starts_at_ms=account.starts_at_ms + by_ms,
        ends_at_ms=ends_at_ms + by_ms if ends_at_ms is not None else None,
        keep_until_ms=keep_until_ms + by_ms if keep_until_ms is not None else None,
    )

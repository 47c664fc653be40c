"""The store of one SQLite file: the embedded default, `sqlite:///path/file.db`.

**What survives.** A call returns after its commit, and a commit survives the end of the process, `kill -9` included.
What a power cut or a crash of the operating system may take depends on `?synchronous=`:

    normal (default)   the last commits, back to the last checkpoint (about 4 MB of the log); never a part of a commit
    full               nothing; every commit waits for the disk

**Who may share a file.** Any number of processes on one host, on a local disk: each batch takes SQLite's write lock
before it reads a balance, so their reservations line up, and a process that cannot get the lock in time answers
`StoreUnavailable`. What they share is the counting and pricing; writing they do by turns. Not over a network file
system, on whose locks SQLite cannot rely: several hosts need another store.

**How.** What touches a few rows is done on the event loop itself, as long as it need not wait there
(`policyd.stores.sqlite.on_loop`). One thread writes everything else, and everything with `synchronous=full`, with a
group commit (`policyd.stores.sqlite.group_commit`); another one reads, so that a long listing of usage holds up no
reservation; a third one makes checkpoints. A sweep goes in steps of at most `SWEEP_ROWS_MAX` rows (some 10 ms each),
with other calls in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from policyd.core.events import OperatorEvent
from policyd.core.ledger import Account, Amounts, Balance, Carry, Entry
from policyd.core.record import Record
from policyd.core.reservation import Event, State
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
from policyd.stores.sqlite import events, ledger, runtime, usage_records
from policyd.stores.sqlite.checkpoints import Checkpoints
from policyd.stores.sqlite.file import Synchronous, open_file
from policyd.stores.sqlite.group_commit import GroupCommit
from policyd.stores.sqlite.on_loop import OnLoop
from policyd.stores.sqlite.transactions import Transactions

BUSY_TIMEOUT_MS = 1_000
"""How long a batch waits for another process that writes to the same file. Envoy waits 2 s for a decision: whatever
takes longer it answers itself, and the policy's `failure_mode` is not asked."""

SWEEP_ROWS_MAX = 200
"""How many rows one step of a sweep touches, so that the calls that wait for it wait some 10 ms at most."""

_NO_AMOUNTS: Amounts = {}


class SqliteStore:
    """See the module's text; every method is documented in `policyd.stores.base.Store`."""

    def __init__(
        self, path: Path, *, synchronous: Synchronous = Synchronous.NORMAL, busy_timeout_ms: int = BUSY_TIMEOUT_MS
    ) -> None:
        """Opens `path`, or creates it. Raises `ConfigError` if it cannot be used."""
        opened = open_file(path, synchronous=synchronous, busy_timeout_ms=busy_timeout_ms)
        self._checkpoints = Checkpoints(opened.moving)
        self._writer = GroupCommit(
            Transactions(opened.writing, begin="BEGIN IMMEDIATE", on_commit=self._checkpoints.note),
            thread_name="policyd-sqlite-writer",
        )
        self._reader = GroupCommit(Transactions(opened.reading, begin="BEGIN"), thread_name="policyd-sqlite-reader")
        self._loop = OnLoop(
            opened.prompt,
            commits_wait=synchronous is Synchronous.FULL,
            writer=self._writer,
            reader=self._reader,
            checkpoints=self._checkpoints,
        )

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
        return await self._loop.write(
            lambda db: ledger.reserve(
                db,
                reservation_id,
                entries=entries,
                record=record,
                expires_at_ms=expires_at_ms,
                fingerprint=fingerprint,
                state_revision=state_revision,
            )
        )

    async def extend(
        self, reservation_id: str, *, unit_amounts: Amounts, wanted_units: int, at_least_units: int, now_ms: int
    ) -> int:
        return await self._loop.write(
            lambda db: ledger.extend(db, reservation_id, unit_amounts, wanted_units, at_least_units)
        )

    async def settle(self, reservation_id: str, *, amounts: Amounts, record: Record, now_ms: int) -> State:
        return await self._loop.write(lambda db: ledger.end(db, reservation_id, Event.SETTLE, amounts, record, now_ms))

    async def release(self, reservation_id: str, *, record: Record, now_ms: int) -> State:
        return await self._loop.write(
            lambda db: ledger.end(db, reservation_id, Event.RELEASE, _NO_AMOUNTS, record, now_ms)
        )

    async def renew(self, reservation_ids: Sequence[str], *, expires_at_ms: int) -> None:
        await self._writer.run(lambda db: ledger.renew(db, reservation_ids, expires_at_ms))

    async def sweep(self, *, now_ms: int, ended_before_ms: int, usage_before_ms: int) -> Swept:
        expired: list[Record] = []
        while batch := await self._writer.run(lambda db: ledger.expire_due(db, now_ms, rows_max=SWEEP_ROWS_MAX)):
            expired += batch
        await self._forget(ledger.FORGET_RESERVATIONS, ended_before_ms)
        await self._forget(usage_records.FORGET, usage_before_ms)
        await self._forget(ledger.FORGET_ACCOUNTS, now_ms)
        await self._forget(runtime.FORGET_ITEMS, ended_before_ms)
        await self._forget(runtime.FORGET_WINDOWS, now_ms)
        await self._forget(runtime.FORGET_RUNS, now_ms)
        await self._forget(runtime.FORGET_COUNTERS, now_ms)
        await self._forget(events.FORGET, now_ms)
        return Swept(tuple(expired), open_reservations=await self._reader.run(ledger.count_open))

    async def _forget(self, statement: str, bound_ms: int) -> None:
        while await self._writer.run(lambda db: db.execute(statement, (bound_ms, SWEEP_ROWS_MAX)).rowcount):
            pass

    async def get(self, reservation_id: str) -> Reservation:
        return await self._loop.read(lambda db: ledger.get(db, reservation_id))

    async def balances(self, accounts: Sequence[tuple[Account, Carry | None]]) -> tuple[Balance, ...]:
        return await self._loop.read(lambda db: ledger.balances(db, accounts))

    async def weigh(
        self, accounts: Sequence[tuple[Account, Carry | None]], *, state_revision: int
    ) -> tuple[Balance, ...] | Stale:
        return await self._loop.read(lambda db: ledger.weigh(db, accounts, state_revision))

    async def accounts(
        self,
        *,
        limit_name: str | None = None,
        scope: str | None = None,
        ends_after_ms: int | None = None,
        page: int,
        cursor: str = "",
    ) -> AccountsPage:
        return await self._reader.run(
            lambda db: ledger.accounts(
                db, limit_name=limit_name, scope=scope, ends_after_ms=ends_after_ms, page=page, cursor=cursor
            )
        )

    async def append(self, record: Record) -> None:
        await self._loop.write(lambda db: usage_records.save_if_new(db, record))

    async def usage(self, wanted: UsageFilter, *, limit: int, cursor: str = "") -> UsagePage:
        return await self._reader.run(lambda db: usage_records.page(db, wanted, limit, cursor))

    async def set_state(self, items: Sequence[StateItem], *, now_ms: int, expected_revision: int | None = None) -> int:
        return await self._writer.run(lambda db: runtime.set_state(db, items, expected_revision))

    async def state(self, *, since: int = 0) -> StateChanges:
        # Whoever knows nothing yet is told everything, which may be much.
        read = self._loop.read if since else self._reader.run
        return await read(lambda db: runtime.state(db, since))

    async def begin_window(self, key: str, *, now_ms: int, length_ms: int, begin: bool = True) -> int | None:
        if begin:
            return await self._loop.write(lambda db: runtime.begin_window(db, key, now_ms, length_ms))
        return await self._loop.read(lambda db: runtime.find_window(db, key, now_ms, length_ms))

    async def repeated(
        self, scope: str, digest: str, *, now_ms: int, forget_after_ms: int, counted: bool = True
    ) -> int:
        if not counted:
            return await self._loop.read(lambda db: runtime.times_repeated(db, scope, digest, now_ms))
        return await self._loop.write(lambda db: runtime.repeated(db, scope, digest, now_ms, forget_after_ms))

    async def count(self, deltas: Mapping[str, int], *, now_ms: int, keep_until_ms: int) -> None:
        await self._writer.run(lambda db: runtime.count(db, deltas, now_ms, keep_until_ms))

    async def counters(self, prefix: str, *, now_ms: int) -> Mapping[str, int]:
        return await self._reader.run(lambda db: runtime.counters(db, prefix, now_ms))

    async def emit(self, event: OperatorEvent) -> bool:
        return await self._loop.write(lambda db: events.emit(db, event))

    async def events(self, *, page: int, cursor: str = "") -> EventsPage:
        return await self._reader.run(lambda db: events.page(db, page, cursor))

    async def acknowledge(self, event_ids: Sequence[str]) -> int:
        return await self._writer.run(lambda db: events.acknowledge(db, event_ids))

    async def ping(self) -> None:
        # By way of the writer: a store that can only be read does not answer.
        await self._loop.write(lambda db: db.execute("SELECT 1").fetchone())

    async def close(self) -> None:
        self._loop.close()
        await self._writer.close()
        await asyncio.get_running_loop().run_in_executor(None, self._checkpoints.close)
        await self._reader.close()

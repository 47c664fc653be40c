"""Short steps on the event loop itself: what is called in one tick of it is one transaction at the end of the tick.

Handing a step to a thread costs more than the step. Each statement lets go of the interpreter's lock, and a thread gets
it back from a busy event loop only after a switch of threads, or milliseconds later. Measured on two cores, sixteen
exchanges at a time cost a quarter less CPU without the thread; at 300 requests a second a reserve was answered in 1 ms
instead of 2.5 ms (medians), and the event loop was held up no longer than before, for it waited for the thread's lock.

That is only good for what does not wait. So the loop never waits

- for the disk: without `synchronous=full` a commit only writes to the operating system's memory, but for the first one
  after a checkpoint has moved all of the log: it begins the log anew and waits until its head is on the disk. So the
  checkpoint's thread makes that one itself or leaves it to the thread that writes. Until one of them has, everything
  is for the latter (`policyd.stores.sqlite.checkpoints`);
- for another connection that writes: the batch goes to the thread, which waits for it. What is called until that batch
  is answered waits for it here, lest it be overtaken again and again, and then is one transaction of the loop.

What it may wait for, as any program with a file does, is a page that the operating system has not in memory, or that is
slow to take what is written; and the disk, where another process that shares the file has ended a checkpoint this very
moment. Once that has taken long, the threads have everything for a while: a disk that hangs holds up the loop once, and
not for each call. Steps that touch many rows are for the threads, too.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Any, TypeVar

from policyd.core.errors import StoreUnavailable
from policyd.stores.sqlite.checkpoints import Checkpoints
from policyd.stores.sqlite.group_commit import GroupCommit
from policyd.stores.sqlite.transactions import DATABASE_ERRORS, Call, Locked, Step, Transactions

_log = logging.getLogger(__name__)

T = TypeVar("T")

SLOW_SECONDS = 0.1
"""As long no transaction of the loop takes, unless it waits for the disk,"""

SLOW_SECONDS_PER_CALL = 0.001
"""with so much more for each call in it, which is ten times what one takes."""

SLOW_FOR_SECONDS = 10.0
"""How long the threads have everything then."""


class OnLoop:
    """Runs steps on the event loop that calls first; those of any other loop, and those that would wait, in threads."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        commits_wait: bool,
        writer: GroupCommit,
        reader: GroupCommit,
        checkpoints: Checkpoints,
    ) -> None:
        """`connection` never waits for a lock. `commits_wait`: for the disk, so that none is made here."""
        self._connection = connection
        self._transactions = Transactions(connection, begin="BEGIN IMMEDIATE", on_commit=checkpoints.note)
        self._commits_wait = commits_wait
        self._writer = writer
        self._reader = reader
        self._checkpoints = checkpoints
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: list[Call] = []
        self._collided = 0
        """How many calls the writer has still to answer of the batch that found the file locked."""
        self._slow_until = 0.0
        """Of the monotonic clock; 0: the disk is not slow."""
        self._closed = False
        # Whoever closes may be in another thread than the loop.
        self._using = Lock()

    async def write(self, step: Step[T]) -> T:
        """Runs `step` and returns its result once it is committed.

        A caller that is cancelled gets no answer, but the step may be carried out all the same.
        """
        loop = asyncio.get_running_loop()
        if self._commits_wait or not self._belongs_to(loop) or self._is_slow():
            return await self._writer.run(step)
        future: asyncio.Future[T] = loop.create_future()
        if not self._calls and not self._collided:
            loop.call_soon(self._end_tick)
        self._calls.append(Call(step, future))
        return await future

    async def read(self, step: Step[T]) -> T:
        """Runs `step`, which changes nothing, on what is committed."""
        if self._belongs_to(asyncio.get_running_loop()) and not self._is_slow():
            with suppress(*DATABASE_ERRORS):  # the thread will see whether it has them too, and tell of it
                return self._read(step)
        return await self._reader.run(step)

    def close(self) -> None:
        """Has the writer finish what waits for the end of the tick, and closes the connection."""
        with self._using:
            if not self._closed:
                self._closed = True
                self._writer.take_over(self._calls)
                self._calls = []
                self._connection.close()

    def _belongs_to(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the connection may be used on this loop. Raises `StoreUnavailable` if it is closed."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._loop is loop:
            return True
        with self._using:
            if self._loop is None or self._loop.is_closed():
                self._loop, self._calls, self._collided = loop, [], 0
            return self._loop is loop

    def _is_slow(self) -> bool:
        if self._slow_until and monotonic() >= self._slow_until:
            self._slow_until = 0.0
        return bool(self._slow_until)

    def _look_at(self, began: float, *, calls: int = 1) -> None:
        """After a transaction that began then."""
        ended = monotonic()
        if ended - began >= SLOW_SECONDS + calls * SLOW_SECONDS_PER_CALL:
            _log.warning("the store's disk is slow: a transaction took %.1f s", ended - began)
            self._slow_until = ended + SLOW_FOR_SECONDS

    def _read(self, step: Step[T]) -> T:
        began = monotonic()
        with self._using:
            self._connection.execute("BEGIN")
            try:
                return step(self._connection)
            finally:
                self._connection.execute("COMMIT")
                self._look_at(began)

    def _end_tick(self) -> None:
        began = monotonic()
        with self._using:
            calls, self._calls = self._calls, []
            if not calls:
                return  # closed meanwhile
            if self._checkpoints.under_way:
                self._writer.take_over(calls)
                return
            try:
                answers = self._transactions.carry_out(calls)
            except Locked:
                self._hand_over(calls)
                return
        self._look_at(began, calls=len(calls))
        for answer in answers:
            answer.deliver()

    def _hand_over(self, calls: Sequence[Call]) -> None:
        self._writer.take_over(calls)
        self._collided = len(calls)
        for call in calls:
            call.future.add_done_callback(self._answered)

    def _answered(self, _: asyncio.Future[Any]) -> None:
        self._collided -= 1
        if not self._collided and self._calls:
            self._end_tick()

"""One thread, one SQLite connection: calls from event loops, run in batches, each batch one transaction.

    event loop --call--> queue --all that wait--> BEGIN, step, step, ..., COMMIT --all answers--> event loop, once

While a batch is being committed the next one gathers in the queue, so the busier the store is, the less a commit costs
each call. A call is answered after the commit, never before. A step that fails is undone alone: where it had changed
anything, the batch is carried out again, each step of it inside a savepoint. A savepoint costs as much as a statement,
and steps that fail half-way are few.

What a caller sees when SQLite fails (SQLite's own words are logged):

    no transaction could be started, or a step failed       StoreUnavailable: undone, so without effect
    SQLite rolled back the whole transaction for a step     the same, for every call of the batch
    the commit failed                                       StoreError for every call of the batch: nobody knows

The connection stays in use after each of them; the next batch starts afresh.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, Literal, NamedTuple, TypeVar

from policyd.core.errors import StoreError, StoreUnavailable

_log = logging.getLogger(__name__)

_UNDONE = "the store's database failed; the call had no effect"
_UNKNOWN = "the store's database failed at the commit; whether the call had its effect is not known"

T = TypeVar("T")

Step = Callable[[sqlite3.Connection], T]
"""What one call does, inside a transaction. Runs in the thread."""

_DATABASE_ERRORS = (sqlite3.Error, MemoryError)  # the second is how SQLite's own lack of memory comes out

BATCH_CALLS_MAX = 256
"""Bounds how long a call waits for the others of its batch: some 10 ms."""


class _Call(NamedTuple):
    step: Step[Any]
    future: asyncio.Future[Any]


class _Answer(NamedTuple):
    """What a call's future is told: `error`, or else `result`."""

    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def deliver(self) -> None:
        if self.future.done():  # its caller was cancelled
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class _HalfDoneError(Exception):
    """A step failed that has, or may have, changed something."""


class GroupCommit:
    """Runs steps on `connection`, which belongs to this object's thread from now on. Any event loop may call."""

    def __init__(
        self, connection: sqlite3.Connection, *, begin: Literal["BEGIN", "BEGIN IMMEDIATE"], thread_name: str
    ) -> None:
        self._connection = connection
        self._begin = begin
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._closed = False
        # Holds the order "nothing is queued after the end", whichever threads call.
        self._queueing = Lock()
        self._thread = Thread(target=self._run, name=thread_name, daemon=True)
        self._thread.start()

    async def run(self, step: Step[T]) -> T:
        """Runs `step` and returns its result once it is committed.

        A caller that is cancelled gets no answer, but the step may be carried out all the same.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._queueing:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            self._calls.put(_Call(step, future))
        return await future

    async def close(self) -> None:
        """Finishes what is queued and closes the connection."""
        with self._queueing:
            if not self._closed:
                self._closed = True
                self._calls.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        while batch := self._next_batch():
            _deliver(self._transact(batch))
        self._connection.close()

    def _next_batch(self) -> Sequence[_Call]:
        """Waits for a call, then takes all that are there. Empty at the end."""
        batch: list[_Call] = []
        call = self._calls.get()
        while call is not None:
            batch.append(call)
            if len(batch) == BATCH_CALLS_MAX:
                return batch
            try:
                call = self._calls.get_nowait()
            except Empty:
                return batch
        if batch:
            self._calls.put(None)  # seen with the last calls still to be answered
        return batch

    def _transact(self, batch: Sequence[_Call]) -> list[_Answer]:
        try:
            answers = self._carry_out(batch)
        except _DATABASE_ERRORS as error:
            _log.error("the store's transaction could not be carried out: %s", error)
            self._roll_back()
            return [_Answer(call.future, error=StoreUnavailable(_UNDONE)) for call in batch]
        try:
            self._connection.execute("COMMIT")
        except _DATABASE_ERRORS as error:
            _log.error("the store's transaction could not be committed: %s", error)
            self._roll_back()
            return [_Answer(call.future, error=StoreError(_UNKNOWN)) for call in batch]
        return answers

    def _carry_out(self, batch: Sequence[_Call]) -> list[_Answer]:
        """Runs the steps in a transaction, which is left open."""
        self._connection.execute(self._begin)
        try:
            return [self._answer(call) for call in batch]
        except _HalfDoneError:
            self._roll_back()
        self._connection.execute(self._begin)
        return [self._answer_in_savepoint(call) for call in batch]

    def _answer(self, call: _Call) -> _Answer:
        """Runs one step. Raises `_HalfDoneError` if it has to be undone."""
        changes = self._connection.total_changes
        try:
            return _Answer(call.future, call.step(self._connection))
        except Exception as error:
            if isinstance(error, _DATABASE_ERRORS) or self._connection.total_changes != changes:
                raise _HalfDoneError from error
            return _Answer(call.future, error=error)

    def _answer_in_savepoint(self, call: _Call) -> _Answer:
        """Runs one step, and undoes it if it fails.

        Where SQLite took back the whole transaction instead, the savepoint is gone too, and going back to it raises:
        what the steps before this one did is lost, and the batch with it.
        """
        self._connection.execute("SAVEPOINT step")
        try:
            result = call.step(self._connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller has to hear of it
            answer = _Answer(call.future, error=_translated(error))
            self._connection.execute("ROLLBACK TO step")
            self._connection.execute("RELEASE step")
            return answer
        self._connection.execute("RELEASE step")
        return _Answer(call.future, result)

    def _roll_back(self) -> None:
        """Leaves the transaction. Where even that fails, the next batch cannot begin, and so tries it again."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except _DATABASE_ERRORS as error:
            _log.error("the store's transaction could not be rolled back: %s", error)


def _translated(error: Exception) -> Exception:
    if not isinstance(error, _DATABASE_ERRORS):
        return error
    _log.error("a step of the store failed: %s", error)
    return StoreUnavailable(_UNDONE)


def _deliver(answers: Sequence[_Answer]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = defaultdict(list)
    for answer in answers:
        by_loop[answer.future.get_loop()].append(answer)
    for loop, loop_answers in by_loop.items():
        try:
            loop.call_soon_threadsafe(_deliver_in_loop, loop_answers)
        except RuntimeError:
            _log.warning("an event loop was closed with calls to the store under way")


def _deliver_in_loop(answers: Sequence[_Answer]) -> None:
    for answer in answers:
        answer.deliver()

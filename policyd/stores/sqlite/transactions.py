"""Transactions: batches of steps on one SQLite connection.

A call is answered after the commit, never before. A step that fails is undone alone: where it had changed anything, the
batch is carried out again, each step of it inside a savepoint. A savepoint costs as much as a statement, and steps that
fail half-way are few.

What a caller sees when SQLite fails (SQLite's own words are logged):

    a step failed                                           StoreUnavailable: undone, so without effect
    SQLite rolled back the whole transaction for a step     the same, for every call of the batch
    the commit failed                                       StoreError for every call of the batch: nobody knows

The connection stays in use after each of them; the next batch starts afresh.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from policyd.core.errors import StoreError, StoreUnavailable

_log = logging.getLogger(__name__)

_UNDONE = "the store's database failed; the call had no effect"
_UNKNOWN = "the store's database failed at the commit; whether the call had its effect is not known"

T = TypeVar("T")

Step = Callable[[sqlite3.Connection], T]
"""What one call does, inside a transaction."""

DATABASE_ERRORS = (sqlite3.Error, MemoryError)  # the second is how SQLite's own lack of memory comes out

_PRIMARY_CODE = 0xFF  # what an extended error code has of the plain one


class Call(NamedTuple):
    step: Step[Any]
    future: asyncio.Future[Any]


class Answer(NamedTuple):
    """What a call's future is told: `error`, or else `result`."""

    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def deliver(self) -> None:
        """On the future's event loop."""
        if self.future.done():  # its caller was cancelled
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Locked(Exception):
    """Another connection writes, and has done so for longer than this one waits. Nothing was done."""


class _HalfDoneError(Exception):
    """A step failed that has, or may have, changed something."""


class Transactions:
    """Carries out batches on `connection`, which is its own; one at a time, in whichever thread."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        begin: Literal["BEGIN", "BEGIN IMMEDIATE"],
        on_commit: Callable[[int], None] | None = None,
    ) -> None:
        """`on_commit` is told of each commit, in the thread that made it, by how many rows were written."""
        self._connection = connection
        self._begin = begin
        self._on_commit = on_commit
        self._rows_told = connection.total_changes

    def carry_out(self, batch: Sequence[Call]) -> list[Answer]:
        """Carries out the batch in one transaction and commits it. Raises `Locked`."""
        try:
            answers = self._take_steps(batch)
        except DATABASE_ERRORS as error:
            if isinstance(error, sqlite3.OperationalError) and is_busy(error):
                self._roll_back()
                raise Locked from error
            _log.error("the store's transaction could not be carried out: %s", error)
            self._roll_back()
            return refusals(batch)
        try:
            self._connection.execute("COMMIT")
        except DATABASE_ERRORS as error:
            _log.error("the store's transaction could not be committed: %s", error)
            self._roll_back()
            return [Answer(call.future, error=StoreError(_UNKNOWN)) for call in batch]
        if self._on_commit is not None:
            rows = self._connection.total_changes
            self._on_commit(rows - self._rows_told)
            self._rows_told = rows
        return answers

    def close(self) -> None:
        self._connection.close()

    def _take_steps(self, batch: Sequence[Call]) -> list[Answer]:
        """Runs the steps in a transaction, which is left open."""
        self._connection.execute(self._begin)
        try:
            return [self._answer(call) for call in batch]
        except _HalfDoneError:
            self._roll_back()
        self._connection.execute(self._begin)
        return [self._answer_in_savepoint(call) for call in batch]

    def _answer(self, call: Call) -> Answer:
        """Runs one step. Raises `_HalfDoneError` if it has to be undone."""
        changes = self._connection.total_changes
        try:
            return Answer(call.future, call.step(self._connection))
        except Exception as error:
            if isinstance(error, DATABASE_ERRORS) or self._connection.total_changes != changes:
                raise _HalfDoneError from error
            return Answer(call.future, error=error)

    def _answer_in_savepoint(self, call: Call) -> Answer:
        """Runs one step, and undoes it if it fails.

        Where SQLite took back the whole transaction instead, the savepoint is gone too, and going back to it raises:
        what the steps before this one did is lost, and the batch with it.
        """
        self._connection.execute("SAVEPOINT step")
        try:
            result = call.step(self._connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller has to hear of it
            answer = Answer(call.future, error=_translated(error))
            self._connection.execute("ROLLBACK TO step")
            self._connection.execute("RELEASE step")
            return answer
        self._connection.execute("RELEASE step")
        return Answer(call.future, result)

    def _roll_back(self) -> None:
        """Leaves the transaction. Where even that fails, the next batch cannot begin, and so tries it again."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except DATABASE_ERRORS as error:
            _log.error("the store's transaction could not be rolled back: %s", error)


def _translated(error: Exception) -> Exception:
    if not isinstance(error, DATABASE_ERRORS):
        return error
    _log.error("a step of the store failed: %s", error)
    return StoreUnavailable(_UNDONE)


def refusals(batch: Sequence[Call]) -> list[Answer]:
    """The answers to calls that had no effect."""
    return [Answer(call.future, error=StoreUnavailable(_UNDONE)) for call in batch]


def is_busy(error: sqlite3.OperationalError) -> bool:
    """Whether another connection has the lock."""
    return error.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY

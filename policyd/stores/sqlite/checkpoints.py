"""Checkpoints: what moves commits out of SQLite's log into the file, and waits for the disk twice.

A connection left to itself does that at the end of some commit, which then takes as long as the disk does. Here it is
done by a thread with a connection of its own, beside the commits.

Where all of the log was moved, the next commit begins the log anew and waits for the disk as well: the thread makes one
for that. It cannot hold the lock of those who write from the one to the other, so until both are done the event loop
makes no commit (`Checkpoints.under_way`). On a slow disk it would hold that lock for too long: there the thread that
writes goes first, with whatever is called next, and none of this process waits for the lock in vain.

A log that is being written to is never quite moved and would grow for ever. Once it is long, what came meanwhile is
moved as well, and then writers are held up while the little that is left is moved, which waits for the disk twice more.
A writer waits for others only so long (`policyd.stores.sqlite.store.BUSY_TIMEOUT_MS`), so that is done where the disk
has just been quick. Where it never is, the log grows up to a bound at which writers may have to be refused.
"""

from __future__ import annotations

import logging
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from time import monotonic
from typing import Literal, NamedTuple

from policyd.stores.sqlite.file import begin_log
from policyd.stores.sqlite.transactions import DATABASE_ERRORS, is_busy

_log = logging.getLogger(__name__)

ROWS_MAX = 1_000
"""After how many rows that were written there is a checkpoint: a row takes a page or two, so some 4 MB. Reading takes
the longer the longer the log is."""

LOG_PAGES_MAX = 4_000
"""How long the log may get before writers are held up, if that takes them a moment only:"""

LEFT_PAGES_MAX = 1_000
"""with no more than this left to move,"""

QUICK_SECONDS = 0.2
"""and where moving what came meanwhile, as many waits for the disk, took no longer."""

LOG_PAGES_BOUND = 100_000
"""How long, some 400 MB, before they are held up for as long as it takes."""


class _Moved(NamedTuple):
    log_pages: int
    left_pages: int
    """Of the log's, that are not in the file yet."""
    seconds: float


class Checkpoints:
    """`connection` waits only briefly for others: what stands in the way now may not do so the next time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policyd-sqlite-checkpoints")
        self._latest: Future[None] | None = None
        self._rows = 0
        """That were written since the latest began."""
        self._first_commit_is_due = False
        """Whether the next commit begins the log anew."""
        self._noting = Lock()

    @property
    def under_way(self) -> bool:
        """Whether a commit made now may have to wait for the disk."""
        return self._first_commit_is_due or (self._latest is not None and not self._latest.done())

    def note(self, rows: int) -> None:
        """After a commit, in any thread, that wrote so many rows."""
        with self._noting:
            if rows:
                self._first_commit_is_due = False
            self._rows += rows
            if self._rows >= ROWS_MAX and not self.under_way:
                self._rows = 0
                self._latest = self._thread.submit(self._checkpoint)

    def close(self) -> None:
        """Waits for the one that is under way."""
        self._thread.shutdown()
        self._connection.close()

    def _checkpoint(self) -> None:
        try:
            moved = self._move("PASSIVE")
            if moved.log_pages >= LOG_PAGES_MAX:
                moved = self._move_the_rest()
            if not moved.left_pages:
                self._first_commit_is_due = True  # also where the next line fails
                self._first_commit_is_due = moved.seconds > QUICK_SECONDS or not self._begin_log()
        except DATABASE_ERRORS as error:
            _log.error("the store's log could not be moved into its file: %s", error)

    def _move_the_rest(self) -> _Moved:
        """Moves what was written during the checkpoint before, and after that all, if that holds nobody up for long."""
        moved = self._move("PASSIVE")
        if moved.log_pages >= LOG_PAGES_BOUND:
            _log.warning(
                "the store's disk is slow: who writes waits until its log of %d pages is moved", moved.log_pages
            )
        elif moved.left_pages > LEFT_PAGES_MAX or moved.seconds > QUICK_SECONDS:
            return moved
        return self._move("RESTART")

    def _begin_log(self) -> bool:
        """Whether it was. Not where another connection has the lock."""
        try:
            begin_log(self._connection)
        except sqlite3.OperationalError as error:
            if is_busy(error):
                return False
            raise
        return True

    def _move(self, how: Literal["PASSIVE", "RESTART"]) -> _Moved:
        began = monotonic()
        _, log_pages, moved_pages = self._connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        return _Moved(log_pages, log_pages - moved_pages, monotonic() - began)

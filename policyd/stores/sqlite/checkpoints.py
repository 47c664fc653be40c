"""Checkpoints: what moves commits out of SQLite's log into the file, and waits for the disk twice.

A connection left to itself does that at the end of some commit, which then takes as long as the disk does. Here it is
done by a thread with a connection of its own, beside the commits.

Where all of the log was moved, the next commit begins the log anew and waits for the disk as well: the thread makes one
for that. It cannot hold the lock of those who write from the one to the other, so until both are done the event loop
makes no commit (`Checkpoints.under_way`).

A log that is being written to is never quite moved and would grow for ever: once it is long, writers are held up for as
long as it takes to move what little is left.
"""

from __future__ import annotations

import logging
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Literal

from policyd.stores.sqlite.file import begin_log
from policyd.stores.sqlite.transactions import DATABASE_ERRORS, is_busy

_log = logging.getLogger(__name__)

ROWS_MAX = 1_000
"""After how many rows that were written there is a checkpoint: a row takes a page or two, so some 4 MB. Reading takes
the longer the longer the log is."""

LOG_PAGES_MAX = 4_000
"""How long the log may get before writers are held up."""


class Checkpoints:
    """`connection` waits only briefly for others: what stands in the way now may not do so the next time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policyd-sqlite-checkpoints")
        self._latest: Future[None] | None = None
        self._rows = 0
        """That were written since the latest began."""
        self._noting = Lock()

    @property
    def under_way(self) -> bool:
        """Whether a commit made now may have to wait for the disk."""
        return self._latest is not None and not self._latest.done()

    def note(self, rows: int) -> None:
        """After a commit, in any thread, that wrote so many rows."""
        with self._noting:
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
            log_pages, moved_pages = self._move("PASSIVE")
            if log_pages >= LOG_PAGES_MAX:
                log_pages, moved_pages = self._move("RESTART")
            if moved_pages == log_pages:
                self._begin_log()
        except DATABASE_ERRORS as error:
            _log.error("the store's log could not be moved into its file: %s", error)

    def _begin_log(self) -> None:
        try:
            begin_log(self._connection)
        except sqlite3.OperationalError as error:
            if not is_busy(error):  # another one writes, and so does it
                raise

    def _move(self, how: Literal["PASSIVE", "RESTART"]) -> tuple[int, int]:
        """How many pages the log has, and how many of them are in the file now."""
        _, log_pages, moved_pages = self._connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        return log_pages, moved_pages

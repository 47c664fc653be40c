"""Checkpoints: what moves commits out of SQLite's log into the file, and waits for the disk twice.

A connection left to itself does that at the end of some commit, which then takes as long as the disk does. Here it is
done by a thread with a connection of its own, beside the commits. A log that is being written to is never quite moved
and would grow for ever: once it is long, writers are held up for as long as it takes to move what little is left.
"""

from __future__ import annotations

import logging
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor

from policyd.stores.sqlite.transactions import DATABASE_ERRORS

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
        self._rows_then = 0

    def note(self, rows: int) -> None:
        """After a commit: so many rows were written on its connection in all."""
        if rows - self._rows_then >= ROWS_MAX and (self._latest is None or self._latest.done()):
            self._rows_then = rows
            self._latest = self._thread.submit(self._checkpoint)

    def close(self) -> None:
        """Waits for the one that is under way."""
        self._thread.shutdown()
        self._connection.close()

    def _checkpoint(self) -> None:
        try:
            _, log_pages, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if log_pages >= LOG_PAGES_MAX:
                self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except DATABASE_ERRORS as error:
            _log.error("the store's log could not be moved into its file: %s", error)

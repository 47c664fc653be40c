"""The SQLite file: its schema, and opening it with a clear word about what is wrong with it."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from policyd.core.errors import ConfigError

APPLICATION_ID = 0x706F6C79
"""Marks the file as policyd's own ("poly"), in SQLite's `application_id`."""

_LEDGER = (
    # The ledger: one small row an account, found by its key only.
    """
    CREATE TABLE accounts (
        key           TEXT PRIMARY KEY,  -- Account.key
        spent         INTEGER NOT NULL,
        reserved      INTEGER NOT NULL,
        keep_until_ms INTEGER            -- NULL: kept for ever
    ) WITHOUT ROWID
    """,
    "CREATE INDEX accounts_to_forget ON accounts (keep_until_ms) WHERE keep_until_ms IS NOT NULL",
    # A row is about a kilobyte, too long for WITHOUT ROWID.
    """
    CREATE TABLE reservations (
        id            TEXT PRIMARY KEY,
        state         TEXT NOT NULL,     -- State
        fingerprint   TEXT NOT NULL,
        entries       TEXT NOT NULL,     -- JSON; amounts as held now, or at last
        balances      TEXT NOT NULL,     -- JSON; before the hold, as reserve answered them
        record        TEXT NOT NULL,     -- JSON; pending while reserved, final after
        expires_at_ms INTEGER NOT NULL,
        ended_at_ms   INTEGER            -- NULL while reserved
    )
    """,
    # Two small indices for the sweep: each holds only the rows that it asks for.
    "CREATE INDEX reservations_to_expire ON reservations (expires_at_ms) WHERE state = 'reserved'",
    "CREATE INDEX reservations_to_forget ON reservations (ended_at_ms) WHERE ended_at_ms IS NOT NULL",
    """
    CREATE TABLE usage (
        request_id    TEXT NOT NULL UNIQUE,
        at_ms         INTEGER NOT NULL,
        attributes    TEXT NOT NULL,     -- one "name":"value" a line, between newlines
        record        TEXT NOT NULL      -- JSON
    )
    """,
    # The order of a listing. With the attributes in it, a filter reads no record that it does not want.
    "CREATE INDEX usage_by_age ON usage (at_ms, request_id, attributes)",
)

_RUNTIME_STATE = (
    "CREATE TABLE state_revision (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), revision INTEGER NOT NULL)",
    "INSERT INTO state_revision VALUES (1, 0)",
    """
    CREATE TABLE state_items (
        kind          TEXT NOT NULL,
        key           TEXT NOT NULL,
        value         TEXT NOT NULL,     -- JSON; empty: deleted
        expires_at_ms INTEGER,           -- NULL: never
        revision      INTEGER NOT NULL,
        place         INTEGER NOT NULL,  -- among the items of its revision
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX state_items_by_age ON state_items (revision, place)",
    "CREATE INDEX state_items_to_forget ON state_items (expires_at_ms) WHERE expires_at_ms IS NOT NULL",
    """
    CREATE TABLE windows (
        key           TEXT PRIMARY KEY,
        starts_at_ms  INTEGER NOT NULL,
        ends_at_ms    INTEGER NOT NULL   -- by the longest length that it was asked for with
    ) WITHOUT ROWID
    """,
    "CREATE INDEX windows_to_forget ON windows (ends_at_ms)",
    """
    CREATE TABLE runs (
        scope         TEXT PRIMARY KEY,
        digest        TEXT NOT NULL,
        times         INTEGER NOT NULL,  -- in a row
        forget_at_ms  INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX runs_to_forget ON runs (forget_at_ms)",
    """
    CREATE TABLE counters (
        name          TEXT PRIMARY KEY,
        value         INTEGER NOT NULL,
        keep_until_ms INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX counters_to_forget ON counters (keep_until_ms)",
)

_EVENTS = (
    """
    CREATE TABLE events (
        id            TEXT PRIMARY KEY,
        at_ms         INTEGER NOT NULL,
        keep_until_ms INTEGER NOT NULL,
        acknowledged  INTEGER NOT NULL,
        event         TEXT NOT NULL      -- JSON
    )
    """,
    # The order of a listing, which shows nothing that was acknowledged.
    "CREATE INDEX events_by_age ON events (at_ms, id) WHERE NOT acknowledged",
    "CREATE INDEX events_to_forget ON events (keep_until_ms)",
)

MIGRATIONS = (_LEDGER, _RUNTIME_STATE, _EVENTS)
"""What makes version n + 1 of the schema out of version n. A new file is at version 0 and goes through all of them."""

SCHEMA_VERSION = len(MIGRATIONS)
"""In SQLite's `user_version`. A file with a higher one is refused."""

WAL_ATTEMPTS_MAX = 100

MOVING_TIMEOUT_MS = 20
"""How long the log's end waits for those who read it: as long it may hold up those who write."""


class Synchronous(StrEnum):
    """When SQLite waits for the disk. Both survive the death of the process, `FULL` also a power cut."""

    NORMAL = "normal"
    FULL = "full"


class Connections(NamedTuple):
    """Those that a store has to its file. Any thread may use one, one at a time."""

    writing: sqlite3.Connection
    reading: sqlite3.Connection
    """Changes nothing."""
    prompt: sqlite3.Connection
    """Waits neither for other connections nor, by itself, for the disk; writes where commits need not wait for that."""
    moving: sqlite3.Connection
    """Moves what is committed out of the log."""


def open_file(path: Path, *, synchronous: Synchronous, busy_timeout_ms: int) -> Connections:
    """Opens the file, creates it where there is none.

    Raises `ConfigError` if the folder is missing, or the file is not one that this version of policyd can use.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"the store's file {path} cannot be opened: the folder {path.parent} does not exist")
    with ExitStack() as opened:
        try:
            writing = opened.enter_context(closing(_connect(path, busy_timeout_ms)))
            _check(writing, path)
            _switch_to_wal(writing)
            _migrate(writing)
            reading = opened.enter_context(closing(_connect(path, busy_timeout_ms)))
            reading.execute("PRAGMA query_only = ON")
            prompt = opened.enter_context(closing(_connect(path, 0)))
            moving = opened.enter_context(closing(_connect(path, MOVING_TIMEOUT_MS)))
            for connection in (writing, prompt, moving):
                connection.execute(f"PRAGMA synchronous = {synchronous}")
                connection.execute("PRAGMA wal_autocheckpoint = 0")  # policyd.stores.sqlite.checkpoints does it
            begin_log(writing)
        except sqlite3.Error as error:
            raise ConfigError(f"the store's file {path} cannot be used: {error}") from error
        opened.pop_all()  # from here on they are the caller's to close
    return Connections(writing, reading, prompt, moving)


def _connect(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    # Without an isolation level the module starts no transactions of its own.
    return sqlite3.connect(path, timeout=busy_timeout_ms / 1000, isolation_level=None, check_same_thread=False)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuses a file that is not ours before anything in it is changed."""
    connection.execute("BEGIN")  # one view of all three, while another process may be creating the schema
    application_id = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    connection.execute("COMMIT")
    if application_id != APPLICATION_ID and (version or tables):
        raise ConfigError(f"the store's file {path} is the SQLite database of another program")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"the store's file {path} was written by a newer policyd: its schema is version {version}, "
            f"and this policyd knows versions up to {SCHEMA_VERSION}"
        )


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """A no-op on a file that is in this mode, as it stays once it is.

    For this one lock SQLite does not wait: where several processes create a file at once, a transaction does.
    """
    for _ in range(WAL_ATTEMPTS_MAX):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
        else:
            return
    raise sqlite3.OperationalError("the write-ahead log cannot be switched on: the file is in use")


def _migrate(connection: sqlite3.Connection) -> None:
    """Brings the file to this version's schema, in one transaction: a file is never left half-way."""
    connection.execute("BEGIN IMMEDIATE")
    # Looked at again under the lock: another process may have been first.
    version = _pragma(connection, "user_version")
    if version < SCHEMA_VERSION:
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def begin_log(connection: sqlite3.Connection) -> None:
    """Commits a page that says what it said before.

    The first commit after all of the log was moved begins the log anew, and waits for the disk also without
    `synchronous=full`. Made here, no other has to.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        # Setting it writes a page always. Read under the lock: another process may have brought the schema up to date.
        connection.execute(f"PRAGMA user_version = {_pragma(connection, 'user_version')}")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value

"""From a store URL to an open store.

    memory://                       nothing outlives the process
    sqlite:///file.db               relative to the working directory
    sqlite:////var/lib/policyd.db   an absolute path has a fourth slash
    sqlite:///file.db?synchronous=full

Paths are percent-decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from policyd.core.errors import ConfigError
from policyd.stores.base import Store
from policyd.stores.memory import MemoryStore
from policyd.stores.sqlite.file import Synchronous
from policyd.stores.sqlite.store import SqliteStore

ALLOWED = "memory://, sqlite:///relative/file.db, sqlite:////absolute/file.db"


def open_store(url: str) -> Store:
    """Opens the store that `url` names. Raises `ConfigError`."""
    parts = urlsplit(url)
    opener = _OPENERS.get(parts.scheme)
    if opener is None:
        # Not the whole URL: that of another kind of store may hold a password.
        raise ConfigError(f"the store URL has an unknown scheme {parts.scheme!r}; allowed are {ALLOWED}")
    return opener(parts)


def open_shared_store(url: str) -> Store:
    """Opens the store of a server that runs in another process, or ran. Raises `ConfigError`."""
    parts = urlsplit(url)
    if parts.scheme == "memory":
        raise ConfigError("--store: memory:// is inside its server's process, where no other can reach it")
    if parts.scheme == "sqlite" and not (path := Path(unquote(parts.path.removeprefix("/")))).exists():
        raise ConfigError(f"--store: there is no file {path}; give the URL that the server has")
    return open_store(url)


def _open_memory(parts: SplitResult) -> Store:
    if parts.netloc or parts.path or parts.query:
        raise ConfigError("the store URL memory:// takes no host, path or option")
    return MemoryStore()


def _open_sqlite(parts: SplitResult) -> Store:
    if parts.netloc:
        raise ConfigError(f"the store URL names the host {parts.netloc!r}; a file has three slashes: {ALLOWED}")
    path = unquote(parts.path.removeprefix("/"))
    if not path or path == ":memory:":
        raise ConfigError(f"the store URL names no file; allowed are {ALLOWED}")
    synchronous = Synchronous.NORMAL
    for option, value in parse_qsl(parts.query, keep_blank_values=True):
        if option != "synchronous":
            raise ConfigError(f"the store URL has an unknown option {option!r}; allowed is synchronous")
        synchronous = _synchronous(value)
    return SqliteStore(Path(path), synchronous=synchronous)


def _synchronous(value: str) -> Synchronous:
    try:
        return Synchronous(value)
    except ValueError:
        raise ConfigError(f"the store URL has synchronous={value}; allowed are {', '.join(Synchronous)}") from None


_OPENERS: dict[str, Callable[[SplitResult], Store]] = {"memory": _open_memory, "sqlite": _open_sqlite}

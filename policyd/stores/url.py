"""From a store URL to an open store.

    memory://                       nothing outlives the process
    sqlite:///file.db               relative to the working directory
    sqlite:////var/lib/policyd.db   an absolute path has a fourth slash
    sqlite:///file.db?synchronous=full
    redis://user:password@host:6379/0                   one server; rediss:// with TLS, here and below
    redis+sentinel://host:26379,host:26379/master/0     the master that the sentinels name
    redis+cluster://host:6379,host:6379                 a cluster, of which some nodes are named

Paths, users and passwords are percent-decoded. What Redis takes as options stands in `policyd.stores.redis`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from policyd.core.errors import ConfigError
from policyd.stores.base import Store
from policyd.stores.memory import MemoryStore
from policyd.stores.redis.options import FORMS as REDIS_FORMS
from policyd.stores.redis.options import SCHEMES as REDIS_SCHEMES
from policyd.stores.redis.options import RedisOptions
from policyd.stores.sqlite.file import Synchronous
from policyd.stores.sqlite.store import SqliteStore

ALLOWED = f"memory://, sqlite:///relative/file.db, sqlite:////absolute/file.db, {REDIS_FORMS}"


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


def store_name(url: str) -> str:
    """What tells a store from others, for whoever keeps something for it: its URL without a password."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return f"sqlite:{Path(unquote(parts.path.removeprefix('/'))).absolute()}"
    _, _, hosts = parts.netloc.rpartition("@")
    prefix = dict(parse_qsl(parts.query)).get("prefix", "")
    return f"{parts.scheme}://{hosts}{parts.path}#{prefix}"


def is_in_process(url: str) -> bool:
    """Whether the store is a part of the process, and so never away from it."""
    return urlsplit(url).scheme == "memory"


def check_shareable(url: str) -> None:
    """Raises `ConfigError` for a store that several processes of one host cannot have open at once."""
    if is_in_process(url):
        raise ConfigError("--workers: memory:// is inside one process, and workers would each have their own ledger")


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


def _open_redis(parts: SplitResult) -> Store:
    # Not above: its library is worth a tenth of a second and megabytes to those who have no Redis.
    from policyd.stores.redis.store import RedisStore  # noqa: PLC0415

    return RedisStore(RedisOptions.from_url(parts))


_OPENERS: dict[str, Callable[[SplitResult], Store]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    **dict.fromkeys(REDIS_SCHEMES, _open_redis),
}

"""Where the shared store lives: real stores, one call at a time, each in no time.

Only calls of the store are simulated as steps; what a store does inside one is not (its own tests are about that).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Protocol, TypeVar

from policyd.stores.base import Store
from policyd.stores.memory import MemoryStore
from policyd.stores.sqlite.store import SqliteStore
from policyd.stores.url import open_store
from tests.stores.redis_server import RedisServer, running

T = TypeVar("T")


class Host(Protocol):
    """One history's store, empty at first."""

    def run(self, call: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        """Carries out one call of the store and returns what it returns."""
        ...

    def restart(self) -> None:
        """Ends the store as `kill -9` would, and starts it again."""
        ...

    def close(self) -> None: ...


class MemoryHost:
    """The memory store stands for one that loses nothing: a restart leaves it as it was."""

    def __init__(self) -> None:
        self._store = MemoryStore()

    def run(self, call: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        try:
            call(self._store).send(None)
        except StopIteration as ended:
            result: T = ended.value
            return result
        raise AssertionError("the memory store awaits nothing")

    def restart(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Elsewhere:
    """An event loop in a thread of its own, where time passes, and which the simulation waits for."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="simulated-store", daemon=True)
        self._thread.start()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self.wait(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SqliteHost:
    """A SQLite file, and after each restart the copy of it that a killed process would have left."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self._elsewhere = _Elsewhere()
        self._stores = [SqliteStore(self._path(0))]

    def run(self, call: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        return self._elsewhere.wait(call(self._stores[-1]))

    def restart(self) -> None:
        killed, left = self._path(len(self._stores) - 1), self._path(len(self._stores))
        for suffix in ("", "-wal"):
            shutil.copy(f"{killed}{suffix}", f"{left}{suffix}")
        self._stores.append(SqliteStore(left))

    def close(self) -> None:
        for store in self._stores:
            self._elsewhere.wait(store.close())
        self._elsewhere.close()
        self._folder.cleanup()

    def _path(self, number: int) -> Path:
        return Path(self._folder.name) / f"store-{number}.db"


class RedisHost:
    """A Redis server that writes everything to its log before it answers."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._elsewhere = _Elsewhere()
        self._store = self._open()

    def run(self, call: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        return self._elsewhere.wait(call(self._store))

    def restart(self) -> None:
        self._elsewhere.wait(self._store.close())
        self._server.kill()
        self._server.start()
        self._store = self._open()

    def close(self) -> None:
        self._elsewhere.wait(self._store.close())
        self._elsewhere.close()
        self._server.command("FLUSHALL")

    def _open(self) -> Store:
        async def opened() -> Store:
            return open_store(f"redis://{self._server.address}?timeout=20s&connect_timeout=20s")

        return self._elsewhere.wait(opened())


@contextmanager
def _redis() -> Iterator[Callable[[], Host]]:
    with (
        TemporaryDirectory() as folder,
        running(Path(folder), "--appendonly", "yes", "--appendfsync", "always") as server,
    ):
        yield lambda: RedisHost(server)


@contextmanager
def _memory() -> Iterator[Callable[[], Host]]:
    yield MemoryHost


@contextmanager
def _sqlite() -> Iterator[Callable[[], Host]]:
    yield SqliteHost


HOSTS: dict[str, Callable[[], AbstractContextManager[Callable[[], Host]]]] = {
    "sqlite": _sqlite,
    "redis": _redis,
    "memory": _memory,
}
"""By kind of store: what makes hosts, one after the other, while the context lasts."""

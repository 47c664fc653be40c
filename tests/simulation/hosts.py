"""Where the shared store lives: real stores, one call at a time, each in no time.

Only calls of the store are simulated as steps; what a store does inside one is not (its own tests are about that).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Protocol, TypeVar

from policyd.stores.base import Store
from policyd.stores.memory import MemoryStore
from policyd.stores.sqlite.store import SqliteStore

T = TypeVar("T")


class Host(Protocol):
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


class SqliteHost:
    """A SQLite file, and after each restart the copy of it that a killed process would have left."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="simulated-store", daemon=True)
        self._thread.start()
        self._stores = [self._open()]

    def run(self, call: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        return self._wait(call(self._stores[-1]))

    def restart(self) -> None:
        killed = self._path(len(self._stores) - 1)
        left = self._path(len(self._stores))
        for suffix in ("", "-wal"):
            shutil.copy(f"{killed}{suffix}", f"{left}{suffix}")
        self._stores.append(self._open())

    def close(self) -> None:
        for store in self._stores:
            self._wait(store.close())
        self._wait(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()

    def _open(self) -> SqliteStore:
        return SqliteStore(self._path(len(self._stores) if hasattr(self, "_stores") else 0))

    def _path(self, number: int) -> Path:
        return Path(self._folder.name) / f"store-{number}.db"

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


HOSTS: dict[str, Callable[[], Host]] = {"memory": MemoryHost, "sqlite": SqliteHost}

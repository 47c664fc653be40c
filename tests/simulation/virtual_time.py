"""An event loop whose time only passes when nothing else is left to do, and then at once to the next timer.

Everything on it happens in an order that follows from the program alone: same coroutines, same order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from selectors import BaseSelector, SelectorKey, SelectSelector
from typing import Any


class _Timers(BaseSelector):
    """In place of waiting for sockets (there is nothing to come from them), the time to wait is over at once."""

    def __init__(self) -> None:
        self._registered = SelectSelector()
        self.seconds = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self._registered.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> SelectorKey:
        return self._registered.unregister(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that will never happen")
        self.seconds += max(0.0, timeout)
        return []

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self._registered.get_map()

    def close(self) -> None:
        self._registered.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0 seconds. Good for a million seconds: beyond, timers are finer than floats are."""

    def __init__(self) -> None:
        self._timers = _Timers()
        super().__init__(self._timers)

    def time(self) -> float:
        return self._timers.seconds

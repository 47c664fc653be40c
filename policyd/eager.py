"""Coroutines that seldom wait, without a task for those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


def run_eagerly(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Runs `coroutine` to its first wait; what is left then becomes a task, and `None` says that nothing is.

    Up to the first wait it runs in no task: it must not ask for one, as `asyncio.timeout` does.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return asyncio.get_running_loop().create_task(Rest(coroutine, awaited))


class Rest(Coroutine[Any, Any, T]):
    """A coroutine that stands at a wait, as one that begins with that wait.

    Not a coroutine around it: a task that is cancelled before its first step would not let that one begin, and so tell
    the coroutine inside nothing of its end.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], awaited: object) -> None:
        """`awaited`: what the first `send` to `coroutine` has returned."""
        self._coroutine = coroutine
        self._awaited = awaited
        self._has_begun = False

    def send(self, value: Any) -> Any:
        if self._has_begun:
            return self._coroutine.send(value)
        self._has_begun = True
        return self._awaited

    def throw(self, *error: Any) -> Any:
        self._has_begun = True
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

"""Coroutines that seldom wait, without a task for those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any


def run_eagerly(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Runs `coroutine` to its first wait; what is left then becomes a task, and `None` says that nothing is.

    Up to the first wait it runs in no task: it must not ask for one, as `asyncio.timeout` does.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return asyncio.ensure_future(_finish(coroutine, awaited))


async def _finish(coroutine: Coroutine[Any, Any, None], awaited: object) -> None:
    await _Rest(coroutine, awaited)


class _Rest:
    """A coroutine that stands at a wait."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], awaited: object) -> None:
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, awaited = self._coroutine, self._awaited
        while True:
            try:
                answer = yield awaited
            except BaseException as error:  # noqa: BLE001 - cancellation above all: the coroutine's own to handle
                step = partial(coroutine.throw, error)
            else:
                step = partial(coroutine.send, answer)
            try:
                awaited = step()
            except StopIteration:
                return

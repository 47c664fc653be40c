"""Bounds how long calls may wait, all by the same time: one timer for all of them, and none for what does not wait.

Not `asyncio.timeout`: a timer for each call costs more than what it guards, and it needs a task, which an exchange may
not have (`policyd.eager`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_SECOND_LOOK_SECONDS = 0.001


class Deadlines:
    """Belongs to one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: deque[_Bounded[Any]] = deque()
        """In the order of their deadlines, with some that have their answer by now."""
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = 0.0
        """Calls whose deadline was over by then were looked at once."""

    def bound(self, call: Coroutine[Any, Any, T]) -> _Bounded[T]:
        """To be awaited: what `call` returns. Raises `TimeoutError` if it has waited for too long, and cancels it."""
        return _Bounded(call, self)

    def watch(self, call: _Bounded[Any]) -> None:
        """From now on, for a call that has begun to wait."""
        loop = asyncio.get_running_loop()
        call.deadline = loop.time() + self._seconds
        self._waiting.append(call)
        if self._timer is None:
            self._timer = loop.call_at(call.deadline, self._check)

    def _check(self) -> None:
        """Calls off those whose time is over, each at the second look.

        Where this process itself was held up, its timers come before its sockets, and the answer may be here, unread.
        """
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting:
            oldest = self._waiting[0]
            if oldest.waits_for is None:
                self._waiting.popleft()
            elif now < oldest.deadline:
                self._timer = loop.call_at(oldest.deadline, self._check)
                return
            elif self._looked_at < oldest.deadline:
                self._looked_at = now
                self._timer = loop.call_later(_SECOND_LOOK_SECONDS, self._check)
                return
            else:
                self._waiting.popleft()
                oldest.expire()


class _Bounded(Generic[T]):
    """One call, awaited once."""

    __slots__ = ("_call", "_deadlines", "_is_expired", "deadline", "waits_for")

    def __init__(self, call: Coroutine[Any, Any, T], deadlines: Deadlines) -> None:
        self._call = call
        self._deadlines = deadlines
        self._is_expired = False
        self.deadline = 0.0
        """By the event loop's clock."""
        self.waits_for: asyncio.Future[Any] | None = None
        """`None`: it has not begun to wait, or has its answer."""

    def expire(self) -> None:
        """Its time is over."""
        if self.waits_for is not None:
            self._is_expired = True
            self.waits_for.cancel()

    def __await__(self) -> Generator[Any, Any, T]:
        call = self._call
        try:
            self.waits_for = call.send(None)
            self._deadlines.watch(self)
            while True:
                try:
                    sent = yield self.waits_for
                except BaseException as error:  # noqa: BLE001 - whatever it is, it is the call's
                    self.waits_for = call.throw(error)
                else:
                    self.waits_for = call.send(sent)
        except StopIteration as answered:
            answer: T = answered.value
            return answer
        except asyncio.CancelledError:
            if self._is_expired:
                raise TimeoutError from None
            raise
        finally:
            self.waits_for = None

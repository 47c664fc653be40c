"""Messages that are lost, doubled, delayed and so come in another order, as the plan says for each by its name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tests.simulation.plan import Fate, Plan, without_faults

T = TypeVar("T")


class NoAnswer(Exception):
    """Nothing came back in time; nobody knows whether the message arrived."""


@dataclass
class _Message(Generic[T]):
    """One message, all its copies, and the answer that its sender waits for."""

    wire: Wire
    effect: Callable[[], asyncio.Future[T]]
    is_cut: Callable[[], bool]
    fate: Fate
    answer: asyncio.Future[T]

    def arrive(self) -> None:
        if self.is_cut():
            self.wire.dropped("requests lost")
            return
        if self.answer.done():
            self.wire.seen["requests that came after an answer, or after nobody waited for one"] += 1
        self.effect().add_done_callback(self._answered)

    def _answered(self, work: asyncio.Future[T]) -> None:
        work.exception()  # seen, whether anybody will hear of it or not
        if self.fate.answer is None or self.is_cut():
            self.wire.dropped("answers lost")
        else:
            work.get_loop().call_later(self.fate.answer, self._pass_on, work)

    def _pass_on(self, work: asyncio.Future[T]) -> None:
        self.wire.ended()
        error = work.exception()
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(work.result())
        else:
            self.answer.set_exception(error)

    def give_up(self, name: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(NoAnswer(name))


class Wire:
    def __init__(self, plan: Plan, seen: Counter[str]) -> None:
        self.seen = seen
        self._on_the_way = 0
        self._is_quiet = asyncio.Event()
        self._plan = plan
        self._sent: Counter[str] = Counter()

    def calm_down(self) -> None:
        """From now on no message is lost, doubled or late."""
        self._plan = without_faults(self._plan)

    async def call(
        self,
        name: str,
        effect: Callable[[], asyncio.Future[T]],
        *,
        timeout_seconds: float,
        is_cut: Callable[[], bool] = lambda: False,
    ) -> T:
        """What `effect` comes to where the message `name` arrives; `is_cut` says whether none passes right now.

        Raises what `effect` raises, and `NoAnswer`.
        """
        self._sent[name] += 1
        fate = self._plan.fate(f"{name} {self._sent[name]}")
        self.seen["messages"] += 1
        if not fate.arrivals:
            self.seen["requests lost"] += 1
        if len(fate.arrivals) > 1:
            self.seen["requests doubled"] += 1
        loop = asyncio.get_running_loop()
        message: _Message[T] = _Message(self, effect, is_cut, fate, loop.create_future())
        for delay in fate.arrivals:
            self._on_the_way += 1
            loop.call_later(delay, message.arrive)
        timer = loop.call_later(timeout_seconds, message.give_up, name)
        try:
            return await message.answer
        finally:
            timer.cancel()
            if not message.answer.cancelled():
                message.answer.exception()  # seen, also by a caller that died just before

    async def quiet(self) -> None:
        """Waits until no message is on its way. Nobody may send any meanwhile."""
        if self._on_the_way:
            self._is_quiet.clear()
            await self._is_quiet.wait()

    def dropped(self, what: str) -> None:
        """A copy of a message came to its end without an answer."""
        self.seen[what] += 1
        self.ended()

    def ended(self) -> None:
        """A copy of a message came to its end."""
        self._on_the_way -= 1
        if not self._on_the_way:
            self._is_quiet.set()

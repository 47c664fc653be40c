"""One thread, one SQLite connection: calls from event loops, run in batches, each batch one transaction.

    event loop --call--> queue --all that wait--> BEGIN, step, step, ..., COMMIT --all answers--> event loop, once

While a batch is being committed the next one gathers in the queue, so the busier the store is, the less a commit costs
each call. What becomes of steps that fail is told in `policyd.stores.sqlite.transactions`;
where no transaction can be started, every call of the batch is `StoreUnavailable`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TypeVar

from policyd.core.errors import StoreUnavailable
from policyd.stores.sqlite.transactions import Answer, Call, Locked, Step, Transactions, refusals

_log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_CALLS_MAX = 256
"""Bounds how long a call waits for the others of its batch: some 10 ms."""


class GroupCommit:
    """Runs steps in `transactions`, which belong to this object's thread from now on. Any event loop may call."""

    def __init__(self, transactions: Transactions, *, thread_name: str) -> None:
        self._transactions = transactions
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._closed = False
        # Holds the order "nothing is queued after the end", whichever threads call.
        self._queueing = Lock()
        self._thread = Thread(target=self._run, name=thread_name, daemon=True)
        self._thread.start()

    async def run(self, step: Step[T]) -> T:
        """Runs `step` and returns its result once it is committed.

        A caller that is cancelled gets no answer, but the step may be carried out all the same.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.take_over((Call(step, future),))
        return await future

    def take_over(self, calls: Iterable[Call]) -> None:
        """Carries out the calls and answers each on its own event loop. Raises `StoreUnavailable` if it is closed."""
        with self._queueing:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            for call in calls:
                self._calls.put(call)

    async def close(self) -> None:
        """Finishes what is queued and closes the connection."""
        with self._queueing:
            if not self._closed:
                self._closed = True
                self._calls.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                answers = self._transactions.carry_out(batch)
            except Locked as error:
                _log.error("the store's transaction could not be begun: %s", error.__cause__)
                answers = refusals(batch)
            _deliver(answers)
        self._transactions.close()

    def _next_batch(self) -> Sequence[Call]:
        """Waits for a call, then takes all that are there. Empty at the end."""
        batch: list[Call] = []
        call = self._calls.get()
        while call is not None:
            batch.append(call)
            if len(batch) == BATCH_CALLS_MAX:
                return batch
            try:
                call = self._calls.get_nowait()
            except Empty:
                return batch
        if batch:
            self._calls.put(None)  # seen with the last calls still to be answered
        return batch


def _deliver(answers: Sequence[Answer]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_loop[answer.future.get_loop()].append(answer)
    for loop, loop_answers in by_loop.items():
        try:
            loop.call_soon_threadsafe(_deliver_in_loop, loop_answers)
        except RuntimeError:
            _log.warning("an event loop was closed with calls to the store under way")


def _deliver_in_loop(answers: Sequence[Answer]) -> None:
    for answer in answers:
        answer.deliver()

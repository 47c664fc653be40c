"""Carries out what an exchange asks for, whatever it is served over.

Two rules stand behind the code. What the enforcer was asked is finished even if Envoy closes the stream meanwhile, so
that no hold is left behind. And any exception whatever ends in the exchange's own failure row.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from policyd.core.errors import RequestError, Unjournalled
from policyd.eager import run_eagerly
from policyd.enforcer import Enforcer
from policyd.ext_proc import messages as m
from policyd.ext_proc.life import Life
from policyd.failures import NOT_FAILURES, log_failure, name_of

log = logging.getLogger(__name__)

Send = Callable[[m.Reply], Awaitable[None]]

_REQUESTS = (m.Authenticate, m.Decide, m.TopUp, m.Finish, m.Charge, m.ChargeMaximum, m.Report)


class Driver:
    """Carries out an exchange's effects, one after the other, and feeds the answers back.

    What is left to do stays here: a transport may stop after any step, and another go on, with nowhere to send to.
    """

    def __init__(self, exchange: Life[Any], enforcer: Enforcer) -> None:
        self._exchange = exchange
        self._enforcer = enforcer
        self._effects: deque[m.Effect] = deque()
        self._asked: asyncio.Task[None] | None = None
        self._answered: m.Event | None = None
        """The enforcer's answer, once it is there."""
        self.aborted: str | None = None
        """Why the gRPC stream has to end with an error."""

    def receive(self, event: m.Event) -> None:
        """Feeds `event`; `advance` then carries out what follows from it.

        An answer that is still waited for is fed after `event`: the exchange knows then that it is closed.
        """
        self._effects.extend(self._receive(event))

    def advance(self) -> m.Reply | asyncio.Task[None] | None:
        """The next reply to send, or what has to be done before there can be one; `None` when nothing is left to do."""
        while True:
            if self._asked is not None:
                if not self._asked.done():
                    return self._asked
                # Raises what the task ended with, which is nothing that `_ask` could make an answer of.
                self._asked.result()
                self._asked = None
            if self._answered is not None:
                answer, self._answered = self._answered, None
                self._effects.extendleft(reversed(self._receive(answer)))
            if not self._effects:
                return None
            effect = self._effects.popleft()
            if isinstance(effect, m.Abort):
                self.aborted = effect.message
            elif isinstance(effect, _REQUESTS):
                self._asked = run_eagerly(self._ask(effect))
            else:
                return effect

    async def handle(self, event: m.Event, send: Send) -> None:
        """Feeds `event` and everything that follows from it. Can be cancelled at any await."""
        self.receive(event)
        while (due := self.advance()) is not None:
            if isinstance(due, asyncio.Task):
                await _done(due)
            else:
                await send(due)

    async def _ask(self, request: m.Request) -> None:
        try:
            self._answered = await self._answer(request)
        except RequestError as error:
            self._answered = m.Rejected(error)
        except NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the exchange's failure row decides what follows
            log_failure(f"{type(request).__name__} failed", error)
            self._answered = m.Failed(name_of(error), closes=isinstance(error, Unjournalled))

    async def _answer(self, request: m.Request) -> m.Event | None:
        enforcer = self._enforcer
        match request:
            case m.Authenticate(key_digest, endpoint, metered):
                return m.Identified(await enforcer.authenticate(key_digest, endpoint=endpoint, metered=metered))
            case m.Decide(ask, unattended):
                verdict = await enforcer.reserve(
                    ask, ttl_seconds=ask.policy.reservations.lean_ttl_seconds if unattended else None
                )
                if verdict.decision.allowed and not unattended:
                    enforcer.keep_alive(ask.request_id)
                return m.Decided(verdict)
            case m.TopUp(verdict, wanted_tokens, at_least_tokens, of_input):
                tokens = await enforcer.extend(
                    verdict.record.request_id,
                    verdict.decision.estimate,
                    wanted_tokens=wanted_tokens,
                    at_least_tokens=at_least_tokens,
                    of_input=of_input,
                )
                return m.Extended(tokens)
            case m.Finish(verdict, ending):
                enforcer.let_go(verdict.record.request_id)
                record = await enforcer.end(verdict.record, verdict.decision.estimate, ending)
            case m.Charge(ask, usage):
                record = (await enforcer.record_usage(ask, usage, fingerprint="")).record
            case m.ChargeMaximum(ask, error):
                enforcer.let_go(ask.request_id)
                record = await enforcer.charge_maximum(ask, error=error)
            case m.Report(record):
                await enforcer.end_unheld(record)
                return None
        return m.Ended(record)

    def _receive(self, event: m.Event) -> list[m.Effect]:
        try:
            return self._exchange.receive(event)
        except NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 - the same
            log_failure(f"an exchange failed while {self._exchange.state}", error)
            return self._fail(name_of(error))

    def _fail(self, name: str) -> list[m.Effect]:
        try:
            return self._exchange.receive(m.Failed(name))
        except NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 - the same
            # The failure row itself failed: what is held expires and is charged, and the stream must not end with OK.
            log_failure(f"an exchange could not be ended while {self._exchange.state}", error)
            self._enforcer.let_go(self._exchange.request_id)
            self._exchange.give_up()
            return [m.Abort(name)]


async def _done(task: asyncio.Task[None]) -> None:
    """Waits for a task, which goes on if the waiting is cancelled: what `asyncio.shield` does, in half of its time."""
    if not task.done():
        waiter: asyncio.Future[None] = task.get_loop().create_future()
        task.add_done_callback(lambda _: None if waiter.done() else waiter.set_result(None))
        await waiter

"""One connection to one Redis node, shared by all calls of an event loop.

    call --packed--> tick's buffer --one write--> Redis --one read, many replies--> futures, in the order of the calls

Calls made in one turn of the event loop go out as one write, and their replies mostly come back in one read: the busier
the loop, the less of the system's work each call costs. Nothing waits for a batch to end.

A call that has no reply `timeout_seconds` after it was made ends the whole connection, for replies have no other order.
What a call's error says of its outcome:

    a reply that is an error                   `hiredis.ReplyError`, as it came
    the connection ended with the call sent    `StoreError`: nobody knows
    the connection had ended before            `StoreUnavailable`: it was never sent
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import AbstractEventLoop, Future, Protocol, TimerHandle, Transport
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import hiredis

from policyd.core.errors import StoreError, StoreUnavailable

log = logging.getLogger(__name__)

Argument = str | bytes | int
Reply = Any
"""What Redis answers: bytes, an integer, None, or a list of these."""

_NOTHING_YET = object()

_SECOND_LOOK_SECONDS = 0.001
"""Until then the event loop has read whatever had arrived when a deadline passed."""


@dataclass(frozen=True, slots=True)
class _Call:
    future: Future[Reply]
    deadline: float
    """By the event loop's clock."""


class Connection(Protocol):
    """See the module's text. Made by the event loop, which calls the `Protocol` methods."""

    def __init__(self, name: str, *, timeout_seconds: float) -> None:
        """`name` is what the log calls the other end."""
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._loop: AbstractEventLoop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING_YET)
        self._transport: Transport | None = None
        self._unsent: list[bytes] = []
        self._calls: deque[_Call] = deque()
        self._timer: TimerHandle | None = None
        self._overdue: _Call | None = None
        """The oldest call, once it was found to be late."""
        self._closed: Future[None] = self._loop.create_future()
        self.timed_out = False
        """Whether it ended because Redis did not answer in time."""

    @property
    def ended(self) -> bool:
        return self._closed.done() or self._transport is None or self._transport.is_closing()

    @property
    def waiting(self) -> int:
        """How many calls have no reply yet."""
        return len(self._calls)

    def call(self, *arguments: Argument) -> Future[Reply]:
        """Sends one command; the reply comes in the future. Raises `StoreUnavailable`."""
        if self.ended:
            raise StoreUnavailable("the connection to Redis has ended")
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(hiredis.pack_command(arguments))  # type: ignore[arg-type]  # its own type says: of one
        call = _Call(self._loop.create_future(), self._loop.time() + self._timeout_seconds)
        self._calls.append(call)
        if self._timer is None:
            self._timer = self._loop.call_at(call.deadline, self._check_deadline)
        return call.future

    async def close(self) -> None:
        """Ends the connection; calls without a reply fail."""
        if self._transport is not None:
            self._transport.abort()
        await self._closed

    def _send(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _check_deadline(self) -> None:
        """Looks at the oldest call; all that come after it have later deadlines.

        A late one is looked at twice. Where this process itself was held up, its timers come before its sockets, and
        the reply may be here, unread.
        """
        self._timer = None
        if not self._calls:
            return
        oldest = self._calls[0]
        if oldest.deadline > self._loop.time():
            self._timer = self._loop.call_at(oldest.deadline, self._check_deadline)
        elif oldest is not self._overdue:
            self._overdue = oldest
            self._timer = self._loop.call_later(_SECOND_LOOK_SECONDS, self._check_deadline)
        else:
            log.error("%s has not answered for %s s", self._name, self._timeout_seconds)
            self.timed_out = True
            self._end()

    def _end(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        unknown = StoreError("Redis did not answer; whether the call had its effect is not known")
        while self._calls:
            future = self._calls.popleft().future
            if not future.done():
                future.set_exception(unknown)

    # --- what the event loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING_YET:
                self._deliver(reply)
        except (hiredis.ProtocolError, IndexError):
            log.exception("%s does not speak Redis's protocol", self._name)
            self._end()

    def _deliver(self, reply: Reply) -> None:
        future = self._calls.popleft().future
        if future.done():  # its caller was cancelled
            return
        if isinstance(reply, hiredis.ReplyError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        if self._calls:
            log.error("the connection to %s was lost: %s", self._name, error or "closed by the other end")
        if self._timer is not None:
            self._timer.cancel()
        self._end()
        self._closed.set_result(None)

"""The way to one node: connects when it is needed, and stops asking a node that does not answer.

    state        what becomes of a call                     and then
    idle         it waits for a connection                  connected, or down
    connected    it goes out                                idle if the connection ends; down if there was no answer
    down         `StoreUnavailable` at once; when the       connected, or down for twice as long
                 pause is over one call tries to connect

So an outage costs one call in a pause its time, and no call waits longer than it takes to connect and to answer. Calls
never pile up: while `CALLS_MAX` are without a reply, another one is refused.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Task
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import hiredis

from policyd.core.errors import StoreError, StoreUnavailable
from policyd.stores.redis.connection import Argument, Connection, Reply

log = logging.getLogger(__name__)

CALLS_MAX = 4_096
"""How many calls may be under way on one node: more than it answers within the timeout."""

PAUSE_SECONDS_FIRST = 0.1
PAUSE_SECONDS_MAX = 2.0

_DOWN = "Redis cannot be reached; the call had no effect"

_NO_EFFECT = frozenset(
    {
        "ASK",
        "BUSY",
        "CLUSTERDOWN",
        "INEXACT",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
    }
)
"""Codes of replies to a command that was not carried out."""

_FAILS_FIRST_WRITE = {
    "-OOM ": "OOM",
    "-READONLY ": "READONLY",
    "-MISCONF ": "MISCONF",
    "-NOREPLICAS ": "NOREPLICAS",
    "INEXACT ": "INEXACT",
}
"""What stands in a script's error, after the code ERR, where it failed before its first write; see `ledger.lua`."""

_ANOTHER_NODE = frozenset({"READONLY", "MASTERDOWN"})
"""Codes of a node that is not, or no longer, the one to ask."""


@dataclass(frozen=True, slots=True)
class _Pause:
    """The state "down": until when, by the event loop's clock, and for how long this time."""

    until: float
    seconds: float


class Link:
    """See the module's text. Belongs to one event loop."""

    def __init__(self, name: str, connect: Callable[[], Awaitable[Connection]]) -> None:
        """`connect` answers a connection that is ready for calls, in bounded time, or raises `StoreUnavailable`."""
        self._name = name
        self._connect = connect
        self._connection: Connection | None = None
        self._connecting: Task[Connection] | None = None
        self._waiting_to_connect = 0
        self._pause: _Pause | None = None

    async def call(self, *arguments: Argument) -> Reply:
        """One command's reply. Raises `StoreUnavailable`, `StoreError`, and `hiredis.ReplyError` for a `MOVED` or
        `NOSCRIPT` reply, which are the caller's to follow."""
        connection = self._connection
        if connection is None or connection.ended:
            connection = await self._connected()
        if connection.waiting >= CALLS_MAX:
            raise StoreUnavailable("too many calls are waiting for Redis; this one was not sent")
        try:
            return await connection.call(*arguments)
        except hiredis.ReplyError as reply:
            raise await self._translated(reply) from reply
        except StoreError:
            if connection.timed_out:
                self._go_down()
            raise

    async def close(self) -> None:
        """Ends the connection, also one that is being made."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            await self._connection.close()

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._pause is not None and (self._connecting is not None or loop.time() < self._pause.until):
            raise StoreUnavailable(_DOWN)
        if self._waiting_to_connect >= CALLS_MAX:
            raise StoreUnavailable("too many calls are waiting for Redis; this one was not sent")
        if self._connecting is None:
            self._connecting = loop.create_task(self._make_connection())
        self._waiting_to_connect += 1
        try:
            return await asyncio.shield(self._connecting)  # others may wait for it too
        finally:
            self._waiting_to_connect -= 1

    async def _make_connection(self) -> Connection:
        try:
            connection = await self._connect()
        except StoreUnavailable:
            self._go_down()
            raise
        finally:
            self._connecting = None
        if self._pause is not None:
            log.info("%s answers again", self._name)
            self._pause = None
        self._connection = connection
        return connection

    def _go_down(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._pause is None:
            seconds = PAUSE_SECONDS_FIRST
        elif now < self._pause.until:
            return  # another call of the same outage
        else:
            seconds = min(2 * self._pause.seconds, PAUSE_SECONDS_MAX)
        self._pause = _Pause(now + seconds, seconds)

    async def _translated(self, reply: hiredis.ReplyError) -> Exception:
        """What `reply` says of the call's outcome."""
        message = str(reply)
        code = message.partition(" ")[0]
        if code in {"MOVED", "NOSCRIPT"}:
            return reply
        log.error("%s refused a call: %s", self._name, message)
        if code == "ERR":
            code = next((code for words, code in _FAILS_FIRST_WRITE.items() if words in message), code)
        if code in _ANOTHER_NODE and self._connection is not None:
            await self._connection.close()
        if code in _NO_EFFECT:
            return StoreUnavailable(f"Redis refused the call ({code}); it had no effect")
        return StoreError("Redis failed the call; whether it had its effect is not known")

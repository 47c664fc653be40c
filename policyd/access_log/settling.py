"""Settles what Envoy's access log tells, whatever the service is served over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from policyd.access_log.charging import ending_of
from policyd.access_log.entry import LogEntry, read_entries
from policyd.core.errors import ProtocolError, ReservationError, ReservationNotFound, StoreError
from policyd.enforcer import Enforcer
from policyd.failures import NOT_FAILURES, log_failure

METHOD: Final = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"

RETRY_SECONDS: Final = (0.1, 0.4, 1.6, 6.4, *(25.6,) * 35)
"""How long is waited before an entry is settled again that the store failed, or whose hold is not known: that may wait
in the journal of a process that is cut off, or has died. A quarter of an hour in all, as long as holds live if the
policy says nothing else. After that its hold expires."""

WAITING_MAX: Final = 20_000
"""How many entries wait, some 50 MB; those that come then are not tried again."""

log = logging.getLogger(__name__)


class AccessLogs:
    """Settles entries, and ends the streams that they come in when the process stops: Envoy never ends them."""

    def __init__(self, enforcer: Enforcer) -> None:
        self._enforcer = enforcer
        self._streams: set[Callable[[], None]] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._waiting = 0
        """Entries that wait to be tried again."""
        self._stopping = asyncio.Event()

    def opened(self, end: Callable[[], None]) -> None:
        """A stream has begun; `end` ends it."""
        if self._stopping.is_set():
            end()
        else:
            self._streams.add(end)

    def closed(self, end: Callable[[], None]) -> None:
        """It has ended."""
        self._streams.discard(end)

    def take(self, message: bytes) -> asyncio.Task[None]:
        """Settles the entries of a message, in the background: they are settled whatever becomes of their stream."""
        work = asyncio.ensure_future(self._settle_all(message))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        return work

    def stop(self) -> None:
        """Ends every stream: Envoy sends further entries to another replica, or to this one when it is back."""
        self._stopping.set()
        for end in tuple(self._streams):
            end()

    async def finish(self) -> None:
        """Waits until all that has come is settled."""
        if self._working:
            await asyncio.wait(self._working)

    async def _settle_all(self, message: bytes) -> None:
        try:
            entries = list(read_entries(message))
        except ProtocolError as error:
            log.warning("%s; the holds that it was about will expire", error)
            return
        # All at once: the store writes them together.
        await asyncio.gather(*map(self._settle, entries))

    async def _settle(self, entry: LogEntry) -> None:
        try:
            await self._settle_patiently(entry)
        except ReservationError as error:
            log.info("an entry of the access log changes nothing: %s", error)
        except NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 - the other entries must not suffer from it
            log_failure("an entry of the access log could not be settled; its hold will expire", error)

    async def _settle_patiently(self, entry: LogEntry) -> None:
        ending = partial(ending_of, entry, on_disconnect=self._enforcer.policy.on_disconnect)
        for seconds in RETRY_SECONDS:
            try:
                await self._enforcer.end_unattended(entry.request_id, ending)
                return
            except (StoreError, ReservationNotFound):
                if self._waiting >= WAITING_MAX:
                    raise
            await self._wait(seconds)
            if self._stopping.is_set():
                break
        await self._enforcer.end_unattended(entry.request_id, ending)

    async def _wait(self, seconds: float) -> None:
        """A process that stops does not wait."""
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
        finally:
            self._waiting -= 1

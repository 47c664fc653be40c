"""The access log service on h2rpc. A stream's next message is read when the one before is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from policyd.access_log.settling import METHOD, AccessLogs
from policyd.h2rpc import Call, Service

_NOTHING = b""
"""An empty `StreamAccessLogsResponse`, serialised."""


def services(logs: AccessLogs) -> Mapping[str, Service]:
    """What is served, by its path."""
    return {METHOD: lambda call: _Stream(logs, call)}


class _Stream:
    def __init__(self, logs: AccessLogs, call: Call) -> None:
        self._logs = logs
        self._call = call
        logs.opened(self._end)

    def on_message(self, message: bytes) -> None:
        self._call.pause_reading()
        self._logs.take(message).add_done_callback(self._read_on)

    def on_half_close(self) -> None:
        self._end()

    def on_cancelled(self) -> None:
        self._logs.closed(self._end)

    def on_writable(self) -> None:
        pass

    def _read_on(self, _: asyncio.Task[None]) -> None:
        self._call.resume_reading()

    def _end(self) -> None:
        self._logs.closed(self._end)
        self._call.send(_NOTHING)
        self._call.finish()

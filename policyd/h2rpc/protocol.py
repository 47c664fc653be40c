"""One socket: what asyncio does for a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from ssl import SSLObject
from typing import cast

from policyd.h2rpc.call import Service
from policyd.h2rpc.codes import Status
from policyd.h2rpc.lifecycle import ConnectionState
from policyd.h2rpc.limits import Limits
from policyd.h2rpc.session import Session

ALPN = "h2"


class RpcProtocol(asyncio.Protocol):
    """Reads, writes and keeps the time for one connection.

    While the socket takes nothing more, nothing is read from it either: a peer that does not read its answers cannot
    ask for more of them.
    """

    _transport: asyncio.Transport

    def __init__(
        self,
        services: Mapping[str, Service],
        limits: Limits,
        *,
        admit: Callable[[RpcProtocol], bool],
        on_lost: Callable[[RpcProtocol], None],
    ) -> None:
        """`admit` is asked when the connection is made, whether it is taken."""
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._admit = admit
        self._on_lost = on_lost
        self.session = Session(services, limits, self)
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._receiving = False
        self._wakes = False
        self._heard = True
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # --- of asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        secured: SSLObject | None = transport.get_extra_info("ssl_object")
        if not self._admit(self) or (secured is not None and secured.selected_alpn_protocol() != ALPN):
            self._transport.abort()
            return
        self._set_timer("handshake", self._limits.handshake_seconds_max, self._check_handshake)
        self._set_timer("keepalive", self._limits.keepalive_seconds, self._check_alive)
        self._set_timer("stalled", self._limits.stall_seconds_max, self._check_stalled)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._receiving = True
        self.session.receive(data, now_ms=int(self._loop.time() * 1000))
        self._receiving = False
        self._flush()

    def pause_writing(self) -> None:
        self.session.pause_writing()
        if not self._transport.is_closing():
            self._transport.pause_reading()
        self._set_timer("unread", self._limits.stall_seconds_max, self._transport.abort)

    def resume_writing(self) -> None:
        self._timers.pop("unread").cancel()
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self.session.resume_writing()
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.session.abandon()
        self._on_lost(self)
        if not self.lost.done():
            self.lost.set_result(None)

    # --- of the session ---

    def wake(self) -> None:
        if not self._receiving and not self._wakes:
            self._wakes = True
            self._loop.call_soon(self._flush)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, callback)

    # --- of the server ---

    def drain(self) -> None:
        """Finishes the calls that are open, takes no others, and closes the connection then."""
        self.session.connection.drain()
        self._flush()

    def stop(self) -> None:
        """Ends every call with UNAVAILABLE, and closes the connection."""
        self.session.fail_all(Status.UNAVAILABLE, "the server stops")
        self.session.connection.close()
        self._flush()

    def abort(self) -> None:
        """Closes the connection without another word."""
        self._transport.abort()

    # --- parts ---

    def _flush(self) -> None:
        self._wakes = False
        output = self.session.connection.take_output()
        if output and not self._transport.is_closing():
            self._transport.write(output)
        if self.session.connection.is_closed and not self._transport.is_closing():
            self._transport.close()
            # Closing waits until the peer has read the last words; it may not want to.
            self._set_timer("closing", self._limits.stall_seconds_max, self._transport.abort)

    def _set_timer(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        self._timers[name] = self._loop.call_later(seconds, callback)

    def _check_handshake(self) -> None:
        if self.session.connection.state in (ConnectionState.AWAITING_PREFACE, ConnectionState.AWAITING_SETTINGS):
            self._transport.abort()

    def _check_alive(self) -> None:
        if not self._heard:
            self.session.connection.ping()
            self._flush()
            self._set_timer("keepalive", self._limits.keepalive_seconds, self._check_answered)
            return
        self._heard = False
        self._set_timer("keepalive", self._limits.keepalive_seconds, self._check_alive)

    def _check_answered(self) -> None:
        if self._heard:
            self._check_alive()
        else:
            self._transport.abort()

    def _check_stalled(self) -> None:
        self.session.reset_stalled()
        self._flush()
        self._set_timer("stalled", self._limits.stall_seconds_max, self._check_stalled)

"""A connection's gRPC calls: between the events of HTTP/2 and the handlers of the services. No I/O."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Protocol

from policyd.h2rpc.call import Call, Handler, Service
from policyd.h2rpc.codes import ErrorCode, Status
from policyd.h2rpc.connection import Connection
from policyd.h2rpc.events import DataReceived, OutboxEmptied, RequestEnded, RequestReceived, StreamReset
from policyd.h2rpc.limits import Limits
from policyd.h2rpc.messages import (
    REPLY_HEADERS,
    CallFault,
    call_terms,
    prefixed,
    trailers,
    trailers_only,
)

log = logging.getLogger(__name__)


class Timer(Protocol):
    def cancel(self) -> None: ...


class Edge(Protocol):
    """What does the I/O."""

    def wake(self) -> None:
        """There may be output to write. Not needed while `Session.receive` runs."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer: ...


class Session:
    """Everything about one connection but its socket."""

    def __init__(self, services: Mapping[str, Service], limits: Limits, edge: Edge) -> None:
        self.connection = Connection(limits)
        self._services = services
        self._limits = limits
        self._edge = edge
        self._calls: dict[int, Call] = {}
        self._timers: dict[int, Timer] = {}
        self._received_bytes = 0
        """In messages that are not whole, and in those that no handler has taken."""
        self._can_write = True
        self._blocked: set[int] = set()
        """Calls that were told that what they sent has not left."""
        self._stalled_before: Mapping[int, int] = {}

    @property
    def open_calls(self) -> int:
        return len(self._calls)

    def receive(self, data: bytes, *, now_ms: int) -> None:
        for event in self.connection.receive(data, now_ms=now_ms):
            match event:
                case DataReceived():  # first, since most are
                    self._data(event)
                case RequestReceived():
                    self._begin(event)
                case RequestEnded(stream_id):
                    if call := self._calls.get(stream_id):
                        self._half_close(call)
                case StreamReset(stream_id):
                    if call := self._calls.get(stream_id):
                        self._cancel(call)
                case OutboxEmptied(stream_id):
                    if self._can_write:
                        self._unblock(stream_id)
        if self.connection.is_closed:
            self.abandon()

    # --- what the handlers do ---

    def send(self, call: Call, message: bytes) -> bool:
        connection, stream_id = self.connection, call.stream_id
        if not call.started:
            call.started = True
            connection.send_headers(stream_id, REPLY_HEADERS)
        left = connection.send_data(stream_id, prefixed(message)) and self._can_write
        if not left:
            self._blocked.add(stream_id)
        self._edge.wake()
        return left

    def finish(self, call: Call, status: Status, message: str) -> None:
        self._forget(call)
        call.let_go()
        block = trailers(status, message) if call.started else trailers_only(status, message)
        self.connection.end(call.stream_id, block)
        self._edge.wake()

    def resume_reading(self, call: Call) -> None:
        while call.reading and call.waiting:
            message = call.waiting.popleft()
            if message is None:
                self._run(call, call.handler.on_half_close)
            else:
                self._received_bytes -= len(message)
                self._deliver(call, message)
        if call.reading and call.window:
            window_bytes, call.window = call.window, 0
            self.connection.taken(call.stream_id, window_bytes)
            self._edge.wake()

    # --- what the edge does ---

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        waiting = self.connection.waiting()
        for stream_id in self._blocked - waiting.keys():
            self._unblock(stream_id)

    def reset_stalled(self) -> None:
        """Resets the streams of which nothing could be sent since the last time."""
        waiting = self.connection.waiting()
        for stream_id, waiting_bytes in self._stalled_before.items():
            if waiting.get(stream_id) == waiting_bytes:
                self.connection.reset(stream_id, ErrorCode.CANCEL)
                if call := self._calls.get(stream_id):
                    self._cancel(call)
        self._stalled_before = self.connection.waiting()

    def fail_all(self, status: Status, message: str) -> None:
        """Ends every call that is open."""
        for call in list(self._calls.values()):
            self._fail(call, status, message)

    def abandon(self) -> None:
        """The connection is gone."""
        for call in list(self._calls.values()):
            self._cancel(call)

    # --- a call's life ---

    def _begin(self, event: RequestReceived) -> None:
        head, stream_id = event.head, event.stream_id
        block, fault, seconds = call_terms(head)
        if block is not None:
            self.connection.end(stream_id, block)
            return
        call = Call(self, stream_id, head, message_bytes_max=self._limits.message_bytes_max)
        try:
            service = self._services.get(head.path)
            if service is None:
                raise CallFault(Status.UNIMPLEMENTED, "there is no such method")  # noqa: TRY301 (one way to refuse)
            if fault is not None:
                raise CallFault(*fault)  # noqa: TRY301 (the same)
            call.handler = service(call)
        except CallFault as fault:
            call.finish(fault.status, fault.message)
        except Exception as error:  # noqa: BLE001 - a service's defect ends its call, and no other
            _log_failure(head.path, error)
            call.finish(Status.INTERNAL, "the service failed")
        if call.is_over:
            return
        self._calls[stream_id] = call
        if seconds is not None:
            self._timers[stream_id] = self._edge.call_later(seconds, lambda: self._time_is_up(call))

    def _data(self, event: DataReceived) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            return
        held_before = call.reader.held_bytes
        try:
            messages = call.reader.read(event.data)
        except CallFault as fault:
            self._received_bytes -= held_before - call.reader.held_bytes
            self._fail(call, fault.status, fault.message)
            return
        self._received_bytes += call.reader.held_bytes - held_before
        if call.reading:
            self.connection.taken(event.stream_id, event.window_bytes)
        else:
            call.window += event.window_bytes
        for message in messages:
            if call.reading:
                self._deliver(call, message)
            else:
                self._received_bytes += len(message)
                call.waiting.append(message)
        if self._received_bytes > self._limits.received_bytes_max and not call.is_over:
            self._fail(call, Status.RESOURCE_EXHAUSTED, "too much was received that is not whole or not yet handled")

    def _half_close(self, call: Call) -> None:
        if call.reader.held_bytes:
            self._fail(call, Status.INTERNAL, "the request ended in the middle of a message")
        elif call.reading:
            self._run(call, call.handler.on_half_close)
        else:
            call.waiting.append(None)

    def _deliver(self, call: Call, message: bytes) -> None:
        if call.is_over:
            return
        try:
            call.handler.on_message(message)
        except Exception as error:  # noqa: BLE001 - a handler's defect ends its call, and no other
            self._failed(call, error)

    def _run(self, call: Call, callback: Callable[[], None]) -> None:
        if call.is_over:
            return
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - the same
            self._failed(call, error)

    def _unblock(self, stream_id: int) -> None:
        self._blocked.discard(stream_id)
        if call := self._calls.get(stream_id):
            self._run(call, call.handler.on_writable)

    def _failed(self, call: Call, error: Exception) -> None:
        _log_failure(call.head.path, error)
        if not call.is_over:
            self._fail(call, Status.INTERNAL, "the service failed")

    def _time_is_up(self, call: Call) -> None:
        self._fail(call, Status.DEADLINE_EXCEEDED, "the call's time is up")

    def _fail(self, call: Call, status: Status, message: str) -> None:
        """Ends a call that its handler has not finished, and tells both sides."""
        handler = call.handler
        self.finish(call, status, message)
        self._tell_cancelled(call, handler)

    def _cancel(self, call: Call) -> None:
        """The call's stream is gone."""
        self._forget(call)
        self._tell_cancelled(call, call.let_go())

    def _tell_cancelled(self, call: Call, handler: Handler) -> None:
        try:
            handler.on_cancelled()
        except Exception as error:  # noqa: BLE001 - the call is over already
            _log_failure(call.head.path, error)

    def _forget(self, call: Call) -> None:
        call.is_over = True
        stream_id = call.stream_id
        self._calls.pop(stream_id, None)
        self._blocked.discard(stream_id)
        if (timer := self._timers.pop(stream_id, None)) is not None:
            timer.cancel()
        self._received_bytes -= call.reader.held_bytes
        if call.waiting:
            self._received_bytes -= sum(len(message) for message in call.waiting if message)
            call.waiting.clear()


def _log_failure(path: str, error: Exception) -> None:
    """Where it came from, and not what it says: that could quote what the client sent."""
    log.error("%s failed: %s\n%s", path, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))

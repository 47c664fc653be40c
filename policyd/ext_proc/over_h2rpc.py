"""The ext_proc service on h2rpc: callbacks, and a task only where the enforcer is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from policyd.ext_proc import messages as m
from policyd.ext_proc.reply_encoding import encode
from policyd.ext_proc.servicer import METHOD, PROVIDER_METADATA, ExternalProcessor, Tls
from policyd.failures import log_failure
from policyd.h2rpc import Call, Limits, Server, Service, Status

NO_OTHERS: Mapping[str, Service] = MappingProxyType({})


class H2rpcServer:
    """A `policyd.ext_proc.servicer.ExtProcServer`."""

    def __init__(
        self,
        processor: ExternalProcessor,
        *,
        message_bytes_max: int,
        shares_port: bool = False,
        others: Mapping[str, Service] = NO_OTHERS,
    ) -> None:
        """`others`: what is served beside it, by its path."""
        self._shares_port = shares_port
        limits = Limits(message_bytes_max=message_bytes_max)
        self._server = Server({**services(processor), **others}, limits=limits)

    async def listen(self, host: str, port: int, *, tls: Tls | None = None) -> int:
        context = tls.h2_context() if tls is not None else None
        return await self._server.listen(host, port, ssl=context, reuse_port=self._shares_port)

    async def listen_unix(self, path: Path) -> None:
        await self._server.listen_unix(path)

    async def stop(self, *, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds=grace_seconds)


def services(processor: ExternalProcessor) -> Mapping[str, Service]:
    """What is served, by its path."""
    watch = _BodyWatch(processor.request_body_seconds_max)
    return {METHOD: lambda call: _Stream(processor, call, watch)}


class _BodyWatch:
    """Refuses requests whose bodies do not come in time. All have as long: one timer does, for the eldest."""

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._due: dict[_Stream, float] = {}
        """When the request of each has to be whole, the eldest first."""
        self._has_timer = False

    def add(self, stream: _Stream) -> None:
        loop = asyncio.get_running_loop()
        due = self._due[stream] = loop.time() + self._seconds_max
        if not self._has_timer:
            self._has_timer = True
            loop.call_at(due, self._refuse_late)

    def discard(self, stream: _Stream) -> None:
        self._due.pop(stream, None)

    def _refuse_late(self) -> None:
        loop = asyncio.get_running_loop()
        self._has_timer = False
        for stream, due in list(self._due.items()):
            if due > loop.time():
                self._has_timer = True
                loop.call_at(due, self._refuse_late)
                return
            del self._due[stream]
            # By itself: a defect ends its own stream, and no other.
            loop.call_soon(stream.refuse_slowness)


class _Stream:
    """One gRPC stream, one exchange. While it waits for the enforcer it reads nothing."""

    def __init__(self, processor: ExternalProcessor, call: Call, watch: _BodyWatch) -> None:
        self._processor = processor
        self._watch = watch
        self._call = call
        self._stream = processor.open(provider=call.get(PROVIDER_METADATA))
        self._work: asyncio.Task[None] | None = None
        """What waits for the enforcer."""
        self._all_sent = True
        self._is_watched = False
        """Whether the request's body has to come in time."""
        self._is_closed = False

    # --- of the call ---

    def on_message(self, message: bytes) -> None:
        self._handle(self._stream.event(message))

    def on_half_close(self) -> None:
        self._close()
        self._call.finish()

    def on_cancelled(self) -> None:
        self._close()

    def on_writable(self) -> None:
        self._all_sent = True
        self._read_on()

    # --- the exchange ---

    def _handle(self, event: m.Event) -> None:
        self._stream.receive(event)
        self._advance()

    def _advance(self) -> None:
        """Does what is to be done, as far as nothing has to be waited for."""
        while (due := self._stream.advance()) is not None:
            if isinstance(due, asyncio.Task):
                self._work = due
                self._call.pause_reading()
                due.add_done_callback(self._worked)
                return
            self._send(due)
        if (aborted := self._stream.aborted) is not None:
            self._abort(aborted)
            return
        if self._stream.is_over:
            self.on_half_close()
            return
        if self._stream.awaits_request is not self._is_watched:
            self._watch_body()
        self._read_on()

    def _worked(self, _: asyncio.Task[None]) -> None:
        self._work = None
        if self._is_closed:
            return
        try:
            self._advance()
        except Exception as error:  # noqa: BLE001 - a defect ends its own stream, and no other
            log_failure("an exchange's stream failed", error)
            self._abort(type(error).__name__)

    def _read_on(self) -> None:
        if self._work is None and self._all_sent:
            self._call.resume_reading()

    def _send(self, reply: m.Reply) -> None:
        if not self._call.send(encode(reply)):
            self._all_sent = False
            self._call.pause_reading()

    # --- the request's body, which has to come in time ---

    def _watch_body(self) -> None:
        self._is_watched = not self._is_watched
        if self._is_watched:
            self._watch.add(self)
        else:
            self._watch.discard(self)

    def refuse_slowness(self) -> None:
        """The body did not come in time."""
        self._is_watched = False
        if self._stream.awaits_request and not self._is_closed:
            self._handle(m.RequestTimedOut())
            self.on_half_close()

    def _abort(self, reason: str) -> None:
        self._close()
        self._call.finish(Status.INTERNAL, reason)

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            if self._is_watched:
                self._watch_body()
            self._processor.close(self._stream)

"""The ext_proc service, whatever it is served over: one exchange a gRPC stream.

A stream never ends with OK before its exchange has: Envoy would let the request through unmetered. That is for those
who serve it to keep: `over_grpcio` and `over_h2rpc`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final, Protocol, TypeVar

import grpc

from policyd.enforcer import Enforcer
from policyd.ext_proc import messages as m
from policyd.ext_proc.codec import Decoder
from policyd.ext_proc.driver import Driver, Send
from policyd.ext_proc.exchange import Exchange
from policyd.ext_proc.lean import LeanExchange
from policyd.ext_proc.life import Life
from policyd.ext_proc.request_ids import RequestIds
from policyd.ext_proc.session import Session, session_wanted
from policyd.ext_proc.settings import ExchangeSettings
from policyd.ext_proc.states import State
from policyd.failures import log_failure, name_of

METHOD: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

PROVIDER_METADATA: Final = "x-policyd-provider"
"""gRPC metadata by which a route names its provider (`ExtProcPerRoute.overrides.grpc_initial_metadata`)."""


L = TypeVar("L", Exchange, LeanExchange, Session)


class Tls(Protocol):
    """How to serve with TLS."""

    def h2_context(self) -> SSLContext:
        """For what speaks HTTP/2 on asyncio's transports."""
        ...

    def grpcio_credentials(self) -> grpc.ServerCredentials:
        """For grpcio."""
        ...


class ExtProcServer(Protocol):
    """Serves the ext_proc service at one address."""

    async def listen(self, host: str, port: int, *, tls: Tls | None = None) -> int:
        """Serves from now on; returns the real port, where `port` is 0. Raises `OSError`."""
        ...

    async def listen_unix(self, path: Path) -> None:
        """The same at a Unix socket."""
        ...

    async def stop(self, *, grace_seconds: float) -> None:
        """Takes no more streams, and lets the open ones end; those that outlast the grace end with an error."""
        ...


class ExchangeStream:
    """An exchange, or a session, and the gRPC stream that carries it: its first message tells which."""

    def __init__(self, begin: Callable[[m.Event], Life[Any]], enforcer: Enforcer, decoder: Decoder) -> None:
        self._begin = begin
        self._enforcer = enforcer
        self._decoder = decoder
        self._exchange: Life[Any] | None = None
        self._driver: Driver | None = None

    @property
    def awaits_request(self) -> bool:
        """Whether the request is not whole yet: it has to be within `request_body_seconds_max`."""
        return self._exchange is not None and self._exchange.state is State.READING_REQUEST

    @property
    def is_over(self) -> bool:
        """Whether the gRPC stream has to end, in order: nothing more will come of an exchange in one message."""
        exchange = self._exchange
        return exchange is not None and exchange.ends_stream and exchange.state == exchange.ENDED

    @property
    def aborted(self) -> str | None:
        """Why the gRPC stream has to end with an error."""
        return self._driver.aborted if self._driver is not None else None

    def event(self, message: bytes) -> m.Event:
        """What a message from Envoy says."""
        try:
            return self._decoder.event(message)
        except Exception as error:  # noqa: BLE001 - bytes that are no message are a failure like any other
            log_failure("a message of Envoy could not be read", error)
            return m.Failed(name_of(error))

    def receive(self, event: m.Event) -> None:
        """Feeds `event`; `advance` then carries out what follows from it."""
        driver = self._driver or self._driver_for(event)
        driver.receive(event)

    def advance(self) -> m.Reply | asyncio.Task[None] | None:
        """As `Driver.advance`."""
        return self._driver.advance() if self._driver is not None else None

    async def handle(self, event: m.Event, send: Send) -> None:
        """As `Driver.handle`."""
        driver = self._driver or self._driver_for(event)
        await driver.handle(event, send)

    def _driver_for(self, first: m.Event) -> Driver:
        self._exchange = self._begin(first)
        self._driver = Driver(self._exchange, self._enforcer)
        return self._driver


class ExternalProcessor:
    """Opens and closes exchanges, and knows of those that have not ended."""

    def __init__(self, enforcer: Enforcer, settings: ExchangeSettings) -> None:
        self._enforcer = enforcer
        self._settings = settings
        self._ids = RequestIds()
        self._open: set[ExchangeStream] = set()
        self._ended = asyncio.Event()
        """Set by each exchange that has ended."""

    @property
    def open_exchanges(self) -> int:
        return len(self._open)

    @property
    def request_body_seconds_max(self) -> float:
        return self._settings.request_body_seconds_max

    def open(self, *, provider: str | None) -> ExchangeStream:
        """For a gRPC stream that has begun. `provider` is what its route names."""
        stream = ExchangeStream(self._begin, self._enforcer, Decoder(provider=provider))
        self._open.add(stream)
        return stream

    def close(self, stream: ExchangeStream) -> None:
        """For a gRPC stream that has ended in whichever way."""
        stream.receive(m.Closed())
        self._end(stream)

    async def finish_endings(self) -> None:
        """Waits until every exchange is settled. To be called once the server has stopped.

        It has cancelled its streams then, but their handlers may not have seen it yet.
        """
        while self._open:
            self._ended.clear()
            await self._ended.wait()

    def _end(self, stream: ExchangeStream, _: object = None) -> None:
        """Carries out what is left to do; replies to a stream that is closed go nowhere."""
        due: m.Reply | asyncio.Task[None] | None = None
        try:
            while (due := stream.advance()) is not None:
                if isinstance(due, asyncio.Task):
                    due.add_done_callback(partial(self._end, stream))
                    break
        finally:
            if not isinstance(due, asyncio.Task):
                self._open.discard(stream)
                self._ended.set()

    def _begin(self, first: m.Event) -> Life[Any]:
        """What a stream that begins with this event carries."""
        enforcer = self._enforcer

        def begun(life: Callable[..., L]) -> L:
            return life(
                request_id=self._ids.next(),
                began_ms=enforcer.now_ms(),
                policy=enforcer.policy,
                settings=self._settings,
                count_text=lambda text, provider, model: enforcer.counter.count_text(
                    text, provider=provider, model=model
                ),
            )

        if isinstance(first, m.WholeRequest):
            return begun(LeanExchange)
        wanted = session_wanted(first) if isinstance(first, m.RequestHeaders) else None
        return begun(Exchange) if wanted is None else begun(partial(Session, *wanted))

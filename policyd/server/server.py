"""One process, from its start to its end.

Stopping goes: health NOT_SERVING, no new streams, open exchanges finish or are cut off after a grace, their charges are
settled, what is left in the store's queue is written, then the process may end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import BinaryIO, Self

from prometheus_client import generate_latest

from policyd import __version__
from policyd.clock import Clock, SystemClock
from policyd.config import Settings
from policyd.core.errors import StoreError, StoreUnavailable
from policyd.core.policy import FailureMode, Policy
from policyd.core.price_book import PriceBook
from policyd.enforcer import Enforcer
from policyd.ext_proc.servicer import ExternalProcessor
from policyd.ext_proc.settings import ExchangeSettings
from policyd.guards import Guards, worker_pages
from policyd.http import create_app, listen, serving
from policyd.server import chores
from policyd.server.listeners import Listeners, with_port
from policyd.server.memory import keep_what_is_loaded
from policyd.server.opened_store import opened_store
from policyd.server.sources import Sources
from policyd.signals import handled
from policyd.telemetry import LineWriter, Telemetry
from policyd.tokens import TokenCounter

log = logging.getLogger(__name__)


class Server:
    """policyd as one process: `async with Server(settings) as server: await server.wait()`."""

    _guards: Guards
    _telemetry: Telemetry
    _sources: Sources
    _enforcer: Enforcer
    _listeners: Listeners

    def __init__(
        self,
        settings: Settings,
        *,
        log_stream: BinaryIO | None = None,
        clock: Clock | None = None,
        worker_token: str | None = None,
    ) -> None:
        """Exchanges are logged to `log_stream`, standard output by default.

        `worker_token` makes it one of several processes: others of this user may listen at the same gRPC ports
        (SO_REUSEPORT), and its metrics are for whoever shows the token, over loopback and in clear.
        """
        self._settings = settings
        self._worker_token = worker_token
        self._log_stream = log_stream
        self._clock = clock or SystemClock()
        self._stopping = asyncio.Event()
        self._stack = AsyncExitStack()
        self._signals = ExitStack()
        self._http_port = 0

    @property
    def grpc_address(self) -> str:
        """Where PolicyService is served, with the real port where 0 was asked for."""
        return self._listeners.grpc_address

    @property
    def ext_proc_address(self) -> str:
        """Where Envoy is served, in the same form."""
        return self._listeners.ext_proc_address

    @property
    def ext_proc_addresses(self) -> tuple[str, ...]:
        """The same, as of a server with several processes."""
        return (self.ext_proc_address,)

    @property
    def http_address(self) -> str:
        """Where metrics and health are served, in the same form."""
        return with_port(self._settings.http_address, self._http_port)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._sources.policy

    def stop(self) -> None:
        """Asks the server to stop: `wait` returns."""
        self._stopping.set()

    def reload(self) -> None:
        """Reads every file again; one with mistakes is reported, and changes nothing."""
        self._sources.reload()

    def handle_signals(self) -> None:
        """Until the server has stopped, SIGTERM and SIGINT ask it to stop, and SIGHUP reloads every file."""
        self._signals.enter_context(
            handled({signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self.reload})
        )

    async def wait(self) -> None:
        """Returns once the server was asked to stop; it goes on serving."""
        await self._stopping.wait()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._signals:
            await self._stack.aclose()

    # --- starting; what is started last is stopped first ---

    async def _start(self) -> None:
        settings, stack = self._settings, self._stack
        # Sockets first: a taken port is said before anything else happens.
        listener = stack.enter_context(listen(settings.http_address.host, settings.http_address.port, flag="--http"))
        self._http_port = listener.getsockname()[1]
        self._guards = Guards(settings)
        self._telemetry = self._open_telemetry()
        self._sources = Sources(
            settings,
            self._guards,
            telemetry=self._telemetry,
            now_ms=self._clock.now_ms,
            on_prices=self._prices_changed,
        )
        self._enforcer = await self._open_enforcer()
        if (problem := await self._store_problem()) is not None:
            raise StoreUnavailable(problem)
        guard = self._guards.of_pages() if self._worker_token is None else worker_pages(self._worker_token)
        app = create_app(metrics=self._metrics, ready=self._readiness, guard=guard)
        await stack.enter_async_context(serving(app, listener, context=guard.context))
        self._start_chores()
        # Last: whoever gets through is answered at once, and holds are renewed until the last exchange has ended.
        self._listeners = listeners = Listeners(
            settings,
            self._guards,
            enforcer=self._enforcer,
            processor=self._create_processor(),
            shares_ports=self._worker_token is not None,
        )
        stack.push_async_callback(listeners.stop)
        await listeners.start()

    def _open_telemetry(self) -> Telemetry:
        writer = LineWriter(self._log_stream) if self._log_stream is not None else LineWriter()
        self._stack.callback(writer.close)
        telemetry = Telemetry(
            version=__version__, write_line=writer.write, attribute_labels=self._settings.metric_attributes
        )
        self._guards.register_metrics(telemetry.registry)
        return telemetry

    async def _open_enforcer(self) -> Enforcer:
        counter = TokenCounter()
        # Nothing is served yet, so nobody waits; another thread would keep memory of its own for it.
        counter.preload()
        keep_what_is_loaded()
        store = opened_store(
            self._settings,
            self._stack,
            policy=lambda: self.policy,
            now_ms=self._clock.now_ms,
            telemetry=self._telemetry,
        )
        return Enforcer(
            store=store,
            prices=self._sources.prices,
            counter=counter,
            clock=self._clock,
            policy=lambda: self.policy,
            observer=self._telemetry,
        )

    def _create_processor(self) -> ExternalProcessor:
        settings = self._settings
        processor = ExternalProcessor(
            self._enforcer,
            ExchangeSettings(
                header_prefix=settings.header_prefix,
                request_body_bytes_max=settings.request_body_bytes_max,
                response_buffer_bytes_max=settings.response_buffer_bytes_max,
                provider_secrets=lambda: self._sources.provider_secrets,
            ),
        )
        self._telemetry.count_open_exchanges(lambda: processor.open_exchanges)
        return processor

    def _start_chores(self) -> None:
        enforcer = self._enforcer
        for chore in (
            *self._sources.watches(),
            chores.repeat(enforcer.renew_open, lambda: self.policy.reservations.ttl_seconds / chores.RENEWALS_PER_TTL),
            chores.repeat(enforcer.refresh_state, lambda: chores.STATE_REFRESH_SECONDS),
            chores.repeat(enforcer.sweep, lambda: chores.SWEEP_SECONDS),
            chores.repeat(enforcer.learn, lambda: chores.LEARN_SECONDS),
        ):
            chores.start(chore, self._stack)

    # --- serving ---

    async def _metrics(self) -> bytes:
        return generate_latest(self._telemetry.registry)

    async def _readiness(self) -> str | None:
        return "stopping" if self._stopping.is_set() else await self._store_problem()

    async def _store_problem(self) -> str | None:
        """Why the store keeps this process from deciding. Where the policy is open then, nothing does."""
        try:
            await self._enforcer.store.ping()
        except StoreError as error:
            if self.policy.failure_mode is FailureMode.CLOSED:
                return f"store: {error}"
            log.warning("the store is away: %s", error)
        return None

    def _prices_changed(self, prices: PriceBook) -> None:
        self._enforcer.use_prices(prices)

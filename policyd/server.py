"""The server: everything put together, started in order, and stopped without losing a charge.

Stopping goes: health NOT_SERVING, no new streams, open exchanges finish or are cut off after a grace, their charges are
settled, what is left in the store's queue is written, then the process may end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, BinaryIO, Self

import grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from prometheus_client import generate_latest

from policyd import __version__
from policyd.access_log import over_grpcio, over_h2rpc
from policyd.access_log.settling import AccessLogs
from policyd.api.access import AccessInterceptor
from policyd.api.service import SERVICE_NAME, add_policy_service, add_standard_services
from policyd.clock import Clock, SystemClock
from policyd.config import (
    Address,
    FileSource,
    HostPort,
    PolicySource,
    SecretsSource,
    Settings,
    Transport,
    UnixSocket,
)
from policyd.core.errors import ConfigError, StoreError, StoreUnavailable
from policyd.core.policy import FailureMode, Policy
from policyd.core.price_book import PriceBook
from policyd.core.provider_secrets import ProviderSecrets
from policyd.enforcer import Enforcer
from policyd.ext_proc.over_grpcio import GrpcioServer
from policyd.ext_proc.over_h2rpc import H2rpcServer
from policyd.ext_proc.servicer import ExternalProcessor, ExtProcServer
from policyd.ext_proc.settings import ExchangeSettings
from policyd.guards import Guards, worker_pages
from policyd.http import create_app, listen, serving
from policyd.price_finding import check_models
from policyd.prices.table_file import open_price_book
from policyd.signals import handled
from policyd.stores.base import Store
from policyd.stores.outage.journal import Journal
from policyd.stores.outage.store import JournalledStore
from policyd.stores.url import is_in_process, open_store, store_name
from policyd.telemetry import LineWriter, Telemetry
from policyd.tokens import TokenCounter

FILE_POLL_SECONDS = 1.0
STATE_REFRESH_SECONDS = 2.0
"""A reservation finds out by itself that the state has changed; this keeps short what it has to catch up on."""
SWEEP_SECONDS = 5.0
MEND_SECONDS = 0.5
"""How often the journal is flushed, and a store that is away is asked whether it is back."""
LEARN_SECONDS = 30.0
"""How often replicas share what exchanges have taught."""
RENEWALS_PER_TTL = 4
"""A hold is renewed this often in its life, so that a missed renewal or two do no harm."""

MESSAGE_BYTES_OVERHEAD = 1024 * 1024
"""What a message from Envoy may be larger than the body in it."""

_TRANSPORTS: Mapping[Transport, Callable[..., ExtProcServer]] = {
    Transport.GRPCIO: lambda processor, logs, **options: GrpcioServer(
        processor, others=(over_grpcio.handler(logs),), **options
    ),
    Transport.H2RPC: lambda processor, logs, **options: H2rpcServer(
        processor, others=over_h2rpc.services(logs), **options
    ),
}

log = logging.getLogger(__name__)


class Server:
    """policyd as one process: `async with Server(settings) as server: await server.wait()`."""

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
        self._grpc_port = 0
        self._ext_proc_port = 0
        self._http_port = 0

    @property
    def grpc_address(self) -> str:
        """Where PolicyService is served, with the real port where 0 was asked for."""
        return _with_port(self._settings.grpc_address, self._grpc_port)

    @property
    def ext_proc_address(self) -> str:
        """Where Envoy is served, with the real port where 0 was asked for."""
        return _with_port(self._settings.ext_proc_address, self._ext_proc_port)

    @property
    def ext_proc_addresses(self) -> tuple[str, ...]:
        """The same, as of a server with several processes."""
        return (self.ext_proc_address,)

    @property
    def http_address(self) -> str:
        """Where metrics and health are served, with the real port where 0 was asked for."""
        return _with_port(self._settings.http_address, self._http_port)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy.current

    def stop(self) -> None:
        """Asks the server to stop: `wait` returns."""
        self._stopping.set()

    def reload_policy(self) -> None:
        """Reads the policy file again; a bad one is reported and changes nothing."""
        self._policy.reload()

    def reload_prices(self) -> None:
        """Reads the price table again; a bad one is reported and changes nothing."""
        self._prices.reload()

    def handle_signals(self) -> None:
        """Until the server has stopped, SIGTERM and SIGINT ask it to stop, and SIGHUP reloads every file."""
        self._signals.enter_context(
            handled({signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self._reload})
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
        self._guards = guards = Guards(settings)
        self._http_port = listener.getsockname()[1]

        writer = LineWriter(self._log_stream) if self._log_stream is not None else LineWriter()
        stack.callback(writer.close)
        telemetry = self._telemetry = Telemetry(
            version=__version__,
            write_line=writer.write,
            attribute_labels=settings.metric_attributes,
        )
        self._prices = FileSource(
            settings.prices_path,
            load=open_price_book,
            check=lambda prices: self._check_models(self.policy, prices),
            on_change=self._prices_changed,
            on_problem=self._prices_rejected,
        )
        self._policy = PolicySource(
            settings.policy_path,
            check=lambda policy: self._check_models(policy, self._prices.current),
            on_change=self._policy_changed,
            on_problem=self._policy_rejected,
        )
        self._secrets = SecretsSource(settings, on_change=self._secrets_changed, on_problem=self._secrets_rejected)
        prices = self._prices.current
        self._check_models(self.policy, prices)
        telemetry.policy_in_force(self.policy.revision)
        telemetry.prices_in_force(source=prices.version, revision=prices.revision)
        counter = TokenCounter()
        await asyncio.to_thread(counter.preload)
        # The vocabularies and the price table stay: a full collection that walks them halts everything for 60 ms.
        gc.collect()
        gc.freeze()

        store = self._open_store()
        self._enforcer = enforcer = Enforcer(
            store=store,
            prices=prices,
            counter=counter,
            clock=self._clock,
            policy=lambda: self.policy,
            observer=telemetry,
        )
        if (problem := await self._store_problem()) is not None:
            raise StoreUnavailable(problem)

        exchange_settings = ExchangeSettings(
            header_prefix=settings.header_prefix,
            request_body_bytes_max=settings.request_body_bytes_max,
            response_buffer_bytes_max=settings.response_buffer_bytes_max,
            provider_secrets=lambda: self._secrets.in_force,
        )
        processor = ExternalProcessor(enforcer, exchange_settings)
        telemetry.count_open_exchanges(lambda: processor.open_exchanges)
        guards.register_metrics(telemetry.registry)
        guard = guards.of_pages() if self._worker_token is None else worker_pages(self._worker_token)
        app = create_app(metrics=self._metrics, ready=self._readiness, guard=guard)
        await stack.enter_async_context(serving(app, listener, context=guard.context))
        for chore in (
            self._prices.watch(interval_seconds=FILE_POLL_SECONDS),
            self._policy.watch(interval_seconds=FILE_POLL_SECONDS),
            self._secrets.watch(interval_seconds=FILE_POLL_SECONDS),
            *(file.watch(interval_seconds=FILE_POLL_SECONDS) for file in guards.files()),
            self._repeat(self._renew, lambda: self.policy.reservations.ttl_seconds / RENEWALS_PER_TTL),
            self._repeat(enforcer.refresh_state, lambda: STATE_REFRESH_SECONDS),
            self._repeat(enforcer.sweep, lambda: SWEEP_SECONDS),
            self._repeat(enforcer.learn, lambda: LEARN_SECONDS),
        ):
            self._start_chore(chore)
        # Last: whoever gets through is answered at once, and holds are renewed until the last exchange has ended.
        await self._start_serving(processor)

    def _open_store(self) -> Store:
        settings = self._settings
        store = open_store(settings.store_url)
        if is_in_process(settings.store_url):
            self._stack.push_async_callback(store.close)
            return store
        journal = Journal(
            settings.journal_path, store=store_name(settings.store_url), bytes_max=settings.journal_bytes_max
        )
        if self.policy.failure_mode is not FailureMode.CLOSED:
            journal.check()
        journalled = JournalledStore(
            store,
            journal,
            policy=lambda: self.policy,
            now_ms=self._clock.now_ms,
            timeout_seconds=settings.store_timeout_seconds,
        )
        self._stack.push_async_callback(journalled.close)
        self._telemetry.watch_outages(lambda: journalled.status, now_ms=self._clock.now_ms)
        self._start_chore(self._repeat(journalled.mend, lambda: MEND_SECONDS))
        return journalled

    async def _store_problem(self) -> str | None:
        """Why the store keeps this process from deciding. Where the policy is open then, nothing does."""
        try:
            await self._enforcer.store.ping()
        except StoreError as error:
            if self.policy.failure_mode is FailureMode.CLOSED:
                return f"store: {error}"
            log.warning("the store is away: %s", error)
        return None

    async def _start_serving(self, processor: ExternalProcessor) -> None:
        """Envoy at one address, other services at another: they can be served by different transports."""
        settings = self._settings
        bytes_max = settings.request_body_bytes_max + MESSAGE_BYTES_OVERHEAD
        logs = AccessLogs(self._enforcer)
        ext_proc = _TRANSPORTS[settings.transport](
            processor, logs, message_bytes_max=bytes_max, shares_port=self._worker_token is not None
        )
        server = grpc.aio.server(
            interceptors=[AccessInterceptor(self._guards.admit)] if self._guards.asks_for_tokens else [],
            options=[
                ("grpc.max_receive_message_length", bytes_max),
                ("grpc.so_reuseport", int(self._worker_token is not None)),
            ],
        )
        calls = add_policy_service(server, self._enforcer)
        health = add_standard_services(server)

        async def stop() -> None:
            await health.enter_graceful_shutdown()
            grace_seconds = settings.shutdown_grace_seconds
            stopping = asyncio.gather(ext_proc.stop(grace_seconds=grace_seconds), server.stop(grace_seconds))
            logs.stop()
            await stopping
            await processor.finish_endings()
            await logs.finish()
            await calls.finish()

        self._stack.push_async_callback(stop)
        await self._listen_ext_proc(ext_proc)
        try:
            self._grpc_port = self._add_port(server, settings.grpc_address)
        except RuntimeError as error:
            raise _cannot_listen("--grpc", settings.grpc_address) from error
        await server.start()
        await health.set(SERVICE_NAME, HealthCheckResponse.SERVING)

    def _add_port(self, server: grpc.aio.Server, address: Address) -> int:
        tls = self._guards.tls
        if tls is None or isinstance(address, UnixSocket):
            return server.add_insecure_port(str(address))
        return server.add_secure_port(str(address), tls.grpcio_credentials())

    async def _listen_ext_proc(self, server: ExtProcServer) -> None:
        address = self._settings.ext_proc_address
        try:
            if isinstance(address, HostPort):
                self._ext_proc_port = await server.listen(address.host, address.port, tls=self._guards.tls)
            else:
                await server.listen_unix(address.path)
        except OSError as error:
            raise _cannot_listen("--ext-proc", address) from error

    def _start_chore(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(chore)

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])

        self._stack.push_async_callback(stop)

    # --- chores ---

    async def _repeat(self, chore: Callable[[], Coroutine[Any, Any, None]], every: Callable[[], float]) -> None:
        while True:
            try:
                await chore()
            except StoreError as error:
                # It is counted as a store error, and the next turn may succeed.
                log.warning("a chore failed: %s", error)
            await asyncio.sleep(every())

    async def _renew(self) -> None:
        await self._enforcer.renew_open()

    async def _metrics(self) -> bytes:
        return generate_latest(self._telemetry.registry)

    async def _readiness(self) -> str | None:
        if self._stopping.is_set():
            return "stopping"
        return await self._store_problem()

    def _reload(self) -> None:
        # Prices first: a policy may count on a model that only the new table has.
        self.reload_prices()
        self.reload_policy()
        self._secrets.reload()
        for file in self._guards.files():
            file.reload()

    def _check_models(self, policy: Policy, prices: PriceBook) -> None:
        check_models(policy, prices, now_ms=self._clock.now_ms())

    def _policy_changed(self, policy: Policy) -> None:
        self._telemetry.policy_in_force(policy.revision)
        self._telemetry.policy_reloaded(ok=True)
        log.info("policy %s is in force", policy.revision)

    def _policy_rejected(self, error: ConfigError) -> None:
        self._telemetry.policy_reloaded(ok=False)
        log.error("the policy file has mistakes; the policy before it stays in force\n%s", error)

    def _prices_changed(self, prices: PriceBook) -> None:
        self._enforcer.use_prices(prices)
        self._telemetry.prices_in_force(source=prices.version, revision=prices.revision)
        self._telemetry.prices_reloaded(ok=True)
        log.info("the prices of %s (revision %s) are in force", prices.version, prices.revision)

    def _prices_rejected(self, error: ConfigError) -> None:
        self._telemetry.prices_reloaded(ok=False)
        log.error("the price table has mistakes; the one before it stays in force\n%s", error)

    def _secrets_changed(self, secrets: ProviderSecrets) -> None:
        log.info("the secret file (revision %s) is in force", secrets.revision)

    def _secrets_rejected(self, error: ConfigError) -> None:
        log.error("the secret file cannot be used; the secrets before it stay in force\n%s", error)


def _cannot_listen(flag: str, address: Address) -> ConfigError:
    return ConfigError(f"{flag}: cannot listen on {address}: it is in use or not an address of this machine")


def _with_port(address: Address, port: int) -> str:
    """Where 0 was asked for, the port that was found."""
    return str(replace(address, port=port) if isinstance(address, HostPort) else address)

"""Starts the workers, starts them again when they end, and answers for all of them.

A worker that is told to stop (SIGTERM) takes no more streams, ends those that are open, and exits; the next one takes
over its address, and a hold that it could not settle is swept, once, by whichever worker gets there. So a rolling
restart is one SIGTERM after the other: Envoy asks another worker meanwhile.

A worker that hangs is killed: it still takes connections, and each request that Envoy gives it would wait in vain.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import BinaryIO, Final, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

from policyd.config import Address, HostPort, Settings, UnixSocket
from policyd.core.errors import ConfigError
from policyd.guards import Guards
from policyd.http import create_app, listen, serving
from policyd.signals import handled
from policyd.stores.url import check_shareable
from policyd.telemetry import LineWriter
from policyd.workers.pages import LABEL, merged_page
from policyd.workers.ports import real_address, reserve_port
from policyd.workers.worker import Worker, WorkerFailed

STEADY_SECONDS: Final = 10.0
"""A worker that served this long is restarted at once."""

_DELAY_SECONDS_FIRST = 0.5
_DELAY_SECONDS_MAX = 30.0
_KILL_SECONDS = 10.0
"""How long beyond the grace for open exchanges a worker may take to end before it is killed."""

_WATCH_SECONDS = 2.0
"""How long after a worker's answer it is asked again whether it lives."""
_SILENCES_MAX = 2
"""After so many questions in a row without an answer it hangs; one may be left open by a busy machine."""

log = logging.getLogger(__name__)


def restart_delay_seconds(failures: int) -> float:
    """How long to wait after so many starts in a row that did not last."""
    return min(_DELAY_SECONDS_FIRST * 2.0 ** (failures - 1), _DELAY_SECONDS_MAX) if failures else 0.0


class Supervisor:
    """`settings.workers` processes, for the length of an `async with`."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, log_stream: BinaryIO | None = None) -> None:
        """`environ` says the same as `settings` where a flag said it, for the workers to read.

        Raises `ConfigError` where workers cannot share what they are told to.
        """
        check_shareable(settings.store_url)
        self._guards = Guards(settings)
        self._worker_token = secrets.token_urlsafe()
        if isinstance(settings.grpc_address, UnixSocket):
            raise ConfigError("--grpc: workers share a port, not a Unix socket; expected HOST:PORT")
        self._settings = settings
        self._environ = environ
        self._log_stream = log_stream
        self._grpc_address: HostPort = settings.grpc_address
        self._ext_proc_addresses = settings.ext_proc_addresses
        self._http_address = settings.http_address
        self._workers: list[Worker] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._stack = AsyncExitStack()
        self._signals = ExitStack()
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        Gauge("policyd_workers", "Workers that are ready.", registry=self._registry).set_function(
            lambda: sum(worker.is_ready for worker in self._workers)
        )
        self._restarts = Counter(
            "policyd_worker_restarts", "Times a worker was started again.", (LABEL,), registry=self._registry
        )

    @property
    def grpc_address(self) -> str:
        """Where all workers serve PolicyService, with the real port where 0 was asked for."""
        return str(self._grpc_address)

    @property
    def ext_proc_addresses(self) -> tuple[str, ...]:
        """Where each worker serves Envoy."""
        return tuple(map(str, self._ext_proc_addresses))

    @property
    def http_address(self) -> str:
        """Where metrics and health of all are served."""
        return str(self._http_address)

    def handle_signals(self) -> None:
        """Until all is stopped, SIGTERM and SIGINT ask for that, and SIGHUP reloads every file, here and in workers."""
        self._signals.enter_context(
            handled(
                {
                    signal.SIGTERM: self._stopping.set,
                    signal.SIGINT: self._stopping.set,
                    signal.SIGHUP: self._reload,
                }
            )
        )

    def _reload(self) -> None:
        for file in self._guards.files():
            file.reload()
        self._signal_all(signal.SIGHUP)

    async def wait(self) -> None:
        """Returns once it was asked to stop; the workers go on serving."""
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
            self._stopping.set()
            await self._stack.aclose()

    async def _start(self) -> None:
        listener = self._stack.enter_context(listen(self._http_address.host, self._http_address.port, flag="--http"))
        self._http_address = real_address(self._http_address, listener)
        self._grpc_address = self._reserve(self._grpc_address, flag="--grpc")
        self._ext_proc_addresses = tuple(self._reserved(address) for address in self._ext_proc_addresses)
        writer = LineWriter(self._log_stream) if self._log_stream is not None else LineWriter()
        self._stack.callback(writer.close)
        self._workers = [
            Worker(number, self._environ_of(address), token=self._worker_token, log_line=writer.write)
            for number, address in enumerate(self._ext_proc_addresses)
        ]
        started = await asyncio.gather(*(worker.start() for worker in self._workers), return_exceptions=True)
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in self._workers if worker.is_ready]
        if failed := [outcome for outcome in started if outcome is not None]:
            await self._stop_workers()
            raise failed[0]
        self._stack.push_async_callback(self._stop_workers)
        for worker in self._workers:
            self._stack.callback(asyncio.create_task(self._watch(worker)).cancel)
        for file in self._guards.files():
            watch = asyncio.create_task(file.watch())
            self._stack.callback(watch.cancel)
        guard = self._guards.of_pages()
        app = create_app(metrics=self._metrics, ready=self._readiness, guard=guard)
        await self._stack.enter_async_context(serving(app, listener, context=guard.context))

    def _reserved(self, address: Address) -> Address:
        return self._reserve(address, flag="--ext-proc") if isinstance(address, HostPort) else address

    def _reserve(self, address: HostPort, *, flag: str) -> HostPort:
        bound: socket.socket = self._stack.enter_context(reserve_port(address, flag=flag))
        return real_address(address, bound)

    def _environ_of(self, address: Address) -> Mapping[str, str]:
        return {
            **self._environ,
            "POLICYD_GRPC": str(self._grpc_address),
            "POLICYD_EXT_PROC": str(address),
            "POLICYD_HTTP": "127.0.0.1:0",
            "POLICYD_WORKERS": "",
        }

    # --- keeping them ---

    async def _keep(self, worker: Worker) -> None:
        """Starts a worker again whenever it has ended, until all are told to stop."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            status = await self._run(worker)
            if self._stopping.is_set():
                return
            lasted = asyncio.get_running_loop().time() - began >= STEADY_SECONDS
            failures = 0 if lasted or status == 0 else failures + 1
            delay_seconds = restart_delay_seconds(failures)
            log.warning("worker %d ended (%s), started again in %.1f s", worker.number, status, delay_seconds)
            if await self._told_to_stop_within(delay_seconds):
                return
            self._restarts.labels(str(worker.number)).inc()

    async def _run(self, worker: Worker) -> int | None:
        """Returns how the worker's process ended; `None` if it never was ready."""
        if worker.pid is None:
            try:
                await worker.start()
            except WorkerFailed as error:
                log.error("%s", error)  # noqa: TRY400 - the worker has said why
                return None
            if self._stopping.is_set():
                worker.send_signal(signal.SIGTERM)
        return await worker.ended()

    async def _watch(self, worker: Worker) -> None:
        """Kills the worker's process whenever it hangs; who keeps the worker starts another."""
        silences = 0
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            silences = silences + 1 if await worker.hangs() else 0
            if silences == _SILENCES_MAX:
                log.error("worker %d hangs and is killed", worker.number)
                worker.send_signal(signal.SIGKILL)

    async def _told_to_stop_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self._workers:
            worker.send_signal(number)

    async def _stop_workers(self) -> None:
        self._stopping.set()
        self._signal_all(signal.SIGTERM)
        if not self._keepers:
            return
        _, late = await asyncio.wait(self._keepers, timeout=self._settings.shutdown_grace_seconds + _KILL_SECONDS)
        if late:
            self._signal_all(signal.SIGKILL)
            await asyncio.wait(late)

    # --- answering for them ---

    async def _metrics(self) -> bytes:
        pages = await self._pages("/metrics")
        return generate_latest(self._registry) + merged_page({number: text for number, (_, text) in pages.items()})

    async def _readiness(self) -> str | None:
        """One worker that can decide is enough: Envoy asks that one."""
        if self._stopping.is_set():
            return "stopping"
        pages = list((await self._pages("/readyz")).values())
        if any(status == 200 for status, _ in pages):
            return None
        return pages[0][1].strip() if pages else "no worker is ready"

    async def _pages(self, path: str) -> dict[int, tuple[int, str]]:
        """Of those who answer, by number."""
        pages = await asyncio.gather(*(worker.page(path) for worker in self._workers))
        return {worker.number: page for worker, page in zip(self._workers, pages, strict=True) if page is not None}

"""Runs policyd's server and an Envoy in front of it as one program."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Protocol, Self

from policyd.config import HostPort, parse_address
from policyd.core.errors import ConfigError
from policyd.envoy_config import EnvoySettings, build_bootstrap
from policyd.envoy_config.addresses import on_this_machine
from policyd.envoy_config.lean import logs_within_seconds
from policyd.envoy_config.listener import STAT_PREFIX
from policyd.up.binary import find_envoy
from policyd.up.process import EnvoyProcess


class Server(Protocol):
    """What is needed of policyd's server. It serves for the length of its `async with`."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    @property
    def grpc_address(self) -> str:
        """Of PolicyService: `HOST:PORT` or `unix:PATH`, with the real port."""
        ...

    @property
    def ext_proc_addresses(self) -> tuple[str, ...]:
        """Of what Envoy asks, in the same form: one of each process that serves."""
        ...

    @property
    def http_address(self) -> str:
        """`HOST:PORT`, with the real port."""
        ...

    async def wait(self) -> None:
        """Returns once the server has been asked to stop; it goes on serving."""
        ...


class Mesh:
    """policyd and Envoy, running. The addresses are for programs on this machine: the real ports, and no wildcards."""

    def __init__(self, server: Server, envoy: EnvoyProcess, *, logs_within_seconds: float) -> None:
        """`logs_within_seconds`: how long after a request's end Envoy may tell of it."""
        self._server = server
        self._logs_within_seconds = logs_within_seconds
        self.envoy = envoy
        self.listen_address = str(on_this_machine(envoy.listen_address))
        """Envoy, where clients send their requests."""
        self.admin_address = str(on_this_machine(envoy.admin_address))
        """Envoy's admin interface."""
        self.grpc_address = _on_this_machine(server.grpc_address)
        self.ext_proc_addresses = tuple(map(_on_this_machine, server.ext_proc_addresses))
        self.http_address = _on_this_machine(server.http_address)

    async def wait(self, *, drain_seconds: float) -> None:
        """Returns once the server has been asked to stop and open requests have ended, at most `drain_seconds` later.

        Raises `EnvoyFailed` if Envoy ends by itself.
        """
        stop, failure = asyncio.create_task(self._server.wait()), asyncio.create_task(self.envoy.watch())
        try:
            done, _ = await asyncio.wait((stop, failure), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            stop.cancel()
            failure.cancel()
        await self.envoy.drain(stat_prefix=STAT_PREFIX, seconds=drain_seconds)
        await asyncio.sleep(self._logs_within_seconds)


@asynccontextmanager
async def running(server: Server, settings: EnvoySettings) -> AsyncIterator[Mesh]:
    """Both, for the length of the block. Envoy starts after policyd and ends before it: no request finds policyd gone.

    Raises `ConfigError` for what a flag or an installation can mend, and `EnvoyFailed` if Envoy does not start.
    """
    binary = find_envoy()
    _check_free(settings.listen_address, flag="--listen")
    _check_free(settings.admin_address, flag="--admin")
    async with server:
        addresses = [parse_address(address) for address in server.ext_proc_addresses]
        bootstrap = build_bootstrap(settings, policyd_addresses=addresses)
        async with EnvoyProcess(bootstrap, binary=binary) as envoy:
            yield Mesh(server, envoy, logs_within_seconds=logs_within_seconds(settings))


def _check_free(address: HostPort, *, flag: str) -> None:
    """Binds and lets go: Envoy's own words would name no flag, and two Envoys would share a port without a word."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:
        raise ConfigError(
            f"{flag}: cannot listen on {address} ({os.strerror(error.errno or 0)}); "
            f"{flag} {HostPort(address.host, 0)} takes any free port"
        ) from error


def _on_this_machine(address: str) -> str:
    return str(on_this_machine(parse_address(address)))

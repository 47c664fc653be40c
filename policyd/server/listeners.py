"""Where Envoy and other services are answered: two addresses, which different transports can serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from policyd.access_log import over_grpcio, over_h2rpc
from policyd.access_log.settling import AccessLogs
from policyd.api.access import AccessInterceptor
from policyd.api.service import SERVICE_NAME, add_policy_service, add_standard_services
from policyd.config import Address, HostPort, Settings, Transport, UnixSocket
from policyd.core.errors import ConfigError
from policyd.enforcer import Enforcer
from policyd.ext_proc.over_grpcio import GrpcioServer
from policyd.ext_proc.over_h2rpc import H2rpcServer
from policyd.ext_proc.servicer import ExternalProcessor, ExtProcServer
from policyd.guards import Guards

MESSAGE_BYTES_OVERHEAD: Final = 1024 * 1024
"""What a message may be larger than the body in it."""

CHUNK_BYTES_MAX: Final = 64 * 1024 * 1024
"""What Envoy may say in one message: it gathers as much of a reply while it waits for an answer to its headers."""

_TRANSPORTS: Mapping[Transport, Callable[..., ExtProcServer]] = {
    Transport.GRPCIO: lambda processor, logs, **options: GrpcioServer(
        processor, others=(over_grpcio.handler(logs),), **options
    ),
    Transport.H2RPC: lambda processor, logs, **options: H2rpcServer(
        processor, others=over_h2rpc.services(logs), **options
    ),
}


class Listeners:
    """The gRPC servers of one process."""

    def __init__(
        self,
        settings: Settings,
        guards: Guards,
        *,
        enforcer: Enforcer,
        processor: ExternalProcessor,
        shares_ports: bool,
    ) -> None:
        """`shares_ports`: other processes of this user may listen there too (SO_REUSEPORT)."""
        self._settings = settings
        self._guards = guards
        self._processor = processor
        self._logs = AccessLogs(enforcer)
        bytes_max = settings.request_body_bytes_max + MESSAGE_BYTES_OVERHEAD
        self._ext_proc = _TRANSPORTS[settings.transport](
            processor, self._logs, message_bytes_max=max(bytes_max, CHUNK_BYTES_MAX), shares_port=shares_ports
        )
        self._services = grpc.aio.server(
            interceptors=[AccessInterceptor(guards.admit)] if guards.asks_for_tokens else [],
            options=[("grpc.max_receive_message_length", bytes_max), ("grpc.so_reuseport", int(shares_ports))],
        )
        self._calls = add_policy_service(self._services, enforcer)
        self._health = add_standard_services(self._services)
        self._ext_proc_port = 0
        self._services_port = 0

    @property
    def grpc_address(self) -> str:
        """Where PolicyService is served, with the real port where 0 was asked for."""
        return with_port(self._settings.grpc_address, self._services_port)

    @property
    def ext_proc_address(self) -> str:
        """Where Envoy is served, in the same form."""
        return with_port(self._settings.ext_proc_address, self._ext_proc_port)

    async def start(self) -> None:
        """Whoever gets through is answered from now on. Raises `ConfigError`, which names the flag of an address."""
        settings = self._settings
        try:
            self._ext_proc_port = await self._listen_ext_proc(settings.ext_proc_address)
        except OSError as error:
            raise _cannot_listen("--ext-proc", settings.ext_proc_address) from error
        try:
            self._services_port = self._add_port(settings.grpc_address)
        except RuntimeError as error:
            raise _cannot_listen("--grpc", settings.grpc_address) from error
        await self._services.start()
        await self._health.set(SERVICE_NAME, HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Returns once nothing is under way any more: what outlasts the grace is cut off, and charged all the same."""
        await self._health.enter_graceful_shutdown()
        grace_seconds = self._settings.shutdown_grace_seconds
        stopping = asyncio.gather(self._ext_proc.stop(grace_seconds=grace_seconds), self._services.stop(grace_seconds))
        self._logs.stop()
        await stopping
        await self._processor.finish_endings()
        await self._logs.finish()
        await self._calls.finish()

    async def _listen_ext_proc(self, address: Address) -> int:
        if isinstance(address, HostPort):
            return await self._ext_proc.listen(address.host, address.port, tls=self._guards.tls)
        await self._ext_proc.listen_unix(address.path)
        return 0

    def _add_port(self, address: Address) -> int:
        tls = self._guards.tls
        if tls is None or isinstance(address, UnixSocket):
            return self._services.add_insecure_port(str(address))
        return self._services.add_secure_port(str(address), tls.grpcio_credentials())


def with_port(address: Address, port: int) -> str:
    """Where 0 was asked for, the port that was found."""
    return str(replace(address, port=port) if isinstance(address, HostPort) else address)


def _cannot_listen(flag: str, address: Address) -> ConfigError:
    return ConfigError(f"{flag}: cannot listen on {address}: it is in use or not an address of this machine")

"""What is compared, running: the same Envoy in front of the same provider, with and without a server that it asks.

Each has an Envoy of its own, with one worker thread and the configuration of `policyd up`; all run at once, and those
that are not being measured have nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from policyd.config import HostPort, parse_address
from policyd.envoy_config import EnvoySettings, build_bootstrap, parse_upstreams
from policyd.envoy_config.typed import EXT_PROC, Json
from policyd.up import EnvoyProcess, find_envoy
from tests.bench.processes import Child, child

POLICY: Final = Path(__file__).with_name("policy.yaml")

ENVOY_ALONE: Final = "Envoy alone"
FLOOR: Final = "no-op server (floor)"
MEMORY: Final = "policyd, memory"
SQLITE: Final = "policyd, SQLite"
FLOOR_ON_H2RPC: Final = "no-op on h2rpc"
MEMORY_ON_H2RPC: Final = "policyd, memory, h2rpc"
SQLITE_ON_H2RPC: Final = "policyd, SQLite, h2rpc"

ON_GRPCIO: Final[Mapping[str, str]] = {
    FLOOR_ON_H2RPC: FLOOR,
    MEMORY_ON_H2RPC: MEMORY,
    SQLITE_ON_H2RPC: SQLITE,
}
"""The same server on the other transport."""

T = TypeVar("T")

_ANY_PORT = HostPort("127.0.0.1", 0)
_NOBODY = HostPort("127.0.0.1", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    name: str
    listen_address: HostPort
    """Where Envoy takes requests."""
    envoy_pid: int
    server_pid: int | None = None
    """Of what Envoy asks."""
    grpc_address: HostPort | None = None
    """Where PolicyService can be called without Envoy, if it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Everything that is measured, running."""

    provider: HostPort
    arrangements: tuple[Arrangement, ...]
    """In the order in which they are shown."""


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    """Starts everything, and stops it at the end of the block. The stores' and the logs' files go into `folder`."""
    async with AsyncExitStack() as stack:
        provider, *started = await _all_at_once(
            *(
                stack.enter_async_context(each)
                for each in (
                    child("tests.bench.upstream", log=folder / "upstream.log"),
                    child("tests.bench.noop", log=folder / "noop.log"),
                    _policyd("memory://", "grpcio", folder=folder),
                    _policyd("sqlite:///", "grpcio", folder=folder),
                    child("tests.bench.noop_on_h2rpc", log=folder / "noop_on_h2rpc.log"),
                    _policyd("memory://", "h2rpc", folder=folder),
                    _policyd("sqlite:///", "h2rpc", folder=folder),
                )
            )
        )
        provider_address = _host_port(provider.ready["http"])
        names = (FLOOR, MEMORY, SQLITE, FLOOR_ON_H2RPC, MEMORY_ON_H2RPC, SQLITE_ON_H2RPC)
        servers = {ENVOY_ALONE: None, **dict(zip(names, started, strict=True))}
        arrangements = await _all_at_once(
            *(_arrangement(stack, name, provider_address, server) for name, server in servers.items())
        )
        yield Running(provider=provider_address, arrangements=arrangements)


async def _all_at_once(*starting: Coroutine[Any, Any, T]) -> tuple[T, ...]:
    """What they return. If one fails, the others are called off."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in starting]
    return tuple(task.result() for task in tasks)


def _policyd(store: str, transport: str, *, folder: Path) -> AbstractAsyncContextManager[Child]:
    name = f"{store.partition(':')[0]}_{transport}"
    if store == "sqlite:///":
        store += str(folder / f"{name}.db")
    addresses = (f"--{server}={_ANY_PORT}" for server in ("grpc", "ext-proc", "http"))
    flags = (*addresses, "--transport", transport, "--store", store, "--config", str(POLICY))
    return child("policyd", "serve", *flags, log=folder / f"{name}.log")


async def _arrangement(stack: AsyncExitStack, name: str, provider: HostPort, server: Child | None) -> Arrangement:
    settings = EnvoySettings(
        listen_address=_ANY_PORT, admin_address=_ANY_PORT, upstreams=parse_upstreams([f"openai=http://{provider}"])
    )
    ready = server.ready if server is not None else {}
    asked = _host_port(ready["ext_proc"]) if ready else None
    bootstrap = build_bootstrap(settings, policyd_addresses=[asked or _NOBODY])
    if asked is None:
        _take_out_ext_proc(bootstrap)
    envoy = await stack.enter_async_context(EnvoyProcess(bootstrap, binary=find_envoy()))
    return Arrangement(
        name=name,
        listen_address=envoy.listen_address,
        envoy_pid=envoy.pid,
        server_pid=server.pid if server is not None else None,
        # It is the same service on the same transport, whatever Envoy is served by.
        grpc_address=_host_port(ready["grpc"]) if ready and name not in ON_GRPCIO else None,
    )


def _take_out_ext_proc(bootstrap: Json) -> None:
    connection_manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    filters = connection_manager["http_filters"]
    connection_manager["http_filters"] = [each for each in filters if each["name"] != EXT_PROC]
    for host in connection_manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route.get("typed_per_filter_config", {}).pop(EXT_PROC, None)


def _host_port(address: str) -> HostPort:
    return cast(HostPort, parse_address(address))

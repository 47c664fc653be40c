"""What is compared, running: the same Envoy in front of the same provider, with and without a server that it asks.

Each has an Envoy of its own, with one worker thread and the configuration of `policyd up`; all run at once, and those
that are not being measured have nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
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
    """Where that can be called without Envoy."""


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
        provider, floor, memory, sqlite = await _all_at_once(
            stack.enter_async_context(child("tests.bench.upstream", log=folder / "upstream.log")),
            stack.enter_async_context(child("tests.bench.noop", log=folder / "noop.log")),
            stack.enter_async_context(_policyd("memory://", log=folder / "memory.log")),
            stack.enter_async_context(_policyd(f"sqlite:///{folder / 'bench.db'}", log=folder / "sqlite.log")),
        )
        provider_address = _host_port(provider.ready["http"])
        servers = {ENVOY_ALONE: None, FLOOR: floor, MEMORY: memory, SQLITE: sqlite}
        arrangements = await _all_at_once(
            *(_arrangement(stack, name, provider_address, server) for name, server in servers.items())
        )
        yield Running(provider=provider_address, arrangements=arrangements)


async def _all_at_once(*starting: Coroutine[Any, Any, T]) -> tuple[T, ...]:
    """What they return. If one fails, the others are called off."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in starting]
    return tuple(task.result() for task in tasks)


def _policyd(store: str, *, log: Path) -> AbstractAsyncContextManager[Child]:
    flags = ("--grpc", str(_ANY_PORT), "--http", str(_ANY_PORT), "--store", store, "--config", str(POLICY))
    return child("policyd", "serve", *flags, log=log)


async def _arrangement(stack: AsyncExitStack, name: str, provider: HostPort, server: Child | None) -> Arrangement:
    settings = EnvoySettings(
        listen_address=_ANY_PORT, admin_address=_ANY_PORT, upstreams=parse_upstreams([f"openai=http://{provider}"])
    )
    asked = _host_port(server.ready["grpc"]) if server is not None else None
    bootstrap = build_bootstrap(settings, policyd_address=asked or _NOBODY)
    if asked is None:
        _take_out_ext_proc(bootstrap)
    envoy = await stack.enter_async_context(EnvoyProcess(bootstrap, binary=find_envoy()))
    return Arrangement(
        name=name,
        listen_address=envoy.listen_address,
        envoy_pid=envoy.pid,
        server_pid=server.pid if server is not None else None,
        grpc_address=asked,
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

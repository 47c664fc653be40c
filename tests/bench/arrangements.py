"""What is compared, running: the same Envoy in front of the same provider, with and without a server that it asks.

Each has an Envoy of its own, with one worker thread and the configuration of `policyd up`. All that a run needs are
kept running side by side, and those that are not being measured have nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from policyd.config import HostPort, parse_address
from policyd.envoy_config import EnvoySettings, Profile, build_bootstrap, parse_upstreams
from policyd.envoy_config.typed import EXT_PROC, Json
from policyd.up import EnvoyProcess, find_envoy
from tests.bench.processes import Child, child
from tests.stores.redis_server import running as running_redis

POLICY: Final = Path(__file__).with_name("policy.yaml")
ANY_PORT: Final = HostPort("127.0.0.1", 0)

ENVOY_ALONE: Final = "Envoy alone"
FLOOR: Final = "no-op server (floor)"
MEMORY_ON_GRPCIO: Final = "policyd, memory, grpcio"
SQLITE_ON_GRPCIO: Final = "policyd, SQLite, grpcio"
REDIS_ON_GRPCIO: Final = "policyd, Redis, grpcio"
FLOOR_ON_H2RPC: Final = "no-op on h2rpc"
MEMORY: Final = "policyd, memory"
SQLITE: Final = "policyd, SQLite"
REDIS: Final = "policyd, Redis"
LEAN: Final = "policyd, SQLite, lean"
TWO_WORKERS: Final = "policyd, SQLite, two workers"

T = TypeVar("T")

_NOBODY = HostPort("127.0.0.1", 1)


@dataclass(frozen=True, slots=True)
class Noop:
    """A server that decides nothing."""

    module: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policyd:
    """`policyd serve` with these settings."""

    store: str
    """Its kind: `memory`, `sqlite` or `redis`."""
    transport: str = "h2rpc"
    workers: int = 1
    profile: Profile = Profile.DEFAULT
    """Of the Envoy before it."""


Asked = Noop | Policyd
"""What Envoy asks."""

SERVERS: Final[Mapping[str, Asked]] = {
    FLOOR: Noop("tests.bench.noop"),
    MEMORY_ON_GRPCIO: Policyd(store="memory", transport="grpcio"),
    SQLITE_ON_GRPCIO: Policyd(store="sqlite", transport="grpcio"),
    REDIS_ON_GRPCIO: Policyd(store="redis", transport="grpcio"),
    FLOOR_ON_H2RPC: Noop("tests.bench.noop_on_h2rpc"),
    MEMORY: Policyd(store="memory"),
    SQLITE: Policyd(store="sqlite"),
    REDIS: Policyd(store="redis"),
    LEAN: Policyd(store="sqlite", profile=Profile.LEAN),
    TWO_WORKERS: Policyd(store="sqlite", workers=2),
}
"""What Envoy asks in each arrangement; another one is one more line."""

ON_GRPCIO: Final[Mapping[str, str]] = {
    FLOOR_ON_H2RPC: FLOOR,
    MEMORY: MEMORY_ON_GRPCIO,
    SQLITE: SQLITE_ON_GRPCIO,
    REDIS: REDIS_ON_GRPCIO,
}
"""The same server on the other transport."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    name: str
    listen_address: HostPort
    """Where requests are taken, by Envoy if there is one."""
    envoy_pid: int | None = None
    server_pid: int | None = None
    """Of what Envoy asks."""


class Stage:
    """Where servers and Envoys run; each is started when it is asked for first, and stays to the end."""

    def __init__(self, stack: AsyncExitStack, folder: Path, provider: HostPort) -> None:
        self.provider = provider
        self.folder = folder
        """For the files of whatever runs."""
        self._stack = stack
        self._servers: dict[str, Child] = {}
        self._arrangements: dict[str, Arrangement] = {}
        self._store_numbers = count()
        self._redis_port: int | None = None

    async def arrangements(self, *names: str) -> tuple[Arrangement, ...]:
        """Those with these names, in that order."""
        await self.servers({name: SERVERS[name] for name in names if name != ENVOY_ALONE})
        missing = [name for name in names if name not in self._arrangements]
        started = await all_at_once(
            *(self._stack.enter_async_context(self._arrangement(name, self._servers.get(name))) for name in missing)
        )
        self._arrangements.update(zip(missing, started, strict=True))
        return tuple(self._arrangements[name] for name in names)

    async def servers(self, wanted: Mapping[str, Asked]) -> Mapping[str, Child]:
        """The servers without an Envoy, by the same names."""
        missing = {name: asked for name, asked in wanted.items() if name not in self._servers}
        if any(isinstance(asked, Policyd) and asked.store == "redis" for asked in missing.values()):
            await self.redis_port()
        started = await all_at_once(
            *(self._stack.enter_async_context(self._server(name, asked)) for name, asked in missing.items())
        )
        self._servers.update(zip(missing, started, strict=True))
        return {name: self._servers[name] for name in wanted}

    @asynccontextmanager
    async def fresh(self, name: str) -> AsyncIterator[Arrangement]:
        """An arrangement of its own for the length of the block: processes that have served nothing yet."""
        async with (
            self._server(f"fresh {name}", SERVERS[name]) as server,
            self._arrangement(name, server) as arrangement,
        ):
            yield arrangement

    async def redis_port(self) -> int:
        """Of a Redis server that writes its log of commands to the disk once a second, as most do."""
        if self._redis_port is None:
            context = running_redis(self.folder / "redis", "--appendonly", "yes", "--databases", "64")
            server = await asyncio.to_thread(context.__enter__)
            self._stack.callback(context.__exit__, None, None, None)
            self._redis_port = server.port
        return self._redis_port

    async def store_url(self, kind: str, name: str) -> str:
        """A store of this kind with nothing in it; patient, for a machine that does much at once."""
        match kind:
            case "memory":
                return "memory://"
            case "sqlite":
                return f"sqlite:///{self.folder / file_name(name)}-{next(self._store_numbers)}.db"
            case "redis":
                return f"redis://127.0.0.1:{await self.redis_port()}/{next(self._store_numbers)}?timeout=20s"
            case _:
                raise ValueError(kind)

    def log(self, name: str) -> Path:
        return self.folder / f"{file_name(name)}.log"

    @asynccontextmanager
    async def _server(self, name: str, asked: Asked) -> AsyncIterator[Child]:
        log = self.log(name)
        async with (
            child(asked.module, log=log)
            if isinstance(asked, Noop)
            else child("policyd", "serve", *await self.flags(name, asked), log=log)
        ) as started:
            yield started

    async def flags(self, name: str, asked: Policyd) -> list[str]:
        """What `policyd serve` is told."""
        return [
            *(f"--{server}={ANY_PORT}" for server in ("grpc", "ext-proc", "http")),
            f"--transport={asked.transport}",
            f"--store={await self.store_url(asked.store, name)}",
            f"--config={POLICY}",
            f"--workers={asked.workers}",
        ]

    @asynccontextmanager
    async def _arrangement(self, name: str, server: Child | None) -> AsyncIterator[Arrangement]:
        upstreams = parse_upstreams([f"openai=http://{self.provider}"])
        asked = SERVERS.get(name)
        profile = asked.profile if isinstance(asked, Policyd) else Profile.DEFAULT
        settings = EnvoySettings(listen_address=ANY_PORT, admin_address=ANY_PORT, upstreams=upstreams, profile=profile)
        addresses = server.ready["ext_proc"].split(",") if server is not None else []
        bootstrap = build_bootstrap(settings, policyd_addresses=list(map(host_port, addresses)) or [_NOBODY])
        if server is None:
            _take_out_ext_proc(bootstrap)
        async with EnvoyProcess(bootstrap, binary=find_envoy()) as envoy:
            yield Arrangement(
                name=name,
                listen_address=envoy.listen_address,
                envoy_pid=envoy.pid,
                server_pid=server.pid if server is not None else None,
            )


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    """A stage with nothing on it but the provider. The stores' and the logs' files go into `folder`."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(child("tests.bench.upstream", log=folder / "upstream.log"))
        yield Stage(stack, folder, host_port(provider.ready["http"]))


async def all_at_once(*starting: Coroutine[Any, Any, T]) -> tuple[T, ...]:
    """What they return. If one fails, the others are called off."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in starting]
    return tuple(task.result() for task in tasks)


def host_port(address: str) -> HostPort:
    return cast(HostPort, parse_address(address))


def file_name(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name)


def _take_out_ext_proc(bootstrap: Json) -> None:
    connection_manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    filters = connection_manager["http_filters"]
    connection_manager["http_filters"] = [each for each in filters if each["name"] != EXT_PROC]
    for host in connection_manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route.get("typed_per_filter_config", {}).pop(EXT_PROC, None)

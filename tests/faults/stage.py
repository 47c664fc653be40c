"""The parts of a mesh, each a process that can be broken by itself and started again where it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from policyd.config import Address, HostPort, Settings, Transport, UnixSocket
from policyd.core.money import parse_usd
from policyd.envoy_config import EnvoySettings, build_bootstrap, parse_upstreams
from policyd.up import EnvoyProcess, find_envoy
from policyd.workers.ports import real_address, reserve_port
from tests.e2e.mesh import Balance, Policyd, policyd_serve
from tests.faults.partition import Partition, partitionable
from tests.faults.provider import Provider, providing
from tests.stores.redis_server import RedisServer, running

BUDGET = "project-spend"
TIGHT_BUDGET = "tight"
IN_FLIGHT = "in-flight"

WIDE, TIGHT = PROJECTS = "wide", "tight"
"""The projects: one whose budget never ends, and one whose budget ends under the load."""

WIDE_USD, TIGHT_USD = "1000", "0.005"

LEASED_PERCENT = 20
"""So much that a lease of the smaller budget has room for some requests, and is used up by an outage."""
LEASED_SECONDS_MAX = 5

TTL_SECONDS = 2
SWEEP_SECONDS = 5
"""How often a policyd looks for holds that are due (`policyd.server`)."""
BOOKED_SECONDS_MAX = TTL_SECONDS + 2 * SWEEP_SECONDS
"""When every hold whose exchange is gone has expired: one sweep may have come too early."""

POLICY = """
version: 1
failure_mode: {failure_mode}
degraded: {{share_percent: {leased_percent}}}
on_disconnect: {on_disconnect}
reservations: {{ttl: {ttl_seconds}s, grace: 0s}}
identity:
  project: [{{header: x-policyd-project}}]
  session: [{{header: x-policyd-session, strip: false}}]
limits:
  - name: project-spend
    per: [project]
    cost_usd: {wide_usd}
    window: lifetime
  - name: tight
    match: {{project: tight}}
    cost_usd: {tight_usd}
    window: lifetime
  - name: in-flight
    per: [project]
    concurrent_requests: 5000
"""


class Kind(Enum):
    """Where the ledger is. The value is what Redis is told about its file."""

    SQLITE = None
    REDIS_ALWAYS = "always"
    REDIS_EVERYSEC = "everysec"

    def __str__(self) -> str:
        return "SQLite" if self is Kind.SQLITE else f"Redis, {self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the parts are set up."""

    store: Kind
    transport: Transport = Transport.H2RPC
    workers: int = 1
    failure_mode: str = "closed"
    on_disconnect: str = "observed"

    def __str__(self) -> str:
        """What is not as it is by default."""
        words = [str(self.store)]
        if self.transport is not Transport.H2RPC:
            words.append(str(self.transport))
        if self.workers > 1:
            words.append(f"{self.workers} workers")
        if self.failure_mode != "closed":
            words.append(f"failure_mode: {self.failure_mode}")
        if self.on_disconnect != "observed":
            words.append(f"on_disconnect: {self.on_disconnect}")
        return ", ".join(words)

    @property
    def leased_nanos(self) -> int:
        """What one process leases of the budget that never ends; 0: it leases none."""
        return parse_usd(WIDE_USD) * LEASED_PERCENT // 100 if self.failure_mode == "degraded" else 0

    @property
    def policy(self) -> str:
        return POLICY.format(
            failure_mode=self.failure_mode,
            on_disconnect=self.on_disconnect,
            leased_percent=LEASED_PERCENT,
            ttl_seconds=TTL_SECONDS,
            wide_usd=WIDE_USD,
            tight_usd=TIGHT_USD,
        )


@dataclass
class Stage:
    """The parts, running. Faults reach for them, and start those again that do not come back by themselves."""

    folder: Path
    setting: Setting
    log: BinaryIO
    provider: Provider
    store_url: str
    listen: HostPort
    redis: RedisServer | None = None
    partition: Partition | None = None
    _policyd: ExitStack = field(default_factory=ExitStack)
    _envoy: AsyncExitStack = field(default_factory=AsyncExitStack)

    def start_policyd(self) -> None:
        """Returns once it is ready. What is left of one before it is cleared away."""
        self._policyd.close()
        policy = self.folder / "policyd.yaml"
        policy.write_text(self.setting.policy)
        environ = {
            "POLICYD_WORKERS": str(self.setting.workers),
            "POLICYD_TRANSPORT": str(self.setting.transport),
            "POLICYD_JOURNAL": str(self.folder / "journal"),
        }
        self.policyd: Policyd = self._policyd.enter_context(
            policyd_serve(
                store=self.store_url, policy=policy, ext_proc=str(self._socket), environ=environ, stderr=self.log
            )
        )

    async def start_envoy(self) -> None:
        """Like `start_policyd`."""
        await self._envoy.aclose()
        settings = EnvoySettings(
            listen_address=self.listen,
            admin_address=HostPort("127.0.0.1", 0),
            upstreams=parse_upstreams([f"openai={self.provider.url}"]),
        )
        bootstrap = build_bootstrap(settings, policyd_addresses=self._ext_proc_addresses)
        self.envoy = await self._envoy.enter_async_context(EnvoyProcess(bootstrap, binary=find_envoy(), log=self.log))

    @property
    def redis_running(self) -> RedisServer:
        assert self.redis is not None, "the fault's setting has no Redis"
        return self.redis

    @property
    def network(self) -> Partition:
        assert self.partition is not None, "the fault's setting has no Redis"
        return self.partition

    def worker_pids(self) -> list[int]:
        """Of the workers that run, the oldest first."""
        supervisor = self.policyd.process.pid
        children = map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())
        return [pid for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"policyd\0worker\0")]

    async def until_leased(self) -> None:
        """Waits until every worker has leased of the budgets, where it does so at all."""
        deadline = time.monotonic() + LEASED_SECONDS_MAX
        while self.balance(BUDGET, WIDE).reserved < self.setting.leased_nanos * self.setting.workers:
            assert time.monotonic() < deadline, f"not leased after {LEASED_SECONDS_MAX} s"
            await asyncio.sleep(0.1)

    async def until_all_is_booked(self) -> None:
        """Waits until every hold has ended and every journal is empty; `AssertionError` if one outlives its time."""
        deadline = time.monotonic() + BOOKED_SECONDS_MAX
        while left := self._unbooked():
            assert time.monotonic() < deadline, f"not booked after {BOOKED_SECONDS_MAX} s: {left}"
            await asyncio.sleep(0.1)

    def _unbooked(self) -> dict[str, float]:
        """What is held still, by limit and project, and what waits in journals."""
        left: dict[str, float] = {f"{IN_FLIGHT} of {each}": self.balance(IN_FLIGHT, each).reserved for each in PROJECTS}
        for project in PROJECTS:
            reserved, leased = self.balance(BUDGET, project).reserved, self.setting.leased_nanos
            # What is leased is a hold too, and stays.
            is_leased = leased and reserved <= leased * self.setting.workers
            left[f"{BUDGET} of {project}"] = reserved % leased if is_leased else reserved
        left["bytes in journals"] = self.policyd.metric("policyd_journal_bytes")
        return {name: amount for name, amount in left.items() if amount}

    def balance(self, limit: str, project: str) -> Balance:
        return self.policyd.balance(limit, project=project)

    async def close(self) -> None:
        """Ends Envoy and policyd; the ledger can be read."""
        await self._envoy.aclose()
        self._policyd.close()

    @property
    def _socket(self) -> UnixSocket:
        return UnixSocket(self.folder / "policyd.sock")

    @property
    def _ext_proc_addresses(self) -> tuple[Address, ...]:
        return Settings(ext_proc_address=self._socket, workers=self.setting.workers).ext_proc_addresses


@asynccontextmanager
async def staged(setting: Setting, folder: Path) -> AsyncIterator[Stage]:
    with ExitStack() as stack:
        redis, partition, store_url = None, None, f"sqlite:///{folder}/policyd.db"
        if setting.store is not Kind.SQLITE:
            redis = stack.enter_context(_durable_redis(folder / "redis", appendfsync=str(setting.store.value)))
            partition = stack.enter_context(partitionable(redis.port))
            store_url = f"redis://{partition.address}/0"
        anywhere = HostPort("127.0.0.1", 0)
        port = stack.enter_context(reserve_port(anywhere, flag="Envoy"))
        stage = Stage(
            folder=folder,
            setting=setting,
            log=stack.enter_context((folder / "stderr.log").open("ab")),
            provider=stack.enter_context(providing(folder / "bill")),
            store_url=store_url,
            listen=real_address(anywhere, port),
            redis=redis,
            partition=partition,
        )
        try:
            stage.start_policyd()
            await stage.start_envoy()
            yield stage
        finally:
            await stage.close()


@contextmanager
def _durable_redis(folder: Path, *, appendfsync: str) -> Iterator[RedisServer]:
    with running(folder, "--appendonly", "yes", "--appendfsync", appendfsync) as server:
        yield server

"""A store that can be taken away, a journal in front of it, and requests that spend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from policyd.core.errors import StoreUnavailable
from policyd.core.ledger import Balance, Entry
from policyd.core.policy import FailureMode, Metric, Policy
from policyd.core.reservation import State
from policyd.core.usage import Usage
from policyd.stores.base import ReserveResult, Store, UsageFilter
from policyd.stores.memory import MemoryStore
from policyd.stores.outage.journal import Journal
from policyd.stores.outage.store import JournalledStore
from tests.builders import policy
from tests.stores.building import NOW_MS, TTL_MS, account, entry, record

AWAY = StoreUnavailable("gone for a test")


@dataclass
class Switchable:
    """A store that fails every call while `error` is set: before its effect, or after it."""

    inner: Store = field(default_factory=MemoryStore)
    error: Exception | None = None
    after: bool = False
    calls_left: int | None = None
    """How many calls succeed before it fails by itself."""
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self.inner, name)

        async def switched(*arguments: Any, **keywords: Any) -> Any:
            if name == "close":  # other processes have it open still
                return None
            self.calls.append(name)
            if self.calls_left is not None:
                if not self.calls_left:
                    raise AWAY
                self.calls_left -= 1
            if self.error is not None and not self.after:
                raise self.error
            result = await call(*arguments, **keywords)
            if self.error is not None:
                raise self.error
            return result

        return switched


@dataclass
class Rig:
    """Processes that share a store and a folder, one after the other or at once."""

    folder: Path
    store: Switchable = field(default_factory=Switchable)
    policy: Policy = field(default_factory=lambda: policy(failure_mode=FailureMode.OPEN))
    bytes_max: int = 2**20
    now_ms: int = NOW_MS
    timeout_seconds: float = 1.0

    def process(self, *, name: str = "the store") -> JournalledStore:
        return JournalledStore(
            self.store,  # type: ignore[arg-type]
            Journal(self.folder, store=name, bytes_max=self.bytes_max),
            policy=lambda: self.policy,
            now_ms=lambda: self.now_ms,
            timeout_seconds=self.timeout_seconds,
        )

    def use(self, mode: FailureMode) -> None:
        self.policy = replace(self.policy, failure_mode=mode)

    @property
    def journals(self) -> list[Path]:
        return sorted(self.folder.glob("*.journal"))

    async def balance(self) -> Balance:
        (found,) = await self.store.inner.balances([(account(), None)])
        return found

    async def costs(self) -> dict[str, int | None]:
        """What the usage records say, by request."""
        page = await self.store.inner.usage(UsageFilter(), limit=1000)
        return {found.request_id: found.actual_cost_nanos for found in page.records}

    async def reserve(
        self, process: JournalledStore, name: str, *entries: Entry, amount: int = 10, fingerprint: str = ""
    ) -> ReserveResult:
        return await process.reserve(
            name,
            entries=entries or (entry(amount),),
            record=record(name, at_ms=self.now_ms)._replace(maximum=Usage()),
            now_ms=self.now_ms,
            expires_at_ms=self.now_ms + TTL_MS,
            fingerprint=fingerprint,
        )

    async def settle(self, process: JournalledStore, name: str, cost: int, *, at_ms: int = NOW_MS) -> State:
        final = record(name, at_ms=at_ms, actual_cost_nanos=cost)
        return await process.settle(name, amounts={Metric.COST: cost}, record=final, now_ms=self.now_ms)

    async def release(self, process: JournalledStore, name: str) -> State:
        return await process.release(name, record=record(name, actual_cost_nanos=0), now_ms=self.now_ms)

    async def sweep(self) -> None:
        """As a server does, of what ended more than an hour ago."""
        await self.store.inner.sweep(
            now_ms=self.now_ms, ended_before_ms=self.now_ms - 3_600_000, usage_before_ms=self.now_ms - 90 * 86_400_000
        )

"""The store, the policy and the moment that a command works with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from policyd.clock import SystemClock
from policyd.config import Settings, open_policy
from policyd.core.errors import StaleState
from policyd.core.limits import AppliedLimit, apply_limit, first_use
from policyd.core.policy import Limit, Policy
from policyd.core.runtime import RuntimeState
from policyd.core.windows import FirstUseWindow
from policyd.enforcer.runtime_state import with_changes
from policyd.stores.base import StateItem, Store
from policyd.stores.url import open_shared_store

ATTEMPTS_MAX = 10
"""How often a change is tried while others change the same state."""


@dataclass(frozen=True, slots=True)
class Desk:
    store: Store
    policy: Policy
    now_ms: int

    async def state(self) -> RuntimeState:
        """The run-time state as it stands. Raises `StoreError`s."""
        return with_changes(RuntimeState(), await self.store.state(), ended_by_ms=self.now_ms)

    async def change(self, items_for: Callable[[RuntimeState], Sequence[StateItem]]) -> None:
        """Sets what `items_for` makes of the state as it stands, in one step.

        Raises `StaleState` if others change it all the time, and `StoreError`s.
        """
        for attempt in range(1, ATTEMPTS_MAX + 1):
            state = await self.state()
            try:
                await self.store.set_state(items_for(state), now_ms=self.now_ms, expected_revision=state.revision)
            except StaleState:
                if attempt == ATTEMPTS_MAX:
                    raise
            else:
                return

    async def applied(self, limit: Limit, scope: str, state: RuntimeState) -> AppliedLimit:
        """The limit as it applies to the scope now. A window of first use that has not begun would begin now."""
        begun: Mapping[str, int] = {}
        if isinstance(limit.window, FirstUseWindow):
            use = first_use(limit, scope, limit.window)
            starts_at_ms = await self.store.begin_window(
                use.key, now_ms=self.now_ms, length_ms=use.length_ms, begin=False
            )
            begun = {} if starts_at_ms is None else {use.key: starts_at_ms}
        return apply_limit(limit, scope, now_ms=self.now_ms, begun=begun, state=state)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Desk]:
    """Opens the store that `settings` name. Raises `ConfigError`."""
    policy = open_policy(settings.policy_path)
    store = open_shared_store(settings.store_url)
    try:
        yield Desk(store, policy, SystemClock().now_ms())
    finally:
        await store.close()

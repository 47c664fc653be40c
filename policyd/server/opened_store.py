"""The store that a process decides by, with a journal for when it is away."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from policyd.config import Settings
from policyd.core.policy import FailureMode, Policy
from policyd.server import chores
from policyd.stores.base import Store
from policyd.stores.outage.journal import Journal
from policyd.stores.outage.store import JournalledStore
from policyd.stores.url import is_in_process, open_store, store_name
from policyd.telemetry import Telemetry


def opened_store(
    settings: Settings,
    stack: AsyncExitStack,
    *,
    policy: Callable[[], Policy],
    now_ms: Callable[[], int],
    telemetry: Telemetry,
) -> Store:
    """Open until `stack` is closed. A store in this process is never away, and needs no journal.

    Raises `ConfigError` where the policy counts on the journal and it cannot be written.
    """
    store = open_store(settings.store_url)
    if is_in_process(settings.store_url):
        stack.push_async_callback(store.close)
        return store
    journal = Journal(settings.journal_path, store=store_name(settings.store_url), bytes_max=settings.journal_bytes_max)
    if policy().failure_mode is not FailureMode.CLOSED:
        journal.check()
    journalled = JournalledStore(
        store, journal, policy=policy, now_ms=now_ms, timeout_seconds=settings.store_timeout_seconds
    )
    stack.push_async_callback(journalled.close)
    telemetry.watch_outages(lambda: journalled.status, now_ms=now_ms)
    chores.start(chores.repeat(journalled.mend, lambda: chores.MEND_SECONDS), stack)
    return journalled

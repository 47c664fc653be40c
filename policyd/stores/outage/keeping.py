"""Makes, renews and ends leases while the store is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from policyd.core.errors import StoreError
from policyd.core.policy import FailureMode, Policy
from policyd.stores.base import Granted, Store
from policyd.stores.outage.journal import Journal
from policyd.stores.outage.leases import Lease, Leases
from policyd.stores.outage.replay import Replay

LEASES_AT_ONCE: Final = 50
"""How many leases are made in one go, so that nothing else is held up."""

RENEWALS_PER_TTL: Final = 4


class LeaseKeeper:
    def __init__(
        self,
        leases: Leases,
        store: Store,
        journal: Journal,
        *,
        replay: Callable[[], Replay],
        now_ms: Callable[[], int],
    ) -> None:
        self._now_ms = now_ms
        self._leases = leases
        self._store = store
        self._journal = journal
        self._replay = replay
        self._renewed_at_ms = 0

    async def keep(self, policy: Policy) -> None:
        """Ends what is over, renews the others, and makes what is wanted, as far as the store answers."""
        now_ms = self._now_ms()
        ttl_ms = policy.reservations.ttl_seconds * 1000
        is_wanted = policy.failure_mode is FailureMode.DEGRADED
        # What was not renewed in time has expired: it is charged, and that is corrected by its end.
        has_expired = now_ms - self._renewed_at_ms >= ttl_ms
        try:
            await self._end(now_ms=now_ms, all_of_them=has_expired or not is_wanted)
            if is_wanted:
                await self._renew(now_ms=now_ms, ttl_ms=ttl_ms)
                for lease in self._leases.wanted(share_percent=policy.lease_percent, now_ms=now_ms)[:LEASES_AT_ONCE]:
                    await self._make(lease, ttl_ms=ttl_ms)
        except StoreError:
            return  # the next time

    async def end_all(self) -> None:
        """Ends what nobody uses, as far as the store answers."""
        try:
            await self._end(now_ms=self._now_ms(), all_of_them=True)
        except StoreError:
            return  # whoever finds the journal does it

    async def _end(self, *, now_ms: int, all_of_them: bool) -> None:
        replay = self._replay()
        for lease in self._leases.to_end(now_ms=now_ms, all_of_them=all_of_them):
            lease.is_ending = True
            await replay.end(lease.end(now_ms=now_ms), now_ms=now_ms)
            self._leases.drop(lease)

    async def _renew(self, *, now_ms: int, ttl_ms: int) -> None:
        if not self._leases:
            self._renewed_at_ms = now_ms
        elif now_ms - self._renewed_at_ms >= ttl_ms // RENEWALS_PER_TTL:
            await self._store.renew([lease.id for lease in self._leases], expires_at_ms=now_ms + ttl_ms)
            self._renewed_at_ms = now_ms

    async def _make(self, lease: Lease, *, ttl_ms: int) -> None:
        entry = lease.entry
        (balance,) = await self._store.balances([(entry.account, None)])
        if not balance.fits(entry.amount, cap=entry.cap):
            return  # the budget is used up, or nearly
        now_ms = self._now_ms()
        if entry.account.has_ended(now_ms):
            return  # while the store was asked, which may have taken long
        self._journal.append(lease.told)
        try:
            result = await self._store.reserve(
                lease.id, entries=(entry,), record=lease.record, now_ms=now_ms, expires_at_ms=now_ms + ttl_ms
            )
        except StoreError:
            # It may be held all the same, and its expiry would charge it: it is ended once the store answers.
            lease.is_ending = True
            self._leases.add(lease)
            raise
        if isinstance(result, Granted):
            self._leases.add(lease)

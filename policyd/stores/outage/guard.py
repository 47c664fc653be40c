"""A store behind a time bound and a circuit breaker.

    state     what becomes of a call                        and then
    closed    it goes to the store, for bounded time        open after `FAILURES_MAX` bad ones in a row
    open      `StoreUnavailable` at once                    half-open, at the next probe
    half-open the probe asks the store; calls as if open    closed, or open

Bad is a call that the store failed, or one that it took half of the bound or longer to answer. Of slow calls at once
only one counts: what held them up may have been this process itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from traceback import format_tb
from typing import Any, Final, TypeVar

from policyd.core.errors import PolicydError, StoreDefect, StoreError, StoreUnavailable
from policyd.core.events import OperatorEvent
from policyd.core.ledger import Account, Amounts, Balance, Carry, Entry
from policyd.core.record import Record
from policyd.core.reservation import State
from policyd.failures import NOT_FAILURES
from policyd.stores.base import (
    AccountsPage,
    EventsPage,
    Reservation,
    ReserveResult,
    Stale,
    StateChanges,
    StateItem,
    Store,
    Swept,
    UsageFilter,
    UsagePage,
)
from policyd.stores.outage.deadlines import Deadlines

FAILURES_MAX: Final = 5

T = TypeVar("T")

log = logging.getLogger(__name__)


class Guard:
    """The bound and the breaker. Belongs to one event loop."""

    def __init__(self, *, timeout_seconds: float) -> None:
        self._deadlines = Deadlines(timeout_seconds)
        self._slow_seconds = timeout_seconds / 2
        self._bad_in_a_row = 0
        self._last_slow = 0.0
        """When the last slow answer came that counts, by the event loop's clock."""

    @property
    def is_open(self) -> bool:
        """Whether calls are refused without asking the store."""
        return self._bad_in_a_row >= FAILURES_MAX

    async def bounded(self, call: Coroutine[Any, Any, T]) -> T:
        """What the store answers. Raises `StoreUnavailable` if it is not asked, `StoreError` without an answer."""
        self._check(call)
        return await self._asked(call)

    async def unbounded(self, call: Coroutine[Any, Any, T]) -> T:
        """The same for a call that may take its time, and tells nothing of the store by that."""
        self._check(call)
        return await call

    async def probe(self, ping: Coroutine[Any, Any, None]) -> None:
        """Asks the store whether it is back. Raises `StoreError`s."""
        await self._asked(ping)
        if self._bad_in_a_row:
            log.warning("the store answers again")
            self._bad_in_a_row = 0

    def _check(self, call: Coroutine[Any, Any, Any]) -> None:
        if self.is_open:
            call.close()
            raise StoreUnavailable("the store is away; the call had no effect")

    async def _asked(self, call: Coroutine[Any, Any, T]) -> T:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            answer = await self._deadlines.bound(call)
        except TimeoutError as error:
            self._count_bad()
            raise StoreError(
                "the store did not answer in time; whether the call had its effect is not known"
            ) from error
        except StoreError:
            self._count_bad()
            raise
        except (PolicydError, *NOT_FAILURES):
            raise
        except BaseException as error:  # noqa: BLE001 - also a panic in a library of Rust, which is no `Exception`
            raise _defect(error) from None
        ended = loop.time()
        if ended - began < self._slow_seconds:
            self._bad_in_a_row = 0
        elif began >= self._last_slow:
            self._last_slow = ended
            self._count_bad()
        return answer

    def _count_bad(self) -> None:
        self._bad_in_a_row += 1
        if self._bad_in_a_row == FAILURES_MAX:
            log.error("the store is away: %s calls in a row failed or took too long", FAILURES_MAX)


def _defect(error: BaseException) -> StoreDefect:
    """What becomes of an exception that is none of the store's contract. What it says is not told: it could be a
    client's words."""
    name = type(error).__name__
    log.error("the store's code failed: %s\n%s", name, "".join(format_tb(error.__traceback__)))
    return StoreDefect(f"the store's code failed: {name}")


class GuardedStore:
    """`inner` behind a guard. Every method is documented in `policyd.stores.base.Store`.

    Only what decisions and settlements wait for is bounded: listing and sweeping may take their time.
    """

    def __init__(self, inner: Store, guard: Guard) -> None:
        self._inner = inner
        self._guard = guard

    async def reserve(
        self,
        reservation_id: str,
        *,
        entries: Sequence[Entry],
        record: Record,
        now_ms: int,
        expires_at_ms: int,
        fingerprint: str = "",
        state_revision: int | None = None,
    ) -> ReserveResult:
        return await self._guard.bounded(
            self._inner.reserve(
                reservation_id,
                entries=entries,
                record=record,
                now_ms=now_ms,
                expires_at_ms=expires_at_ms,
                fingerprint=fingerprint,
                state_revision=state_revision,
            )
        )

    async def extend(
        self, reservation_id: str, *, unit_amounts: Amounts, wanted_units: int, at_least_units: int, now_ms: int
    ) -> int:
        return await self._guard.bounded(
            self._inner.extend(
                reservation_id,
                unit_amounts=unit_amounts,
                wanted_units=wanted_units,
                at_least_units=at_least_units,
                now_ms=now_ms,
            )
        )

    async def settle(self, reservation_id: str, *, amounts: Amounts, record: Record, now_ms: int) -> State:
        return await self._guard.bounded(
            self._inner.settle(reservation_id, amounts=amounts, record=record, now_ms=now_ms)
        )

    async def release(self, reservation_id: str, *, record: Record, now_ms: int) -> State:
        return await self._guard.bounded(self._inner.release(reservation_id, record=record, now_ms=now_ms))

    async def renew(self, reservation_ids: Sequence[str], *, expires_at_ms: int) -> None:
        await self._guard.unbounded(self._inner.renew(reservation_ids, expires_at_ms=expires_at_ms))

    async def sweep(self, *, now_ms: int, ended_before_ms: int, usage_before_ms: int) -> Swept:
        return await self._guard.unbounded(
            self._inner.sweep(now_ms=now_ms, ended_before_ms=ended_before_ms, usage_before_ms=usage_before_ms)
        )

    async def get(self, reservation_id: str) -> Reservation:
        return await self._guard.bounded(self._inner.get(reservation_id))

    async def balances(self, accounts: Sequence[tuple[Account, Carry | None]]) -> tuple[Balance, ...]:
        return await self._guard.bounded(self._inner.balances(accounts))

    async def weigh(
        self, accounts: Sequence[tuple[Account, Carry | None]], *, state_revision: int
    ) -> tuple[Balance, ...] | Stale:
        return await self._guard.bounded(self._inner.weigh(accounts, state_revision=state_revision))

    async def accounts(
        self,
        *,
        limit_name: str | None = None,
        scope: str | None = None,
        ends_after_ms: int | None = None,
        page: int,
        cursor: str = "",
    ) -> AccountsPage:
        return await self._guard.unbounded(
            self._inner.accounts(
                limit_name=limit_name, scope=scope, ends_after_ms=ends_after_ms, page=page, cursor=cursor
            )
        )

    async def append(self, record: Record) -> None:
        await self._guard.bounded(self._inner.append(record))

    async def usage(self, wanted: UsageFilter, *, limit: int, cursor: str = "") -> UsagePage:
        return await self._guard.unbounded(self._inner.usage(wanted, limit=limit, cursor=cursor))

    async def set_state(self, items: Sequence[StateItem], *, now_ms: int, expected_revision: int | None = None) -> int:
        return await self._guard.bounded(
            self._inner.set_state(items, now_ms=now_ms, expected_revision=expected_revision)
        )

    async def state(self, *, since: int = 0) -> StateChanges:
        return await self._guard.bounded(self._inner.state(since=since))

    async def begin_window(self, key: str, *, now_ms: int, length_ms: int, begin: bool = True) -> int | None:
        return await self._guard.bounded(self._inner.begin_window(key, now_ms=now_ms, length_ms=length_ms, begin=begin))

    async def repeated(
        self, scope: str, digest: str, *, now_ms: int, forget_after_ms: int, counted: bool = True
    ) -> int:
        return await self._guard.bounded(
            self._inner.repeated(scope, digest, now_ms=now_ms, forget_after_ms=forget_after_ms, counted=counted)
        )

    async def count(self, deltas: Mapping[str, int], *, now_ms: int, keep_until_ms: int) -> None:
        await self._guard.unbounded(self._inner.count(deltas, now_ms=now_ms, keep_until_ms=keep_until_ms))

    async def counters(self, prefix: str, *, now_ms: int) -> Mapping[str, int]:
        return await self._guard.unbounded(self._inner.counters(prefix, now_ms=now_ms))

    async def emit(self, event: OperatorEvent) -> bool:
        return await self._guard.bounded(self._inner.emit(event))

    async def events(self, *, page: int, cursor: str = "") -> EventsPage:
        return await self._guard.unbounded(self._inner.events(page=page, cursor=cursor))

    async def acknowledge(self, event_ids: Sequence[str]) -> int:
        return await self._guard.bounded(self._inner.acknowledge(event_ids))

    async def ping(self) -> None:
        await self._guard.probe(self._inner.ping())

    async def close(self) -> None:
        await self._inner.close()

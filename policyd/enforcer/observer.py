"""Who is told what the enforcer does."""

from __future__ import annotations

from collections.abc import Awaitable
from time import perf_counter
from typing import Protocol, TypeVar

from policyd.core.errors import ReservationError, StaleState
from policyd.core.estimate import Estimate
from policyd.core.events import OperatorEvent
from policyd.core.record import Record
from policyd.learning import Corrections
from policyd.stores.base import Swept

T = TypeVar("T")


class Observer(Protocol):
    """Told what happened, for metrics and the log. Must not raise and must not block."""

    def ended(self, record: Record, estimate: Estimate | None) -> None:
        """An exchange has ended and its record is durable."""
        ...

    def store_call(self, operation: str, seconds: float, *, failed: bool) -> None: ...

    def swept(self, swept: Swept) -> None: ...

    def learned(self, corrections: Corrections) -> None:
        """What estimates go by from now on."""
        ...

    def emitted(self, event: OperatorEvent) -> None:
        """Operators are told of something new."""
        ...


async def timed(observer: Observer, operation: str, call: Awaitable[T]) -> T:
    """What a call of the store returns; tells how long it took, and whether the store failed."""
    began = perf_counter()
    failed = True
    try:
        result = await call
        failed = False
        return result
    except (ReservationError, StaleState):
        failed = False
        raise
    finally:
        observer.store_call(operation, perf_counter() - began, failed=failed)

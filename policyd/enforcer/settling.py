"""Settling: ends a reservation once, with what it is charged."""

from __future__ import annotations

from policyd.clock import Clock
from policyd.core.decision import charges
from policyd.core.estimate import Estimate, cost_nanos
from policyd.core.own_prices import Tariff
from policyd.core.pricing import Price
from policyd.core.record import Record
from policyd.enforcer.endings import Ended, Ending
from policyd.enforcer.observer import Observer, timed
from policyd.estimator import with_request_fee
from policyd.price_finding import price_served
from policyd.stores.base import Store


class Settling:
    def __init__(self, store: Store, *, clock: Clock, observer: Observer) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer

    async def end(
        self, record: Record, ending: Ending, *, price: Price | None, tariff: Tariff, estimate: Estimate | None = None
    ) -> Ended:
        """Settles or releases the reservation of `record`, at `price` or at what served costs by `tariff`."""
        now_ms = self._clock.now_ms()
        usage = ending.usage
        cost = 0
        if usage is not None:
            served = price_served(record, price, tariff, response_model=ending.response_model, terms=ending.terms)
            usage = with_request_fee(usage, served)
            cost = cost_nanos(served, usage)
        final = record._replace(
            outcome=ending.outcome,
            status=ending.status,
            response_model=ending.response_model,
            streamed=ending.streamed,
            usage=usage,
            usage_source=ending.source,
            actual_cost_nanos=cost,
            duration_ms=max(0, now_ms - record.at_ms),
            error=ending.error,
        )
        if usage is None:
            operation, call = "release", self._store.release(record.request_id, record=final, now_ms=now_ms)
        else:
            amounts = charges(usage, cost_nanos=cost)
            operation = "settle"
            call = self._store.settle(record.request_id, amounts=amounts, record=final, now_ms=now_ms)
        found = await timed(self._observer, operation, call)
        ended = Ended(found, final)
        if not ended.repeated:
            self._observer.ended(final, estimate)
        return ended

    async def first(self, ended: Ended) -> Ended:
        """`ended` with the record of the call that ended the reservation, if an earlier one did."""
        if not ended.repeated:
            return ended
        reservation = await timed(self._observer, "get", self._store.get(ended.record.request_id))
        return Ended(ended.found, reservation.record)

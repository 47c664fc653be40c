"""Exchanges whose end policyd does not see: whoever saw it reports it, by the id of the hold, once or several times."""

from __future__ import annotations

from collections.abc import Callable

from policyd.core.errors import ReservationNotFound
from policyd.core.policy import Policy
from policyd.core.record import Record
from policyd.core.reservation import State
from policyd.enforcer.endings import Ended, Ending
from policyd.enforcer.observer import Observer, timed
from policyd.enforcer.repeating import with_passed
from policyd.enforcer.settling import Settling
from policyd.estimator import Estimator
from policyd.stores.base import Store

EndingOf = Callable[[Record], Ending]
"""How an exchange ended, by the record that its hold was made with."""


class Unattended:
    """See `Enforcer.end_unattended`."""

    def __init__(self, store: Store, *, estimator: Estimator, settling: Settling, observer: Observer) -> None:
        self._store = store
        self._estimator = estimator
        self._settling = settling
        self._observer = observer

    async def end(self, request_id: str, ending: EndingOf, *, policy: Policy) -> Ended:
        held = await timed(self._observer, "get", self._store.get(request_id))
        if held.fingerprint:
            # Another service's, which ends it itself.
            raise ReservationNotFound(request_id)
        if held.state in {State.SETTLED, State.RELEASED}:
            return Ended(held.state, held.record)
        estimate = self._estimator.estimate_again(held.record, policy)
        record = with_passed(held.record, policy, held)
        return await self._settling.end(
            record, ending(held.record), price=estimate.price, tariff=estimate.tariff, estimate=estimate
        )

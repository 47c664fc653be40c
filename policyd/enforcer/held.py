"""What goes by a reservation's id alone, in whichever process: what other services have reserved, and report."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import structs

from policyd.core.decision import charges
from policyd.core.errors import ReservationNotFound, StoreError
from policyd.core.estimate import Estimate, cost_nanos
from policyd.core.ledger import Entry
from policyd.core.policy import Policy
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.usage import Usage
from policyd.enforcer.endings import Ended, Ending
from policyd.enforcer.observer import Observer, timed
from policyd.enforcer.repeating import with_passed
from policyd.enforcer.runtime_state import FollowedState
from policyd.enforcer.settling import Settling
from policyd.enforcer.standing import Standing
from policyd.enforcer.verdict import Verdict
from policyd.estimator import Ask, Estimator, output_token_amounts, price_asked, with_request_fee
from policyd.stores.base import Exists, Reservation, ReserveResult, Store

NOTED_MAX = 4096
"""How many reservations that were made here are remembered, some 10 MB; those made first are forgotten first."""


class _Noted(NamedTuple):
    """A reservation that was made here, and the policy that it was made under."""

    record: Record
    estimate: Estimate
    policy: Policy


class HeldForOthers:
    """See the methods of `Enforcer` with these names."""

    def __init__(
        self,
        store: Store,
        *,
        estimator: Estimator,
        state: FollowedState,
        standing: Standing,
        settling: Settling,
        observer: Observer,
    ) -> None:
        self._store = store
        self._estimator = estimator
        self._state = state
        self._standing = standing
        self._settling = settling
        self._observer = observer
        self._noted: dict[str, _Noted] = {}

    def note(self, verdict: Verdict, policy: Policy) -> None:
        """Remembers a reservation that was made here, so that the store need not be asked for it at its end."""
        while len(self._noted) >= NOTED_MAX:
            del self._noted[next(iter(self._noted))]
        self._noted[verdict.record.request_id] = _Noted(verdict.record, verdict.decision.estimate, policy)

    async def extend(
        self,
        reservation_id: str,
        *,
        wanted_tokens: int,
        at_least_tokens: int,
        policy: Policy,
        now_ms: int,
        expires_at_ms: int,
    ) -> tuple[int, int]:
        self._noted.pop(reservation_id, None)
        held = await self._held(reservation_id)
        estimate = self._estimator.estimate_again(held.record, policy)
        granted = await timed(
            self._observer,
            "extend",
            self._store.extend(
                reservation_id,
                unit_amounts=output_token_amounts(estimate),
                wanted_units=wanted_tokens,
                at_least_units=at_least_tokens,
                now_ms=now_ms,
            ),
        )
        renewing = self._store.renew((reservation_id,), expires_at_ms=expires_at_ms)
        await timed(self._observer, "renew", renewing)
        return granted, max(expires_at_ms, held.expires_at_ms)

    async def end(self, reservation_id: str, ending: Ending, *, policy: Policy) -> Ended:
        noted = self._noted.pop(reservation_id, None)
        # It is charged by the policy and the prices of now.
        if noted is None or noted.policy is not policy or noted.estimate.tariff.book is not self._estimator.prices:
            record, estimate = await self._pending(reservation_id, policy)
        else:
            record, estimate = noted.record, noted.estimate
        ended = await self._settling.end(
            record, ending, price=estimate.price, tariff=estimate.tariff, estimate=estimate
        )
        return await self._settling.first(ended)

    async def record_usage(self, ask: Ask, ending: Ending, *, fingerprint: str, policy: Policy, now_ms: int) -> Ended:
        tariff = self._estimator.tariff(ask.policy)
        price = price_asked(ask, tariff, now_ms=now_ms)
        usage = with_request_fee(ending.usage or Usage(), price)
        amounts = charges(usage, cost_nanos=cost_nanos(price, usage))
        record = Record(
            request_id=ask.request_id,
            at_ms=now_ms,
            outcome=Outcome.SERVED,
            decision="allow",
            provider=ask.provider,
            endpoint=ask.endpoint,
            model=ask.facts.model,
            attributes=dict(ask.identity),
            terms=dict(ask.facts.terms),
            maximum=None if ending.source is UsageSource.REPORTED else usage,
        )

        async def charge(*, whatever_has_changed: bool = False) -> ReserveResult:
            state = self._state.current
            applied = await self._standing.held_on(ask, state=state, now_ms=now_ms, begin=True)
            call = self._store.reserve(
                ask.request_id,
                entries=tuple(
                    Entry(item.account, item.limit.metric, amounts[item.limit.metric], item.limit.amount, enforce=False)
                    for item in (*applied, *self._standing.watched_on(ask, now_ms=now_ms))
                ),
                record=record,
                now_ms=now_ms,
                expires_at_ms=now_ms + ask.policy.reservations.ttl_seconds * 1000,
                fingerprint=fingerprint,
                state_revision=None if whatever_has_changed else state.revision,
            )
            return await timed(self._observer, "reserve", call)

        try:
            result = await self._state.decide(charge)
        except StoreError:
            # A service is told, and reports again; a request that has not passed yet is refused, for it may be blocked
            # by what has changed. Of what passed here nobody else knows: it counts by what is known.
            if fingerprint or ending.source is not UsageSource.REPORTED:
                raise
            result = await charge(whatever_has_changed=True)
        if isinstance(result, Exists):
            record = result.reservation.record
            price = self._estimator.estimate_again(record, policy).price
        ended = await self._settling.end(
            record, structs.replace(ending, usage=usage), price=price, tariff=tariff, estimate=None
        )
        return await self._settling.first(ended)

    async def _pending(self, reservation_id: str, policy: Policy) -> tuple[Record, Estimate]:
        """What the reservation will end with, of whichever process made it."""
        held = await self._held(reservation_id)
        estimate = self._estimator.estimate_again(held.record, policy)
        return with_passed(held.record, policy, held), estimate

    async def _held(self, reservation_id: str) -> Reservation:
        """A reservation that another service made: exchanges, whose holds have no fingerprint, end by themselves."""
        reservation = await timed(self._observer, "get", self._store.get(reservation_id))
        if not reservation.fingerprint:
            raise ReservationNotFound(reservation_id)
        return reservation

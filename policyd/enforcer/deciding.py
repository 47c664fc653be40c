"""Deciding: estimates a request, applies rules and limits to it, and holds what fits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from time import perf_counter

from policyd.clock import Clock
from policyd.core.decision import NO_CHANGES, Decision, decide, entries
from policyd.core.errors import KeyForbidden, ReservationNotFound
from policyd.core.ledger import Balance, Entry
from policyd.core.limits import AppliedLimit
from policyd.core.policy import Hold
from policyd.core.rules import NO_RULING, Ruling, Situation, judge
from policyd.core.runtime import Blocked, RuntimeState
from policyd.enforcer.alarms import Alarms
from policyd.enforcer.observer import Observer, timed
from policyd.enforcer.repeating import changes_recorded, repeated_decision
from policyd.enforcer.revising import REVISIONS_MAX, Plan, revised, ruled
from policyd.enforcer.runtime_state import FollowedState
from policyd.enforcer.standing import Standing
from policyd.enforcer.verdict import Tried, Verdict, pending_record, verdict_on
from policyd.enforcer.watching import Watching
from policyd.estimator import Ask, Estimator
from policyd.stores.base import Exists, Reservation, Stale, Store


class Deciding:
    """See `Enforcer.check` and `Enforcer.reserve`."""

    def __init__(
        self,
        store: Store,
        *,
        estimator: Estimator,
        state: FollowedState,
        standing: Standing,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._store = store
        self._estimator = estimator
        self._state = state
        self._standing = standing
        self._clock = clock
        self._observer = observer
        self._alarms = Alarms(store, state=state, observer=observer)
        self._watching = Watching(store, state=state, standing=standing, observer=observer)

    async def check(self, ask: Ask, *, heed_blocks: bool) -> Decision:
        now_ms = self._clock.now_ms()
        if ask.policy.judged:
            await self._state.refresh()  # rules look at limits before the store is asked by which state
        if heed_blocks:
            await self._unblocked(ask)

        def weigh(plan: Plan) -> Awaitable[Tried]:
            return self._state.decide(lambda: self._weigh(plan, now_ms=now_ms, heed_blocks=heed_blocks))

        return (await self._tried(ask, weigh, now_ms=now_ms, telling=False)).decision

    async def reserve(self, ask: Ask, *, fingerprint: str, ttl_seconds: int | None) -> Verdict:
        began = perf_counter()
        now_ms = self._clock.now_ms()
        expires_at_ms = now_ms + (ttl_seconds or ask.policy.reservations.ttl_seconds) * 1000

        def hold(plan: Plan) -> Awaitable[Tried]:
            return self._state.decide(
                lambda: self._hold(plan, now_ms=now_ms, expires_at_ms=expires_at_ms, fingerprint=fingerprint)
            )

        await self._unblocked(ask, fingerprint)  # before anything is counted
        tried = await self._tried(ask, hold, now_ms=now_ms, telling=True)
        return verdict_on(tried, policy_us=int((perf_counter() - began) * 1_000_000))

    # --- which plan ---

    async def _tried(
        self, ask: Ask, attempt: Callable[[Plan], Awaitable[Tried]], *, now_ms: int, telling: bool
    ) -> Tried:
        """The first plan for the request that fits; if none does, the request as it came.

        `telling`: whether what rules do beside deciding is done.
        """
        if ask.is_long and not ask.policy.judged:
            # A bound tells what fits for sure, not how much too much a request is: it is tried, and never revised.
            tried = await attempt(await self._plan(replace(ask, by_bound=True), now_ms=now_ms))
            if tried.decision.allowed:
                return tried
        plan = await self._plan(ask, now_ms=now_ms)
        ruling = await self._ruling(plan, now_ms=now_ms, telling=telling)
        plan = await ruled(plan, ruling, estimator=self._estimator, now_ms=now_ms)
        first = tried = await attempt(plan)
        for _ in range(REVISIONS_MAX):
            if tried.decision.allowed or tried.decision.ruling.denied_by is not None:
                return tried
            revision = await revised(tried.plan, tried.decision, estimator=self._estimator, now_ms=now_ms)
            if revision is None:
                return first
            try:
                tried = await attempt(revision)
            except (Blocked, KeyForbidden):  # the model that it was switched to
                return first
        return tried if tried.decision.allowed else first

    async def _plan(self, ask: Ask, *, now_ms: int) -> Plan:
        return Plan(ask, await self._estimator.estimate(ask, now_ms=now_ms))

    async def _ruling(self, plan: Plan, *, now_ms: int, telling: bool) -> Ruling:
        """What the rules say to the request as it came."""
        ask, estimate = plan.ask, plan.estimate
        if not ask.policy.judged:
            return NO_RULING
        attributes = ask.policy.grouping.complete(ask.attributes)
        situation = Situation(
            attributes=attributes,
            estimated=estimate.amounts(Hold.MAXIMUM),
            fills=await self._standing.fills(ask, state=self._state.current, now_ms=now_ms),
            shown=await self._watching.shown(ask, attributes, now_ms=now_ms, counting=telling),
        )
        ruling = judge(self._standing.rules(ask.policy, attributes), situation)
        if telling and ruling.telling:
            await self._alarms.tell(ask, situation, ruling, now_ms=now_ms)
        return ruling

    # --- one plan ---

    async def _weigh(self, plan: Plan, *, now_ms: int, heed_blocks: bool) -> Tried | Stale:
        ask = plan.ask
        state = await self._unblocked(ask) if heed_blocks else self._state.current
        applied = await self._standing.held_on(ask, state=state, now_ms=now_ms, begin=False)
        wanted = entries(applied, plan.estimate, on_expiry=ask.policy.reservations.on_expiry)
        balances = await self._standing.weighed(applied, state=state)
        if isinstance(balances, Stale):
            return balances
        decision = _decided(plan, applied, wanted, balances, now_ms=now_ms)
        return Tried(plan, decision, now_ms)

    async def _hold(self, plan: Plan, *, now_ms: int, expires_at_ms: int, fingerprint: str) -> Tried | Stale:
        ask = plan.ask
        # What was granted before stays granted, whatever the rules have come to say.
        if plan.ruling.denied_by is not None and not (fingerprint and await self._is_known(ask.request_id)):
            # It came past every block; if its scope is frozen by now, the rule that refuses it has done that.
            return await self._weigh(plan, now_ms=now_ms, heed_blocks=False)
        state = await self._unblocked(ask, fingerprint)
        applied = await self._standing.held_on(ask, state=state, now_ms=now_ms, begin=True)
        counted = (*applied, *self._standing.watched_on(ask, now_ms=now_ms))
        wanted = entries(counted, plan.estimate, on_expiry=ask.policy.reservations.on_expiry)
        pending = pending_record(plan, now_ms=now_ms)
        result = await timed(
            self._observer,
            "reserve",
            self._store.reserve(
                ask.request_id,
                entries=wanted,
                record=pending,
                now_ms=now_ms,
                expires_at_ms=expires_at_ms,
                fingerprint=fingerprint,
                state_revision=state.revision,
            ),
        )
        if isinstance(result, Stale):
            return result
        if isinstance(result, Exists):
            return self._repeated(plan, result.reservation, now_ms=now_ms)
        of_limits = slice(len(applied))
        decision = _decided(plan, applied, wanted[of_limits], result.balances[of_limits], now_ms=now_ms)
        return Tried(plan, decision, now_ms, pending, expires_at_ms=expires_at_ms if decision.allowed else None)

    def _repeated(self, plan: Plan, reservation: Reservation, *, now_ms: int) -> Tried:
        """What a repeated request got the first time, the changes included."""
        changes = changes_recorded(reservation.record, choices=plan.ask.facts.choices)
        if changes != NO_CHANGES:
            facts = replace(plan.ask.facts, model=reservation.record.model)
            bounded = plan.estimate.bounded or changes.max_output_tokens is not None
            estimate = self._estimator.estimate_again(reservation.record, plan.ask.policy)
            estimate = replace(estimate, bounded=bounded)
            ask = replace(plan.ask, facts=facts)
            plan = Plan(ask, estimate, changes, requested_model=reservation.record.requested_model)
        decision = repeated_decision(plan.ask.policy, reservation, plan.estimate, changes=changes)
        return Tried(plan, decision, now_ms, expires_at_ms=reservation.expires_at_ms, earlier=reservation.state)

    async def _unblocked(self, ask: Ask, fingerprint: str = "") -> RuntimeState:
        """The run-time state to decide the request by. Raises `Blocked`, `KeyInvalid`, `KeyForbidden`.

        What was granted before stays granted: a repeated call by id is answered as the first one was.
        """
        state = self._state.current
        try:
            if state.has_blocks:
                state = await self._state.unblocked(ask.policy.grouping.complete(ask.attributes))
        except Blocked:
            if not fingerprint or not await self._is_known(ask.request_id):
                raise
            return self._state.current
        if ask.key_digest is not None:
            key = state.require_key(ask.key_digest, now_ms=self._clock.now_ms())
            key.check(endpoint=ask.endpoint, model=ask.facts.model)
        return state

    async def _is_known(self, reservation_id: str) -> bool:
        try:
            await timed(self._observer, "get", self._store.get(reservation_id))
        except ReservationNotFound:
            return False
        return True


def _decided(
    plan: Plan, applied: Sequence[AppliedLimit], wanted: Sequence[Entry], balances: Sequence[Balance], *, now_ms: int
) -> Decision:
    return decide(applied, wanted, balances, plan.estimate, now_ms=now_ms, changes=plan.changes, ruling=plan.ruling)

"""The enforcer: estimates, reserves and settles."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

from policyd.clock import Clock
from policyd.core.decision import NO_CHANGES, Decision, LimitReport, charges, decide, entries
from policyd.core.errors import KeyForbidden, ReservationNotFound
from policyd.core.estimate import Estimate, cost_nanos
from policyd.core.ledger import Balance, Entry
from policyd.core.limits import AppliedLimit, applied_limits, first_use_windows, limits_by_name
from policyd.core.policy import Hold, Policy
from policyd.core.pricing import PriceBook
from policyd.core.record import Outcome, Record
from policyd.core.rules import NO_RULING, Fill, Ruling, Situation, judge
from policyd.core.runtime import ApiKey, Block, Blocked, RuntimeState
from policyd.core.usage import Usage
from policyd.enforcer.alarms import Alarms
from policyd.enforcer.endings import Ended, Ending, reported_ending
from policyd.enforcer.first_use import FirstUseWindows
from policyd.enforcer.lessons import SharedLessons
from policyd.enforcer.observer import Observer, timed
from policyd.enforcer.repeating import changes_recorded, repeated_decision, with_passed
from policyd.enforcer.revising import REVISIONS_MAX, Plan, revised, ruled
from policyd.enforcer.runtime_state import FollowedState
from policyd.enforcer.settling import Settling
from policyd.enforcer.verdict import Tried, Verdict, pending_record, verdict_on
from policyd.estimator import (
    Ask,
    Estimator,
    input_token_amounts,
    output_token_amounts,
    price_asked,
    with_request_fee,
)
from policyd.stores.base import Exists, Reservation, ReserveResult, Stale, Store, UsageFilter, UsagePage
from policyd.tokens import TokenCounter


class Enforcer:
    def __init__(
        self,
        *,
        store: Store,
        prices: PriceBook,
        counter: TokenCounter,
        clock: Clock,
        policy: Callable[[], Policy],
        observer: Observer,
    ) -> None:
        self._store = store
        self._estimator = Estimator(prices=prices, counter=counter)
        self._clock = clock
        self._policy = policy
        self._observer = observer
        self._timed = partial(timed, observer)
        self._first_use = FirstUseWindows(self._begin_window)
        self._state = FollowedState(
            lambda since: self._timed("state", store.state(since=since)),
            now_ms=self.now_ms,
            remembered_ms=self._remembered_ms,
        )
        self._alarms = Alarms(store, state=self._state, observer=observer)
        self._open: set[str] = set()
        self._lessons = SharedLessons(store, estimator=self._estimator, clock=clock, observer=observer)
        self._settling = Settling(store, clock=clock, observer=observer)

    @property
    def policy(self) -> Policy:
        """The policy in force now."""
        return self._policy()

    def use_prices(self, prices: PriceBook) -> None:
        """Prices what begins from now on by another book; what has begun is settled by the one before."""
        self._estimator.use_prices(prices)

    @property
    def counter(self) -> TokenCounter:
        return self._estimator.counter

    @property
    def store(self) -> Store:
        return self._store

    @property
    def open_reservations(self) -> int:
        """How many reservations this process keeps alive."""
        return len(self._open)

    def now_ms(self) -> int:
        return self._clock.now_ms()

    # --- before the call ---

    async def authenticate(self, digest: str, *, endpoint: str, metered: bool) -> ApiKey:
        """What the API key with this digest stands for. Raises `KeyInvalid`, `KeyForbidden`, `StoreError`s.

        A metered request is not safe by this alone: `reserve` looks again, by the state that it holds money under.
        """
        key = await self._state.key(digest, fresh=not metered)
        key.check(endpoint=endpoint, model="")
        return key

    async def estimate(self, ask: Ask) -> Estimate:
        """What the request is expected to cost and the most that it can. Raises `RequestError`s."""
        return await self._estimator.estimate(ask, now_ms=self.now_ms())

    async def check(self, ask: Ask) -> Decision:
        """Whether the request would fit now, changed if need be. Holds nothing. Raises `Blocked` if it is."""
        now_ms = self.now_ms()
        await self._state.refresh()
        await self._unblocked(ask)
        tried = await self._tried(ask, lambda plan: self._weigh(plan, now_ms=now_ms), now_ms=now_ms, telling=False)
        return tried.decision

    async def reserve(self, ask: Ask, *, fingerprint: str = "", ttl_seconds: int | None = None) -> Verdict:
        """Holds the request's estimate on every limit that applies, or says which refused.

        Where limits say so, the request is changed so that it fits. A long prompt is not counted where a bound on its
        tokens fits. Raises `RequestError`s for requests that are blocked or cannot be priced, `ReservationMismatch`,
        `StoreError`s.
        """
        began = perf_counter()
        now_ms = self.now_ms()
        ttl_ms = (ttl_seconds or ask.policy.reservations.ttl_seconds) * 1000

        def hold(plan: Plan) -> Awaitable[Tried]:
            expires_at_ms = now_ms + ttl_ms
            return self._state.decide(
                lambda: self._hold(plan, now_ms=now_ms, expires_at_ms=expires_at_ms, fingerprint=fingerprint)
            )

        await self._unblocked(ask, fingerprint)  # before anything is counted
        tried = await self._tried(ask, hold, now_ms=now_ms, telling=True)
        return verdict_on(tried, policy_us=int((perf_counter() - began) * 1_000_000))

    async def budget(self, policy: Policy, attributes: Mapping[str, str]) -> tuple[LimitReport, ...]:
        """How every limit that applies to `attributes` stands now. Raises `AttributeMissing`."""
        await self._state.refresh()
        applied = await self._applied(policy, attributes, state=self._state.current, now_ms=self.now_ms(), begin=False)
        balances = await self._balances(applied)
        return tuple(
            LimitReport(
                limit=item.limit,
                scope=item.account.scope,
                spent=balance.spent + balance.carried,
                reserved=balance.reserved,
                requested=0,
                resets_at_ms=item.account.ends_at_ms,
            )
            for item, balance in zip(applied, balances, strict=True)
        )

    # --- while it runs ---

    def keep_alive(self, request_id: str) -> None:
        """Renews the reservation from now on, until it ends or `let_go` is called."""
        self._open.add(request_id)

    def let_go(self, request_id: str) -> None:
        self._open.discard(request_id)

    async def extend(
        self, request_id: str, estimate: Estimate, *, wanted_tokens: int, at_least_tokens: int, of_input: bool = False
    ) -> int:
        """Holds more output tokens for a reply that outgrows its hold; returns how many were granted.

        `of_input`: more input tokens, for a session whose client goes on sending.
        """
        unit = input_token_amounts(estimate) if of_input else output_token_amounts(estimate)
        return await self._timed(
            "extend",
            self._store.extend(
                request_id,
                unit_amounts=unit,
                wanted_units=wanted_tokens,
                at_least_units=at_least_tokens,
                now_ms=self.now_ms(),
            ),
        )

    # --- after it ---

    async def end(self, record: Record, estimate: Estimate, ending: Ending) -> Record:
        """Settles or releases the reservation of `record`, exactly once; returns the final record.

        The price is that of the request's moment, of the model that the reply names if that has one.
        """
        ended = await self._settling.end(
            record, ending, price=estimate.price, tariff=estimate.tariff, estimate=estimate
        )
        if not ended.repeated:
            self._lessons.note(ended.record, estimate)
        self.let_go(record.request_id)
        return ended.record

    async def end_unheld(self, record: Record) -> None:
        """Stores and reports an exchange that holds nothing: refused, rejected, unmetered, failed."""
        final = replace(record, actual_cost_nanos=0, duration_ms=max(0, self.now_ms() - record.at_ms))
        self._observer.ended(final, None)
        await self._timed("append", self._store.append(final))

    async def end_blocked(self, ask: Ask, block: Block) -> None:
        """Stores and reports that the request was refused by `block`."""
        await self.end_unheld(
            Record(
                request_id=ask.request_id,
                at_ms=self.now_ms(),
                outcome=Outcome.DENIED,
                decision="deny",
                provider=ask.provider,
                endpoint=ask.endpoint,
                model=ask.facts.model,
                attributes=dict(ask.identity),
                denied_by=(block.name,),
            )
        )

    # --- by its id alone, in whichever process: what other services reserved ---

    async def extend_held(
        self, reservation_id: str, *, wanted_tokens: int, at_least_tokens: int, ttl_seconds: int | None = None
    ) -> tuple[int, int]:
        """Like `extend`, and renews the reservation; returns how many tokens were granted and when it expires now.

        Raises `ReservationNotFound`, `ReservationEnded`.
        """
        held = await self._held(reservation_id)
        estimate = self._estimator.estimate_again(held.record, self.policy)
        granted = await self.extend(
            reservation_id, estimate, wanted_tokens=wanted_tokens, at_least_tokens=at_least_tokens
        )
        expires_at_ms = self.now_ms() + (ttl_seconds or self.policy.reservations.ttl_seconds) * 1000
        await self._timed("renew", self._store.renew((reservation_id,), expires_at_ms=expires_at_ms))
        return granted, max(expires_at_ms, held.expires_at_ms)

    async def end_held(self, reservation_id: str, ending: Ending) -> Ended:
        """Like `end`. Raises `ReservationNotFound`, `ReservationEnded`."""
        held = await self._held(reservation_id)
        estimate = self._estimator.estimate_again(held.record, self.policy)
        record = with_passed(held.record, self.policy, held)
        ended = await self._settling.end(
            record, ending, price=estimate.price, tariff=estimate.tariff, estimate=estimate
        )
        return await self._settling.first(ended)

    async def record_usage(self, ask: Ask, usage: Usage, *, fingerprint: str, status: int | None = None) -> Ended:
        """Charges a usage that nothing was held for to the accounts of now, once by `ask.request_id`.

        Blocks do not matter: what was spent is charged. It is held in full, past every cap, and settled at once: if
        the process dies in between, the hold expires into the same charge. Raises `RequestError`s for what cannot be
        priced, `ReservationMismatch`, `ReservationEnded`.
        """
        now_ms = self.now_ms()
        tariff = self._estimator.tariff(ask.policy)
        price = price_asked(ask, tariff, now_ms=now_ms)
        usage = with_request_fee(usage, price)
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
        )

        async def charge() -> ReserveResult:
            state = self._state.current
            applied = await self._held_on(ask, state=state, now_ms=now_ms, begin=True)
            call = self._store.reserve(
                ask.request_id,
                entries=tuple(
                    Entry(item.account, item.limit.metric, amounts[item.limit.metric], item.limit.amount, enforce=False)
                    for item in applied
                ),
                record=record,
                now_ms=now_ms,
                expires_at_ms=now_ms + ask.policy.reservations.ttl_seconds * 1000,
                fingerprint=fingerprint,
                state_revision=state.revision,
            )
            return await self._timed("reserve", call)

        result = await self._state.decide(charge)
        if isinstance(result, Exists):
            record = result.reservation.record
            price = self._estimator.estimate_again(record, self.policy).price
        ending = reported_ending(usage, status=status)
        return await self._settling.first(
            await self._settling.end(record, ending, price=price, tariff=tariff, estimate=None)
        )

    async def usage(self, wanted: UsageFilter, *, limit: int, cursor: str = "") -> UsagePage:
        """A page of usage records, newest first. Raises `ValueError` for a bad cursor."""
        return await self._timed("usage", self._store.usage(wanted, limit=limit, cursor=cursor))

    # --- for the process that serves ---

    async def renew_open(self) -> None:
        """Renews every reservation that this process keeps alive."""
        if self._open:
            expires_at_ms = self.now_ms() + self.policy.reservations.ttl_seconds * 1000
            await self._timed("renew", self._store.renew(tuple(self._open), expires_at_ms=expires_at_ms))

    async def refresh_state(self) -> None:
        """Takes in what was set in the store meanwhile. Raises `StoreError`s."""
        await self._state.refresh()

    async def sweep(self) -> None:
        """Expires holds whose exchange is gone and forgets what is old."""
        settings = self.policy.reservations
        now_ms = self.now_ms()
        swept = await self._timed(
            "sweep",
            self._store.sweep(
                now_ms=now_ms - settings.grace_seconds * 1000,
                ended_before_ms=now_ms - settings.ended_kept_seconds * 1000,
                usage_before_ms=now_ms - settings.usage_kept_days * 86_400_000,
            ),
        )
        self._observer.swept(swept)
        for record in swept.expired:
            self._observer.ended(record, None)

    async def learn(self) -> None:
        """Shares what exchanges have taught since the last time, and takes in what all replicas were taught."""
        await self._lessons.share()

    # --- parts ---

    def _remembered_ms(self) -> int:
        settings = self.policy.reservations
        return (settings.ended_kept_seconds - settings.grace_seconds) * 1000

    async def _unblocked(self, ask: Ask, fingerprint: str = "") -> RuntimeState:
        """The run-time state to decide the request by. Raises `Blocked`, `KeyInvalid`, `KeyForbidden`.

        What was granted before stays granted: a repeated call by id is answered as the first one was.
        """
        try:
            state = await self._state.unblocked(ask.policy.grouping.complete(ask.attributes))
        except Blocked:
            if not fingerprint or not await self._is_known(ask.request_id):
                raise
            return self._state.current
        if ask.key_digest is not None:
            key = state.require_key(ask.key_digest, now_ms=self.now_ms())
            key.check(endpoint=ask.endpoint, model=ask.facts.model)
        return state

    async def _is_known(self, reservation_id: str) -> bool:
        try:
            await self._timed("get", self._store.get(reservation_id))
        except ReservationNotFound:
            return False
        return True

    async def _applied(
        self, policy: Policy, attributes: Mapping[str, str], *, state: RuntimeState, now_ms: int, begin: bool
    ) -> tuple[AppliedLimit, ...]:
        """The limits that apply now. `begin`: whether this is a use, which windows of first use begin with."""
        wanted = first_use_windows(policy, attributes)
        begun = await self._first_use.begun(wanted, now_ms=now_ms, begin=begin)
        return applied_limits(policy, attributes, now_ms=now_ms, begun=begun, state=state)

    async def _held_on(self, ask: Ask, *, state: RuntimeState, now_ms: int, begin: bool) -> tuple[AppliedLimit, ...]:
        """The limits that what is asked for is held on."""
        applied = await self._applied(ask.policy, ask.attributes, state=state, now_ms=now_ms, begin=begin)
        return tuple(item for item in applied if item.limit.metric in ask.metrics)

    async def _tried(
        self, ask: Ask, attempt: Callable[[Plan], Awaitable[Tried]], *, now_ms: int, telling: bool
    ) -> Tried:
        """The first plan for the request that fits; if none does, the request as it came.

        `telling`: whether what rules do beside deciding is done.
        """
        if ask.is_long and not ask.policy.rules:
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
        if not ask.policy.rules:
            return NO_RULING
        situation = Situation(
            attributes=ask.policy.grouping.complete(ask.attributes),
            estimated=estimate.amounts(Hold.MAXIMUM),
            fills=await self._fills(ask, now_ms=now_ms),
        )
        ruling = judge(ask.policy.rules, situation)
        if telling and ruling.telling:
            await self._alarms.tell(ask, situation, ruling, now_ms=now_ms)
        return ruling

    async def _fills(self, ask: Ask, *, now_ms: int) -> Mapping[str, Fill]:
        """How full the limits are that rules look at and that apply to the request."""
        names = ask.policy.limits_read
        if not names:
            return {}
        wanted = first_use_windows(ask.policy, ask.attributes)
        begun = await self._first_use.begun(wanted, now_ms=now_ms, begin=False)
        applied = limits_by_name(
            ask.policy, names, ask.attributes, now_ms=now_ms, begun=begun, state=self._state.current
        )
        balances = await self._balances(applied)
        return {
            item.limit.name: Fill(used=balance.used, amount=item.limit.amount)
            for item, balance in zip(applied, balances, strict=True)
        }

    async def _balances(self, applied: Sequence[AppliedLimit]) -> tuple[Balance, ...]:
        return await self._timed("balances", self._store.balances([(item.account, item.carry) for item in applied]))

    async def _weigh(self, plan: Plan, *, now_ms: int) -> Tried:
        ask = plan.ask
        state = await self._unblocked(ask)
        applied = await self._held_on(ask, state=state, now_ms=now_ms, begin=False)
        wanted = entries(applied, plan.estimate, on_expiry=ask.policy.reservations.on_expiry)
        balances = await self._balances(applied)
        decision = _decided(plan, applied, wanted, balances, now_ms=now_ms)
        return Tried(plan, decision, at_ms=now_ms)

    async def _hold(self, plan: Plan, *, now_ms: int, expires_at_ms: int, fingerprint: str) -> Tried | Stale:
        ask = plan.ask
        # What was granted before stays granted, whatever the rules have come to say.
        if plan.ruling.denied_by is not None and not (fingerprint and await self._is_known(ask.request_id)):
            return await self._weigh(plan, now_ms=now_ms)
        state = await self._unblocked(ask, fingerprint)
        applied = await self._held_on(ask, state=state, now_ms=now_ms, begin=True)
        wanted = entries(applied, plan.estimate, on_expiry=ask.policy.reservations.on_expiry)
        result = await self._timed(
            "reserve",
            self._store.reserve(
                ask.request_id,
                entries=wanted,
                record=pending_record(plan, now_ms=now_ms),
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
        decision = _decided(plan, applied, wanted, result.balances, now_ms=now_ms)
        return Tried(plan, decision, at_ms=now_ms, expires_at_ms=expires_at_ms if decision.allowed else None)

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
        return Tried(plan, decision, at_ms=now_ms, expires_at_ms=reservation.expires_at_ms, earlier=reservation.state)

    async def _begin_window(self, key: str, *, now_ms: int, length_ms: int, begin: bool) -> int | None:
        call = self._store.begin_window(key, now_ms=now_ms, length_ms=length_ms, begin=begin)
        return await self._timed("begin_window", call)

    async def _held(self, reservation_id: str) -> Reservation:
        """A reservation that another service made: exchanges, whose holds have no fingerprint, end by themselves."""
        reservation = await self._timed("get", self._store.get(reservation_id))
        if not reservation.fingerprint:
            raise ReservationNotFound(reservation_id)
        return reservation


def _decided(
    plan: Plan, applied: Sequence[AppliedLimit], wanted: Sequence[Entry], balances: Sequence[Balance], *, now_ms: int
) -> Decision:
    return decide(applied, wanted, balances, plan.estimate, now_ms=now_ms, changes=plan.changes, ruling=plan.ruling)

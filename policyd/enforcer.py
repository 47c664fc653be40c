"""Estimate, reserve, settle: the one path on which money is held and charged.

Both edges (`ext_proc` for Envoy, `api` for other services) come through here. The enforcer joins the rules of
`policyd.core` with the token counter, the price book, the store and a clock, and hands every finished exchange's record
to its observer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Protocol, TypeVar

from policyd.clock import Clock
from policyd.core.decision import Decision, LimitReport, charges, decide, entries
from policyd.core.errors import ReservationError, ReservationNotFound, StoreUnavailable
from policyd.core.estimate import Estimate, cost_nanos
from policyd.core.ledger import Entry
from policyd.core.limits import applied_limits
from policyd.core.money import divide_up
from policyd.core.own_prices import Tariff
from policyd.core.policy import Action, Policy, Unbounded
from policyd.core.pricing import NO_TERMS, Price, PriceBook
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.reservation import State
from policyd.core.usage import Usage
from policyd.estimator import Ask, Estimator, output_token_amounts, price_asked, price_served
from policyd.learning import PREFIX, Corrections, Lessons, corrections, keep_until_ms
from policyd.stores.base import Exists, Granted, Refused, Reservation, Stale, Store, Swept, UsageFilter, UsagePage
from policyd.tokens import TokenCounter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and the pending record of what follows from it."""

    decision: Decision
    record: Record
    max_output_tokens: int | None
    """The maximum for one choice that has to be set in the request before it goes upstream; `None`: leave it."""
    expires_at_ms: int | None = None
    """When the reservation expires unless it is renewed; `None` if there is none."""
    earlier: State | None = None
    """The state of the reservation that the same id made before; `None`: this one is new, or refused."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an exchange ended and what is charged for it. `usage` `None`: nothing is charged, the hold is returned."""

    outcome: Outcome
    usage: Usage | None
    source: UsageSource
    status: int | None = None
    response_model: str | None = None
    terms: Mapping[str, str] = field(default_factory=dict)
    streamed: bool = False
    error: str | None = None


def reported_ending(
    usage: Usage, *, status: int | None = None, response_model: str | None = None, terms: Mapping[str, str] = NO_TERMS
) -> Ending:
    """The ending of a request whose caller reports its usage."""
    failed = status is not None and status >= 400
    return Ending(
        outcome=Outcome.PROVIDER_ERROR if failed else Outcome.SERVED,
        usage=usage,
        source=UsageSource.REPORTED,
        status=status,
        response_model=response_model,
        terms=terms,
        error=f"http_{status}" if failed else None,
    )


RELEASED = Ending(outcome=Outcome.RELEASED, usage=None, source=UsageSource.NONE)
"""The ending of a request that its caller never made, or that cost nothing."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a reservation that was to end."""

    found: State
    """The state that it was in."""
    record: Record
    """The final record: of the call that ended it first."""

    @property
    def repeated(self) -> bool:
        """Whether it had ended in the same way before, so that nothing was changed."""
        return self.found in {State.SETTLED, State.RELEASED}


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
        self._open: set[str] = set()
        self._lessons = Lessons()

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

    async def estimate(self, ask: Ask) -> Estimate:
        """What the request is expected to cost and the most that it can. Raises `RequestError`s."""
        return await self._estimator.estimate(ask, now_ms=self.now_ms())

    async def check(self, ask: Ask) -> Decision:
        """Whether the request would fit now. Holds nothing."""
        estimate = await self.estimate(ask)
        now_ms = self.now_ms()
        applied = applied_limits(ask.policy, ask.attributes, now_ms=now_ms)
        wanted = entries(applied, estimate, on_expiry=ask.policy.reservations.on_expiry)
        accounts = [(item.account, item.carry) for item in applied]
        balances = await self._timed("balances", self._store.balances(accounts))
        return decide(applied, wanted, balances, estimate, now_ms=now_ms)

    async def reserve(self, ask: Ask, *, fingerprint: str = "", ttl_seconds: int | None = None) -> Verdict:
        """Holds the request's estimate on every limit that applies, or says which refused.

        A long prompt is not counted where a bound on its tokens fits. Raises `RequestError`s for requests that cannot
        be priced, `ReservationMismatch`, `StoreError`s.
        """
        if ask.is_long:
            by_bound = replace(ask, by_bound=True)
            verdict = await self._reserve(by_bound, fingerprint=fingerprint, ttl_seconds=ttl_seconds)
            if verdict.decision.allowed:
                return verdict
        return await self._reserve(ask, fingerprint=fingerprint, ttl_seconds=ttl_seconds)

    async def _reserve(self, ask: Ask, *, fingerprint: str, ttl_seconds: int | None) -> Verdict:
        began = perf_counter()
        estimate = await self.estimate(ask)
        now_ms = self.now_ms()
        applied = applied_limits(ask.policy, ask.attributes, now_ms=now_ms)
        wanted = entries(applied, estimate, on_expiry=ask.policy.reservations.on_expiry)
        record = _pending_record(ask, estimate, now_ms=now_ms)
        ttl_ms = (ttl_seconds or ask.policy.reservations.ttl_seconds) * 1000
        result = await self._timed(
            "reserve",
            self._store.reserve(
                ask.request_id,
                entries=wanted,
                record=record,
                now_ms=now_ms,
                expires_at_ms=now_ms + ttl_ms,
                fingerprint=fingerprint,
            ),
        )
        if isinstance(result, Stale):
            raise StoreUnavailable("the run-time state changed while the request was decided")
        earlier: State | None = None
        expires_at_ms: int | None = None
        if isinstance(result, Exists):
            earlier, expires_at_ms = result.reservation.state, result.reservation.expires_at_ms
            decision = _repeated_decision(ask.policy, result.reservation, estimate)
        else:
            expires_at_ms = now_ms + ttl_ms if isinstance(result, Granted) else None
            decision = decide(applied, wanted, result.balances, estimate, now_ms=now_ms)
        record = replace(
            record,
            decision="deny" if isinstance(result, Refused) else "allow",
            outcome=Outcome.DENIED if isinstance(result, Refused) else record.outcome,
            denied_by=tuple(report.limit.name for report in decision.denials),
            shadow_denied_by=tuple(report.limit.name for report in decision.shadow_denials),
            policy_us=int((perf_counter() - began) * 1_000_000),
        )
        sets_maximum = ask.facts.max_output_tokens is None and ask.policy.unbounded is Unbounded.SET_MAXIMUM
        bound = estimate.maximum.output_tokens // ask.facts.choices
        return Verdict(
            decision,
            record,
            max_output_tokens=bound if sets_maximum else None,
            expires_at_ms=expires_at_ms,
            earlier=earlier,
        )

    async def budget(self, policy: Policy, attributes: Mapping[str, str]) -> tuple[LimitReport, ...]:
        """How every limit that applies to `attributes` stands now. Raises `AttributeMissing`."""
        applied = applied_limits(policy, attributes, now_ms=self.now_ms())
        accounts = [(item.account, item.carry) for item in applied]
        balances = await self._timed("balances", self._store.balances(accounts))
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

    async def extend(self, request_id: str, estimate: Estimate, *, wanted_tokens: int, at_least_tokens: int) -> int:
        """Holds more output tokens for a reply that outgrows its hold; returns how many were granted."""
        unit = output_token_amounts(estimate)
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
        ended = await self._end(record, ending, price=estimate.price, tariff=estimate.tariff, estimate=estimate)
        if not ended.repeated:
            self._note(ended.record, estimate)
        self.let_go(record.request_id)
        return ended.record

    async def end_unheld(self, record: Record) -> None:
        """Stores and reports an exchange that holds nothing: refused, rejected, unmetered, failed."""
        final = replace(record, actual_cost_nanos=0, duration_ms=max(0, self.now_ms() - record.at_ms))
        self._observer.ended(final, None)
        await self._timed("append", self._store.append(final))

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
        record = replace(held.record, shadow_denied_by=_shadow_denied_by(held))
        ended = await self._end(record, ending, price=estimate.price, tariff=estimate.tariff, estimate=estimate)
        return await self._first(ended)

    async def record_usage(self, ask: Ask, usage: Usage, *, fingerprint: str, status: int | None = None) -> Ended:
        """Charges a usage that nothing was held for to the accounts of now, once by `ask.request_id`.

        It is held in full, past every cap, and settled at once: if the process dies in between, the hold expires into
        the same charge. Raises `RequestError`s for what cannot be priced, `ReservationMismatch`, `ReservationEnded`.
        """
        now_ms = self.now_ms()
        tariff = self._estimator.tariff(ask.policy)
        price = price_asked(ask, tariff, now_ms=now_ms)
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
        result = await self._timed(
            "reserve",
            self._store.reserve(
                ask.request_id,
                entries=tuple(
                    Entry(item.account, item.limit.metric, amounts[item.limit.metric], item.limit.amount, enforce=False)
                    for item in applied_limits(ask.policy, ask.attributes, now_ms=now_ms)
                ),
                record=record,
                now_ms=now_ms,
                expires_at_ms=now_ms + ask.policy.reservations.ttl_seconds * 1000,
                fingerprint=fingerprint,
            ),
        )
        if isinstance(result, Exists):
            record = result.reservation.record
            price = self._estimator.estimate_again(record, self.policy).price
        ending = reported_ending(usage, status=status)
        return await self._first(await self._end(record, ending, price=price, tariff=tariff, estimate=None))

    async def usage(self, wanted: UsageFilter, *, limit: int, cursor: str = "") -> UsagePage:
        """A page of usage records, newest first. Raises `ValueError` for a bad cursor."""
        return await self._timed("usage", self._store.usage(wanted, limit=limit, cursor=cursor))

    # --- for the process that serves ---

    async def renew_open(self) -> None:
        """Renews every reservation that this process keeps alive."""
        if self._open:
            expires_at_ms = self.now_ms() + self.policy.reservations.ttl_seconds * 1000
            await self._timed("renew", self._store.renew(tuple(self._open), expires_at_ms=expires_at_ms))

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
        now_ms = self.now_ms()
        lessons = self._lessons.take()
        if lessons:
            try:
                counting = self._store.count(lessons, now_ms=now_ms, keep_until_ms=keep_until_ms(now_ms))
                await self._timed("count", counting)
            except StoreUnavailable:
                self._lessons.give_back(lessons)
                raise
        counters = await self._timed("counters", self._store.counters(PREFIX, now_ms=now_ms))
        learned = corrections(counters, now_ms=now_ms)
        self._estimator.use_corrections(learned)
        self._observer.learned(learned)

    # --- parts ---

    def _note(self, record: Record, estimate: Estimate) -> None:
        """Learns from an exchange that was served whole and whose provider reported its usage."""
        usage = record.usage
        if usage is None or record.outcome is not Outcome.SERVED or record.usage_source is not UsageSource.REPORTED:
            return
        who, now_ms = {"provider": record.provider, "model": record.model}, self.now_ms()
        if estimate.counted_input_tokens is not None:
            counted = estimate.counted_input_tokens
            self._lessons.input(**who, counted_tokens=counted, reported_tokens=usage.input_tokens, now_ms=now_ms)
        tokens = divide_up(usage.output_tokens, estimate.choices)
        self._lessons.output(**who, endpoint=record.endpoint, tokens=tokens, now_ms=now_ms)

    async def _end(
        self, record: Record, ending: Ending, *, price: Price | None, tariff: Tariff, estimate: Estimate | None
    ) -> Ended:
        """Settles or releases the reservation of `record`, at `price` or at what served costs by `tariff`."""
        now_ms = self.now_ms()
        usage = ending.usage
        cost = 0
        if usage is not None:
            served = price_served(record, price, tariff, response_model=ending.response_model, terms=ending.terms)
            cost = cost_nanos(served, usage)
        final = replace(
            record,
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
            found = await self._timed("release", self._store.release(record.request_id, record=final, now_ms=now_ms))
        else:
            amounts = charges(usage, cost_nanos=cost)
            found = await self._timed(
                "settle", self._store.settle(record.request_id, amounts=amounts, record=final, now_ms=now_ms)
            )
        ended = Ended(found, final)
        if not ended.repeated:
            self._observer.ended(final, estimate)
        return ended

    async def _first(self, ended: Ended) -> Ended:
        """`ended` with the record of the call that ended the reservation, if an earlier one did."""
        if not ended.repeated:
            return ended
        reservation = await self._timed("get", self._store.get(ended.record.request_id))
        return replace(ended, record=reservation.record)

    async def _held(self, reservation_id: str) -> Reservation:
        """A reservation that another service made: exchanges, whose holds have no fingerprint, end by themselves."""
        reservation = await self._timed("get", self._store.get(reservation_id))
        if not reservation.fingerprint:
            raise ReservationNotFound(reservation_id)
        return reservation

    async def _timed(self, operation: str, call: Awaitable[T]) -> T:
        began = perf_counter()
        failed = True
        try:
            result = await call
            failed = False
            return result
        except ReservationError:
            failed = False
            raise
        finally:
            self._observer.store_call(operation, perf_counter() - began, failed=failed)


def _pending_record(ask: Ask, estimate: Estimate, *, now_ms: int) -> Record:
    return Record(
        request_id=ask.request_id,
        at_ms=now_ms,
        outcome=Outcome.SERVED,
        decision="allow",
        provider=ask.provider,
        endpoint=ask.endpoint,
        model=ask.facts.model,
        attributes=dict(ask.identity),
        streamed=ask.facts.streamed,
        terms=dict(ask.facts.terms),
        expected=estimate.expected,
        maximum=estimate.maximum,
        estimated_cost_nanos=estimate.maximum_cost_nanos,
        confidence=estimate.confidence,
    )


def _repeated_decision(policy: Policy, reservation: Reservation, estimate: Estimate) -> Decision:
    """The decision that a repeated request got the first time: it was granted, with these balances."""
    limits = {limit.name: limit for limit in policy.limits}
    reports = tuple(
        LimitReport(
            limit=limits[entry.account.limit],
            scope=entry.account.scope,
            spent=balance.spent + balance.carried,
            reserved=balance.reserved,
            requested=entry.amount,
            resets_at_ms=entry.account.ends_at_ms,
        )
        for entry, balance in zip(reservation.entries, reservation.balances, strict=True)
        if entry.account.limit in limits
    )
    shadow_denials = tuple(each for each in reports if each.refuses and each.limit.action is Action.SHADOW)
    return Decision(estimate=estimate, reports=reports, denials=(), shadow_denials=shadow_denials)


def _shadow_denied_by(reservation: Reservation) -> tuple[str, ...]:
    """The shadow limits that had no room for the reservation."""
    return tuple(
        entry.account.limit
        for entry, balance in zip(reservation.entries, reservation.balances, strict=True)
        if not entry.enforce and not balance.fits(entry.amount, cap=entry.cap)
    )

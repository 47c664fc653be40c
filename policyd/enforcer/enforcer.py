"""The enforcer: estimates, reserves and settles. What it does stands in the modules beside this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from policyd.clock import Clock
from policyd.core.decision import Decision, LimitReport
from policyd.core.errors import PolicydError
from policyd.core.estimate import Estimate
from policyd.core.policy import Policy
from policyd.core.price_book import PriceBook
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.runtime import ApiKey, Block
from policyd.core.usage import Usage
from policyd.enforcer.deciding import Deciding
from policyd.enforcer.endings import Ended, Ending, reported_ending
from policyd.enforcer.held import HeldForOthers
from policyd.enforcer.lessons import SharedLessons
from policyd.enforcer.observer import Observer, timed
from policyd.enforcer.runtime_state import FollowedState
from policyd.enforcer.settling import Settling
from policyd.enforcer.standing import Standing
from policyd.enforcer.unattended import EndingOf, Unattended
from policyd.enforcer.verdict import Verdict
from policyd.estimator import Ask, Estimator, input_token_amounts, output_token_amounts
from policyd.failures import NOT_FAILURES
from policyd.stores.base import Store, UsageFilter, UsagePage
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
        self._state = FollowedState(
            lambda since: self._timed("state", store.state(since=since)),
            now_ms=self.now_ms,
            remembered_ms=self._remembered_ms,
        )
        self._open: set[str] = set()
        self._lessons = SharedLessons(store, estimator=self._estimator, clock=clock, observer=observer)
        self._settling = Settling(store, clock=clock, observer=observer)
        self._standing = Standing(store, observer=observer)
        self._deciding = Deciding(
            store,
            estimator=self._estimator,
            state=self._state,
            standing=self._standing,
            clock=clock,
            observer=observer,
        )
        self._unattended = Unattended(store, estimator=self._estimator, settling=self._settling, observer=observer)
        self._held_for_others = HeldForOthers(
            store,
            estimator=self._estimator,
            state=self._state,
            standing=self._standing,
            settling=self._settling,
            observer=observer,
        )

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

    async def check(self, ask: Ask, *, heed_blocks: bool = True) -> Decision:
        """Whether the request would fit now, changed if need be. Holds nothing. Raises `Blocked` if it is.

        `heed_blocks=False` tells what would be decided if nothing was blocked or frozen.
        """
        return await self._deciding.check(ask, heed_blocks=heed_blocks)

    async def reserve(self, ask: Ask, *, fingerprint: str = "", ttl_seconds: int | None = None) -> Verdict:
        """Holds the request's estimate on every limit that applies, or says which refused.

        Where limits say so, the request is changed so that it fits. A long prompt is not counted where a bound on its
        tokens fits. Raises `RequestError`s for requests that are blocked or cannot be priced, `ReservationMismatch`,
        `StoreError`s.
        """
        verdict = await self._deciding.reserve(ask, fingerprint=fingerprint, ttl_seconds=ttl_seconds)
        if fingerprint and verdict.expires_at_ms is not None and verdict.earlier is None:
            self._held_for_others.note(verdict, ask.policy)
        return verdict

    async def budget(self, policy: Policy, attributes: Mapping[str, str]) -> tuple[LimitReport, ...]:
        """How every limit that applies to `attributes` stands now. Raises `AttributeMissing`."""
        await self._state.refresh()
        return await self._standing.reports(policy, attributes, state=self._state.current, now_ms=self.now_ms())

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
        final = record._replace(actual_cost_nanos=0, duration_ms=max(0, self.now_ms() - record.at_ms))
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

    # --- by its id alone, in whichever process ---

    async def end_unattended(self, request_id: str, ending: EndingOf) -> Ended:
        """Like `end`, for an exchange that was granted here or elsewhere and whose end is reported by others.

        `ending` says how it ended, by what it was granted for. Raises `ReservationNotFound`, `ReservationEnded`.
        """
        return await self._unattended.end(request_id, ending, policy=self.policy)

    # --- what other services reserved ---

    async def extend_held(
        self, reservation_id: str, *, wanted_tokens: int, at_least_tokens: int, ttl_seconds: int | None = None
    ) -> tuple[int, int]:
        """Like `extend`, and renews the reservation; returns how many tokens were granted and when it expires now.

        Raises `ReservationNotFound`, `ReservationEnded`.
        """
        now_ms = self.now_ms()
        return await self._held_for_others.extend(
            reservation_id,
            wanted_tokens=wanted_tokens,
            at_least_tokens=at_least_tokens,
            policy=self.policy,
            now_ms=now_ms,
            expires_at_ms=now_ms + (ttl_seconds or self.policy.reservations.ttl_seconds) * 1000,
        )

    async def end_held(self, reservation_id: str, ending: Ending) -> Ended:
        """Like `end`. Raises `ReservationNotFound`, `ReservationEnded`."""
        return await self._held_for_others.end(reservation_id, ending, policy=self.policy)

    async def record_usage(self, ask: Ask, usage: Usage, *, fingerprint: str, status: int | None = None) -> Ended:
        """Charges a usage that nothing was held for to the accounts of now, once by `ask.request_id`.

        Blocks do not matter: what was spent is charged. It is held in full, past every cap, and settled at once: if
        the process dies in between, the hold expires into the same charge. Raises `RequestError`s for what cannot be
        priced, `ReservationMismatch`, `ReservationEnded`.
        """
        return await self._held_for_others.record_usage(
            ask,
            reported_ending(usage, status=status),
            fingerprint=fingerprint,
            policy=self.policy,
            now_ms=self.now_ms(),
        )

    async def charge_maximum(self, ask: Ask, *, error: str) -> Record:
        """Charges the most that a request can cost, once, for it passes though it could not be decided on.

        `error` tells why it could not. Where its input cannot be counted either, every byte is taken for a token.
        Raises what `record_usage` does.
        """
        now_ms = self.now_ms()
        try:
            estimate = await self._estimator.estimate(ask, now_ms=now_ms)
        except (PolicydError, *NOT_FAILURES):
            raise
        except BaseException:
            if not ask.content:
                raise
            estimate = await self._estimator.estimate(replace(ask, input_tokens=len(ask.content)), now_ms=now_ms)
        ending = Ending(Outcome.UNMETERED, usage=estimate.maximum, source=UsageSource.NONE, error=error)
        ended = await self._held_for_others.record_usage(ask, ending, fingerprint="", policy=self.policy, now_ms=now_ms)
        return ended.record

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

    def _remembered_ms(self) -> int:
        settings = self.policy.reservations
        return (settings.ended_kept_seconds - settings.grace_seconds) * 1000

"""How the limits that apply to a request stand: with their accounts and windows of now, and their balances."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from policyd.core.anomalies import counted_for
from policyd.core.decision import LimitReport
from policyd.core.errors import StoreError
from policyd.core.ledger import Balance
from policyd.core.limit_index import LimitIndex
from policyd.core.limits import NONE_BEGUN, AppliedLimit
from policyd.core.policy import FailureMode, Policy
from policyd.core.rule_index import RuleIndex
from policyd.core.rules import Fill, Rule
from policyd.core.runtime import RuntimeState
from policyd.enforcer.first_use import FirstUseWindows
from policyd.enforcer.observer import Observer, timed
from policyd.estimator import ALL_METRICS, Ask
from policyd.stores.base import Stale, Store

POLICIES_KEPT_MAX = 4
"""For how many policies their limits and rules are kept prepared: an exchange keeps the policy that it began with."""


class _Prepared(NamedTuple):
    policy: Policy
    limits: LimitIndex
    rules: RuleIndex


class Standing:
    def __init__(self, store: Store, *, observer: Observer) -> None:
        self._store = store
        self._observer = observer
        self._first_use = FirstUseWindows(self._begin_window)
        self._prepared: list[_Prepared] = []

    async def applied(
        self, policy: Policy, attributes: Mapping[str, str], *, state: RuntimeState, now_ms: int, begin: bool
    ) -> tuple[AppliedLimit, ...]:
        """The limits that apply now. `begin`: whether this is a use, which windows of first use begin with."""
        index = self._of(policy).limits
        begun = NONE_BEGUN
        if wanted := index.first_use_windows(attributes):
            begun = await self._first_use.begun(wanted, now_ms=now_ms, begin=begin)
        return index.applied(attributes, now_ms=now_ms, begun=begun, state=state)

    async def held_on(self, ask: Ask, *, state: RuntimeState, now_ms: int, begin: bool) -> tuple[AppliedLimit, ...]:
        """The limits that what is asked for is held on."""
        applied = await self.applied(ask.policy, ask.attributes, state=state, now_ms=now_ms, begin=begin)
        if ask.metrics is ALL_METRICS:
            return applied
        return tuple(item for item in applied if item.limit.metric in ask.metrics)

    def watched_on(self, ask: Ask, *, now_ms: int) -> tuple[AppliedLimit, ...]:
        """What the request is counted on beside the limits, so that anomalies are found."""
        if not ask.policy.anomalies:
            return ()
        attributes = ask.policy.grouping.complete(ask.attributes)
        counted = counted_for(ask.policy.anomalies, attributes, now_ms=now_ms)
        return tuple(item for item in counted if item.limit.metric in ask.metrics)

    async def balances(self, applied: Sequence[AppliedLimit]) -> tuple[Balance, ...]:
        """What the store has on the accounts of `applied`, in the same order."""
        call = self._store.balances([(item.account, item.carry) for item in applied])
        return await timed(self._observer, "balances", call)

    async def weighed(self, applied: Sequence[AppliedLimit], *, state: RuntimeState) -> tuple[Balance, ...] | Stale:
        """The same, unless the run-time state has changed since."""
        accounts = [(item.account, item.carry) for item in applied]
        return await timed(self._observer, "balances", self._store.weigh(accounts, state_revision=state.revision))

    async def reports(
        self, policy: Policy, attributes: Mapping[str, str], *, state: RuntimeState, now_ms: int
    ) -> tuple[LimitReport, ...]:
        """How every limit that applies to `attributes` stands now. Raises `AttributeMissing`."""
        applied = await self.applied(policy, attributes, state=state, now_ms=now_ms, begin=False)
        balances = await self.balances(applied)
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

    def rules(self, policy: Policy, attributes: Mapping[str, str]) -> tuple[Rule, ...]:
        """The rules that may fire for a request with these attributes, its model's group and its tier included."""
        return self._of(policy).rules.candidates(attributes)

    async def fills(self, ask: Ask, *, state: RuntimeState, now_ms: int) -> Mapping[str, Fill]:
        """How full the limits are that rules look at and that apply to the request.

        Without the store, and where the policy is open then, nothing is known of any: rules on them do not fire.
        """
        names = ask.policy.limits_read
        if not names:
            return {}
        try:
            return await self._fills(ask, names, state=state, now_ms=now_ms)
        except StoreError:
            if ask.policy.failure_mode is FailureMode.CLOSED:
                raise
            return {}

    async def _fills(self, ask: Ask, names: Collection[str], *, state: RuntimeState, now_ms: int) -> Mapping[str, Fill]:
        index, attributes = self._of(ask.policy).limits, ask.attributes
        begun = await self._first_use.begun(index.first_use_windows(attributes), now_ms=now_ms, begin=False)
        applied = index.named(names, attributes, now_ms=now_ms, begun=begun, state=state)
        balances = await self.balances(applied)
        return {
            item.limit.name: Fill(used=balance.used, amount=item.limit.amount)
            for item, balance in zip(applied, balances, strict=True)
        }

    def _of(self, policy: Policy) -> _Prepared:
        for known in self._prepared:
            if known.policy is policy:
                return known
        prepared = _Prepared(policy, LimitIndex(policy), RuleIndex(policy.judged))
        # The latest first: what began under an earlier policy ends under it.
        self._prepared = [prepared, *self._prepared[: POLICIES_KEPT_MAX - 1]]
        return prepared

    async def _begin_window(self, key: str, *, now_ms: int, length_ms: int, begin: bool) -> int | None:
        call = self._store.begin_window(key, now_ms=now_ms, length_ms=length_ms, begin=begin)
        return await timed(self._observer, "begin_window", call)

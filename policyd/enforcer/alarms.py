"""What becomes of the rules that do more than decide: events for operators, and freezes.

Both are in the store before the request goes on. So none is lost: where the store fails the request fails with it, and
where the process dies in between the rule fires again with the next request.
"""

from __future__ import annotations

from collections import OrderedDict

from policyd.core.errors import StaleState, StoreUnavailable
from policyd.core.events import LimitUse, OperatorEvent
from policyd.core.policy import Metric
from policyd.core.rules import Rule, Ruling, Situation
from policyd.core.runtime import Block, Kind, in_force
from policyd.core.scopes import exact_name
from policyd.enforcer.observer import Observer, timed
from policyd.enforcer.runtime_state import ATTEMPTS_MAX, FollowedState, item_of
from policyd.estimator import Ask
from policyd.stores.base import Store

TOLD_MAX = 10_000
"""How many events a process remembers to have told, so that it need not ask the store about each again."""


class Alarms:
    def __init__(self, store: Store, *, state: FollowedState, observer: Observer) -> None:
        self._store = store
        self._state = state
        self._observer = observer
        self._told: OrderedDict[str, None] = OrderedDict()

    async def tell(self, ask: Ask, situation: Situation, ruling: Ruling, *, now_ms: int) -> None:
        """Emits the events of the rules that fired, and freezes the scope that a rule freezes. Raises `StoreError`s."""
        for rule in ruling.telling:
            scope = exact_name({name: situation.attributes.get(name, "") for name in rule.per})
            await self._emit(_event(ask, situation, rule, scope=scope, now_ms=now_ms))
            if rule is ruling.denied_by and rule.freeze_seconds is not None:
                reason = rule.refusal.message or f"{rule.label} has fired"
                await self._freeze(
                    Block(Kind.FREEZE, scope, reason, now_ms, now_ms + rule.freeze_seconds * 1000), now_ms=now_ms
                )

    async def _emit(self, event: OperatorEvent) -> None:
        if event.id in self._told:
            return
        if await timed(self._observer, "emit", self._store.emit(event)):
            self._observer.emitted(event)
        self._told[event.id] = None
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)

    async def _freeze(self, freeze: Block, *, now_ms: int) -> None:
        """Sets the freeze, unless the scope is frozen already: then that one keeps its end."""
        for _ in range(ATTEMPTS_MAX):
            await self._state.refresh()
            known = self._state.current.pieces[Kind.FREEZE].get(freeze.key)
            if known is not None and in_force(known, now_ms):
                return
            setting = self._store.set_state(
                [item_of(freeze)], now_ms=now_ms, expected_revision=self._state.current.revision
            )
            try:
                await timed(self._observer, "set_state", setting)
            except StaleState:
                continue
            await self._state.refresh()
            return
        raise StoreUnavailable("the run-time state kept changing while a scope was frozen")


def _event(ask: Ask, situation: Situation, rule: Rule, *, scope: str, now_ms: int) -> OperatorEvent:
    period_ms = (rule.event_every_seconds or 1) * 1000
    metrics = {limit.name: limit.metric for limit in ask.policy.limits}
    metrics |= {anomaly.label: anomaly.detector.metric for anomaly in ask.policy.anomalies}
    found = {**situation.fills, **situation.shown}
    fills = {name: found[name] for name in (*rule.when.limits_read, rule.label) if name in found}
    return OperatorEvent(
        source=rule.label,
        action=rule.action,
        scope=scope,
        period_starts_at_ms=now_ms // period_ms * period_ms,
        at_ms=now_ms,
        request_id=ask.request_id,
        attributes=dict(situation.attributes),
        estimated_cost_nanos=situation.estimated[Metric.COST],
        limits=tuple(LimitUse(name, metrics[name], fill.used, fill.amount) for name, fill in fills.items()),
    )

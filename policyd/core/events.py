"""Events: what an operator is to be told of, kept in the store until somebody has seen it.

A rule or an anomaly that fires makes one event for its scope and period, however often it fires in it: the id says
which. An event holds names, counts and money, never a prompt, a reply or a credential.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policyd.core.policy import Metric
from policyd.core.rules import RuleAction
from policyd.core.windows import DAY_MS

KEPT_MS = 30 * DAY_MS
"""How long an event is kept, seen or not."""


@dataclass(frozen=True, slots=True)
class LimitUse:
    """How full a limit was, or what an anomaly went by. Amounts in nano-USD for cost, whole units for the rest."""

    name: str
    metric: Metric
    used: int
    amount: int


@dataclass(frozen=True, slots=True)
class OperatorEvent:
    """Something fired, and the first request in the period that it fired for."""

    source: str
    """`rule:NAME` or `anomaly:NAME`."""
    action: RuleAction
    scope: str
    """Whose it is; empty: everybody's."""
    period_starts_at_ms: int
    at_ms: int
    request_id: str
    attributes: Mapping[str, str]
    estimated_cost_nanos: int
    """The most that the request may come to."""
    limits: tuple[LimitUse, ...] = ()
    """Those that the rule looks at and that apply to the request; of an anomaly itself."""

    @property
    def id(self) -> str:
        return f"{self.source}/{self.scope}/{self.period_starts_at_ms}"

    @property
    def keep_until_ms(self) -> int:
        return self.at_ms + KEPT_MS

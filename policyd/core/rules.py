"""Rules: what an operator says about requests beside the limits, by conditions.

A condition looks at a request's attributes, at its estimate and at how full limits are. Rules are judged in the order
of the policy, before anything is held; each whose condition holds fires, and the first that allows, denies or freezes
is the last one. A condition can fail (an expression that divides by nothing): then its rule refuses the request,
whatever else it does, so that no rule is passed by breaking it. A shadow rule that fails does nothing.

How full a limit is, is what was spent and held when the request came, without the request itself. A limit that does not
apply to the request is never full. Two requests that come at the same time may both find a limit below a threshold:
what must not be overspent is for limits to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar

from policyd.core.errors import PolicydError
from policyd.core.ledger import Amounts
from policyd.core.policy import Match, Metric, Refusal


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a limit is, in nano-USD for cost, whole units for the rest; or what an anomaly goes by."""

    used: int
    """Spent and held."""
    amount: int
    """Of the limit; of an anomaly what it shows from on."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A request as the rules find it."""

    attributes: Mapping[str, str]
    """Those of the identity and of the request, the model's group and the tier that applies included."""
    estimated: Amounts
    """The most that the request may come to."""
    fills: Mapping[str, Fill]
    """By name, of the limits that apply to the request."""
    shown: Mapping[str, Fill] = field(default_factory=dict)
    """What the anomalies that show go by, by their labels."""


class ConditionFailed(PolicydError):
    """Whether a condition holds for a request cannot be said."""


ESTIMATED = (Metric.COST, Metric.TOKENS, Metric.INPUT_TOKENS, Metric.OUTPUT_TOKENS, Metric.IMAGES)
"""The metrics that requests differ in before they run."""


# --- conditions: each says whether it holds, and which limits it looks at ---
# They are judged for every request, and a generator for `all()` would cost more than most of them: hence the loops.


class _Condition:
    """What is the same of most conditions."""

    __slots__ = ()

    @property
    def attributes_read(self) -> tuple[str, ...]:
        """The attributes that `known` looks at."""
        return ()

    @property
    def can_fail(self) -> bool:
        """Whether `holds` may raise `ConditionFailed`."""
        return False

    def known(self, attributes: Mapping[str, str]) -> bool | None:
        """Whether it holds for every request with these attributes, or for none; `None`: that is not all it takes."""
        return None


class _Combination(_Condition):
    """Of conditions that are looked at in turn, until one of them decides."""

    __slots__ = ()

    conditions: tuple[Condition, ...]
    decisive: ClassVar[bool]
    """What decides if one of them comes to it; if none does, it is the opposite."""

    @property
    def limits_read(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for condition in self.conditions for name in condition.limits_read))

    @property
    def attributes_read(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for condition in self.conditions for name in condition.attributes_read))

    @property
    def can_fail(self) -> bool:
        return any(condition.can_fail for condition in self.conditions)

    def known(self, attributes: Mapping[str, str]) -> bool | None:
        is_known = True
        for condition in self.conditions:
            found = condition.known(attributes)
            if found is self.decisive:
                return found
            if found is None:
                if condition.can_fail:  # it does before any that comes after it is looked at
                    return None
                is_known = False
        return not self.decisive if is_known else None


@dataclass(frozen=True, slots=True)
class Matches(_Condition):
    """The attributes fit."""

    match: Match
    limits_read: tuple[str, ...] = ()

    @property
    def attributes_read(self) -> tuple[str, ...]:
        return tuple(self.match.patterns)

    def known(self, attributes: Mapping[str, str]) -> bool:
        return self.match.fits(attributes)

    def holds(self, situation: Situation) -> bool:
        return self.match.fits(situation.attributes)


@dataclass(frozen=True, slots=True)
class EstimateReaches(_Condition):
    """The request may come to these amounts or more, in each of the metrics."""

    least: Mapping[Metric, int]
    limits_read: tuple[str, ...] = ()

    def holds(self, situation: Situation) -> bool:
        estimated = situation.estimated
        for metric, amount in self.least.items():  # noqa: SIM110
            if estimated[metric] < amount:
                return False
        return True


@dataclass(frozen=True, slots=True)
class UsagePercent(_Condition):
    """The limits are as full as this or more, in percent of their amounts. A limit of nothing is always full."""

    least: Mapping[str, int]

    @property
    def limits_read(self) -> tuple[str, ...]:
        return tuple(self.least)

    def holds(self, situation: Situation) -> bool:
        fills = situation.fills
        for name, percent in self.least.items():
            fill = fills.get(name)
            if fill is None or fill.used * 100 < percent * fill.amount:
                return False
        return True


@dataclass(frozen=True, slots=True)
class UsageAbsolute(_Condition):
    """As much or more is used of the limits, in the unit of each."""

    least: Mapping[str, int]

    @property
    def limits_read(self) -> tuple[str, ...]:
        return tuple(self.least)

    def holds(self, situation: Situation) -> bool:
        fills = situation.fills
        for name, used in self.least.items():
            fill = fills.get(name)
            if fill is None or fill.used < used:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Shows(_Condition):
    """An anomaly shows."""

    anomaly: str
    limits_read: tuple[str, ...] = ()

    def holds(self, situation: Situation) -> bool:
        return self.anomaly in situation.shown


@dataclass(frozen=True, slots=True)
class Expression(_Condition):
    """What an operator has written in an expression language, compiled."""

    text: str
    """It alone says what the expression means."""
    test: Callable[[Situation], bool] = field(compare=False, repr=False)
    """Raises `ConditionFailed`."""
    limits_read: tuple[str, ...] = ()

    @property
    def can_fail(self) -> bool:
        return True

    def holds(self, situation: Situation) -> bool:
        return self.test(situation)


@dataclass(frozen=True, slots=True)
class AllOf(_Combination):
    conditions: tuple[Condition, ...]
    decisive: ClassVar[bool] = False

    def holds(self, situation: Situation) -> bool:
        for condition in self.conditions:  # noqa: SIM110
            if not condition.holds(situation):
                return False
        return True


@dataclass(frozen=True, slots=True)
class AnyOf(_Combination):
    conditions: tuple[Condition, ...]
    decisive: ClassVar[bool] = True

    def holds(self, situation: Situation) -> bool:
        for condition in self.conditions:  # noqa: SIM110
            if condition.holds(situation):
                return True
        return False


@dataclass(frozen=True, slots=True)
class Not(_Condition):
    condition: Condition

    @property
    def limits_read(self) -> tuple[str, ...]:
        return self.condition.limits_read

    @property
    def attributes_read(self) -> tuple[str, ...]:
        return self.condition.attributes_read

    @property
    def can_fail(self) -> bool:
        return self.condition.can_fail

    def known(self, attributes: Mapping[str, str]) -> bool | None:
        found = self.condition.known(attributes)
        return None if found is None else not found

    def holds(self, situation: Situation) -> bool:
        return not self.condition.holds(situation)


Condition = Matches | EstimateReaches | UsagePercent | UsageAbsolute | Shows | Expression | AllOf | AnyOf | Not

ALWAYS = AllOf(())
"""The condition of a rule that names none."""


# --- what a rule does ---


class RuleAction(StrEnum):
    """What a rule that fires does. Those that decide end the rules; after the others the next rule is looked at."""

    ALLOW = "allow"
    """No later rule is looked at. The limits are."""
    DENY = "deny"
    FREEZE = "freeze"
    """The request is refused, and its scope is frozen for a time."""
    ADD_HEADERS = "add_headers"
    """The client is sent more headers."""
    CLAMP = "clamp"
    """The request's maximum output is lowered. A request that this cannot be done to is refused."""
    SWITCH_MODEL = "switch_model"
    """The request goes to another model. A request that this cannot be done to is refused."""
    NOTIFY = "notify"
    """An operator is told."""

    @property
    def decisive(self) -> bool:
        return self in (RuleAction.ALLOW, RuleAction.DENY, RuleAction.FREEZE)

    @property
    def refuses(self) -> bool:
        return self in (RuleAction.DENY, RuleAction.FREEZE)


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition, and what is done with requests for which it holds."""

    name: str
    when: Condition
    action: RuleAction
    shadow: bool = False
    """Whether it is only told to the operator that it would have fired."""
    status: int = 403
    """Of its refusal."""
    refusal: Refusal = field(default_factory=Refusal)
    headers: Mapping[str, str] = field(default_factory=dict)
    max_output_tokens: int | None = None
    """What `CLAMP` lowers the maximum output of one choice to."""
    switch_to: str | None = None
    """The model that `SWITCH_MODEL` switches to."""
    per: tuple[str, ...] = ()
    """The attributes whose values `FREEZE` freezes, and that operators are told of apart for."""
    freeze_seconds: int | None = None
    """How long `FREEZE` freezes."""
    event_every_seconds: int | None = None
    """How long a period is in which one event of a scope is enough; `None`: nobody is told by an event."""

    anomaly: bool = False
    """Whether it is an anomaly, whose name says so (`anomaly:loop`)."""

    @property
    def label(self) -> str:
        """How records and metrics name it beside limits: `rule:no-previews`."""
        return self.name if self.anomaly else f"rule:{self.name}"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say to one request."""

    fired: tuple[Rule, ...] = ()
    """In the order of the policy; a rule that allows or denies is the last one."""
    shadowed: tuple[Rule, ...] = ()
    """The shadow rules that would have fired."""
    denied_by: Rule | None = None
    """The rule that refuses, that changes what cannot be changed, or whose condition failed."""
    failed: bool = False
    """Whether the condition of `denied_by` failed."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(rule.name for rule in self.fired)

    @property
    def shadow_names(self) -> tuple[str, ...]:
        return tuple(rule.name for rule in self.shadowed)

    @property
    def headers(self) -> Mapping[str, str]:
        """What the client is sent beside policyd's own headers; of one name the first rule's."""
        return {name: value for rule in reversed(self.fired) for name, value in rule.headers.items()}

    @property
    def switch(self) -> Rule | None:
        """The rule whose model the request goes to: the first one."""
        return next(self._doing(RuleAction.SWITCH_MODEL), None)

    @property
    def clamp(self) -> Rule | None:
        """The rule with the least maximum for the output."""
        return min(self._doing(RuleAction.CLAMP), key=lambda rule: rule.max_output_tokens or 0, default=None)

    @property
    def freeze_seconds(self) -> int | None:
        """How long the request's scope is frozen; `None`: it is not."""
        return self.denied_by.freeze_seconds if self.denied_by is not None and not self.failed else None

    @property
    def telling(self) -> tuple[Rule, ...]:
        """The rules that fired of which operators are told by events."""
        return tuple(rule for rule in self.fired if rule.event_every_seconds is not None)

    def unchangeable(self, rule: Rule) -> Ruling:
        """The ruling once it has turned out that the request cannot be changed as `rule` says."""
        return replace(self, denied_by=rule)

    def _doing(self, action: RuleAction) -> Iterator[Rule]:
        return (rule for rule in self.fired if rule.action is action)


NO_RULING = Ruling()


def judge(rules: Sequence[Rule], situation: Situation) -> Ruling:
    """Which rules fire for a request."""
    fired: list[Rule] = []
    shadowed: list[Rule] = []
    for rule in rules:
        try:
            holds = rule.when.holds(situation)
        except ConditionFailed:
            if rule.shadow:
                continue
            return Ruling(tuple(fired), tuple(shadowed), denied_by=rule, failed=True)
        if not holds:
            continue
        if rule.shadow:
            shadowed.append(rule)
            continue
        fired.append(rule)
        if rule.action.decisive:
            break
    denied_by = fired[-1] if fired and fired[-1].action.refuses else None
    return Ruling(tuple(fired), tuple(shadowed), denied_by)


def rules_named(rules: Sequence[Rule], *, fired: Sequence[str], shadowed: Sequence[str]) -> Ruling:
    """The ruling of a request that was let pass, by the names of its rules, as far as the policy still has these."""
    return Ruling(
        tuple(rule for rule in rules if rule.name in fired), tuple(rule for rule in rules if rule.name in shadowed)
    )

"""Anomalies: what looks wrong about a scope's requests, whatever its budgets.

Each detector reads one number for the request's scope, and shows if that is its threshold or more.

    detector          reads, and compares
    Repetition        how many times in a row the same request has come, this one included
    SpendingVelocity  what the requests of the last minute have spent or hold, without this one
    RequestRate       the requests of this minute, this one included, with what its past lets expect

**The rate's own past.** Requests that come independently of each other are Poisson: their number in a minute has the
mean of the past minutes and, as its variance, the same. So more than the mean and `sigmas` times its square root are
not expected, which is the upper limit of a c chart (Shewhart; NIST/SEMATECH e-Handbook of Statistical Methods,
6.3.3.1). With S requests in n past minutes, and r in this one, it shows if

    r > S/n + sigmas * sqrt(S/n),    in integers:    n*r >= S + isqrt(sigmas^2 * n * S) + 1

and r is `requests_min` or more: a scope without a past would show with its first request. Minutes without requests
count as such. Minutes are those of the clock.

An anomaly is judged as a rule is (`policyd.core.rules`), before all rules. What velocity and rate go by is counted like
a limit that never refuses: in the same step as the hold, on accounts of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import ClassVar

from policyd.core.ledger import Balance
from policyd.core.limits import AppliedLimit, apply_limit, scope_of
from policyd.core.money import ACCOUNT_NANOS_MAX, divide_up
from policyd.core.policy import Action, Limit, Match, Metric, Refusal
from policyd.core.rules import Fill, Rule, RuleAction, Shows
from policyd.core.runtime import NOTHING_SET
from policyd.core.windows import CalendarUnit, CalendarWindow, SlidingWindow, Window

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Repetition:
    times: int
    within_seconds: int
    """After so long without the request its repetitions are counted from 1 again."""

    metric: ClassVar[Metric] = Metric.REQUESTS


@dataclass(frozen=True, slots=True)
class SpendingVelocity:
    nanos_per_minute: int

    metric: ClassVar[Metric] = Metric.COST
    window: ClassVar[Window] = SlidingWindow(60)
    past_minutes: ClassVar[int] = 0

    def reading(self, balances: Sequence[Balance]) -> Fill:
        """`balances`: of the account of now alone."""
        return Fill(used=balances[0].used, amount=self.nanos_per_minute)


@dataclass(frozen=True, slots=True)
class RequestRate:
    sigmas: int
    requests_min: int
    past_minutes: int

    metric: ClassVar[Metric] = Metric.REQUESTS
    window: ClassVar[Window] = CalendarWindow(CalendarUnit.MINUTE)

    def reading(self, balances: Sequence[Balance]) -> Fill:
        """`balances`: of this minute's account, and of those of the past ones."""
        now, *past = (balance.used for balance in balances)
        total, minutes = sum(past), self.past_minutes
        least = divide_up(total + isqrt(self.sigmas**2 * minutes * total) + 1, minutes)
        return Fill(used=now + 1, amount=max(least, self.requests_min))


Detector = Repetition | SpendingVelocity | RequestRate


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What is watched of each scope, and what is done about it."""

    name: str
    detector: Detector
    action: RuleAction
    """`NOTIFY`, `DENY` or `FREEZE`."""
    event_every_seconds: int
    """How long a period is in which one event of a scope is enough."""
    per: tuple[str, ...] = ()
    match: Match = field(default_factory=Match)
    freeze_seconds: int | None = None
    refusal: Refusal = field(default_factory=Refusal)
    counted: Limit | None = field(init=False, repr=False, compare=False)
    """What its requests are counted as; `None` where nothing is."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "counted", self._counted())

    def _counted(self) -> Limit | None:
        if isinstance(self.detector, Repetition):
            return None
        return Limit(
            name=self.label,
            metric=self.detector.metric,
            amount=ACCOUNT_NANOS_MAX,
            window=self.detector.window,
            per=self.per,
            match=self.match,
            action=Action.SHADOW,
        )

    @property
    def label(self) -> str:
        """How records, metrics and accounts name it; no rule and no limit has such a name."""
        return f"anomaly:{self.name}"

    @property
    def rule(self) -> Rule:
        """What it is judged as."""
        return Rule(
            name=self.label,
            when=Shows(self.label),
            action=self.action,
            status=429 if self.action is RuleAction.DENY else 403,
            refusal=self.refusal,
            per=self.per,
            freeze_seconds=self.freeze_seconds,
            event_every_seconds=self.event_every_seconds,
            anomaly=True,
        )

    def scope(self, attributes: Mapping[str, str]) -> str:
        return scope_of(self.per, attributes)


def counted_for(
    anomalies: Sequence[Anomaly], attributes: Mapping[str, str], *, now_ms: int
) -> tuple[AppliedLimit, ...]:
    """What a request is counted on for the anomalies that it can show."""
    return tuple(
        _applied(anomaly.counted, attributes, now_ms=now_ms)
        for anomaly in anomalies
        if anomaly.counted is not None and anomaly.match.fits(attributes)
    )


def looked_at(
    counted: Limit, attributes: Mapping[str, str], *, past_minutes: int, now_ms: int
) -> tuple[AppliedLimit, ...]:
    """What a detector goes by: the account of now, and those of the past minutes."""
    moments_ms = (now_ms - back * MINUTE_MS for back in range(past_minutes + 1))
    return tuple(_applied(counted, attributes, now_ms=moment_ms) for moment_ms in moments_ms)


def _applied(counted: Limit, attributes: Mapping[str, str], *, now_ms: int) -> AppliedLimit:
    # What an operator overrides or resets are limits of the policy.
    return apply_limit(counted, scope_of(counted.per, attributes), now_ms=now_ms, begun={}, state=NOTHING_SET)

"""The policy as immutable types: what an operator said, checked, with every default filled in.

`policyd.config` builds it from the policy file. An exchange keeps the policy it began with, whatever is loaded
meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import translate
from re import Pattern
from re import compile as compile_pattern
from typing import TYPE_CHECKING

from policyd.core.attributes import Identity, Place, Source
from policyd.core.grouping import Grouping
from policyd.core.money import NANOS_PER_USD
from policyd.core.own_prices import OwnPrices
from policyd.core.windows import CalendarUnit, CalendarWindow, Window

if TYPE_CHECKING:
    # Rules and anomalies look at limits, and a policy has them all.
    from policyd.core.anomalies import Anomaly
    from policyd.core.rules import Rule


class Metric(StrEnum):
    """What a limit counts. Amounts of `COST` are nano-USD, of the others whole units."""

    COST = "cost_usd"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    REQUESTS = "requests"
    CONCURRENT_REQUESTS = "concurrent_requests"
    IMAGES = "images"
    """Images that were made, where the provider's API counts them."""
    AUDIO_SECONDS = "audio_seconds"
    """Seconds of audio that was listened to, rounded up for each request."""


class Hold(StrEnum):
    """Which side of the estimate a limit holds. `EXPECTED` waives the promise of no overspend."""

    MAXIMUM = "maximum"
    EXPECTED = "expected"


class Action(StrEnum):
    """What happens when a limit lacks room. What cannot be done to a request ends in its refusal."""

    DENY = "deny"
    CLAMP = "clamp"
    """The request's maximum output is lowered to what is left."""
    SWITCH_MODEL = "switch_model"
    """The request goes to a cheaper model."""
    WARN = "warn"
    """The request passes, and its client is told."""
    SHADOW = "shadow"
    """The request passes, and only the operator is told."""

    @property
    def enforced(self) -> bool:
        """Whether spending never passes the limit."""
        return self in _ENFORCED


_ENFORCED = (Action.DENY, Action.CLAMP, Action.SWITCH_MODEL)


class OnExpiry(StrEnum):
    """What an expired hold is charged. `EXPECTED` and `NOTHING` waive the promise of no overspend."""

    HOLD = "hold"
    EXPECTED = "expected"
    NOTHING = "nothing"


class OnDisconnect(StrEnum):
    """What is charged when the client hangs up before the reply's usage was seen."""

    OBSERVED = "observed"
    EXPECTED = "expected"
    MAXIMUM = "maximum"


class Unbounded(StrEnum):
    """What becomes of a request that gives no maximum for its output."""

    ALLOW = "allow"
    SET_MAXIMUM = "set_maximum"
    DENY = "deny"


class UnknownModelAction(StrEnum):
    PRICE_AS = "price_as"
    DENY = "deny"
    FREE = "free"


class UnknownEndpoint(StrEnum):
    DENY = "deny"
    PASS = "pass"


class ApiKeys(StrEnum):
    """Whether requests come with an API key of policyd's own."""

    OFF = "off"
    OPTIONAL = "optional"
    """A request may come with the provider's key instead."""
    REQUIRED = "required"


class ProviderKeys(StrEnum):
    """Whose requests go upstream with the provider's key from policyd's secret file."""

    KEYED = "keyed"
    """Those that came with an API key of policyd's own, where there is a secret file."""
    ALL = "all"


class FailureMode(StrEnum):
    """What becomes of a request when policyd itself fails."""

    CLOSED = "closed"
    OPEN = "open"
    DEGRADED = "degraded"
    """Like `CLOSED`, but for an outage of the store: requests spend what was leased of their budgets beforehand."""


@dataclass(frozen=True, slots=True)
class UnknownModel:
    """What a model without a price costs. `model` is set with `PRICE_AS` only."""

    action: UnknownModelAction = UnknownModelAction.PRICE_AS
    model: str | None = "gpt-4o"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a limit's refusal tells the client beside the numbers: `message` and the operator's own fields."""

    message: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a limit is for: each named attribute has to fit one of its shell-style patterns (`gpt-4o*`).

    An attribute that the request lacks fits no pattern.
    """

    patterns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _tests: tuple[_Test, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tests", tuple(_test(name, patterns) for name, patterns in self.patterns.items()))

    def fits(self, attributes: Mapping[str, str]) -> bool:
        for name, words, pattern in self._tests:
            value = attributes.get(name)
            if value not in words and (value is None or pattern is None or not pattern.match(value)):
                return False
        return True


_Test = tuple[str, frozenset[str], Pattern[str] | None]
"""An attribute's name, the values that fit as they are, and what the others have to fit."""


def _test(name: str, patterns: tuple[str, ...]) -> _Test:
    globs = [pattern for pattern in patterns if _WILDCARDS.intersection(pattern)]
    either = compile_pattern("|".join(map(translate, globs))) if globs else None
    return name, frozenset(patterns) - frozenset(globs), either


_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Limit:
    """A cap: at most `amount` of `metric` in `window`, apart for every combination of the attributes in `per`.

    `name` is stable: it names the accounts, so that a changed amount keeps what was spent. Limits of one name differ in
    the tier that they are for, and so never apply together. `window` is `None` for `CONCURRENT_REQUESTS` only, which
    counts what is open now.
    """

    name: str
    metric: Metric
    amount: int
    window: Window | None
    per: tuple[str, ...] = ()
    match: Match = field(default_factory=Match)
    hold: Hold = Hold.MAXIMUM
    action: Action = Action.DENY
    status: int = 402
    refusal: Refusal = field(default_factory=Refusal)
    pool: str | None = None
    """Limits with one pool count on the same accounts, each up to an amount of its own."""

    min_output_tokens: int = 1
    """The least that `CLAMP` may leave of the maximum output, for one choice."""
    switch_to: str | None = None
    """The model that `SWITCH_MODEL` switches to."""

    @property
    def account_name(self) -> str:
        """What its accounts go by."""
        return self.pool or self.name


@dataclass(frozen=True, slots=True)
class Reservations:
    """How long holds and what is remembered of them live.

    A hold lives `ttl_seconds` and is renewed while its exchange is open; one of the lean profile, whose exchange
    policyd does not see, lives `lean_ttl_seconds`. Expiry waits `grace_seconds` more, which has to exceed the largest
    difference between two replicas' clocks.
    """

    ttl_seconds: int = 120
    lean_ttl_seconds: int = 900
    grace_seconds: int = 5
    on_expiry: OnExpiry = OnExpiry.HOLD
    ended_kept_seconds: int = 3600
    usage_kept_days: int = 90


@dataclass(frozen=True, slots=True)
class Policy:
    """One immutable snapshot of everything the operator said."""

    identity: Identity
    limits: tuple[Limit, ...]
    rules: tuple[Rule, ...] = ()
    anomalies: tuple[Anomaly, ...] = ()
    grouping: Grouping = field(default_factory=Grouping)
    strict: bool = False
    api_keys: ApiKeys = ApiKeys.OFF
    provider_keys: ProviderKeys = ProviderKeys.KEYED
    prices: OwnPrices = field(default_factory=OwnPrices)
    unknown_model: UnknownModel = field(default_factory=UnknownModel)
    unknown_endpoint: UnknownEndpoint = UnknownEndpoint.DENY
    unbounded: Unbounded = Unbounded.ALLOW
    default_max_output_tokens: int = 4096
    failure_mode: FailureMode = FailureMode.CLOSED
    lease_percent: int = 1
    """How much of each budget a process leases beforehand where the failure mode is `DEGRADED`."""
    on_disconnect: OnDisconnect = OnDisconnect.OBSERVED
    reservations: Reservations = field(default_factory=Reservations)
    revision: str = "default"
    """Identifies the content: equal policies have equal revisions on every replica."""
    limits_read: frozenset[str] = field(init=False, repr=False, compare=False)
    """The names of the limits that any of the rules looks at."""
    judged: tuple[Rule, ...] = field(init=False, repr=False, compare=False)
    """What requests are judged by: the anomalies, then the rules."""

    @property
    def reads_credentials(self) -> bool:
        """Whether the client's credentials have to be seen, and which of them may go upstream is decided."""
        return self.api_keys is not ApiKeys.OFF or self.provider_keys is ProviderKeys.ALL

    def __post_init__(self) -> None:
        object.__setattr__(self, "judged", (*(anomaly.rule for anomaly in self.anomalies), *self.rules))
        object.__setattr__(
            self, "limits_read", frozenset(name for rule in self.rules for name in rule.when.limits_read)
        )


def default_policy() -> Policy:
    """What applies without a policy file: 10 USD a project and calendar month (UTC)."""
    return Policy(
        identity=Identity(
            {
                "project": (
                    Source(Place.HEADER, "x-policyd-project", strip=True),
                    Source(Place.QUERY, "project_id", strip=True),
                    Source(Place.DEFAULT, "default"),
                ),
                "user": (Source(Place.HEADER, "x-policyd-user", strip=True), Source(Place.BODY, "user")),
                "session": (
                    Source(Place.HEADER, "x-policyd-session", strip=True),
                    Source(Place.QUERY, "session_id", strip=True),
                ),
                "tier": (Source(Place.HEADER, "x-policyd-tier", strip=True),),
            }
        ),
        limits=(
            Limit(
                name="project-monthly-spend",
                metric=Metric.COST,
                amount=10 * NANOS_PER_USD,
                window=CalendarWindow(CalendarUnit.MONTH),
                per=("project",),
            ),
        ),
    )

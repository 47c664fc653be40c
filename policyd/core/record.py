"""The one record that an exchange ends with: stored as its usage record, counted in the metrics, printed as its log
line.

It holds counts, names and money, never a prompt, a reply or a credential.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from policyd.core.pricing import NO_TERMS
from policyd.core.usage import Usage


class UsageSource(StrEnum):
    REPORTED = "reported"
    """The provider's own numbers."""
    COUNTED = "counted"
    """Counted by policyd from what was seen, because the provider reported nothing (or was cut off before it could)."""
    NONE = "none"
    """Nothing was seen: not served, or charged by its hold."""


class Outcome(StrEnum):
    """How the exchange ended, for people and metrics."""

    SERVED = "served"
    DENIED = "denied"
    CUT = "cut"
    DISCONNECTED = "disconnected"
    PROVIDER_ERROR = "provider_error"
    REJECTED = "rejected"
    """The request could not be priced; the provider never saw it."""
    UNMETERED = "unmetered"
    """Its reply is not read: it passed without a charge (a free endpoint), or met a defect of policyd's own under
    `failure_mode: open`, and was charged the most that it could cost."""
    EXPIRED = "expired"
    FAILED = "failed"
    """policyd itself failed, and the request was refused."""
    RELEASED = "released"
    """A hold was returned unused: of a reservation made over gRPC, or for a session's response that never came."""


class Record(NamedTuple):
    """One exchange, or one reservation made over gRPC. Times in milliseconds since the epoch.

    A tuple: each request makes three of them, one out of the other, and a tuple of this length is copied five times as
    fast as a dataclass is.
    """

    request_id: str
    at_ms: int
    """When the request was decided."""
    outcome: Outcome
    decision: str
    """`allow` or `deny`."""
    provider: str
    endpoint: str
    model: str
    attributes: Mapping[str, str]
    denied_by: tuple[str, ...] = ()
    """What refused it: the rule (`rule:NAME`), the anomaly or the block, and the limits, the binding one first."""
    shadow_denied_by: tuple[str, ...] = ()
    """The shadow limits that would have refused."""
    warned_by: tuple[str, ...] = ()
    """The limits that the request passed with a warning."""
    clamped_by: tuple[str, ...] = ()
    """The limits and rules that lowered the request's maximum output."""
    switched_by: tuple[str, ...] = ()
    """The limits, or the rule, that switched the request to `model`."""
    requested_model: str | None = None
    """The model that the client asked for, where limits or a rule switched to another."""
    rules: tuple[str, ...] = ()
    """The anomalies (`anomaly:NAME`) and the rules that fired, in the policy's order."""
    shadow_rules: tuple[str, ...] = ()
    """The shadow rules that would have fired."""
    status: int | None = None
    """The HTTP status that the client got, as far as policyd saw it."""
    response_model: str | None = None
    streamed: bool = False
    usage: Usage | None = None
    usage_source: UsageSource = UsageSource.NONE
    terms: Mapping[str, str] = NO_TERMS
    """The terms of the request that change its price (`service_tier`)."""
    expected: Usage | None = None
    """The usage that was expected; `None` where nothing was estimated."""
    maximum: Usage | None = None
    """The most usage that was expected: with `terms` all that is needed to price the request again."""
    estimated_cost_nanos: int = 0
    """What was held: the cost of `maximum`."""
    actual_cost_nanos: int | None = None
    """What was charged; `None` until the exchange has ended."""
    confidence: str | None = None
    duration_ms: int = 0
    policy_us: int = 0
    """Time that policyd itself spent until the decision, in microseconds."""
    error: str | None = None

    @property
    def is_of_the_past(self) -> bool:
        """Whether it is of a usage that was reported, and never estimated: whatever fails, it has to be charged."""
        return self.maximum is None

    def expired(self, *, charged_nanos: int) -> Record:
        """The record of a reservation whose exchange never came back."""
        return self._replace(
            outcome=Outcome.EXPIRED, actual_cost_nanos=charged_nanos, error="the reservation expired unsettled"
        )

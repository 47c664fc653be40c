"""Verdicts: what was decided on a request, and the record it is kept by."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from policyd.core.decision import Decision, LimitReport
from policyd.core.policy import Unbounded
from policyd.core.record import Outcome, Record
from policyd.core.reservation import State
from policyd.enforcer.revising import Plan
from policyd.providers.base import RequestFacts


class Verdict(Struct, frozen=True):
    """A decision, and the pending record of what follows from it."""

    decision: Decision
    record: Record
    facts: RequestFacts
    """What the request says as it goes upstream, with what limits changed in it."""
    max_output_tokens: int | None
    """The maximum for one choice that has to be set in the request before it goes upstream; `None`: leave it."""
    expires_at_ms: int | None = None
    """When the reservation expires unless it is renewed; `None` if there is none."""
    earlier: State | None = None
    """The state of the reservation that the same id made before; `None`: this one is new, or refused."""


class Tried(Struct, frozen=True):
    """A plan, and what the limits said to it."""

    plan: Plan
    decision: Decision
    at_ms: int
    pending: Record | None = None
    """What the store was given for the plan, as far as it was asked to hold something."""
    expires_at_ms: int | None = None
    earlier: State | None = None


def verdict_on(tried: Tried, *, policy_us: int) -> Verdict:
    """The verdict on the plan that was tried last. `policy_us`: how long it took, in microseconds."""
    plan, decision = tried.plan, tried.decision
    facts = plan.ask.facts
    denying_rule = decision.ruling.denied_by
    record = (tried.pending or pending_record(plan, now_ms=tried.at_ms))._replace(
        denied_by=((denying_rule.label,) if denying_rule is not None else ()) + _names(decision.denials),
        shadow_denied_by=_names(decision.shadow_denials),
        warned_by=_names(decision.warnings),
        policy_us=policy_us,
    )
    if not decision.allowed:
        record = record._replace(decision="deny", outcome=Outcome.DENIED)
    maximum = decision.changes.max_output_tokens
    if facts.max_output_tokens is None and plan.ask.policy.unbounded is Unbounded.SET_MAXIMUM:
        maximum = plan.estimate.maximum.output_tokens // facts.choices
    return Verdict(
        decision, record, facts, max_output_tokens=maximum, expires_at_ms=tried.expires_at_ms, earlier=tried.earlier
    )


def _names(reports: Sequence[LimitReport]) -> tuple[str, ...]:
    return tuple([report.limit.name for report in reports]) if reports else ()


def pending_record(plan: Plan, *, now_ms: int) -> Record:
    """The record that a reservation for `plan` is made with."""
    ask, estimate, changes = plan.ask, plan.estimate, plan.changes
    return Record(
        request_id=ask.request_id,
        at_ms=now_ms,
        outcome=Outcome.SERVED,
        decision="allow",
        provider=ask.provider,
        endpoint=ask.endpoint,
        model=ask.facts.model,
        requested_model=plan.requested_model,
        attributes=dict(ask.identity),
        switched_by=changes.switched_by,
        clamped_by=changes.clamped_by,
        rules=plan.ruling.names,
        shadow_rules=plan.ruling.shadow_names,
        streamed=ask.facts.streamed,
        terms=dict(ask.facts.terms),
        expected=estimate.expected,
        maximum=estimate.maximum,
        estimated_cost_nanos=estimate.maximum_cost_nanos,
        confidence=estimate.confidence,
    )

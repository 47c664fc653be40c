"""From the enforcer's types to the messages of `policyd.v1`."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from policyd.core import estimate as core_estimate
from policyd.core.decision import NO_CHANGES, Decision, LimitReport
from policyd.core.money import NANOS_PER_USD
from policyd.core.policy import Metric
from policyd.core.record import Record
from policyd.core.reservation import State
from policyd.core.rules import NO_RULING, Rule
from policyd.core.runtime import Block
from policyd.core.scopes import shown
from policyd.core.usage import Usage
from policyd.v1 import reservation_pb2, usage_pb2, verdict_pb2

# Looked up once: what has a name in another spelling there is asked for with every call.
_CONFIDENCES = {
    each.value: verdict_pb2.Confidence.Value(f"CONFIDENCE_{each.upper()}") for each in core_estimate.Confidence
}
_STATES = {each: reservation_pb2.ReservationState.Value(f"RESERVATION_STATE_{each.upper()}") for each in State}


def money(nanos: int) -> Money:
    """USD: whole dollars and the billionths of one, so nothing is rounded."""
    units, rest = divmod(nanos, NANOS_PER_USD)
    return Money(currency_code="USD", units=units, nanos=rest)


def timestamp(at_ms: int) -> Timestamp:
    seconds, rest_ms = divmod(at_ms, 1000)
    return Timestamp(seconds=seconds, nanos=rest_ms * 1_000_000)


def duration(microseconds: int) -> Duration:
    seconds, rest = divmod(microseconds, 1_000_000)
    return Duration(seconds=seconds, nanos=rest * 1000)


def verdict(decision: Decision) -> verdict_pb2.Verdict:
    remaining, changes, ruling = decision.budget_remaining_nanos, decision.changes, decision.ruling
    message = verdict_pb2.Verdict(
        decision=verdict_pb2.DECISION_ALLOW if decision.allowed else verdict_pb2.DECISION_DENY,
        estimate=estimate(decision.estimate),
        remaining_budget=money(remaining) if remaining is not None else None,
    )
    # Most requests fit as they are: each field that is set takes its time, also where there is nothing in it.
    if decision.denials or decision.shadow_denials or decision.warnings:
        message.denials.extend(map(limit_report, decision.denials))
        message.shadow_denials.extend(map(limit_report, decision.shadow_denials))
        message.warnings.extend(map(limit_report, decision.warnings))
    if decision.retry_after_seconds is not None:
        message.retry_after.CopyFrom(duration(decision.retry_after_seconds * 1_000_000))
    if changes is not NO_CHANGES:
        message.clamped_by.extend(changes.clamped_by)
        message.switched_by.extend(changes.switched_by)
        if changes.model is not None:
            message.switched_model = changes.model
    if ruling is not NO_RULING:
        message.rules.extend(ruling.names)
        message.shadow_rules.extend(ruling.shadow_names)
        if ruling.denied_by is not None:
            message.rule_denial.CopyFrom(rule_denial(ruling.denied_by))
    return message


def rule_denial(rule: Rule) -> verdict_pb2.RuleDenial:
    return verdict_pb2.RuleDenial(
        rule=rule.name,
        http_status=rule.status,
        refusal_message=rule.refusal.message,
        refusal_fields=rule.refusal.fields,
    )


def block_verdict(block: Block, *, now_ms: int) -> verdict_pb2.Verdict:
    """The verdict on a request that `block` refuses."""
    left = block.seconds_left(now_ms)
    return verdict_pb2.Verdict(
        decision=verdict_pb2.DECISION_DENY,
        retry_after=duration(left * 1_000_000) if left is not None else None,
        block=verdict_pb2.Block(
            kind=verdict_pb2.BlockKind.Value(f"BLOCK_KIND_{block.kind.upper()}"),
            scope=shown(block.scope),
            reason=block.reason,
            expires_at=timestamp(block.expires_at_ms) if block.expires_at_ms is not None else None,
        ),
    )


def limit_report(report: LimitReport) -> verdict_pb2.LimitReport:
    limit = report.limit
    return verdict_pb2.LimitReport(
        name=limit.name,
        metric=verdict_pb2.Metric.Value(f"METRIC_{limit.metric.upper()}"),
        scope=report.scope,
        window=str(limit.window) if limit.window is not None else "",
        action=verdict_pb2.LimitAction.Value(f"LIMIT_ACTION_{limit.action.upper()}"),
        limit=_amount(limit.metric, limit.amount),
        spent=_amount(limit.metric, report.spent),
        reserved=_amount(limit.metric, report.reserved),
        requested=_amount(limit.metric, report.requested),
        remaining=_amount(limit.metric, report.remaining),
        resets_at=timestamp(report.resets_at_ms) if report.resets_at_ms is not None else None,
        http_status=limit.status,
        refusal_message=limit.refusal.message,
        refusal_fields=limit.refusal.fields,
    )


def _amount(metric: Metric, amount: int) -> verdict_pb2.Amount:
    if metric is Metric.COST:
        return verdict_pb2.Amount(money=money(amount))
    return verdict_pb2.Amount(units=amount)


def estimate(made: core_estimate.Estimate) -> verdict_pb2.Estimate:
    expected, maximum = made.expected, made.maximum
    return verdict_pb2.Estimate(
        input_tokens=expected.input_tokens,
        expected_output_tokens=expected.output_tokens,
        max_input_tokens=maximum.input_tokens,
        max_output_tokens=maximum.output_tokens,
        expected_cost=money(made.expected_cost_nanos),
        max_cost=money(made.maximum_cost_nanos),
        confidence=_confidence(made.confidence),
        bounded=made.bounded,
        price_provider=made.price.provider if made.price is not None else "",
        price_model=made.price.model if made.price is not None else "",
    )


def _confidence(confidence: str | None) -> verdict_pb2.Confidence.ValueType:
    if confidence is None:
        return verdict_pb2.CONFIDENCE_UNSPECIFIED
    return _CONFIDENCES[confidence]


def state(reached: State) -> reservation_pb2.ReservationState.ValueType:
    return _STATES[reached]


def usage(counted: Usage) -> usage_pb2.Usage:
    return usage_pb2.Usage(**counted.by_kind())


def usage_record(record: Record) -> usage_pb2.UsageRecord:
    return usage_pb2.UsageRecord(
        request_id=record.request_id,
        time=timestamp(record.at_ms),
        outcome=usage_pb2.Outcome.Value(f"OUTCOME_{record.outcome.upper()}"),
        decision=verdict_pb2.Decision.Value(f"DECISION_{record.decision.upper()}"),
        denied_by=record.denied_by,
        shadow_denied_by=record.shadow_denied_by,
        attributes=record.attributes,
        provider=record.provider,
        endpoint=record.endpoint,
        model=record.model,
        response_model=record.response_model,
        status=record.status,
        streamed=record.streamed,
        usage=usage(record.usage) if record.usage is not None else None,
        usage_source=usage_pb2.UsageSource.Value(f"USAGE_SOURCE_{record.usage_source.upper()}"),
        estimated_cost=money(record.estimated_cost_nanos),
        actual_cost=money(record.actual_cost_nanos or 0),
        confidence=_confidence(record.confidence),
        duration=duration(record.duration_ms * 1000),
        policy_duration=duration(record.policy_us),
        error=record.error,
        warned_by=record.warned_by,
        clamped_by=record.clamped_by,
        switched_by=record.switched_by,
        requested_model=record.requested_model,
        rules=record.rules,
        shadow_rules=record.shadow_rules,
    )

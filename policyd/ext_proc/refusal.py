"""How a refusal is worded: status, headers, and the `policyd` object in the provider's own error shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policyd.core.decision import RETRY_WORTHWHILE_SECONDS, Decision, LimitReport
from policyd.core.money import format_usd
from policyd.core.policy import Metric
from policyd.core.rules import Rule, RuleAction, Ruling
from policyd.core.runtime import Blocked
from policyd.core.scopes import shown
from policyd.core.times import iso_time
from policyd.core.windows import CalendarWindow, FirstUseWindow, SlidingWindow, Window
from policyd.ext_proc.messages import ImmediateReply
from policyd.providers.base import ErrorInfo, WireFormat

REASON_BY_METRIC: Mapping[Metric, str] = {
    Metric.COST: "budget_exceeded",
    Metric.TOKENS: "token_limit_exceeded",
    Metric.INPUT_TOKENS: "token_limit_exceeded",
    Metric.OUTPUT_TOKENS: "token_limit_exceeded",
    Metric.REQUESTS: "rate_limit_exceeded",
    Metric.CONCURRENT_REQUESTS: "concurrency_limit_exceeded",
    Metric.IMAGES: "media_limit_exceeded",
    Metric.AUDIO_SECONDS: "media_limit_exceeded",
}

RULE_REASON = "denied_by_rule"
ANOMALY_REASON = "anomaly_detected"
FROZEN_REASON = "frozen"


def denial(decision: Decision, *, request_id: str) -> ErrorInfo:
    """What a denied request is told: by the rule that refused it, else by its limits."""
    if decision.ruling.denied_by is not None:
        return _rule_denial(decision, decision.ruling.denied_by, request_id=request_id)
    return _limits_denial(decision, request_id=request_id)


def _rule_denial(decision: Decision, rule: Rule, *, request_id: str) -> ErrorInfo:
    """The rule's own words, and the numbers of the limits that it looks at or that would have refused as well."""
    told = [report for report in decision.reports if report.limit.name in rule.when.limits_read]
    told += [report for report in decision.denials if report not in told]
    reason = ANOMALY_REASON if rule.anomaly else RULE_REASON
    if decision.ruling.freeze_seconds is not None:
        reason = FROZEN_REASON
    policyd = {
        "reason": reason,
        "request_id": request_id,
        "rule": rule.name,
        "limits": [limit_object(report) for report in told],
        **rule.refusal.fields,
    }
    return ErrorInfo(rule.status, reason, rule.refusal.message or _rule_message(decision.ruling, rule), policyd)


def _rule_message(ruling: Ruling, rule: Rule) -> str:
    who = rule.label.replace(":", " ").capitalize()
    if ruling.failed:
        return f"{who} cannot be judged for this request."
    if rule.freeze_seconds is not None:
        return f"{who} freezes requests like this one for {rule.freeze_seconds} seconds."
    if rule.action is RuleAction.DENY:
        return f"{who} refuses this request."
    return f"{who} changes requests like this one in a way that it cannot be changed in."


def _limits_denial(decision: Decision, *, request_id: str) -> ErrorInfo:
    """The binding limit's status and message, the numbers of all that refused."""
    binding = decision.denials[0]
    reason = REASON_BY_METRIC[binding.limit.metric]
    policyd: dict[str, Any] = {
        "reason": reason,
        "request_id": request_id,
        "limits": [limit_object(report) for report in decision.denials],
    }
    cost = next((report for report in decision.denials if report.limit.metric is Metric.COST), None)
    if cost is not None:
        policyd |= {
            "limit_usd": usd(cost.limit.amount),
            "spent_usd": usd(cost.spent),
            "remaining_usd": usd(cost.remaining),
            "estimated_cost_usd": usd(decision.estimate.maximum_cost_nanos),
        }
    policyd |= binding.limit.refusal.fields
    return ErrorInfo(
        status=binding.limit.status,
        reason=reason,
        message=binding.limit.refusal.message or _message(binding),
        policyd=policyd,
    )


def block_refusal(error: Blocked, *, request_id: str) -> ErrorInfo:
    """What a request is told that falls under a block or a freeze."""
    block = error.block
    policyd: dict[str, Any] = {
        "reason": error.reason,
        "request_id": request_id,
        "block": {
            "scope": shown(block.scope),
            "reason": block.reason,
            "expires_at": iso_time(block.expires_at_ms) if block.expires_at_ms is not None else None,
        },
    }
    return ErrorInfo(status=error.status, reason=error.reason, message=str(error), policyd=policyd)


def error_info(*, status: int, reason: str, message: str, request_id: str) -> ErrorInfo:
    """A refusal without a limit behind it: a request that cannot be read or priced, or trouble inside policyd."""
    return ErrorInfo(status, reason, message, {"reason": reason, "request_id": request_id})


def immediate(
    wire: WireFormat, error: ErrorInfo, *, headers: Mapping[str, str], retry_after_seconds: int | None, retry: bool
) -> ImmediateReply:
    """The reply that carries `error`. `retry`: whether a client library may try again by itself."""
    all_headers = {"content-type": "application/json", **headers}
    if retry_after_seconds is not None:
        all_headers["retry-after"] = str(retry_after_seconds)
    if not retry:
        all_headers["x-should-retry"] = "false"
    return ImmediateReply(error.status, all_headers, wire.error_body(error))


def worth_retrying(decision: Decision) -> bool:
    """Whether a client library that waits as told may succeed."""
    wait = decision.retry_after_seconds
    return wait is not None and wait <= RETRY_WORTHWHILE_SECONDS


def limit_object(report: LimitReport) -> dict[str, Any]:
    """One limit's numbers, JSON-ready: money as exact numbers of dollars, times in ISO 8601."""
    limit = report.limit
    amount = usd if limit.metric is Metric.COST else int
    return {
        "name": limit.name,
        "metric": limit.metric.value,
        "scope": report.scope,
        "window": str(limit.window) if limit.window is not None else None,
        "limit": amount(limit.amount),
        "spent": amount(report.spent),
        "reserved": amount(report.reserved),
        "requested": amount(report.requested),
        "remaining": amount(report.remaining),
        "resets_at": iso_time(report.resets_at_ms) if report.resets_at_ms is not None else None,
    }


def usd(nanos: int) -> msgspec.Raw:
    """Dollars as a JSON number, printed from the integer."""
    return msgspec.Raw(format_usd(nanos).encode())


def _message(report: LimitReport) -> str:
    limit = report.limit
    where = f" for {report.scope}" if report.scope else ""
    within = _within(limit.window)
    if limit.metric is Metric.COST:
        left = f"{format_usd(report.remaining)} of {format_usd(limit.amount)} USD{within} are left"
        return f"Budget {limit.name} exceeded{where}: {left}, and the request may cost {format_usd(report.requested)}."
    left = f"{report.remaining} of {limit.amount} {limit.metric.replace('_', ' ')}{within} are left"
    needs = "needs" if limit.metric in _EXACT_METRICS else "may need"
    return f"Limit {limit.name} exceeded{where}: {left}, and the request {needs} {report.requested}."


_EXACT_METRICS = (Metric.REQUESTS, Metric.CONCURRENT_REQUESTS, Metric.IMAGES)
"""The metrics of which it is known beforehand what a request needs."""


def _within(window: Window | None) -> str:
    match window:
        case CalendarWindow():
            return f" this {window}"
        case SlidingWindow(seconds):
            return f" in {seconds} seconds"
        case FirstUseWindow(days):
            return f" in {days} days"
        case _:
            return ""

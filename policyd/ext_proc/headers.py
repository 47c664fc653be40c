"""The headers that policyd adds to what the client gets. Their prefix is settable."""

from __future__ import annotations

from policyd.core.decision import NO_CHANGES, Decision
from policyd.core.money import format_usd
from policyd.core.record import Record
from policyd.core.rules import NO_RULING
from policyd.enforcer import Verdict

DECISION_HEADERS = (
    "request-id",
    "decision",
    "estimated-input-tokens",
    "estimated-output-tokens",
    "estimated-cost-usd",
    "confidence",
    "budget-remaining-usd",
    "warned-by",
    "clamped-by",
    "max-output-tokens",
    "switched-by",
    "model",
    "rules",
)
"""The names of all that `decision_headers` can give, behind the prefix; the policy's rules may add others."""


def request_id_header(request_id: str, prefix: str) -> dict[str, str]:
    return {f"{prefix}request-id": request_id}


def block_headers(request_id: str, prefix: str) -> dict[str, str]:
    """Of a request that was refused before anything was estimated."""
    return {**request_id_header(request_id, prefix), f"{prefix}decision": "deny"}


def decision_headers(verdict: Verdict, prefix: str) -> dict[str, str]:
    """The decision and the estimate behind it: the maximum, which is what is held."""
    decision = verdict.decision
    estimate, remaining_nanos = decision.estimate, decision.budget_remaining_nanos
    maximum = estimate.maximum
    headers = {
        **request_id_header(verdict.record.request_id, prefix),
        f"{prefix}decision": "allow" if decision.allowed else "deny",
        f"{prefix}estimated-input-tokens": str(maximum.input_tokens),
        f"{prefix}estimated-output-tokens": str(maximum.output_tokens),
        f"{prefix}estimated-cost-usd": format_usd(estimate.maximum_cost_nanos),
        f"{prefix}confidence": estimate.confidence,
    }
    if remaining_nanos is not None:
        headers[f"{prefix}budget-remaining-usd"] = format_usd(remaining_nanos)
    if decision.warnings or decision.changes is not NO_CHANGES or decision.ruling is not NO_RULING:
        return {**decision.ruling.headers, **headers, **_limit_headers(decision, prefix)}
    return headers


def _limit_headers(decision: Decision, prefix: str) -> dict[str, str]:
    """What limits and rules did to a request."""
    changes = decision.changes
    said = {
        "warned-by": ", ".join(report.limit.name for report in decision.warnings),
        "clamped-by": ", ".join(changes.clamped_by),
        "max-output-tokens": str(changes.max_output_tokens or ""),
        "switched-by": ", ".join(changes.switched_by),
        "model": changes.model or "",
        "rules": ", ".join(decision.ruling.names),
    }
    return {f"{prefix}{name}": value for name, value in said.items() if value}


def cost_headers(record: Record, prefix: str) -> dict[str, str]:
    """What the exchange really used and cost; nothing if nothing was charged."""
    if record.usage is None or record.actual_cost_nanos is None:
        return {}
    return {
        f"{prefix}input-tokens": str(record.usage.input_tokens),
        f"{prefix}output-tokens": str(record.usage.output_tokens),
        f"{prefix}cost-usd": format_usd(record.actual_cost_nanos),
    }

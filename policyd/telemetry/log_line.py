"""The log line of an exchange, of the one record that it ends with."""

from __future__ import annotations

from typing import Any

import msgspec

from policyd.core.money import format_usd
from policyd.core.record import Record
from policyd.core.times import iso_time
from policyd.core.usage import Usage

_encoder = msgspec.json.Encoder()


def log_line(record: Record) -> bytes:
    """The JSON object of one exchange, without its line end. Money is printed from the integer."""
    fields: dict[str, Any] = {
        "timestamp": iso_time(record.at_ms),
        "event": "exchange",
        "request_id": record.request_id,
        "decision": record.decision,
        "outcome": record.outcome,
        "denied_by": record.denied_by,
        "shadow_denied_by": record.shadow_denied_by,
        "warned_by": record.warned_by,
        "clamped_by": record.clamped_by,
        "switched_by": record.switched_by,
        "rules": record.rules,
        "shadow_rules": record.shadow_rules,
        "status": record.status,
        "provider": record.provider,
        "endpoint": record.endpoint,
        "tier": record.attributes.get("tier"),
        "model": record.model,
        "requested_model": record.requested_model,
        "response_model": record.response_model,
        "attributes": record.attributes,
        "streamed": record.streamed,
        "usage": usage_fields(record.usage) if record.usage is not None else None,
        "usage_source": record.usage_source,
        "estimated_cost_usd": _usd(record.estimated_cost_nanos),
        "actual_cost_usd": _usd(record.actual_cost_nanos) if record.actual_cost_nanos is not None else None,
        "confidence": record.confidence,
        "duration_ms": record.duration_ms,
        "policy_ms": msgspec.Raw(f"{record.policy_us // 1000}.{record.policy_us % 1000:03d}".encode()),
        "error": record.error,
    }
    return _encoder.encode(fields)


def usage_fields(usage: Usage) -> dict[str, int]:
    """Usage as people read it: `output` with the reasoning in it, `input` and `output` always there."""
    kinds = {"input": usage.input, "output": 0, **usage.by_kind()}
    return {**kinds, "output": usage.output + usage.reasoning}


def _usd(nanos: int) -> msgspec.Raw:
    return msgspec.Raw(format_usd(nanos).encode())

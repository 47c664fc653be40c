"""Budgets, blocks and sessions as text and as JSON. Money is printed from the integer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from policyd.columns import aligned
from policyd.control.budgets import Budget, Standing
from policyd.core.events import LimitUse, OperatorEvent
from policyd.core.money import format_usd
from policyd.core.policy import Limit, Metric
from policyd.core.runtime import ApiKey, Block, Kind, Override, Reset
from policyd.core.scopes import scope_name, shown
from policyd.core.times import iso_time

_BUDGET_HEADINGS = ("LIMIT", "SCOPE", "AMOUNT", "SPENT", "RESERVED", "LEFT", "COUNTS", "RESETS", "NOTES")
_BUDGET_NUMBERS = (2, 3, 4, 5)
_KEY_HEADINGS = ("NAME", "SCOPE", "MODELS", "ENDPOINTS", "SINCE", "UNTIL")
_EVENT_HEADINGS = ("ID", "TIME", "SOURCE", "ACTION", "SCOPE", "REQUEST", "USED")
_BLOCK_HEADINGS = ("KIND", "SCOPE", "SINCE", "UNTIL", "REASON")


def to_json(told: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()


# --- budgets ---


def standing_text(standing: Standing, *, nothing: str) -> str:
    """A line a limit and scope."""
    rows = [_budget_row(budget) for budget in standing.budgets]
    rows += [
        (each.limit, shown(each.scope), "-", "-", "-", "-", "-", "-", "the policy has no such limit")
        for each in standing.orphans
    ]
    return "\n".join(aligned([_BUDGET_HEADINGS, *rows], right=_BUDGET_NUMBERS)) if rows else nothing


def _budget_row(budget: Budget) -> tuple[str, ...]:
    limit, balance = budget.limit, budget.balance
    amounts = (limit.amount, balance.spent + balance.carried, balance.reserved, budget.remaining)
    return (
        limit.name,
        shown(budget.scope),
        *(_amount_text(limit.metric, amount) for amount in amounts),
        limit.metric.value,
        iso_time(budget.resets_at_ms) if budget.resets_at_ms is not None else "-",
        ", ".join(_notes(budget)),
    )


def _notes(budget: Budget) -> list[str]:
    notes = [f"{name}={'|'.join(patterns)}" for name, patterns in budget.limit.match.patterns.items()]
    if budget.override is not None:
        notes.append(f"set by hand{_until(budget.override.expires_at_ms)}")
    return notes


def standing_objects(standing: Standing) -> list[dict[str, Any]]:
    """The same, JSON-ready."""
    return [*map(_budget_object, standing.budgets), *map(_orphan_object, standing.orphans)]


def _budget_object(budget: Budget) -> dict[str, Any]:
    limit, balance, override = budget.limit, budget.balance, budget.override
    amounts: Mapping[str, int] = {
        "amount": limit.amount,
        "spent": balance.spent + balance.carried,
        "reserved": balance.reserved,
        "remaining": budget.remaining,
    }
    return {
        "limit": limit.name,
        "scope": shown(budget.scope),
        "metric": limit.metric.value,
        "window": str(limit.window) if limit.window is not None else None,
        "match": limit.match.patterns,
        **{name: _amount(limit.metric, amount) for name, amount in amounts.items()},
        "resets_at": _time(budget.resets_at_ms),
        "overridden": override is not None,
        "override_expires_at": _time(override.expires_at_ms) if override is not None else None,
    }


def _orphan_object(override: Override) -> dict[str, Any]:
    return {"limit": override.limit, "scope": shown(override.scope), "overridden": True, "in_policy": False}


def override_text(override: Override, limit: Limit) -> str:
    unit = "USD" if limit.metric is Metric.COST else limit.metric.replace("_", " ")
    amount = f"{_amount_text(limit.metric, override.amount)} {unit}"
    return f"{override.limit} for {shown(override.scope)}: {amount}{_until(override.expires_at_ms)}"


def override_object(override: Override, limit: Limit) -> dict[str, Any]:
    return {
        "limit": override.limit,
        "scope": shown(override.scope),
        "metric": limit.metric.value,
        "amount": _amount(limit.metric, override.amount),
        "expires_at": _time(override.expires_at_ms),
    }


def reset_object(reset: Reset) -> dict[str, Any]:
    return {"limit": reset.limit, "scope": shown(reset.scope), "starts_at": _time(reset.set_at_ms)}


# --- blocks ---


def blocks_text(blocks: Sequence[Block]) -> str:
    """A line a block."""
    if not blocks:
        return "nothing is blocked or frozen"
    rows = (
        (
            block.kind.value,
            shown(block.scope),
            iso_time(block.set_at_ms),
            iso_time(block.expires_at_ms) if block.expires_at_ms is not None else "-",
            block.reason,
        )
        for block in blocks
    )
    return "\n".join(aligned([_BLOCK_HEADINGS, *rows]))


def block_object(block: Block) -> dict[str, Any]:
    return {
        "kind": block.kind.value,
        "scope": shown(block.scope),
        "reason": block.reason,
        "since": _time(block.set_at_ms),
        "expires_at": _time(block.expires_at_ms),
    }


def block_text(block: Block) -> str:
    word = "frozen" if block.kind is Kind.FREEZE else "blocked"
    return f"requests of {shown(block.scope)} are {word}{_until(block.expires_at_ms)}: {block.reason}"


# --- events ---


def events_text(events: Sequence[OperatorEvent]) -> str:
    """A line an event."""
    if not events:
        return "there are no events"
    rows = (
        (
            event.id,
            iso_time(event.at_ms),
            event.source,
            event.action.value,
            shown(event.scope),
            event.request_id,
            ", ".join(map(_use_text, event.limits)) or "-",
        )
        for event in events
    )
    return "\n".join(aligned([_EVENT_HEADINGS, *rows]))


def _use_text(use: LimitUse) -> str:
    return f"{use.name} {_amount_text(use.metric, use.used)} of {_amount_text(use.metric, use.amount)}"


def event_object(event: OperatorEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "time": _time(event.at_ms),
        "source": event.source,
        "action": event.action.value,
        "scope": shown(event.scope),
        "request_id": event.request_id,
        "attributes": event.attributes,
        "estimated_cost_usd": _amount(Metric.COST, event.estimated_cost_nanos),
        "limits": [
            {
                "name": use.name,
                "metric": use.metric.value,
                "used": _amount(use.metric, use.used),
                "limit": _amount(use.metric, use.amount),
            }
            for use in event.limits
        ],
    }


# --- keys ---


def keys_text(keys: Sequence[ApiKey]) -> str:
    """A line a key."""
    if not keys:
        return "there are no keys"
    rows = (
        (
            key.name,
            shown(scope_name(key.attributes)),
            ", ".join(key.models) or "-",
            ", ".join(key.endpoints) or "-",
            iso_time(key.set_at_ms),
            iso_time(key.expires_at_ms) if key.expires_at_ms is not None else "-",
        )
        for key in keys
    )
    return "\n".join(aligned([_KEY_HEADINGS, *rows]))


def key_object(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "scope": shown(scope_name(key.attributes)),
        "models": key.models,
        "endpoints": key.endpoints,
        "since": _time(key.set_at_ms),
        "expires_at": _time(key.expires_at_ms),
    }


# --- parts ---


def _amount_text(metric: Metric, amount: int) -> str:
    return format_usd(amount) if metric is Metric.COST else str(amount)


def _amount(metric: Metric, amount: int) -> msgspec.Raw | int:
    return msgspec.Raw(format_usd(amount).encode()) if metric is Metric.COST else amount


def _until(at_ms: int | None) -> str:
    return "" if at_ms is None else f" until {iso_time(at_ms)}"


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else iso_time(at_ms)

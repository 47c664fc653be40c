"""Short ways to say what a store is given."""

from __future__ import annotations

from collections.abc import Mapping

from policyd.core.ledger import Account, Carry, Entry
from policyd.core.policy import Metric
from policyd.core.record import Outcome, Record

NOW_MS = 1_800_000_000_000
TTL_MS = 120_000


def account(limit: str = "budget", scope: str = "project=acme", *, keep_until_ms: int | None = None) -> Account:
    return Account(limit, scope, starts_at_ms=0, ends_at_ms=None, keep_until_ms=keep_until_ms)


def entry(
    amount: int,
    *,
    on: Account | None = None,
    cap: int = 1_000,
    metric: Metric = Metric.COST,
    enforce: bool = True,
    on_expiry: int | None = None,
    carry: Carry | None = None,
) -> Entry:
    return Entry(on or account(), metric, amount, cap, enforce=enforce, on_expiry=on_expiry, carry=carry)


def record(
    request_id: str = "r1",
    *,
    at_ms: int = NOW_MS,
    outcome: Outcome = Outcome.SERVED,
    attributes: Mapping[str, str] | None = None,
    actual_cost_nanos: int | None = None,
) -> Record:
    return Record(
        request_id=request_id,
        at_ms=at_ms,
        outcome=outcome,
        decision="allow",
        provider="openai",
        endpoint="chat_completions",
        model="gpt-4o",
        attributes={"project": "acme"} if attributes is None else attributes,
        actual_cost_nanos=actual_cost_nanos,
    )

"""What can be told of a decision from the reservation that it led to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from policyd.core.decision import Changes, Decision, LimitReport
from policyd.core.estimate import Estimate
from policyd.core.ledger import Entry
from policyd.core.policy import Action, Limit, Policy
from policyd.core.record import Record
from policyd.core.rules import rules_named
from policyd.stores.base import Reservation


def changes_recorded(record: Record, *, choices: int) -> Changes:
    """What limits changed in the request of `record`."""
    maximum = record.maximum.output_tokens // choices if record.maximum is not None and record.clamped_by else None
    return Changes(
        model=record.model if record.switched_by else None,
        max_output_tokens=maximum,
        switched_by=record.switched_by,
        clamped_by=record.clamped_by,
    )


def repeated_decision(policy: Policy, reservation: Reservation, estimate: Estimate, *, changes: Changes) -> Decision:
    """The decision that a repeated request got the first time: it was granted, with these balances."""
    reports = tuple(_reports(policy, reservation))
    return Decision(
        estimate=estimate,
        reports=reports,
        denials=(),
        shadow_denials=tuple(_passed(reports, Action.SHADOW)),
        warnings=tuple(_passed(reports, Action.WARN)),
        changes=changes,
        ruling=rules_named(policy.judged, fired=reservation.record.rules, shadowed=reservation.record.shadow_rules),
    )


def with_passed(record: Record, policy: Policy, reservation: Reservation) -> Record:
    """`record` with the limits that had no room for the reservation and let it pass.

    The pending record was written in the same step that found them.
    """
    reports = tuple(_reports(policy, reservation))
    return record._replace(
        shadow_denied_by=tuple(report.limit.name for report in _passed(reports, Action.SHADOW)),
        warned_by=tuple(report.limit.name for report in _passed(reports, Action.WARN)),
    )


def _passed(reports: tuple[LimitReport, ...], action: Action) -> Iterator[LimitReport]:
    return (report for report in reports if report.refuses and report.limit.action is action)


def _reports(policy: Policy, reservation: Reservation) -> Iterator[LimitReport]:
    """How the limits stood that the policy still has."""
    for entry, balance in zip(reservation.entries, reservation.balances, strict=True):
        limit = _limit_of(policy, entry)
        if limit is not None:
            yield LimitReport(
                limit=replace(limit, amount=entry.cap),
                scope=entry.account.scope,
                spent=balance.spent + balance.carried,
                reserved=balance.reserved,
                requested=entry.amount,
                resets_at_ms=entry.account.ends_at_ms,
            )


def _limit_of(policy: Policy, entry: Entry) -> Limit | None:
    """The limit that `entry` was made for; of several on one account the one with its amount, as far as it still is."""
    candidates = [limit for limit in policy.limits if limit.account_name == entry.account.limit]
    return min(candidates, key=lambda limit: limit.amount != entry.cap, default=None)

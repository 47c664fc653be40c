"""From limits, an estimate and balances to a decision: the one home of what is held, charged and refused.

What a hold becomes, by metric (`charges` below is this table):

    metric                reserve               settle   release   expire (default)
    cost, tokens, images, maximum (or expected) actual   0         the hold
    audio seconds
    requests              1                     1        0         1
    concurrent_requests   1                     0        0         0
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from policyd.core.estimate import Estimate, amounts
from policyd.core.ledger import Amounts, Balance, Entry
from policyd.core.limits import AppliedLimit
from policyd.core.money import divide_up
from policyd.core.policy import Action, Hold, Limit, Metric, OnExpiry
from policyd.core.rules import NO_RULING, Ruling
from policyd.core.usage import Usage
from policyd.core.windows import SlidingWindow

RETRY_WORTHWHILE_SECONDS = 60
"""The longest wait that a client library may sit out by itself."""

CONCURRENCY_RETRY_SECONDS = 1
"""What is told to a client that found too many requests open: some of them will end soon."""


def entries(applied: Sequence[AppliedLimit], estimate: Estimate, *, on_expiry: OnExpiry) -> tuple[Entry, ...]:
    """What to reserve: one entry a limit, in the order of `applied`."""
    maximum = estimate.amounts(Hold.MAXIMUM)
    needs_expected = on_expiry is OnExpiry.EXPECTED or any(item.limit.hold is Hold.EXPECTED for item in applied)
    expected = estimate.amounts(Hold.EXPECTED) if needs_expected else maximum
    wanted = []
    for item in applied:
        limit = item.limit
        metric = limit.metric
        entry = Entry(
            item.account,
            metric,
            amount=(maximum if limit.hold is Hold.MAXIMUM else expected)[metric],
            cap=limit.amount,
            enforce=limit.action.enforced,
            on_expiry=_expiry_amount(metric, expected, on_expiry),
            carry=item.carry,
        )
        wanted.append(entry)
    return tuple(wanted)


def _expiry_amount(metric: Metric, expected: Amounts, on_expiry: OnExpiry) -> int | None:
    if metric is Metric.CONCURRENT_REQUESTS:
        return 0
    match on_expiry:
        case OnExpiry.HOLD:
            return None
        case OnExpiry.EXPECTED:
            return expected[metric]
        case OnExpiry.NOTHING:
            return 0


def charges(usage: Usage, *, cost_nanos: int) -> Amounts:
    """What settling with `usage` charges to each metric: the `settle` column of the table above."""
    return {**amounts(usage, cost_nanos=cost_nanos), Metric.CONCURRENT_REQUESTS: 0}


class LimitReport(NamedTuple):
    """One limit as a request found it. Amounts in nano-USD for cost, whole units for the rest."""

    limit: Limit
    scope: str
    spent: int
    """Charged in this window; for a sliding window with what it takes over from the bucket before."""
    reserved: int
    requested: int
    resets_at_ms: int | None

    @property
    def remaining(self) -> int:
        """What the request found free, never negative."""
        return max(0, self.limit.amount - self.spent - self.reserved)

    @property
    def refuses(self) -> bool:
        """Whether the request does not fit. One that asks for nothing (a free model) always fits."""
        return self.requested > 0 and self.spent + self.reserved + self.requested > self.limit.amount


@dataclass(frozen=True, slots=True)
class Changes:
    """What limits and rules change in a request, and which of them did."""

    model: str | None = None
    """Takes the place of the model that the client asked for."""
    max_output_tokens: int | None = None
    """Is set as the maximum output of one choice."""
    switched_by: tuple[str, ...] = ()
    clamped_by: tuple[str, ...] = ()


NO_CHANGES = Changes()


class Decision(NamedTuple):
    """ALLOW or DENY, with the numbers behind it. A tuple, as reports are: they are made for each request."""

    estimate: Estimate
    reports: tuple[LimitReport, ...]
    """Every limit that applied, in the policy's order, as it stood before this request."""
    denials: tuple[LimitReport, ...]
    """The enforced limits that refused, the binding one first."""
    shadow_denials: tuple[LimitReport, ...]
    """The shadow limits that would have refused."""
    retry_after_seconds: int | None = None
    """After which wait the request may fit, where waiting helps. Where a rule refuses it is known of a freeze alone."""
    warnings: tuple[LimitReport, ...] = ()
    """The limits that let it pass with a warning."""
    changes: Changes = NO_CHANGES
    """What is changed in the request. The estimate and the reports are those of the changed one."""
    ruling: Ruling = NO_RULING
    """What the rules say."""

    @property
    def allowed(self) -> bool:
        return not self.denials and self.ruling.denied_by is None

    @property
    def held(self) -> Usage:
        """What is held on every limit at least: the expected usage where any of them holds only that."""
        expected_only = any(report.limit.hold is Hold.EXPECTED for report in self.reports)
        return self.estimate.expected if expected_only else self.estimate.maximum

    @property
    def budget_remaining_nanos(self) -> int | None:
        """The least that any cost limit has left, once this request's hold is taken; `None` without a cost limit."""
        costs = [report for report in self.reports if report.limit.metric is Metric.COST]
        allowed = self.allowed
        left = [
            max(0, report.remaining - report.requested if allowed else report.remaining)
            for report in costs
            if report.limit.action.enforced
        ]
        return min(left, default=None)


def decide(
    applied: Sequence[AppliedLimit],
    reserved_entries: Sequence[Entry],
    balances: Sequence[Balance],
    estimate: Estimate,
    *,
    now_ms: int,
    changes: Changes = NO_CHANGES,
    ruling: Ruling = NO_RULING,
) -> Decision:
    """Explains a reservation's outcome.

    `balances` are those of `reserved_entries`' accounts before anything was reserved, in the same order as `applied`.
    """
    found = []
    refusing = []
    for item, entry, balance in zip(applied, reserved_entries, balances, strict=True):
        account = item.account
        spent = balance.spent + balance.carried
        report = LimitReport(item.limit, account.scope, spent, balance.reserved, entry.amount, account.ends_at_ms)
        found.append(report)
        if report.refuses:
            refusing.append((report, balance))
    reports = tuple(found)
    if not refusing and ruling.denied_by is None:  # what most requests find
        return Decision(estimate, reports, denials=(), shadow_denials=(), changes=changes, ruling=ruling)
    enforced = [(report, balance) for report, balance in refusing if report.limit.action.enforced]
    waits = {id(report): _wait_seconds(report, balance, now_ms) for report, balance in enforced}
    # The binding limit is the one that stands in the way longest; one that no wait helps comes before all.
    denials = sorted((report for report, _ in enforced), key=lambda report: -_never_last(waits[id(report)]))
    return Decision(
        estimate=estimate,
        reports=reports,
        denials=tuple(denials),
        shadow_denials=tuple(report for report, _ in refusing if report.limit.action is Action.SHADOW),
        warnings=tuple(report for report, _ in refusing if report.limit.action is Action.WARN),
        changes=changes,
        ruling=ruling,
        retry_after_seconds=ruling.freeze_seconds if ruling.denied_by else waits[id(denials[0])] if denials else None,
    )


def highest_output_tokens(decision: Decision, *, choices: int, least: int) -> int | None:
    """The highest maximum output for one choice at which none of the limits that refused would.

    It is below what was held for, and `least` or more; `None`: there is none.
    """
    refused = decision.estimate.maximum.output_tokens // choices
    candidates = range(least, refused)
    fitting = bisect_left(candidates, True, key=lambda tokens: not _fits(decision, tokens * choices))
    return least + fitting - 1 if fitting else None


def _fits(decision: Decision, output_tokens: int) -> bool:
    """Whether the limits that refused would have room for the request with this maximum output."""
    estimate = decision.estimate.bounded_to(output_tokens)
    reports = (
        report._replace(requested=estimate.amounts(report.limit.hold)[report.limit.metric])
        for report in decision.denials
    )
    return not any(report.refuses for report in reports)


_NEVER = 2**63


def _never_last(wait_seconds: int | None) -> int:
    return _NEVER if wait_seconds is None else wait_seconds


def _wait_seconds(report: LimitReport, balance: Balance, now_ms: int) -> int | None:
    """Seconds until the limit has room for the request if nobody else comes; `None` if it never has."""
    if report.requested > report.limit.amount:
        return None
    if report.limit.metric is Metric.CONCURRENT_REQUESTS:
        return CONCURRENCY_RETRY_SECONDS
    if report.resets_at_ms is None:
        return None
    wait_ms = report.resets_at_ms - now_ms
    if isinstance(report.limit.window, SlidingWindow):
        wait_ms = _sliding_wait_ms(report, balance, wait_ms, report.limit.window.seconds * 1000)
    return divide_up(wait_ms, 1000)


def _sliding_wait_ms(report: LimitReport, balance: Balance, left_ms: int, length_ms: int) -> int:
    """How long until enough of a sliding window's past has faded.

    What is carried over fades to nothing in the `left_ms` of the current bucket; after that the current bucket, being
    the one before by then, fades over `length_ms`.
    """
    current = balance.spent + balance.reserved
    room_after = report.limit.amount - report.requested
    if current <= room_after:
        return divide_up(left_ms * (balance.carried - (room_after - current)), max(1, balance.carried))
    return left_ms + divide_up(length_ms * (current - room_after), current)

"""Which limits apply to a request, and which accounts they touch.

A limit counts apart for every combination of the attributes in its `per`. A request that lacks such an attribute is not
let past the limit: with `strict` it is refused, else it shares one account with all others that lack it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from policyd.core.errors import AttributeMissing
from policyd.core.ledger import Account, Carry
from policyd.core.policy import Limit, Policy
from policyd.core.windows import Bounds, SlidingWindow, bounds, overlap_weight

DAY_MS = 86_400_000

ACCOUNT_KEPT_MS = 400 * DAY_MS
"""How long an account of a day or longer is kept after its window: a year's history and the month it is asked for
in."""

SHORT_ACCOUNT_KEPT_MS = DAY_MS
"""How long an account of a shorter window is kept: longer than any exchange may be open, so that late charges find
it."""


@dataclass(frozen=True, slots=True)
class AppliedLimit:
    """A limit that applies to a request, with the account that the request touches."""

    limit: Limit
    account: Account
    carry: Carry | None


def applied_limits(policy: Policy, attributes: Mapping[str, str], *, now_ms: int) -> tuple[AppliedLimit, ...]:
    """The limits of `policy` whose match fits, in the policy's order.

    Raises `AttributeMissing` if the policy is strict and a limit that applies is `per` an attribute that is not there.
    """
    return tuple(_apply(policy, limit, attributes, now_ms) for limit in policy.limits if limit.match.fits(attributes))


def _apply(policy: Policy, limit: Limit, attributes: Mapping[str, str], now_ms: int) -> AppliedLimit:
    if policy.strict:
        for name in limit.per:
            if name not in attributes:
                raise AttributeMissing(f"the request has no {name}, and the limit {limit.name!r} counts per {name}")
    scope = scope_name({name: attributes.get(name, "") for name in limit.per})
    if limit.window is None:
        return AppliedLimit(limit, Account(limit.name, scope, 0, None, None), None)
    within = bounds(limit.window, now_ms)
    carry = None
    if isinstance(limit.window, SlidingWindow):
        before = bounds(limit.window, within.starts_at_ms - 1)
        carry = Carry(_account(limit.name, scope, before).key, overlap_weight(limit.window, now_ms))
    return AppliedLimit(limit, _account(limit.name, scope, within), carry)


def _account(limit: str, scope: str, within: Bounds) -> Account:
    keep_until_ms = None
    if within.ends_at_ms is not None:
        length_ms = within.ends_at_ms - within.starts_at_ms
        # 23 hours: the shortest day that daylight saving makes.
        kept_ms = SHORT_ACCOUNT_KEPT_MS if length_ms < DAY_MS * 23 // 24 else ACCOUNT_KEPT_MS
        keep_until_ms = within.ends_at_ms + max(kept_ms, length_ms)
    return Account(limit, scope, within.starts_at_ms, within.ends_at_ms, keep_until_ms)


def scope_name(values: Mapping[str, str]) -> str:
    """`project=acme,user=ann`, values percent-encoded so that no value can pass for another scope."""
    return ",".join(f"{name}={quote(value, safe='@.:/')}" for name, value in values.items())

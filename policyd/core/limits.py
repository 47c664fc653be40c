"""Which limits apply to a request, and which accounts they touch.

A limit counts apart for every combination of the attributes in its `per`. A request that lacks such an attribute is not
let past the limit: with `strict` it is refused, else it shares one account with all others that lack it.

Limits of one pool share an account. A request that several of them apply to is held there once, under the least of
their amounts.

A window that starts at first use is known to the store alone: `first_use_windows` says which ones a request asks for,
and their beginnings come back into `applied_limits` as `begun`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote

from policyd.core.errors import AttributeMissing
from policyd.core.ledger import Account, Carry
from policyd.core.policy import Limit, Policy
from policyd.core.windows import DAY_MS, Bounds, FirstUseWindow, SlidingWindow, bounds, overlap_weight

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


@dataclass(frozen=True, slots=True)
class FirstUse:
    """A window that starts at first use, by the name that the store keeps its beginning under."""

    key: str
    length_ms: int


NONE_BEGUN: Mapping[str, int] = MappingProxyType({})


def first_use_windows(policy: Policy, attributes: Mapping[str, str]) -> tuple[FirstUse, ...]:
    """The windows that start at first use, of the limits that apply to a request. Raises `TierUnknown`."""
    windows = [(limit, limit.window) for limit in policy.limits if isinstance(limit.window, FirstUseWindow)]
    if not windows:
        return ()
    complete = policy.grouping.complete(attributes)
    return tuple(
        FirstUse(_first_use_key(limit, _scope(limit, complete)), window.length_ms)
        for limit, window in windows
        if limit.match.fits(complete)
    )


def applied_limits(
    policy: Policy, attributes: Mapping[str, str], *, now_ms: int, begun: Mapping[str, int] = NONE_BEGUN
) -> tuple[AppliedLimit, ...]:
    """The limits of `policy` whose match fits, in the policy's order; no two of them have the same account.

    `begun` says when windows that start at first use began, by `FirstUse.key`; one that is not there begins now.
    Raises `TierUnknown`, and `AttributeMissing` if the policy is strict and a limit that applies is `per` an attribute
    that is not there.
    """
    complete = policy.grouping.complete(attributes)
    applied = [_apply(policy, limit, complete, now_ms, begun) for limit in policy.limits if limit.match.fits(complete)]
    return tuple(_least_of_pools(applied))


def _least_of_pools(applied: Sequence[AppliedLimit]) -> Iterator[AppliedLimit]:
    least: dict[Account, AppliedLimit] = {}
    for item in applied:
        if item.limit.pool is not None:
            least[item.account] = min(least.get(item.account, item), item, key=lambda each: each.limit.amount)
    return (item for item in applied if item.limit.pool is None or least[item.account] is item)


def _apply(
    policy: Policy, limit: Limit, attributes: Mapping[str, str], now_ms: int, begun: Mapping[str, int]
) -> AppliedLimit:
    if policy.strict:
        for name in limit.per:
            if name not in attributes:
                raise AttributeMissing(f"the request has no {name}, and the limit {limit.name!r} counts per {name}")
    scope = _scope(limit, attributes)
    if limit.window is None:
        return AppliedLimit(limit, Account(limit.account_name, scope, 0, None, None), None)
    if isinstance(limit.window, FirstUseWindow):
        within = limit.window.beginning(begun.get(_first_use_key(limit, scope), now_ms))
        return AppliedLimit(limit, _account(limit.account_name, scope, within), None)
    within = bounds(limit.window, now_ms)
    carry = None
    if isinstance(limit.window, SlidingWindow):
        before = bounds(limit.window, within.starts_at_ms - 1)
        carry = Carry(_account(limit.account_name, scope, before).key, overlap_weight(limit.window, now_ms))
    return AppliedLimit(limit, _account(limit.account_name, scope, within), carry)


def _scope(limit: Limit, attributes: Mapping[str, str]) -> str:
    return scope_name({name: attributes.get(name, "") for name in limit.per})


def _first_use_key(limit: Limit, scope: str) -> str:
    """The length is part of it: a window under way keeps its end, and another length is another window."""
    return f"{limit.account_name}|{scope}|{limit.window}"


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

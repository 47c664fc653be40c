"""How a limit applies to one scope: with which amount, on which account.

A limit counts apart for every combination of the attributes in its `per`. A request that lacks such an attribute is not
let past the limit: with `strict` it is refused, else it shares one account with all others that lack it.

Limits of one pool share an account. A request that several of them apply to is held there once, under the least of
their amounts.

A window that starts at first use is known to the store alone: `LimitIndex.first_use_windows` says which ones a request
asks for, and their beginnings come back as `begun`.

The run-time state may give a limit another amount for a scope, or have it count from 0 again. A reset makes a fresh
account: it starts at the instant of the reset and ends with the window, and the account from before stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from policyd.core.ledger import Account, Carry
from policyd.core.policy import Limit
from policyd.core.runtime import RuntimeState
from policyd.core.scopes import scope_name
from policyd.core.windows import DAY_MS, Bounds, FirstUseWindow, SlidingWindow, Window, bounds, overlap_weight

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


def apply_limit(
    limit: Limit, scope: str, *, now_ms: int, begun: Mapping[str, int], state: RuntimeState
) -> AppliedLimit:
    """The limit as it applies to one scope now, with the account that it counts on."""
    override = state.override(limit.name, scope, now_ms=now_ms)
    if override is not None:
        limit = replace(limit, amount=override.amount)
    if limit.window is None:
        return AppliedLimit(limit, Account(limit.account_name, scope, 0, None, None), None)
    reset_at_ms = state.reset_at_ms(limit.account_name, scope)
    within = window_bounds(limit, scope, limit.window, now_ms=now_ms, begun=begun)
    account = _account(limit.account_name, scope, within, reset_at_ms)
    carry = None
    if isinstance(limit.window, SlidingWindow) and (reset_at_ms is None or reset_at_ms < within.starts_at_ms):
        before = _account(limit.account_name, scope, bounds(limit.window, within.starts_at_ms - 1), reset_at_ms)
        carry = Carry(before.key, overlap_weight(limit.window, now_ms))
    return AppliedLimit(limit, account, carry)


def window_bounds(limit: Limit, scope: str, window: Window, *, now_ms: int, begun: Mapping[str, int]) -> Bounds:
    """The occurrence of the limit's `window` that `now_ms` falls in."""
    if isinstance(window, FirstUseWindow):
        return window.beginning(begun.get(first_use(limit, scope, window).key, now_ms))
    return bounds(window, now_ms)


def scope_of(per: Sequence[str], attributes: Mapping[str, str]) -> str:
    """The scope that a request with these attributes counts in."""
    return scope_name({name: attributes.get(name, "") for name in per})


def first_use(limit: Limit, scope: str, window: FirstUseWindow) -> FirstUse:
    """The limit's `window` for one scope. Its length is part of its name: a window under way keeps its end, and another
    length is another window."""
    return FirstUse(f"{limit.account_name}|{scope}|{window}", window.length_ms)


def _account(name: str, scope: str, within: Bounds, reset_at_ms: int | None) -> Account:
    keep_until_ms = None
    if within.ends_at_ms is not None:
        length_ms = within.ends_at_ms - within.starts_at_ms
        # 23 hours: the shortest day that daylight saving makes.
        kept_ms = SHORT_ACCOUNT_KEPT_MS if length_ms < DAY_MS * 23 // 24 else ACCOUNT_KEPT_MS
        keep_until_ms = within.ends_at_ms + max(kept_ms, length_ms)
    starts_at_ms = within.starts_at_ms
    if reset_at_ms is not None and (within.ends_at_ms is None or reset_at_ms < within.ends_at_ms):
        starts_at_ms = max(starts_at_ms, reset_at_ms)
    return Account(name, scope, starts_at_ms, within.ends_at_ms, keep_until_ms)

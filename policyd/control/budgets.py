"""Amounts that go before the policy's, fresh starts, and how budgets stand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from policyd.control import reading
from policyd.control.desk import Desk
from policyd.core.errors import ConfigError
from policyd.core.ledger import Account, Balance
from policyd.core.policy import Limit
from policyd.core.runtime import Kind, Override, Reset, RuntimeState, limit_key
from policyd.core.scopes import scope_name
from policyd.core.windows import SlidingWindow
from policyd.enforcer.runtime_state import deletion_of, item_of
from policyd.stores.base import StateItem

ACCOUNTS_PAGE = 1_000
BALANCES_MAX = 500
"""How many balances are asked for at once: the store answers others in between."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How one limit stands for one scope."""

    limit: Limit
    """With the amount that applies."""
    scope: str
    balance: Balance
    resets_at_ms: int | None
    override: Override | None

    @property
    def remaining(self) -> int:
        return max(0, self.limit.amount - self.balance.used)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a listing tells."""

    budgets: Sequence[Budget]
    orphans: Sequence[Override]
    """Overrides of limits that the policy does not have."""


async def set_amount(desk: Desk, scope: str, amount: str, *, limit: str, ends_at_ms: int | None) -> Override:
    """Gives a limit another amount for one scope: until `ends_at_ms`, or else for good."""
    first = reading.limits_named(desk.policy, limit)[0]
    override = Override(
        limit=limit,
        scope=reading.scope_of(first, scope),
        amount=reading.amount(amount, first.metric),
        set_at_ms=desk.now_ms,
        expires_at_ms=ends_at_ms,
    )
    await desk.change(lambda _: [item_of(override)])
    return override


async def delete_amount(desk: Desk, scope: str, *, limit: str) -> Sequence[Override]:
    """Takes away what a limit's amount is overridden by, for good and until then; the policy's amount applies again.

    An override of a limit that the policy does not have any more can be taken away too.
    """
    named = [each for each in desk.policy.limits if each.name == limit]
    key = limit_key(limit, reading.scope_of(named[0], scope) if named else reading.scope(scope))
    found: list[Override] = []

    def deletions(state: RuntimeState) -> list[StateItem]:
        found[:] = [each for each in _overrides(state) if each.key == key]
        if not found:
            if not named:
                reading.limits_named(desk.policy, limit)
            raise ConfigError(f"the limit {limit} has no override for {scope}")
        return [deletion_of(override) for override in found]

    await desk.change(deletions)
    return found


async def reset(desk: Desk, scope: str, *, limit: str) -> Reset:
    """Has a limit count a scope from 0 again, from now to the end of its window; what was counted is kept beside it.

    What requests under way hold stays where it was held, and is charged there.
    """
    first = reading.limits_named(desk.policy, limit)[0]
    name = reading.scope_of(first, scope)
    if first.window is None:
        raise ConfigError(f"the limit {limit} counts what is open now; there is nothing to reset")
    state = await desk.state()
    sharing = [each for each in desk.policy.limits if each.account_name == first.account_name and each.window]
    ends = [_matters_until_ms(each, (await desk.applied(each, name, state)).account.ends_at_ms) for each in sharing]
    known_ends = [end for end in ends if end is not None]
    fresh = Reset(
        limit=first.account_name,
        scope=name,
        set_at_ms=desk.now_ms,
        expires_at_ms=max(known_ends) if len(known_ends) == len(ends) else None,
    )
    await desk.change(lambda _: [item_of(fresh)])
    return fresh


def _matters_until_ms(limit: Limit, ends_at_ms: int | None) -> int | None:
    """Until when the accounts of a window that ends then are looked at: a sliding one is carried into the next."""
    if ends_at_ms is not None and isinstance(limit.window, SlidingWindow):
        return ends_at_ms + limit.window.seconds * 1000
    return ends_at_ms


async def budgets_of(desk: Desk, scope: str, *, limit: str | None) -> Sequence[Budget]:
    """How every limit stands that counts per attributes of the scope alone."""
    values = reading.scope_values(desk.policy, scope)
    limits = desk.policy.limits if limit is None else reading.limits_named(desk.policy, limit)
    wanted = [
        (each, scope_name({name: values[name] for name in each.per}))
        for each in limits
        if values.keys() >= set(each.per)
    ]
    return await _budgets(desk, wanted, await desk.state())


async def standing(desk: Desk, *, limit: str | None, per: str | None = None) -> Standing:
    """How everything stands that is counted in a window of now, or has an amount of its own.

    Of one limit, or of those that count per an attribute, if that is asked for.
    """
    limits = desk.policy.limits if limit is None else reading.limits_named(desk.policy, limit)
    limits = [each for each in limits if per is None or per in each.per]
    state = await desk.state()
    scopes = {(each.limit, each.scope) for each in _overrides(state)}
    account_scopes = await _account_scopes(desk, limits)
    wanted = [
        (each, scope)
        for each in limits
        for scope in sorted(
            {scope for name, scope in account_scopes if name == each.account_name}
            | {scope for name, scope in scopes if name == each.name}
        )
    ]
    known = {each.name for each in desk.policy.limits}
    orphans = [each for each in _overrides(state) if limit is None and per is None and each.limit not in known]
    return Standing(await _budgets(desk, wanted, state), orphans)


async def _account_scopes(desk: Desk, limits: Sequence[Limit]) -> set[tuple[str, str]]:
    """The accounts' names and scopes that the limits look at now."""
    carried_ms: dict[str, int] = {}
    for limit in limits:
        length_ms = limit.window.seconds * 1000 if isinstance(limit.window, SlidingWindow) else 0
        carried_ms[limit.account_name] = max(length_ms, carried_ms.get(limit.account_name, 0))
    found: set[tuple[str, str]] = set()
    for name, ended_ms in carried_ms.items():
        async for account in _accounts(desk, name, ends_after_ms=desk.now_ms - ended_ms):
            found.add((account.limit, account.scope))
    return found


async def _accounts(desk: Desk, name: str, *, ends_after_ms: int) -> AsyncIterator[Account]:
    cursor = ""
    while True:
        page = await desk.store.accounts(
            limit_name=name, ends_after_ms=ends_after_ms, page=ACCOUNTS_PAGE, cursor=cursor
        )
        for account, _ in page.rows:
            yield account
        if not (cursor := page.next_cursor):
            return


async def _budgets(desk: Desk, wanted: Sequence[tuple[Limit, str]], state: RuntimeState) -> Sequence[Budget]:
    applied = [await desk.applied(limit, scope, state) for limit, scope in wanted]
    balances: list[Balance] = []
    for first in range(0, len(applied), BALANCES_MAX):
        accounts = [(item.account, item.carry) for item in applied[first : first + BALANCES_MAX]]
        balances += await desk.store.balances(accounts)
    return [
        Budget(
            limit=item.limit,
            scope=item.account.scope,
            balance=balance,
            resets_at_ms=item.account.ends_at_ms,
            override=state.override(item.limit.name, item.account.scope, now_ms=desk.now_ms),
        )
        for item, balance in zip(applied, balances, strict=True)
    ]


def _overrides(state: RuntimeState) -> list[Override]:
    pieces = (state.pieces[kind].values() for kind in (Kind.OVERRIDE, Kind.TEMPORARY_OVERRIDE))
    return [piece for by_kind in pieces for piece in by_kind if isinstance(piece, Override)]

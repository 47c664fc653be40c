"""What each event of a reservation's life adds to its accounts: the arithmetic that every store shares.

A store loads what these pure functions ask for and saves what they answer, in one atomic step.

    event                               spent                       reserved
    reserve, extend                     .                           + amount
    settle, release, expire a hold      + charge                    - amount held
    settle, release after expiry        + charge - expiry charge    .

The charge is the real amount for settle, 0 for release, and what the entry says for expiry (by default what it holds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from msgspec import Struct

from policyd.core.ledger import Account, Amounts, Balance, Entry, units_that_fit
from policyd.core.policy import Metric
from policyd.core.reservation import Event, State

EndingEvent = Literal[Event.SETTLE, Event.RELEASE, Event.EXPIRE]


class Posting(Struct, frozen=True):
    """What one step adds to one account; either number may be negative."""

    account: Account
    spent: int
    reserved: int

    @property
    def opening_spent(self) -> int:
        """What `spent` starts from where the account is not known.

        A late settle may correct a charge whose account has been forgotten meanwhile: there is nothing left to correct.
        """
        return max(0, self.spent)


def all_fit(entries: Sequence[Entry], balances: Sequence[Balance]) -> bool:
    """Whether every enforced entry fits on top of its account's balance."""
    for entry, balance in zip(entries, balances, strict=True):  # a generator for `all` would cost more than the rest
        if entry.enforce and not balance.fits(entry.amount, cap=entry.cap):
            return False
    return True


def reserving(entries: Sequence[Entry]) -> list[Posting]:
    """The hold of every entry."""
    return [Posting(entry.account, 0, entry.amount) for entry in entries if entry.amount]


def units_granted(
    entries: Sequence[Entry],
    balances: Sequence[Balance],
    *,
    unit_amounts: Amounts,
    wanted_units: int,
    at_least_units: int,
) -> int:
    """All of `wanted_units` if every enforced entry has room, else what fits if that is `at_least_units`, else 0."""
    fitting_units = min(
        (
            units_that_fit(balance, cap=entry.cap, unit_amount=unit_amount)
            for entry, balance in zip(entries, balances, strict=True)
            if entry.enforce and (unit_amount := unit_amounts.get(entry.metric, 0))
        ),
        default=wanted_units,
    )
    if fitting_units >= wanted_units:
        return wanted_units
    return fitting_units if fitting_units >= at_least_units else 0


def extending(entries: Sequence[Entry], *, unit_amounts: Amounts, units: int) -> list[Posting]:
    """The hold of `units` more on every entry."""
    return [
        Posting(entry.account, 0, amount) for entry in entries if (amount := units * unit_amounts.get(entry.metric, 0))
    ]


def extended(entries: Sequence[Entry], *, unit_amounts: Amounts, units: int) -> tuple[Entry, ...]:
    """The entries once `units` more are held on each."""
    return tuple(replace(entry, amount=entry.amount + units * unit_amounts.get(entry.metric, 0)) for entry in entries)


def ending(entries: Sequence[Entry], *, state: State, event: EndingEvent, amounts: Amounts) -> list[Posting]:
    """What `event` posts to the accounts of a reservation found in `state`, which is RESERVED or EXPIRED."""
    posted = []
    for entry in entries:
        charge = _charge(entry, event, amounts)
        if state is State.RESERVED:
            spent, reserved = charge, -entry.amount
        else:
            spent, reserved = charge - expiry_charge(entry), 0
        if spent or reserved:
            posted.append(Posting(entry.account, spent, reserved))
    return posted


def _charge(entry: Entry, event: EndingEvent, amounts: Amounts) -> int:
    match event:
        case Event.SETTLE:
            return amounts.get(entry.metric, 0)
        case Event.RELEASE:
            return 0
        case Event.EXPIRE:
            return expiry_charge(entry)


def expiry_charge(entry: Entry) -> int:
    """What `entry` is charged if its reservation expires."""
    return entry.amount if entry.on_expiry is None else entry.on_expiry


def expiry_cost_nanos(entries: Sequence[Entry]) -> int:
    """What expiry charges in money: the most that any cost entry is charged, for they all count the same cost."""
    return max((expiry_charge(entry) for entry in entries if entry.metric is Metric.COST), default=0)

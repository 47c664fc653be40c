"""The ledger's integers: accounts, the entries of a reservation, balances, and the arithmetic all stores share.

An account is one limit for one scope in one window. It has two numbers: `spent` (charged for good) and `reserved`
(held). An entry is one reservation's share of one account. The store compares and adds these integers and knows nothing
of policies, prices or windows; `policyd.core.decision` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policyd.core.policy import Metric
from policyd.core.windows import WEIGHT_UNIT

Amounts = Mapping[Metric, int]
"""An amount for every metric: nano-USD for `COST`, whole units for the rest."""


class _Named:
    """Holds what is worked out of an account's fields, apart from them: a store keeps the fields alone."""

    __slots__ = ("key",)

    key: str
    """The account's stable name. The end is part of it: an hour and a month can start at the same instant."""


@dataclass(frozen=True, slots=True)
class Account(_Named):
    """The ledger row of one limit for one scope in one window."""

    limit: str
    """Holds no `|`."""
    scope: str
    """`project=acme,user=ann` with values percent-encoded; empty for a limit without `per`."""
    starts_at_ms: int
    ends_at_ms: int | None
    keep_until_ms: int | None
    """When the row may be forgotten, once nothing is reserved on it; `None`: never."""

    def __post_init__(self) -> None:
        # Once: an account is kept as long as it stays the same, and asked for its name several times a request.
        ends = "" if self.ends_at_ms is None else self.ends_at_ms
        object.__setattr__(self, "key", f"{self.limit}|{self.scope}|{self.starts_at_ms}-{ends}")

    def has_ended(self, at_ms: int) -> bool:
        """Whether the window is over at `at_ms`."""
        return self.ends_at_ms is not None and self.ends_at_ms <= at_ms

    @classmethod
    def of_key(cls, key: str, *, keep_until_ms: int | None) -> Account:
        """The account whose `key` this is."""
        limit, _, rest = key.partition("|")
        scope, _, window = rest.rpartition("|")
        starts, _, ends = window.partition("-")
        return cls(limit, scope, int(starts), int(ends) if ends else None, keep_until_ms)


@dataclass(frozen=True, slots=True)
class Carry:
    """What a sliding window takes over from the bucket before: `weight` millionths of that account's total."""

    account_key: str
    weight: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One reservation's share of one account."""

    account: Account
    metric: Metric
    amount: int
    """What is held. Grows when the reservation is extended."""
    cap: int
    """What spent, reserved and carried may add up to."""
    enforce: bool = True
    """False for a shadow limit: counted like any other, never in the way."""
    on_expiry: int | None = None
    """What is charged if the reservation expires; `None`: whatever is held then."""
    carry: Carry | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """The state of one account at one moment, as one entry sees it."""

    spent: int
    reserved: int
    carried: int = 0
    """What a sliding window takes over from the bucket before."""

    @property
    def used(self) -> int:
        return self.spent + self.reserved + self.carried

    def fits(self, amount: int, *, cap: int) -> bool:
        """Whether `amount` more stays under `cap`. Nothing always fits, also where the cap is passed already."""
        return amount == 0 or self.used + amount <= cap


ZERO_BALANCE = Balance(0, 0)


def carried(total: int, weight: int) -> int:
    """`weight` millionths of a bucket's `total`, rounded up.

    Split so that no step passes 2^53 where numbers are doubles.
    """
    whole, rest = divmod(total, WEIGHT_UNIT)
    return whole * weight - (-(rest * weight) // WEIGHT_UNIT)


def units_that_fit(balance: Balance, *, cap: int, unit_amount: int) -> int:
    """How many units of `unit_amount` (at least 1) still fit under `cap`."""
    return max(0, cap - balance.used) // unit_amount

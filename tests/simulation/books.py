"""The truth about money: requests, what they hold, what they have charged, and what that makes of every account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from policyd.core.ledger import Account
from policyd.core.policy import Limit, Metric
from policyd.core.reservation import State
from policyd.core.windows import SlidingWindow
from tests.simulation.plan import INPUT_NANOS, OUTPUT_NANOS, Script
from tests.simulation.promises import check
from tests.simulation.state_model import StateModel


def weights(*, input_tokens: int, output_tokens: int) -> dict[Metric, int]:
    """What a usage counts for in each metric."""
    return {
        Metric.COST: input_tokens * INPUT_NANOS + output_tokens * OUTPUT_NANOS,
        Metric.TOKENS: input_tokens + output_tokens,
        Metric.INPUT_TOKENS: input_tokens,
        Metric.OUTPUT_TOKENS: output_tokens,
        Metric.REQUESTS: 1,
        Metric.CONCURRENT_REQUESTS: 1,
    }


AFTER_THE_END = {Metric.CONCURRENT_REQUESTS: 0}
"""An ended request is open no more."""


class Machine(Protocol):
    """A replica's machine, which calls the store."""

    name: str

    def world_ms(self) -> int:
        """What time it really is."""
        ...

    def raw_now_ms(self) -> int:
        """What time it is by this machine."""
        ...


@dataclass
class Share:
    """What one reservation holds on one account, and what it has charged there."""

    limit: Limit
    account: Account
    cap: int
    enforced: bool
    held: int
    on_expiry: int | None
    charged: int = 0

    @property
    def expiry_charge(self) -> int:
        return self.held if self.on_expiry is None else self.on_expiry


@dataclass
class Row:
    """One reservation."""

    shares: dict[str, Share]
    """By account."""
    expires_at_ms: int
    alive_by: Machine
    """The machine that last said until when it lives."""
    fingerprint: str
    output_tokens_max: int
    """What it was first held for."""
    leased: dict[str, Share] = field(default_factory=dict)
    """What it takes of leases instead of holding it on accounts, by account."""
    died: bool = False
    """Whether it was ended as by an expiry by whoever found its replica's journal."""
    state: State = State.RESERVED
    ended_at_ms: int | None = None

    @property
    def has_expired(self) -> bool:
        return self.died or self.state is State.EXPIRED

    @property
    def all_shares(self) -> Iterable[Share]:
        return (*self.shares.values(), *self.leased.values())


@dataclass
class Truth:
    """What really became of a request, as its client and its provider know it."""

    script: Script
    asked_at_ms: int | None = None
    """When it was first asked for."""
    output_tokens: int | None = None
    """What the provider generated so far; `None`: it was never called."""
    granted: bool = False
    """Whether anybody was told that it may run."""
    denied: bool = False
    ended: State | None = None
    """How it ended, as somebody was told."""

    @property
    def used(self) -> dict[Metric, int]:
        """What the request is charged once it is settled: what its provider really did."""
        check(self.output_tokens is not None, "nobody is charged for what never ran", self.script.name)
        assert self.output_tokens is not None
        return {
            **weights(input_tokens=self.script.input_tokens, output_tokens=self.output_tokens),
            **AFTER_THE_END,
        }


@dataclass
class Books:
    state: StateModel
    rows: dict[str, Row] = field(default_factory=dict)
    past: dict[str, State] = field(default_factory=dict)
    """How those ended that the store has forgotten."""
    accounts: dict[str, Account] = field(default_factory=dict)
    _forgotten: Counter[str] = field(default_factory=Counter)
    """What forgotten reservations have charged to accounts that are still there."""

    def row_of(self, name: str) -> Row:
        """The row of a reservation that somebody was told of."""
        row = self.rows.get(name)
        check(row is not None, "nothing is lost that was acknowledged", name)
        assert row is not None
        return row

    def forget(self, *, now_ms: int, ended_before_ms: int) -> int:
        """Forgets what a sweep forgets; returns how many accounts that were."""
        for name, row in list(self.rows.items()):
            if row.ended_at_ms is not None and row.ended_at_ms < ended_before_ms:
                self.past[name] = row.state
                self._forgotten.update({key: share.charged for key, share in row.shares.items()})
                del self.rows[name]
        totals = self.totals()
        old = [
            key
            for key, account in self.accounts.items()
            if account.keep_until_ms is not None and account.keep_until_ms <= now_ms and not totals.get(key, (0, 0))[1]
        ]
        for key in old:
            del self.accounts[key], self._forgotten[key]
            for row in self.rows.values():
                row.shares.pop(key, None)
        return len(old)

    def total(self, key: str) -> tuple[int, int]:
        """What an account has to hold: spent, reserved."""
        return self.totals().get(key, (0, 0))

    def totals(self) -> dict[str, tuple[int, int]]:
        """The same of every account."""
        found = {key: (charged, 0) for key, charged in self._forgotten.items()}
        for row in self.rows.values():
            is_open = row.state is State.RESERVED
            for key, share in row.shares.items():
                spent, reserved = found.get(key, (0, 0))
                found[key] = (spent, reserved + share.held) if is_open else (spent + share.charged, reserved)
        return found

    def used(self, limit: Limit, account: Account, *, now_ms: int) -> tuple[int, int]:
        """What a hold of `limit` finds used on its account, at least and at most: what a sliding window carries over
        is rounded."""
        used = sum(self.total(account.key))
        if not isinstance(limit.window, SlidingWindow):
            return used, used
        assert account.ends_at_ms is not None
        length_ms = limit.window.seconds * 1000
        before_ms, starts_at_ms = account.ends_at_ms - 2 * length_ms, account.ends_at_ms - length_ms
        reset_at_ms = self.state.reset_at_ms(limit, account.scope)
        if reset_at_ms is not None and reset_at_ms < account.ends_at_ms:
            before_ms = max(before_ms, reset_at_ms)
        if before_ms >= starts_at_ms:
            return used, used
        total = sum(self.total(f"{account.limit}|{account.scope}|{before_ms}-{starts_at_ms}"))
        carried = total * (account.ends_at_ms - now_ms) // length_ms
        return used + max(0, carried - total // 1_000_000 - 1), used + carried + 1

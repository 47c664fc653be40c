"""What a request has to hold: on which accounts, how much, up to which amounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policyd.core.ledger import Entry
from policyd.core.policy import Action, Hold, Limit, Metric, OnExpiry
from policyd.core.record import Record
from policyd.core.windows import FirstUseWindow
from tests.simulation.books import AFTER_THE_END, Share, Truth, weights
from tests.simulation.plan import Plan, Script, Way
from tests.simulation.promises import check
from tests.simulation.state_model import StateModel
from tests.simulation.windows import is_window_of

_ENFORCED = (Action.DENY, Action.CLAMP)
"""What spending never passes, of the actions that are simulated."""


@dataclass
class Demands:
    plan: Plan
    state: StateModel

    def shares(self, truth: Truth, entries: Sequence[Entry], record: Record, *, world_ms: int) -> list[Share]:
        """The shares of a request: one for each limit, on the account of its window, of what it asks for.

        Raises `Broken` if `entries` are not those.
        """
        name = truth.script.name
        limits = self.plan.policy.limits
        check(len(entries) == len(limits), "every limit holds", [each.account.limit for each in entries])
        assert truth.asked_at_ms is not None
        if not self.plan.jumps:
            latest_ms = max(self.plan.skews_ms) + world_ms
            earliest_ms = min(self.plan.skews_ms) + truth.asked_at_ms
            check(earliest_ms <= record.at_ms <= latest_ms, "a request counts when it came", (name, record.at_ms))
        maximum, expected = self._asked(truth.script, self.bound(truth.script, record))
        shares = []
        for limit, entry in zip(limits, entries, strict=True):
            self._check_account(truth.script, limit, entry, record.at_ms)
            amount = (maximum if limit.hold is Hold.MAXIMUM else expected)[limit.metric]
            enforced = limit.action in _ENFORCED and truth.script.way is not Way.REPORT
            cap = self.state.amount(limit, entry.account.scope)
            place = (name, limit.name)
            check(entry.amount == amount, "what is held is what was asked for", (*place, entry.amount, amount))
            check((entry.cap, entry.enforce) == (cap, enforced), "every limit at its amount", (*place, cap))
            on_expiry = self._on_expiry(truth.script, limit, expected)
            shares.append(Share(limit, entry.account, cap, enforced, amount, on_expiry))
        return shares

    def exceed(self, script: Script) -> bool:
        """Whether a request asks for more than a limit gives that is empty."""
        maximum, expected = self._asked(script, self._unclamped(script))
        return any(
            (maximum if limit.hold is Hold.MAXIMUM else expected)[limit.metric] > limit.amount
            for limit in self.plan.policy.limits
            if limit.action in _ENFORCED
        )

    def _check_account(self, script: Script, limit: Limit, entry: Entry, at_ms: int) -> None:
        account, place = entry.account, (script.name, limit.name)
        scope = ",".join(f"{each}={script.identity[each]}" for each in limit.per)
        check((account.limit, account.scope) == (limit.name, scope), "every limit counts its scope", place)
        reset_at_ms = self.state.reset_at_ms(limit, scope)
        starts_at_ms, ends_at_ms = account.starts_at_ms, account.ends_at_ms
        if limit.window is None:
            right = (starts_at_ms, ends_at_ms) == (0, None)
        elif isinstance(limit.window, FirstUseWindow):
            begins_at_ms = (ends_at_ms or 0) - limit.window.length_ms
            known = self.plan.jumps or self.state.has_begun(limit, scope, begins_at_ms)
            right = known and at_ms < (ends_at_ms or 0) and starts_at_ms in (begins_at_ms, reset_at_ms)
        else:
            right = is_window_of(
                limit.window, at_ms, starts_at_ms=starts_at_ms, ends_at_ms=ends_at_ms, reset_at_ms=reset_at_ms
            )
        check(right, "every charge in its window", (*place, account.key))

    def bound(self, script: Script, record: Record) -> int:
        """The output tokens that a request is held for: what it asked for, unless a limit has clamped it."""
        if script.way is Way.REPORT:
            return script.output_tokens
        bound = self._unclamped(script)
        assert record.maximum is not None
        held = record.maximum.output
        clamps = any(limit.action is Action.CLAMP for limit in self.plan.policy.limits)
        check(held == bound or (clamps and 1 <= held < bound), "only a limit that says so clamps", (script.name, held))
        return held

    def _unclamped(self, script: Script) -> int:
        default = self.plan.policy.default_max_output_tokens
        return script.max_output_tokens if script.max_output_tokens is not None else default

    def _asked(self, script: Script, bound: int) -> tuple[dict[Metric, int], dict[Metric, int]]:
        """The most and the expected: what a request is held for."""
        inputs = script.input_tokens
        most = weights(input_tokens=inputs, output_tokens=bound)
        if script.way is Way.REPORT:
            return {**most, **AFTER_THE_END}, {**most, **AFTER_THE_END}
        percent = 75 if script.max_output_tokens is not None else 50
        expected = min(bound, self._unclamped(script) * percent // 100)
        return most, weights(input_tokens=inputs, output_tokens=expected)

    def _on_expiry(self, script: Script, limit: Limit, expected: Mapping[Metric, int]) -> int | None:
        if limit.metric is Metric.CONCURRENT_REQUESTS:
            return 0
        if script.way is Way.REPORT:
            return None
        match self.plan.policy.reservations.on_expiry:
            case OnExpiry.HOLD:
                return None
            case OnExpiry.EXPECTED:
                return expected[limit.metric]
            case OnExpiry.NOTHING:
                return 0

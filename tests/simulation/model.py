"""The model that knows the truth: what every account has to hold, from the calls that reached the store.

It shares no arithmetic with policyd. It knows what each request really asked for and really used, follows each
reservation by the store's answers, and says after every step whether the store's accounts and answers are right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policyd.core.errors import ReservationEnded, ReservationMismatch, ReservationNotFound
from policyd.core.decision import LimitReport
from policyd.core.ledger import Account, Balance, Entry
from policyd.core.policy import Action, Hold, Limit, Metric, OnExpiry
from policyd.core.record import Outcome, Record
from policyd.core.reservation import State
from policyd.core.windows import SlidingWindow
from policyd.stores.base import Exists, Granted, Refused, Reservation, Swept
from tests.simulation.plan import INPUT_NANOS, OUTPUT_NANOS, Plan, Script, Way
from tests.simulation.windows import is_window_of


NOTHING_DUE = "nothing due"
"""The word for a sweep that changed nothing."""


class Broken(Exception):
    """A promise that did not hold."""


def check(holds: bool, promise: str, detail: object = "") -> None:  # noqa: FBT001 - reads as an assertion
    if not holds:
        raise Broken(f"{promise}: {detail}" if detail != "" else promise)


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


_AFTER_THE_END = {Metric.CONCURRENT_REQUESTS: 0}
"""An ended request is open no more."""

_ONE_OUTPUT_TOKEN = {Metric.COST: OUTPUT_NANOS, Metric.TOKENS: 1, Metric.OUTPUT_TOKENS: 1}


@dataclass
class Share:
    """What one reservation holds on one account, and what it has charged there."""

    limit: Limit
    account: Account
    enforced: bool
    held: int
    on_expiry: int | None
    charged: int = 0


@dataclass
class Row:
    """One reservation."""

    shares: dict[str, Share]
    """By account."""
    expires_at_ms: int
    alive_by: Any
    """The replica that last said until when it lives."""
    fingerprint: str
    state: State = State.RESERVED
    ended_at_ms: int | None = None


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


@dataclass
class Model:
    plan: Plan
    seen: Counter[str]
    truths: dict[str, Truth] = field(init=False)
    rows: dict[str, Row] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    _accounts: dict[str, Account] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.truths = {script.name: Truth(script) for script in self.plan.scripts}

    # --- what the store answered ---

    def took_effect(
        self, operation: str, arguments: Sequence[Any], keywords: Mapping[str, Any], answer: object, by: Any
    ) -> str:
        """Takes in one step of the store; returns its outcome in a word. Raises `Broken`."""
        match operation:
            case "reserve":
                return self._reserved(arguments[0], keywords, answer, by)
            case "extend":
                return self._extended(arguments[0], keywords, answer)
            case "settle":
                return self._ended(arguments[0], State.SETTLED, keywords, answer)
            case "release":
                return self._ended(arguments[0], State.RELEASED, keywords, answer)
            case "renew":
                return self._renewed(arguments[0], keywords["expires_at_ms"], by)
            case "sweep":
                return self._swept(keywords, answer)
            case _:
                check(not isinstance(answer, Exception), "no error without a reason", answer)
                return "done"

    def _reserved(self, name: str, keywords: Mapping[str, Any], answer: object, by: Any) -> str:
        row = self.rows.get(name)
        entries: Sequence[Entry] = keywords["entries"]
        if row is not None:
            if row.fingerprint != keywords["fingerprint"]:
                check(isinstance(answer, ReservationMismatch), "one id, one content", answer)
                return "mismatch"
            check(isinstance(answer, Exists), "reserve is idempotent by its id", answer)
            assert isinstance(answer, Exists)
            check(answer.reservation.state is row.state, "every hold ends once", answer.reservation.state)
            return f"exists, {row.state}"
        shares = self._shares(name, entries, keywords["record"].at_ms, by)
        balances = [self._balance(each, keywords["now_ms"]) for each in entries]
        lacking = [
            each.account.key
            for each, (least, most) in zip(entries, balances, strict=True)
            if each.enforce and each.amount and most + each.amount > each.cap
        ]
        overspent = [
            each.account.key
            for each, (least, most) in zip(entries, balances, strict=True)
            if each.enforce and each.amount and least + each.amount > each.cap
        ]
        if isinstance(answer, Refused):
            check(bool(lacking), "nothing is refused that fits", name)
            self._check_balances(entries, answer.balances)
            self.refused.add(name)
            return "refused"
        check(isinstance(answer, Granted), "reserve answers", answer)
        assert isinstance(answer, Granted)
        check(not overspent, "no overspend", overspent)
        self._check_balances(entries, answer.balances)
        self.rows[name] = Row(
            {each.account.key: each for each in shares}, keywords["expires_at_ms"], by, keywords["fingerprint"]
        )
        self._accounts |= {each.account.key: each.account for each in shares}
        return "granted"

    def _shares(self, name: str, entries: Sequence[Entry], at_ms: int, by: Any) -> list[Share]:
        """The shares of a request: one for each limit, on the account of its window, of what it asks for."""
        truth = self.truths[name]
        limits = self.plan.policy.limits
        check(len(entries) == len(limits), "every limit holds", [each.account.limit for each in entries])
        assert truth.asked_at_ms is not None
        if not self.plan.jumps:
            latest_ms = max(self.plan.skews_ms) + by.world_ms()
            earliest_ms = min(self.plan.skews_ms) + truth.asked_at_ms
            check(earliest_ms <= at_ms <= latest_ms, "a request counts when it came", (name, at_ms))
        return [self._share(truth.script, limit, entry, at_ms) for limit, entry in zip(limits, entries, strict=True)]

    def _share(self, script: Script, limit: Limit, entry: Entry, at_ms: int) -> Share:
        account, place = entry.account, (script.name, limit.name)
        scope = ",".join(f"{each}={script.identity[each]}" for each in limit.per)
        check((account.limit, account.scope) == (limit.name, scope), "every limit counts its scope", place)
        if limit.window is None:
            check((account.starts_at_ms, account.ends_at_ms) == (0, None), "concurrency has no window", place)
        else:
            right = is_window_of(
                limit.window, at_ms, starts_at_ms=account.starts_at_ms, ends_at_ms=account.ends_at_ms
            )
            check(right, "every charge in its window", place)
        maximum, expected = self._asked(script)
        amount = (maximum if limit.hold is Hold.MAXIMUM else expected)[limit.metric]
        enforced = limit.action is Action.DENY and script.way is not Way.REPORT
        check(entry.amount == amount, "what is held is what was asked for", (*place, entry.amount, amount))
        check((entry.cap, entry.enforce) == (limit.amount, enforced), "every limit at its amount", place)
        return Share(limit, account, enforced, amount, self._on_expiry(script, limit, expected))

    def _asked(self, script: Script) -> tuple[dict[Metric, int], dict[Metric, int]]:
        """The most and the expected: what a request is held for."""
        inputs = script.input_tokens
        if script.way is Way.REPORT:
            used = weights(input_tokens=inputs, output_tokens=script.output_tokens)
            return {**used, **_AFTER_THE_END}, {**used, **_AFTER_THE_END}
        default = self.plan.policy.default_max_output_tokens
        bound = script.max_output_tokens
        most = bound if bound is not None else default
        expected = bound * 75 // 100 if bound is not None else default // 2
        return (
            weights(input_tokens=inputs, output_tokens=most),
            weights(input_tokens=inputs, output_tokens=expected),
        )

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

    def _extended(self, name: str, keywords: Mapping[str, Any], answer: object) -> str:
        row = self.rows.get(name)
        if row is None:
            check(isinstance(answer, ReservationNotFound), "nothing comes from nothing", answer)
            return "not found"
        if row.state is not State.RESERVED:
            check(isinstance(answer, ReservationEnded), "every hold ends once", answer)
            return f"ended, {row.state}"
        check(isinstance(answer, int), "extend answers", answer)
        assert isinstance(answer, int)
        wanted, least = keywords["wanted_units"], keywords["at_least_units"]
        check(answer in (0, wanted) or least <= answer < wanted, "extend gives what is of use", answer)
        for key, share in row.shares.items():
            more = answer * _ONE_OUTPUT_TOKEN.get(share.limit.metric, 0)
            share.held += more
            if more and share.enforced:
                check(sum(self.totals(key)) <= share.limit.amount, "no overspend", f"extend on {key}")
        return f"{answer} of {wanted} tokens"

    def _ended(self, name: str, ending: State, keywords: Mapping[str, Any], answer: object) -> str:
        row = self.rows.get(name)
        if row is None:
            check(isinstance(answer, ReservationNotFound), "nothing comes from nothing", answer)
            return "not found"
        if row.state not in (State.RESERVED, State.EXPIRED, ending):
            check(isinstance(answer, ReservationEnded), "every hold ends once", answer)
            return f"ended, {row.state}"
        check(answer is row.state, "a store says what it found", (name, answer, row.state))
        if row.state is ending:
            return "repeated"
        used = self._used(name) if ending is State.SETTLED else {}
        for share in row.shares.values():
            share.charged = used.get(share.limit.metric, 0)
        found, row.state, row.ended_at_ms = row.state, ending, keywords["now_ms"]
        return f"{ending}, was {found}"

    def _used(self, name: str) -> dict[Metric, int]:
        """What a request is charged: what its provider really did."""
        truth = self.truths[name]
        check(truth.output_tokens is not None, "nobody is charged for what never ran", name)
        assert truth.output_tokens is not None
        used = weights(input_tokens=truth.script.input_tokens, output_tokens=truth.output_tokens)
        return {**used, **_AFTER_THE_END}

    def _renewed(self, names: Iterable[str], expires_at_ms: int, by: Any) -> str:
        for name in names:
            row = self.rows.get(name)
            if row is not None and row.state is State.RESERVED and expires_at_ms > row.expires_at_ms:
                row.expires_at_ms, row.alive_by = expires_at_ms, by
        return "done"

    def _swept(self, keywords: Mapping[str, Any], answer: object) -> str:
        check(isinstance(answer, Swept), "sweep answers", answer)
        assert isinstance(answer, Swept)
        now_ms = keywords["now_ms"]
        due = {
            name: row for name, row in self.rows.items() if row.state is State.RESERVED and row.expires_at_ms <= now_ms
        }
        expired = sorted(record.request_id for record in answer.expired)
        check(expired == sorted(due), "what is due expires, once", (expired, sorted(due)))
        for name, row in due.items():
            alive = row.alive_by.raw_now_ms() < row.expires_at_ms
            check(self.plan.jumps or not alive, "no hold ends while its replica counts on it", name)
            row.state, row.ended_at_ms = State.EXPIRED, now_ms
            for share in row.shares.values():
                share.charged = share.held if share.on_expiry is None else share.on_expiry
        still_open = sum(row.state is State.RESERVED for row in self.rows.values())
        check(answer.open_reservations == still_open, "open holds are counted", answer.open_reservations)
        self.seen["holds that expired"] += len(due)
        return f"expired {', '.join(expired)}" if expired else NOTHING_DUE

    # --- sums ---

    def totals(self, key: str) -> tuple[int, int]:
        """What an account has to hold: spent, reserved."""
        return self._totals().get(key, (0, 0))

    def _totals(self) -> dict[str, tuple[int, int]]:
        """The same of every account."""
        found: dict[str, tuple[int, int]] = {}
        for row in self.rows.values():
            is_open = row.state is State.RESERVED
            for key, share in row.shares.items():
                spent, reserved = found.get(key, (0, 0))
                found[key] = (spent, reserved + share.held) if is_open else (spent + share.charged, reserved)
        return found

    def _balance(self, entry: Entry, now_ms: int) -> tuple[int, int]:
        """What an entry finds used, at least and at most: what a sliding window carries is rounded."""
        used = sum(self.totals(entry.account.key))
        limit = next(each for each in self.plan.policy.limits if each.name == entry.account.limit)
        if not isinstance(limit.window, SlidingWindow):
            return used, used
        length_ms = limit.window.seconds * 1000
        starts_at_ms = entry.account.starts_at_ms
        before = f"{limit.name}|{entry.account.scope}|{starts_at_ms - length_ms}-{starts_at_ms}"
        total = sum(self.totals(before))
        left_ms = starts_at_ms + length_ms - now_ms
        rounding = total // 1_000_000 + 1
        carried = total * left_ms // length_ms
        return used + max(0, carried - rounding), used + carried + 1

    def _check_balances(self, entries: Sequence[Entry], balances: Sequence[Balance]) -> None:
        for entry, balance in zip(entries, balances, strict=True):
            found = (balance.spent, balance.reserved)
            check(found == self.totals(entry.account.key), "balances are those of before", entry.account.key)

    def check_accounts(self, found: Iterable[tuple[Account, Balance]]) -> None:
        """Whether the store's accounts hold what they have to. Raises `Broken`."""
        balances = {account.key: (balance.spent, balance.reserved) for account, balance in found}
        right = self._totals()
        for key in balances.keys() | right.keys():
            held, wanted = balances.get(key, (0, 0)), right.get(key, (0, 0))
            if held != wanted:
                raise Broken(f"money is conserved: {key} has spent, reserved = {held}, and it should be {wanted}")
        if self.plan.policy.reservations.on_expiry is OnExpiry.HOLD:
            self._check_caps()

    def _check_caps(self) -> None:
        """What was held within a limit stays within it, whatever was charged past the holds."""
        within: Counter[str] = Counter()
        limits: dict[str, Limit] = {}
        for row in self.rows.values():
            for key, share in row.shares.items():
                if share.enforced:
                    within[key] += share.held if row.state is State.RESERVED else min(share.held, share.charged)
                    limits[key] = share.limit
        for key, limit in limits.items():
            check(within[key] <= limit.amount, "no overspend", key)

    def check_budget(self, report: LimitReport) -> None:
        """Whether spent, reserved and free make up the limit. Raises `Broken`."""
        spent, reserved = 0, 0
        for key, totals in self._totals().items():
            account = self._accounts[key]
            if (account.limit, account.scope) == (report.limit.name, report.scope) and (
                account.ends_at_ms == report.resets_at_ms
            ):
                spent, reserved = totals
        free = max(0, report.limit.amount - spent - reserved)
        told = (report.spent, report.reserved, report.remaining)
        check(told == (spent, reserved, free), "spent, reserved and free make up the limit", (report.limit.name, told))

    def check_reservation(self, found: Reservation) -> None:
        """Whether the store has a reservation as it should. Raises `Broken`."""
        row = self.rows[found.id]
        check(found.state is row.state, "nothing is lost that was acknowledged", (found.id, found.state, row.state))
        held = {entry.account.key: entry.amount for entry in found.entries}
        check(held == {key: share.held for key, share in row.shares.items()}, "holds are kept", found.id)
        check(found.expires_at_ms == row.expires_at_ms, "holds are renewed", found.id)

    def check_records(self, records: Sequence[Record]) -> None:
        """Whether every request that ended has one usage record, and the right one. Raises `Broken`."""
        by_name = {record.request_id: record for record in records}
        check(len(by_name) == len(records), "one usage record a request")
        for name, row in self.rows.items():
            record = by_name.get(name)
            check(record is not None, "every request that ended has its usage record", name)
            assert record is not None
            check((record.outcome is Outcome.EXPIRED) == (row.state is State.EXPIRED), "records say how it ended", name)
            for share in row.shares.values():
                if share.limit.metric is Metric.COST and row.state is not State.EXPIRED:
                    check(record.actual_cost_nanos == share.charged, "records say what was charged", name)
        for name in (name for name, truth in self.truths.items() if truth.denied and name not in self.rows):
            check(name in by_name, "every refusal has its usage record", name)

    # --- what clients and providers know ---

    def row_of(self, name: str) -> Row:
        row = self.rows.get(name)
        check(row is not None, "nothing is lost that was acknowledged", name)
        assert row is not None
        return row

    def acknowledged(self, name: str, ending: State) -> None:
        """Somebody was told how the reservation ended."""
        check(self.row_of(name).state is ending, "nothing is lost that was acknowledged", (name, ending))
        self.truths[name].ended = ending

    def check_end(self) -> None:
        """Whether every request ended as it had to, once all is quiet. Raises `Broken`."""
        for name, truth in self.truths.items():
            row = self.rows.get(name)
            if row is None:
                check(truth.output_tokens is None or truth.script.way is Way.REPORT, "no bypass", name)
                check(not truth.granted and truth.ended is None, "nothing is lost that was acknowledged", name)
                continue
            check(row.state is not State.RESERVED, "every hold ends", name)
            check(truth.ended in (None, row.state), "nothing is lost that was acknowledged", name)
            if truth.output_tokens is not None:
                check(row.state is not State.RELEASED, "no bypass", name)
                self._check_charged(name, row)
            if self.plan.calm and truth.granted:
                wanted = truth.ended is not None or truth.script.finish.value == "vanish"
                check(wanted, "without faults every request ends as it was meant to", name)

    def _check_charged(self, name: str, row: Row) -> None:
        """Whether what the provider did is charged in full; a hold that expired is charged the most it can have done."""
        truth = self.truths[name]
        if row.state is State.EXPIRED and truth.script.max_output_tokens is None and truth.script.way is not Way.REPORT:
            return
        used = self._used(name)
        for share in row.shares.values():
            waived = share.limit.hold is Hold.EXPECTED or share.on_expiry is not None
            if not (row.state is State.EXPIRED and waived):
                check(share.charged >= used[share.limit.metric], "no bypass", (name, share.limit.name))

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
from policyd.core.windows import FirstUseWindow, SlidingWindow
from policyd.stores.base import Exists, Granted, Refused, Reservation, Stale, Swept
from tests.simulation.plan import INPUT_NANOS, OUTPUT_NANOS, Finish, Plan, Script, Way
from tests.simulation.promises import Broken, check
from tests.simulation.state_model import StateModel
from tests.simulation.windows import is_window_of


NOTHING_DUE = "nothing due"
"""The word for a sweep that changed nothing."""


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


_ENFORCED = (Action.DENY, Action.CLAMP)
"""What spending never passes, of the actions that are simulated."""

_AFTER_THE_END = {Metric.CONCURRENT_REQUESTS: 0}
"""An ended request is open no more."""

_ONE_OUTPUT_TOKEN = {Metric.COST: OUTPUT_NANOS, Metric.TOKENS: 1, Metric.OUTPUT_TOKENS: 1}


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


@dataclass
class Row:
    """One reservation."""

    shares: dict[str, Share]
    """By account."""
    expires_at_ms: int
    alive_by: Any
    """The replica that last said until when it lives."""
    fingerprint: str
    output_tokens_max: int
    """What it was first held for."""
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
    past: dict[str, State] = field(default_factory=dict)
    """How those ended that the store has forgotten."""
    refused: set[str] = field(default_factory=set)
    state: StateModel = field(default_factory=StateModel)
    _forgotten: Counter[str] = field(default_factory=Counter)
    """What forgotten reservations have charged to accounts that are still there."""
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
            case "get":
                row = self.rows.get(arguments[0])
                check(isinstance(answer, ReservationNotFound) is (row is None), "what is held is known", arguments[0])
                return "not found" if row is None else row.state
            case "set_state":
                return self.state.set(
                    arguments[0],
                    expected_revision=keywords["expected_revision"],
                    answer=answer,
                    world_ms=by.world_ms(),
                )
            case "begin_window":
                if self.plan.jumps:
                    return "done"
                return self.state.began(arguments[0], **keywords, answer=answer)
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
        if keywords["state_revision"] != self.state.revision:
            check(answer == Stale(self.state.revision), "who knows the state of before is told so", answer)
            return "stale"
        shares = self._shares(name, entries, keywords["record"], by)
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
        script = self.truths[name].script
        blocked = script.way is not Way.REPORT and self.state.is_blocked(script.identity)
        check(not blocked, "a block holds everywhere at once", name)
        self._check_balances(entries, answer.balances)
        self.rows[name] = Row(
            {each.account.key: each for each in shares},
            keywords["expires_at_ms"],
            by,
            keywords["fingerprint"],
            self._bound(script, keywords["record"]),
        )
        self._accounts |= {each.account.key: each.account for each in shares}
        return "granted"

    def _shares(self, name: str, entries: Sequence[Entry], record: Record, by: Any) -> list[Share]:
        """The shares of a request: one for each limit, on the account of its window, of what it asks for."""
        truth = self.truths[name]
        limits = self.plan.policy.limits
        check(len(entries) == len(limits), "every limit holds", [each.account.limit for each in entries])
        assert truth.asked_at_ms is not None
        if not self.plan.jumps:
            latest_ms = max(self.plan.skews_ms) + by.world_ms()
            earliest_ms = min(self.plan.skews_ms) + truth.asked_at_ms
            check(earliest_ms <= record.at_ms <= latest_ms, "a request counts when it came", (name, record.at_ms))
        maximum, expected = self._asked(truth.script, self._bound(truth.script, record))
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

    def _bound(self, script: Script, record: Record) -> int:
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
            return {**most, **_AFTER_THE_END}, {**most, **_AFTER_THE_END}
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
                check(sum(self.totals(key)) <= share.cap, "no overspend", f"extend on {key}")
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
        self._forget(now_ms=now_ms, ended_before_ms=keywords["ended_before_ms"])
        return f"expired {', '.join(expired)}" if expired else NOTHING_DUE

    def _forget(self, *, now_ms: int, ended_before_ms: int) -> None:
        for name, row in list(self.rows.items()):
            if row.ended_at_ms is not None and row.ended_at_ms < ended_before_ms:
                self.past[name] = row.state
                self._forgotten.update({key: share.charged for key, share in row.shares.items()})
                del self.rows[name]
        totals = self._totals()
        for key, account in list(self._accounts.items()):
            is_old = account.keep_until_ms is not None and account.keep_until_ms <= now_ms
            if is_old and not totals.get(key, (0, 0))[1]:
                self.seen["accounts that were forgotten"] += 1
                del self._accounts[key], self._forgotten[key]
                for row in self.rows.values():
                    row.shares.pop(key, None)

    # --- sums ---

    def totals(self, key: str) -> tuple[int, int]:
        """What an account has to hold: spent, reserved."""
        return self._totals().get(key, (0, 0))

    def _totals(self) -> dict[str, tuple[int, int]]:
        """The same of every account."""
        found = {key: (charged, 0) for key, charged in self._forgotten.items()}
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
        assert entry.account.ends_at_ms is not None
        left_ms = entry.account.ends_at_ms - now_ms
        starts_at_ms = entry.account.ends_at_ms - length_ms
        reset_at_ms = self.state.reset_at_ms(limit, entry.account.scope)
        if reset_at_ms is not None and starts_at_ms <= reset_at_ms < entry.account.ends_at_ms:
            return used, used
        before_ms = starts_at_ms - length_ms
        if reset_at_ms is not None and reset_at_ms < starts_at_ms:
            before_ms = max(before_ms, reset_at_ms)
        total = sum(self.totals(f"{limit.name}|{entry.account.scope}|{before_ms}-{starts_at_ms}"))
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
        caps: dict[str, int] = {}
        for row in self.rows.values():
            for key, share in row.shares.items():
                if share.enforced:
                    within[key] += share.held if row.state is State.RESERVED else min(share.held, share.charged)
                    caps[key] = max(caps.get(key, 0), share.cap)
        for key, cap in caps.items():
            check(within[key] <= cap, "no overspend", key)

    def check_budget(self, report: LimitReport) -> None:
        """Whether spent, reserved and free make up the limit. Raises `Broken`."""
        reset_at_ms = self.state.reset_at_ms(report.limit, report.scope) or 0
        keys = [
            key
            for key, account in self._accounts.items()
            if (account.limit, account.scope, account.ends_at_ms)
            == (report.limit.name, report.scope, report.resets_at_ms)
            and (report.limit.window is None or account.starts_at_ms >= reset_at_ms)
        ]
        check(len(keys) <= 1, "a limit counts a scope once", keys)
        spent, reserved = self.totals(keys[0]) if keys else (0, 0)
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
        for name in self.past:
            check(name in by_name, "every request that ended has its usage record", name)
        for name, row in self.rows.items():
            record = by_name.get(name)
            check(record is not None, "every request that ended has its usage record", name)
            assert record is not None
            check((record.outcome is Outcome.EXPIRED) == (row.state is State.EXPIRED), "records say how it ended", name)
            for share in row.shares.values():
                if share.limit.metric is Metric.COST and row.state is not State.EXPIRED:
                    check(record.actual_cost_nanos == share.charged, "records say what was charged", name)
        for name in (name for name, truth in self.truths.items() if truth.denied and name not in (*self.rows, *self.past)):
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
            state = self.past.get(name) if row is None else row.state
            if state is None:
                check(truth.output_tokens is None or truth.script.way is Way.REPORT, "no bypass", name)
                check(not truth.granted and truth.ended is None, "nothing is lost that was acknowledged", name)
                continue
            check(state is not State.RESERVED, "every hold ends", name)
            check(truth.ended in (None, state), "nothing is lost that was acknowledged", name)
            if truth.output_tokens is not None:
                check(state is not State.RELEASED, "no bypass", name)
                if row is not None:
                    self._check_charged(name, row)
            if self.plan.calm and truth.granted:
                wanted = truth.ended is not None or truth.script.finish is Finish.VANISH
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

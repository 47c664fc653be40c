"""The model that knows the truth: what every account has to hold, from the calls that reached the store.

It shares no arithmetic with policyd. It knows what each request really asked for and really used, follows each
reservation by the store's answers, and says after every step whether the store's answer was right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policyd.core.errors import ReservationEnded, ReservationMismatch, ReservationNotFound
from policyd.core.ledger import Balance, Entry
from policyd.core.policy import Metric
from policyd.core.reservation import State
from policyd.stores.base import Exists, Granted, Refused, Stale, Swept
from tests.simulation.books import Books, Machine, Row, Share, Truth
from tests.simulation.demands import Demands
from tests.simulation.leases import Leasing
from tests.simulation.plan import OUTPUT_NANOS, Plan, Way
from tests.simulation.promises import check
from tests.simulation.state_model import StateModel

NOTHING_DUE = "nothing due"
"""The word for a sweep that changed nothing."""

_ONE_OUTPUT_TOKEN = {Metric.COST: OUTPUT_NANOS, Metric.TOKENS: 1, Metric.OUTPUT_TOKENS: 1}


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the store that took effect, and what came of it."""

    operation: str
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]
    by: Machine
    answer: object
    """What it returned, or the `PolicydError` that it raised."""

    @property
    def name(self) -> str:
        """The reservation that it is about."""
        return str(self.arguments[0])


@dataclass
class Model:
    plan: Plan
    seen: Counter[str]
    truths: dict[str, Truth] = field(init=False)
    state: StateModel = field(default_factory=StateModel)
    books: Books = field(init=False)
    refused: set[str] = field(default_factory=set)
    leasing: Leasing = field(init=False)
    _demands: Demands = field(init=False)

    def __post_init__(self) -> None:
        self.truths = {script.name: Truth(script) for script in self.plan.scripts}
        self.books = Books(self.state)
        self._demands = Demands(self.plan, self.state)
        self.leasing = Leasing(self.plan, self.books, self.truths, self._demands)

    def took_effect(self, call: Call) -> str:
        """Takes in one step of the store; returns its outcome in a word. Raises `Broken`."""
        step = _STEPS.get(call.operation, Model._other)
        return step(self, call)

    def acknowledged(self, name: str, ending: State) -> None:
        """Somebody was told how the reservation ended."""
        state = self.leasing.ends.get(name) or self.books.row_of(name).state
        check(state is ending, "nothing is lost that was acknowledged", (name, ending, state))
        self.truths[name].ended = ending

    def row_of(self, name: str) -> Row:
        """The row of a request that somebody was told of, whether the store knows it by now or not."""
        alone = self.leasing.alone.get(name)
        return self.books.row_of(name) if alone is None else alone.row

    def may_be_refused(self, name: str) -> bool:
        """Whether the store has refused it, or it asks for more than there is of some limit."""
        return name in self.refused or (self.plan.leases and self._demands.exceed(self.truths[name].script))

    def _reserved(self, call: Call) -> str:
        row, keywords = self.books.rows.get(call.name), call.keywords
        if row is not None:
            return _reserved_again(row, call)
        if call.name in self.leasing.leases:
            return self._lease_reserved(call)
        if call.name in self.leasing.alone:
            return self._replayed(call)
        if keywords["state_revision"] != self.state.revision:
            check(call.answer == Stale(self.state.revision), "who knows the state of before is told so", call.answer)
            return "stale"
        truth, record = self.truths[call.name], keywords["record"]
        shares = self._demands.shares(truth, keywords["entries"], record, world_ms=call.by.world_ms())
        check(isinstance(call.answer, Granted | Refused), "reserve answers", call.answer)
        assert isinstance(call.answer, Granted | Refused)
        self._check_balances(keywords["entries"], call.answer.balances)
        if isinstance(call.answer, Refused):
            lacking = any(most > share.cap for share, _, most in self._used_with(shares, call))
            check(lacking, "nothing is refused that fits", call.name)
            self.refused.add(call.name)
            return "refused"
        overspent = [share.account.key for share, least, _ in self._used_with(shares, call) if least > share.cap]
        check(not overspent, "no overspend", overspent)
        blocked = truth.script.way is not Way.REPORT and self.state.is_blocked(truth.script.identity)
        check(not blocked, "a block holds everywhere at once", call.name)
        self.books.rows[call.name] = Row(
            shares={share.account.key: share for share in shares},
            expires_at_ms=keywords["expires_at_ms"],
            alive_by=call.by,
            fingerprint=keywords["fingerprint"],
            output_tokens_max=self._demands.bound(truth.script, record),
        )
        self.books.accounts |= {share.account.key: share.account for share in shares}
        return "granted"

    def _lease_reserved(self, call: Call) -> str:
        keywords = call.keywords
        (entry,) = keywords["entries"]
        row = self.leasing.lease_row(
            call.name, self.plan.policy.limits, expires_at_ms=keywords["expires_at_ms"], by=call.by
        )
        (share,) = row.shares.values()
        check((entry.account, entry.amount) == (share.account, share.held), "a lease is what was written", call.name)
        has_room = sum(self.books.total(entry.account.key)) + entry.amount <= entry.cap
        if isinstance(call.answer, Refused):
            check(not has_room, "nothing is refused that fits", call.name)
            return "a lease, refused"
        check(isinstance(call.answer, Granted), "reserve answers", call.answer)
        check(has_room or not entry.enforce, "no overspend", call.name)
        share.enforced = entry.enforce
        self.books.rows[call.name] = row
        self.books.accounts[entry.account.key] = entry.account
        return "a lease, granted"

    def _replayed(self, call: Call) -> str:
        """What a replica has let through alone comes into the store, past every cap."""
        row = self.leasing.alone[call.name].row
        held = {entry.account.key: entry.amount for entry in call.keywords["entries"]}
        right = {key: share.held for key, share in row.shares.items()}
        check(held == right, "what was let through is what is held", call.name)
        check(isinstance(call.answer, Granted), "what was let through is held past every cap", call.answer)
        row.expires_at_ms, row.alive_by = call.keywords["expires_at_ms"], call.by
        self.books.rows[call.name] = row
        self.books.accounts |= {key: share.account for key, share in row.shares.items()}
        return "replayed"

    def _used_with(self, shares: Iterable[Share], call: Call) -> Iterator[tuple[Share, int, int]]:
        """What each account with a limit that is enforced would come to, at least and at most."""
        for share in shares:
            if share.enforced and share.held:
                least, most = self.books.used(share.limit, share.account, now_ms=call.keywords["now_ms"])
                yield share, least + share.held, most + share.held

    def _extended(self, call: Call) -> str:
        row, answer = self.books.rows.get(call.name), call.answer
        if row is None:
            check(isinstance(answer, ReservationNotFound), "nothing comes from nothing", answer)
            return "not found"
        if row.state is not State.RESERVED:
            check(isinstance(answer, ReservationEnded), "every hold ends once", answer)
            return f"ended, {row.state}"
        check(isinstance(answer, int), "extend answers", answer)
        assert isinstance(answer, int)
        wanted, least = call.keywords["wanted_units"], call.keywords["at_least_units"]
        check(answer in (0, wanted) or least <= answer < wanted, "extend gives what is of use", answer)
        for key, share in row.shares.items():
            more = answer * _ONE_OUTPUT_TOKEN.get(share.limit.metric, 0)
            share.held += more
            if more and share.enforced:
                check(sum(self.books.total(key)) <= share.cap, "no overspend", f"extend on {key}")
        return "all of it" if answer == wanted else "a part of it" if answer else "nothing"

    def _settled(self, call: Call) -> str:
        return self._ended(call, State.SETTLED)

    def _released(self, call: Call) -> str:
        return self._ended(call, State.RELEASED)

    def _ended(self, call: Call, ending: State) -> str:
        row, answer = self.books.rows.get(call.name), call.answer
        if row is None:
            check(isinstance(answer, ReservationNotFound), "nothing comes from nothing", answer)
            return "not found"
        if row.state not in (State.RESERVED, State.EXPIRED, ending):
            check(isinstance(answer, ReservationEnded), "every hold ends once", answer)
            return f"ended, {row.state}"
        check(answer is row.state, "a store says what it found", (call.name, answer, row.state))
        if row.state is ending:
            return "repeated"
        if call.name in self.leasing.leases:
            (share,) = row.shares.values()
            share.charged = self.leasing.lease_charge(call.name, ending)
        elif self.leasing.died(call.name):
            row.died = True
            for share in row.leased.values():
                share.charged = share.held
            for share in row.shares.values():
                share.charged = max(
                    *(each.expiry_charge for each in row.shares.values() if each.limit.metric is share.limit.metric),
                    *(each.charged for each in row.leased.values() if each.limit.metric is share.limit.metric),
                    0,
                )
        else:
            used = self.truths[call.name].used if ending is State.SETTLED else {}
            for share in row.shares.values():
                share.charged = used.get(share.limit.metric, 0)
        found, row.state, row.ended_at_ms = row.state, ending, call.keywords["now_ms"]
        what = "a lease, " if call.name in self.leasing.leases else ""
        return f"{what}{ending}, was {found}"

    def _renewed(self, call: Call) -> str:
        expires_at_ms = call.keywords["expires_at_ms"]
        for name in call.arguments[0]:
            row = self.books.rows.get(name)
            if row is not None and row.state is State.RESERVED and expires_at_ms > row.expires_at_ms:
                row.expires_at_ms, row.alive_by = expires_at_ms, call.by
        return self._other(call)

    def _swept(self, call: Call) -> str:
        answer, now_ms = call.answer, call.keywords["now_ms"]
        check(isinstance(answer, Swept), "sweep answers", answer)
        assert isinstance(answer, Swept)
        held = {name: row for name, row in self.books.rows.items() if row.state is State.RESERVED}
        due = {name: row for name, row in held.items() if row.expires_at_ms <= now_ms}
        expired = sorted(record.request_id for record in answer.expired)
        check(expired == sorted(due), "what is due expires, once", (expired, sorted(due)))
        for name, row in due.items():
            is_alive = row.alive_by.raw_now_ms() < row.expires_at_ms
            check(self.plan.jumps or not is_alive, "no hold ends while its replica counts on it", name)
            row.state, row.ended_at_ms = State.EXPIRED, now_ms
            for share in row.shares.values():
                share.charged = share.expiry_charge
        check(answer.open_reservations == len(held) - len(due), "open holds are counted", answer.open_reservations)
        self.seen["holds that expired"] += len(due)
        forgotten = self.books.forget(now_ms=now_ms, ended_before_ms=call.keywords["ended_before_ms"])
        self.seen["accounts that were forgotten"] += forgotten
        return f"expired {', '.join(expired)}" if expired else NOTHING_DUE

    def _got(self, call: Call) -> str:
        row = self.books.rows.get(call.name)
        check(isinstance(call.answer, ReservationNotFound) is (row is None), "what is held is known", call.name)
        return "not found" if row is None else row.state

    def _state_set(self, call: Call) -> str:
        return self.state.set(
            call.arguments[0],
            expected_revision=call.keywords["expected_revision"],
            answer=call.answer,
            world_ms=call.by.world_ms(),
        )

    def _window_begun(self, call: Call) -> str:
        if self.plan.jumps:
            return self._other(call)
        return self.state.began(call.name, **call.keywords, answer=call.answer)

    def _other(self, call: Call) -> str:
        check(not isinstance(call.answer, Exception), "no error without a reason", call.answer)
        return "done"

    def _check_balances(self, entries: Sequence[Entry], balances: Sequence[Balance]) -> None:
        for entry, balance in zip(entries, balances, strict=True):
            found = (balance.spent, balance.reserved)
            check(found == self.books.total(entry.account.key), "balances are those of before", entry.account.key)


_STEPS: Mapping[str, Callable[[Model, Call], str]] = {
    "reserve": Model._reserved,
    "extend": Model._extended,
    "settle": Model._settled,
    "release": Model._released,
    "renew": Model._renewed,
    "sweep": Model._swept,
    "get": Model._got,
    "set_state": Model._state_set,
    "begin_window": Model._window_begun,
}


def _reserved_again(row: Row, call: Call) -> str:
    if row.fingerprint != call.keywords["fingerprint"]:
        check(isinstance(call.answer, ReservationMismatch), "one id, one content", call.answer)
        return "mismatch"
    check(isinstance(call.answer, Exists), "reserve is idempotent by its id", call.answer)
    assert isinstance(call.answer, Exists)
    check(call.answer.reservation.state is row.state, "every hold ends once", call.name)
    return f"exists, {row.state}"

"""Whether the store as a whole is as the model knows that it has to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from policyd.core.decision import LimitReport
from policyd.core.ledger import Account, Balance
from policyd.core.policy import Hold, Metric, OnExpiry
from policyd.core.record import Outcome, Record
from policyd.core.reservation import State
from policyd.stores.base import Reservation
from tests.simulation.books import Row, Truth
from tests.simulation.model import Model
from tests.simulation.plan import Finish, Way
from tests.simulation.promises import check

_OUTCOMES = {State.SETTLED: Outcome.SERVED, State.RELEASED: Outcome.RELEASED, State.EXPIRED: Outcome.EXPIRED}


def check_accounts(model: Model, found: Iterable[tuple[Account, Balance]]) -> None:
    """Whether the store's accounts hold what they have to. Raises `Broken`."""
    balances = {account.key: (balance.spent, balance.reserved) for account, balance in found}
    right = model.books.totals()
    for key in sorted(balances.keys() | right.keys()):
        has, should = balances.get(key, (0, 0)), right.get(key, (0, 0))
        check(has == should, "money is conserved", f"{key} has spent, reserved = {has}, and it should be {should}")
    if model.plan.policy.reservations.on_expiry is OnExpiry.HOLD:
        _check_caps(model)


def _check_caps(model: Model) -> None:
    """What was held within a limit stays within it, whatever was charged past the holds."""
    within: Counter[str] = Counter()
    caps: dict[str, int] = {}
    for row in model.books.rows.values():
        for key, share in row.shares.items():
            if share.enforced:
                within[key] += share.held if row.state is State.RESERVED else min(share.held, share.charged)
                caps[key] = max(caps.get(key, 0), share.cap)
    for key, cap in caps.items():
        check(within[key] <= cap, "no overspend", key)


def check_budget(model: Model, report: LimitReport) -> None:
    """Whether spent, reserved and free make up the limit. Raises `Broken`."""
    reset_at_ms = model.state.reset_at_ms(report.limit, report.scope) or 0
    keys = [
        key
        for key, account in model.books.accounts.items()
        if (account.limit, account.scope, account.ends_at_ms) == (report.limit.name, report.scope, report.resets_at_ms)
        and (report.limit.window is None or account.starts_at_ms >= reset_at_ms)
    ]
    check(len(keys) <= 1, "a limit counts a scope once", keys)
    spent, reserved = model.books.total(keys[0]) if keys else (0, 0)
    free = max(0, report.limit.amount - spent - reserved)
    told = (report.spent, report.reserved, report.remaining)
    check(told == (spent, reserved, free), "spent, reserved and free make up the limit", (report.limit.name, told))


def check_reservation(model: Model, found: Reservation) -> None:
    """Whether the store has a reservation as it should. Raises `Broken`."""
    row = model.books.rows[found.id]
    check(found.state is row.state, "nothing is lost that was acknowledged", (found.id, found.state, row.state))
    held = {entry.account.key: entry.amount for entry in found.entries}
    check(held == {key: share.held for key, share in row.shares.items()}, "holds are kept", found.id)
    check(found.expires_at_ms == row.expires_at_ms, "holds are renewed", found.id)


def check_records(model: Model, records: Sequence[Record]) -> None:
    """Whether every request that ended has one usage record, and the right one. Raises `Broken`."""
    by_name = {record.request_id: record for record in records}
    check(len(by_name) == len(records), "one usage record a request")
    for name in model.books.past:
        check(name in by_name, "every request that ended has its usage record", name)
    for name, row in model.books.rows.items():
        record = by_name.get(name)
        check(record is not None, "every request that ended has its usage record", name)
        assert record is not None
        if name in model.leasing.leases:
            check(record.actual_cost_nanos == 0 or row.state is State.EXPIRED, "a lease by itself costs nothing", name)
            continue
        outcome = Outcome.EXPIRED if row.died else _OUTCOMES[row.state]
        check(record.outcome is outcome, "records say how it ended", (name, record.outcome))
        costs = {share.charged for share in row.all_shares if share.limit.metric is Metric.COST}
        if costs and row.state is not State.EXPIRED:
            check(row.died or len(costs) == 1, "a request costs every budget the same", name)
            check(record.actual_cost_nanos == max(costs), "records say what was charged", name)
    for name in (
        name
        for name, truth in model.truths.items()
        if truth.denied and name not in (*model.books.rows, *model.books.past)
    ):
        check(name in by_name, "every refusal has its usage record", name)


def check_reports(endings: Mapping[tuple[str, Outcome], int]) -> None:
    """Whether metrics and the log were told of no end twice. Raises `Broken`."""
    for (name, outcome), times in endings.items():
        check(times == 1 or outcome is Outcome.DENIED, "every end is reported once", (name, outcome))


def check_end(model: Model) -> None:
    """Whether every request ended as it had to, once all is quiet. Raises `Broken`."""
    _check_leases(model)
    for name, truth in model.truths.items():
        row = model.books.rows.get(name)
        state = model.books.past.get(name) if row is None else row.state
        if state is None:
            check(truth.output_tokens is None or truth.script.way is Way.REPORT, "no bypass", name)
            check(not truth.granted and truth.ended is None, "nothing is lost that was acknowledged", name)
            continue
        check(state is not State.RESERVED, "every hold ends", name)
        check(truth.ended in (None, state), "nothing is lost that was acknowledged", name)
        if truth.output_tokens is not None:
            check(state is not State.RELEASED, "no bypass", name)
            if row is not None:
                _check_charged(truth, row)
        if model.plan.calm and truth.granted:
            wanted = truth.ended is not None or truth.script.finish is Finish.VANISH
            check(wanted, "without faults every request ends as it was meant to", name)


def _check_leases(model: Model) -> None:
    """Whether nothing is leased any more, or was charged but for what was spent of it."""
    for name in model.leasing.leases:
        row = model.books.rows.get(name)
        state = model.books.past.get(name) if row is None else row.state
        check(state in (None, State.SETTLED, State.RELEASED), "every lease is settled or returned", (name, state))


def _check_charged(truth: Truth, row: Row) -> None:
    """Whether what the provider did is charged in full; a hold that expired is charged the most it can have done."""
    if row.has_expired and truth.script.max_output_tokens is None and truth.script.way is not Way.REPORT:
        return
    used = truth.used
    for share in row.all_shares:
        waived = share.limit.hold is Hold.EXPECTED or share.on_expiry is not None
        if not (row.has_expired and waived):
            check(share.charged >= used[share.limit.metric], "no bypass", (truth.script.name, share.limit.name))

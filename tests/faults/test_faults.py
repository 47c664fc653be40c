"""A quick slice of `make test-faults`: one fault of each kind of part, and that the audit finds what is wrong."""

from __future__ import annotations

import pytest

from policyd.core.record import Outcome, Record
from policyd.core.usage import Usage
from tests.e2e.books import cost
from tests.e2e.sdks import OpenAI
from tests.faults.audit import Books, findings
from tests.faults.faults import FAULTS
from tests.faults.running import play

QUICK = ("policyd killed (SQLite)", "Redis killed (Redis, everysec)", "provider killed (SQLite)")


@pytest.mark.parametrize("name", QUICK)
async def test_a_fault_breaks_no_promise(name: str) -> None:
    report = await play(FAULTS[name])
    assert not report.problems, "\n".join(report.problems)


SERVED = Usage(input=18, output=20)
BILLED_NANOS = cost(OpenAI, SERVED)
HELD_NANOS = cost(OpenAI, Usage(input=18, output=40))


def record(outcome: Outcome, charged_nanos: int) -> Record:
    return Record(
        request_id=f"request-{outcome}",
        at_ms=0,
        outcome=outcome,
        decision="allow",
        provider="openai",
        endpoint="chat.completions",
        model="gpt-4o",
        attributes={"project": "wide", "session": "one"},
        estimated_cost_nanos=HELD_NANOS,
        actual_cost_nanos=charged_nanos,
    )


GOOD = (
    record(Outcome.SERVED, BILLED_NANOS),
    record(Outcome.EXPIRED, HELD_NANOS),
    record(Outcome.DISCONNECTED, BILLED_NANOS),
)


@pytest.mark.parametrize("booked", GOOD, ids=lambda booked: str(booked.outcome))
def test_the_audit_passes_what_each_outcome_promises(booked: Record) -> None:
    assert findings(Books({"one": SERVED}, [booked]), may_see_less=False) == []


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([], "has nothing"),
        ([GOOD[0], GOOD[1]._replace(request_id="another")], "2 records"),
        ([record(Outcome.SERVED, BILLED_NANOS - 1)], "served, charged"),
        ([record(Outcome.EXPIRED, BILLED_NANOS)], "expired, charged"),
        ([record(Outcome.DISCONNECTED, BILLED_NANOS - 1)], "disconnected, charged"),
        ([record(Outcome.DISCONNECTED, HELD_NANOS + 1)], "disconnected, charged"),
        ([record(Outcome.DENIED, 0)], "denied, charged"),
        ([record(Outcome.UNMETERED, 0)], "unmetered, charged"),
    ],
    ids=str,
)
def test_the_audit_finds_what_is_lost_doubled_or_wrong(records: list[Record], found: str) -> None:
    (finding,) = findings(Books({"one": SERVED}, records), may_see_less=False)
    assert found in finding


def test_what_policyd_could_not_see_is_excused_where_that_is_promised() -> None:
    books = Books({"one": SERVED}, [record(Outcome.DISCONNECTED, BILLED_NANOS - 1)])
    assert findings(books, may_see_less=True) == []

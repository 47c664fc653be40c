"""Compares what the provider billed with what the ledger charged, request by request.

What may be charged for a request depends on how its record says that it ended:

    outcome                     charged                                  against the bill
    served                      what the reply reported                  equal
    expired                     the hold                                 never below it
    disconnected                what policyd saw, or the hold            below it by what was on its way, if `observed`
    provider error              what policyd saw                         as disconnected
    denied, failed, rejected    nothing                                  the provider must not have served it
    no record                   -                                        the provider must not have served it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policyd.core.record import Outcome, Record
from policyd.core.usage import Usage
from policyd.stores.base import UsageFilter
from policyd.stores.url import open_store
from tests.e2e.books import cost
from tests.e2e.sdks import OpenAI

SERVED = frozenset({Outcome.SERVED})
HELD = frozenset({Outcome.EXPIRED})
LEFT = frozenset({Outcome.DISCONNECTED, Outcome.PROVIDER_ERROR})
NOT_SENT = frozenset({Outcome.DENIED, Outcome.FAILED, Outcome.REJECTED})

LEASE = "lease"
"""The endpoint of a lease's record: it charges nothing by itself."""

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Books:
    """What both sides wrote down. Money in nano-USD."""

    bill: Mapping[str, Usage]
    """What the provider served, by session."""
    records: Sequence[Record]
    """What the ledger has: one a request that was decided."""

    @property
    def billed_nanos(self) -> int:
        return sum(cost(OpenAI, usage) for usage in self.bill.values())

    @property
    def charged_nanos(self) -> int:
        return self.charged_to(None)

    def charged_to(self, project: str | None) -> int:
        """What one project was charged, or all."""
        return sum(
            record.actual_cost_nanos or 0
            for record in self.records
            if project is None or record.attributes["project"] == project
        )

    @property
    def outcomes(self) -> Counter[Outcome]:
        return Counter(record.outcome for record in self.records)


async def spent_in(store_url: str) -> Mapping[tuple[str, str], int]:
    """What was spent of each limit by each scope, by a store that no policyd has open."""
    store = open_store(store_url)
    try:
        page = await store.accounts(page=PAGE)
        return {(account.limit, account.scope): balance.spent for account, balance in page.rows}
    finally:
        await store.close()


async def records_in(store_url: str) -> list[Record]:
    """Every usage record of a request, of a store that no policyd has open."""
    store = open_store(store_url)
    try:
        records: list[Record] = []
        cursor = ""
        while True:
            page = await store.usage(UsageFilter(), limit=PAGE, cursor=cursor)
            records += (record for record in page.records if record.endpoint != LEASE)
            cursor = page.next_cursor
            if not cursor:
                return records
    finally:
        await store.close()


def findings(books: Books, *, may_see_less: bool) -> list[str]:
    """What is wrong in the books. `may_see_less`: what a client left may be charged as far as policyd saw it."""
    by_session: dict[str, list[Record]] = {}
    for record in books.records:
        by_session.setdefault(record.attributes["session"], []).append(record)
    found = [
        f"{session}: the provider served {usage.input} and {usage.output} tokens, and the ledger has nothing"
        for session, usage in books.bill.items()
        if session not in by_session
    ]
    for session, records in by_session.items():
        if len(records) > 1:
            found.append(f"{session}: has {len(records)} records: {[record.outcome for record in records]}")
        else:
            billed = cost(OpenAI, books.bill[session]) if session in books.bill else 0
            if problem := _mischarged(records[0], billed, may_see_less=may_see_less):
                found.append(f"{session}: {problem}")
    return found


def _mischarged(record: Record, billed: int, *, may_see_less: bool) -> str:
    """Why the charge is not what the record's outcome promises; empty if it is."""
    charged, held = record.actual_cost_nanos or 0, record.estimated_cost_nanos
    words = f"{record.outcome}, charged {charged} of a hold of {held}, billed {billed} nano-USD"
    if record.outcome in NOT_SENT:
        is_right = charged == billed == 0
    elif record.outcome in SERVED:
        is_right = charged == billed
    elif record.outcome in HELD:
        is_right = billed <= charged == held
    elif record.outcome in LEFT:
        is_right = charged <= held and (may_see_less or billed <= charged)
    else:
        is_right = False
    return "" if is_right else words

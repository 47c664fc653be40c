"""One fault from beginning to end: load, break, mend, load, and then the sums."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policyd.core.money import parse_usd
from tests.e2e.books import open_holds
from tests.e2e.load import Asked, load
from tests.faults.audit import Books, findings, records_in
from tests.faults.faults import Fault, Promise
from tests.faults.stage import BUDGET, TIGHT, TIGHT_BUDGET, TIGHT_USD, WIDE, Stage, staged

CLIENTS, TIGHT_CLIENTS = 6, 2
CHUNK_DELAY_MS = 10

BEFORE, AFTER = 20, 30
"""How many requests have to pass before the fault, and again after it."""

FINDINGS_SHOWN = 10
LOG_BYTES_SHOWN = 4_000


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one fault. Money in nano-USD."""

    fault: Fault
    books: Books
    outcomes: Counter[str]
    """Of all requests of the load, as clients saw them."""
    back_seconds: float
    """How long after it was mended the last request failed."""
    seconds: float
    """What playing it took."""
    problems: Sequence[str]

    @property
    def difference_nanos(self) -> int:
        return self.books.charged_nanos - self.books.billed_nanos


@dataclass(frozen=True, slots=True)
class Moments:
    """When it broke and when it was mended, by the monotonic clock."""

    broken: float
    mended: float


async def play(fault: Fault) -> Report:
    """Raises nothing that a fault can cause: what went wrong stands in the report."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="policyd-fault-") as name:
        folder = Path(name)
        problems: list[str] = []
        async with staged(fault.setting, folder) as stage:
            asked, moments = await _under_load(fault, stage, problems)
            try:
                await stage.until_nothing_is_held()
            except AssertionError as error:
                problems.append(str(error))
            balances = {project: stage.balance(BUDGET, project).spent for project in (WIDE, TIGHT)}
            tight_spent = stage.balance(TIGHT_BUDGET, TIGHT).spent
            await stage.close()
            books = Books(stage.provider.bill(), await records_in(stage.store_url))
            if left := await open_holds(stage.store_url):
                problems.append(f"{left} holds are left in the store")
        problems += findings(books, may_see_less=fault.promise is Promise.OBSERVED)
        problems += _sums(books, balances, tight_spent)
        back_seconds = 0.0
        if moments is not None:
            problems += _bystanders(fault, asked, moments)
            back_seconds = _back_seconds(asked, moments)
        if fault.promise is Promise.EXACT and books.charged_nanos != books.billed_nanos:
            problems.append(f"charged {books.charged_nanos}, billed {books.billed_nanos} nano-USD")
        if problems:
            problems.append((folder / "stderr.log").read_text(errors="replace")[-LOG_BYTES_SHOWN:])
    return Report(
        fault=fault,
        books=books,
        outcomes=Counter(each.outcome for each in asked),
        back_seconds=back_seconds,
        seconds=time.monotonic() - began,
        problems=problems,
    )


async def _under_load(fault: Fault, stage: Stage, problems: list[str]) -> tuple[list[Asked], Moments | None]:
    """What was asked meanwhile, and when it happened; no moments if requests never passed again."""
    listen = str(stage.listen)
    moments = None
    with (
        load(listen, project=WIDE, clients=CLIENTS, chunk_delay_ms=CHUNK_DELAY_MS) as wide,
        load(listen, project=TIGHT, clients=TIGHT_CLIENTS, chunk_delay_ms=CHUNK_DELAY_MS) as tight,
    ):
        try:
            await asyncio.to_thread(wide.wait_for, BEFORE)
            broken = time.monotonic()
            await fault.happen(stage)
            moments = Moments(broken, time.monotonic())
            await asyncio.to_thread(wide.wait_for, AFTER)
        except AssertionError as error:
            problems.append(str(error))
    return [*wide.asked, *tight.asked], moments


def _sums(books: Books, balances: dict[str, int], tight_spent: int) -> list[str]:
    """What is wrong with the accounts."""
    problems = [
        f"{project}: the account says {spent}, its records {books.charged_to(project)} nano-USD"
        for project, spent in balances.items()
        if spent != books.charged_to(project)
    ]
    if tight_spent > parse_usd(TIGHT_USD):
        problems.append(f"a budget of {TIGHT_USD} USD is overspent: {tight_spent} nano-USD")
    return problems


def _bystanders(fault: Fault, asked: Sequence[Asked], moments: Moments) -> list[str]:
    """Requests that failed and had no part in it."""
    until = moments.mended + fault.back_seconds_max
    problems = []
    for each in asked:
        if _is_well(each):
            continue
        touched = each.ended >= moments.broken and each.began <= until
        if not (fault.fails and touched):
            at = each.ended - moments.mended
            problems.append(f"{each.session}: {each.outcome}, {at:.2f} s after all was mended")
    return problems


def _back_seconds(asked: Sequence[Asked], moments: Moments) -> float:
    return max((each.ended - moments.mended for each in asked if not _is_well(each)), default=0.0)


def _is_well(asked: Asked) -> bool:
    """A budget that is used up is refused, as it should be."""
    return asked.outcome == "200" or (asked.outcome == "402" and asked.session.startswith(TIGHT))

"""One fault from beginning to end: load, break, mend, load, and then the sums."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc

from policyd.core.money import parse_usd
from tests.e2e.books import open_holds
from tests.e2e.load import Asked, load
from tests.faults.audit import SERVED, Books, findings, records_in, spent_in
from tests.faults.clients import THROUGH, begin_streams, read_to_the_end
from tests.faults.faults import BACK_SECONDS_MAX, Fault, Promise
from tests.faults.stage import BUDGET, PROJECTS, TIGHT, TIGHT_BUDGET, TIGHT_USD, WIDE, Stage, staged

CLIENTS, TIGHT_CLIENTS = 6, 2
CHUNK_DELAY_MS = 10

SERVED_MEANWHILE_MIN = 10

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


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What was seen of a fault. Money in nano-USD."""

    asked: Sequence[Asked]
    moments: Moments | None
    """None if requests never passed again."""
    books: Books
    spent: Mapping[str, int]
    """What the accounts of each project say."""
    tight_spent: int
    """What the account of the budget says that the load uses up."""
    problems: Sequence[str]
    """What was wrong at first sight."""


async def play(fault: Fault) -> Report:
    """Raises nothing that a fault can cause: what went wrong stands in the report."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="policyd-fault-") as name:
        folder = Path(name)
        async with staged(fault.setting, folder) as stage:
            seen = await _witness(fault, stage)
        problems = judge(fault, seen)
        if problems:
            problems.append((folder / "stderr.log").read_text(errors="replace")[-LOG_BYTES_SHOWN:])
    return Report(
        fault=fault,
        books=seen.books,
        outcomes=Counter(each.outcome for each in seen.asked),
        back_seconds=_back_seconds(seen.asked, seen.moments) if seen.moments else 0.0,
        seconds=time.monotonic() - began,
        problems=problems,
    )


async def _witness(fault: Fault, stage: Stage) -> Witnessed:
    problems: list[str] = []
    asked, moments = await _under_load(fault, stage, problems)
    try:
        await stage.until_all_is_booked()
    except (AssertionError, grpc.RpcError) as error:
        problems.append(str(error))
    await stage.close()
    accounts = await spent_in(stage.store_url)
    spent = {project: accounts[BUDGET, f"project={project}"] for project in PROJECTS}
    tight_spent = accounts[TIGHT_BUDGET, ""]
    books = Books(stage.provider.bill(), await records_in(stage.store_url))
    if left := await open_holds(stage.store_url):
        problems.append(f"{left} holds are left in the store")
    return Witnessed(asked, moments, books, spent, tight_spent, problems)


async def _under_load(fault: Fault, stage: Stage, problems: list[str]) -> tuple[list[Asked], Moments | None]:
    """What was asked meanwhile, and when it happened."""
    listen = str(stage.listen)
    moments = None
    with (
        load(listen, project=WIDE, clients=CLIENTS, chunk_delay_ms=CHUNK_DELAY_MS) as wide,
        load(listen, project=TIGHT, clients=TIGHT_CLIENTS, chunk_delay_ms=CHUNK_DELAY_MS) as tight,
        ExitStack() as connections,
    ):
        try:
            await asyncio.to_thread(wide.wait_for, BEFORE)
            await stage.until_leased()
            begun = await asyncio.to_thread(begin_streams, listen, connections) if fault.expected.streams_go_on else ()
            broken = time.monotonic()
            await fault.happen(stage)
            moments = Moments(broken, time.monotonic())
            await asyncio.to_thread(read_to_the_end, begun)
            await asyncio.to_thread(wide.wait_for, AFTER)
        except (AssertionError, OSError) as error:
            problems.append(f"{type(error).__name__}: {error}")
    return [*wide.asked, *tight.asked], moments


def judge(fault: Fault, seen: Witnessed) -> list[str]:
    """Every promise that did not hold."""
    books = seen.books
    problems = [
        *seen.problems,
        *findings(books, may_see_less=fault.expected.promise is Promise.OBSERVED),
        *_sums(books, seen.spent),
        *_streams_through(books),
    ]
    if seen.moments is not None:
        problems += _bystanders(fault, seen.asked, seen.moments)
        if fault.expected.serves and not _is_served_meanwhile(seen.asked, seen.moments):
            problems.append("nobody was served while the store was away")
    if seen.tight_spent > parse_usd(TIGHT_USD) and not fault.expected.overspends:
        problems.append(f"a budget of {TIGHT_USD} USD is overspent: {seen.tight_spent} nano-USD")
    if fault.expected.promise is Promise.EXACT and books.charged_nanos != books.billed_nanos:
        problems.append(f"charged {books.charged_nanos}, billed {books.billed_nanos} nano-USD")
    return problems


def _sums(books: Books, spent: Mapping[str, int]) -> list[str]:
    """What is wrong with the accounts."""
    return [
        f"{project}: the account says {amount}, its records {books.charged_to(project)} nano-USD"
        for project, amount in spent.items()
        if amount != books.charged_to(project)
    ]


def _streams_through(books: Books) -> list[str]:
    """Streams that went on through the fault and were not charged what they cost."""
    return [
        f"{session}: {record.outcome}, though its stream came to its end"
        for record in books.records
        if (session := record.attributes["session"]).startswith(THROUGH) and record.outcome not in SERVED
    ]


def _bystanders(fault: Fault, asked: Sequence[Asked], moments: Moments) -> list[str]:
    """Requests that failed and had no part in it."""
    until = moments.mended + BACK_SECONDS_MAX
    problems = []
    for each in asked:
        if _is_well(each):
            continue
        touched = each.ended >= moments.broken and each.began <= until
        if not (fault.expected.fails and touched):
            at = each.ended - moments.mended
            problems.append(f"{each.session}: {each.outcome}, {at:.2f} s after all was mended")
    return problems


def _is_served_meanwhile(asked: Sequence[Asked], moments: Moments) -> bool:
    """Whether requests were decided and served between the break and the mend."""
    served = (each for each in asked if each.began >= moments.broken and each.ended <= moments.mended)
    return sum(each.outcome == "200" for each in served) >= SERVED_MEANWHILE_MIN


def _back_seconds(asked: Sequence[Asked], moments: Moments) -> float:
    return max((each.ended - moments.mended for each in asked if not _is_well(each)), default=0.0)


def _is_well(asked: Asked) -> bool:
    """A budget that is used up is refused, as it should be."""
    return asked.outcome == "200" or (asked.outcome == "402" and asked.session.startswith(TIGHT))

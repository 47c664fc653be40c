"""Stores that have grown: latency, memory, disk and sweeps with a thousand accounts and with a million."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from tests.bench.part import Bench, Part
from tests.bench.plan import FULL
from tests.bench.processes import Asked, asked
from tests.bench.samples import Figure
from tests.bench.tables import Table, itself, ratio
from tests.bench.targets import Bound, Target

STORES: Final = {"memory": "memory", "SQLite": "sqlite", "Redis": "redis"}

DECISIONS: Final = "decisions, by accounts"
FILLED: Final = "filled"
SWEPT: Final = "swept"

ANSWER_SECONDS_MAX: Final = 600


def row(store: str, accounts: int) -> str:
    return f"{store}, {accounts:,} accounts"


async def measure(bench: Bench) -> None:
    async with AsyncExitStack() as stack:
        deciders = {
            (store, accounts): await stack.enter_async_context(
                asked("tests.bench.deciding", await _url(bench, store, accounts), f"--accounts={accounts}")
            )
            for store in STORES
            for accounts in bench.plan.accounts
        }
        bench.progress("growth, filling the stores")
        await asyncio.gather(*(_fill(bench, store, deciders) for store in STORES))
        for number, turns in bench.rounds(list(deciders)):
            bench.progress(f"growth, round {number + 1}")
            for turn in turns:
                question = {"do": "decide", "seconds": bench.plan.slice_seconds}
                figures = await deciders[turn].ask(question, seconds_max=ANSWER_SECONDS_MAX)
                bench.add(DECISIONS, row(*turn), number, figures)
        for number, turns in bench.rounds(list(deciders), rounds=bench.plan.starts):
            bench.progress(f"growth, sweep {number + 1}")
            for turn in turns:
                figures = await deciders[turn].ask({"do": "sweep"}, seconds_max=ANSWER_SECONDS_MAX)
                bench.add(SWEPT, row(*turn), number, figures)


async def _url(bench: Bench, store: str, accounts: int) -> str:
    return await bench.stage.store_url(STORES[store], f"{store}-{accounts}")


async def _fill(bench: Bench, store: str, deciders: Mapping[tuple[str, int], Asked]) -> None:
    """One after the other: Redis tells only what it holds in all."""
    for accounts in bench.plan.accounts:
        figures = await deciders[store, accounts].ask({"do": "fill"}, seconds_max=ANSWER_SECONDS_MAX)
        bench.add(FILLED, row(store, accounts), 0, figures)


_ROWS = tuple(row(store, accounts) for store in STORES for accounts in FULL.accounts)
_SMALLEST = {row(store, accounts): row(store, FULL.accounts[0]) for store in STORES for accounts in FULL.accounts}

_GROWTH = Table(
    key="growth",
    title=("Accounts in", "the store"),
    rows=_ROWS,
    yardsticks=tuple(_SMALLEST.values()),
    columns=(
        itself("p50_ms", ("decision", "p50 ms"), DECISIONS, Figure.P50_MS, decimals=3),
        itself("p99_ms", ("decision", "p99 ms"), DECISIONS, Figure.P99_MS, decimals=3),
        ratio("p50_to_smallest", ("p50,", "x 1,000"), DECISIONS, Figure.P50_MS, to=_SMALLEST),
        itself("server_cpu_us", ("CPU us,", "with charge"), DECISIONS, Figure.SERVER_CPU_US),
        itself("resident_mb", ("memory", "MB"), FILLED, Figure.RESIDENT_MB, decimals=1),
        itself("disk_mb", ("disk", "MB"), FILLED, Figure.DISK_MB, decimals=1),
        itself("sweep_ms", ("sweep", "ms"), SWEPT, Figure.SWEEP_MS, decimals=1),
        itself("stall_ms", ("stalled by", "it, ms"), SWEPT, Figure.STALL_MS, decimals=1),
    ),
)

GROWTH: Final = Part(
    name="growth",
    about="decisions and sweeps with a thousand, a hundred thousand and a million accounts in each store",
    measure=measure,
    tables=(_GROWTH,),
    targets=tuple(
        Target(
            what=f"decision p50 with a million accounts against a thousand, {store}",
            table="growth",
            row=row(store, FULL.accounts[-1]),
            column="p50_to_smallest",
            bound=Bound.AT_MOST,
            value=1.3,
        )
        for store in STORES
    ),
)

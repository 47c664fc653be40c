"""How soon policyd serves, what importing it takes, and what it holds before it has anything to do."""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter
from typing import Final

from policyd.config import HostPort
from tests.bench.arrangements import Policyd, host_port
from tests.bench.part import Bench, Part
from tests.bench.processes import ChildFailed, child, process, resident_mb
from tests.bench.samples import Figure, Figures
from tests.bench.tables import Table, itself, ratio
from tests.bench.targets import Bound, Target

NOOP: Final = "no-op server"
POLICYD: Final = "policyd, SQLite"
ROWS: Final = {NOOP: "tests.bench.noop", POLICYD: "policyd.server"}
"""What each imports."""

WORKLOAD: Final = "start"


async def measure(bench: Bench) -> None:
    for number, rows in bench.rounds(list(ROWS), rounds=bench.plan.starts):
        bench.progress(f"start, round {number + 1}")
        for row in rows:
            bench.add(WORKLOAD, row, number, await _start(bench, row))


async def _start(bench: Bench, row: str) -> Figures:
    began = perf_counter()
    async with process(sys.executable, "-c", f"import {ROWS[row]}") as importing:
        if await importing.wait() != 0:
            raise ChildFailed(f"{ROWS[row]} cannot be imported")
    imported_seconds = perf_counter() - began
    if row == NOOP:
        module, arguments = ROWS[row], []
    else:
        module, arguments = "policyd", ["serve", *await bench.stage.flags(row, Policyd(store="sqlite"))]
    began = perf_counter()
    async with child(module, *arguments, log=bench.stage.log(f"start {row}")) as server:
        if "http" in server.ready:
            await _answered(host_port(server.ready["http"]))
        return {
            Figure.IMPORT_SECONDS: imported_seconds,
            Figure.READY_SECONDS: perf_counter() - began,
            Figure.RESIDENT_MB: resident_mb(server.pid),
        }


async def _answered(address: HostPort) -> None:
    """Raises `ChildFailed` unless /readyz says that it is."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: policyd\r\nconnection: close\r\n\r\n")
        status = await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()
    if b" 200 " not in status:
        raise ChildFailed(f"/readyz answered {status!r}")


_STARTUP = Table(
    key="startup",
    title=("Start", ""),
    rows=tuple(ROWS),
    yardsticks=(NOOP,),
    columns=(
        itself("ready_seconds", ("ready", "after s"), WORKLOAD, Figure.READY_SECONDS, decimals=2),
        ratio("ready_to_noop", ("ready,", "x no-op"), WORKLOAD, Figure.READY_SECONDS, to=NOOP),
        itself("import_seconds", ("imported", "in s"), WORKLOAD, Figure.IMPORT_SECONDS, decimals=2),
        itself("resident_mb", ("idle", "MB"), WORKLOAD, Figure.RESIDENT_MB),
        ratio("memory_to_noop", ("idle MB,", "x no-op"), WORKLOAD, Figure.RESIDENT_MB, to=NOOP),
    ),
)

STARTUP: Final = Part(
    name="startup",
    about="time until ready, time to import, idle memory",
    measure=measure,
    tables=(_STARTUP,),
    targets=(
        Target(
            what="ready, with prices and vocabularies loaded",
            table="startup",
            row=POLICYD,
            column="ready_seconds",
            bound=Bound.AT_MOST,
            value=2,
            unit="s",
        ),
        Target(
            what="memory when ready",
            table="startup",
            row=POLICYD,
            column="resident_mb",
            bound=Bound.AT_MOST,
            value=150,
            unit="MB",
        ),
    ),
)

"""Calls of PolicyService, as other services make them, against a gRPC server that does nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Final

from tests.bench.arrangements import FLOOR, MEMORY, REDIS, SERVERS, SQLITE, host_port
from tests.bench.calls import check_budget, reserve_and_settle
from tests.bench.grpc_load import Work, grpc_load
from tests.bench.load import Load
from tests.bench.part import Bench, Part, measured
from tests.bench.plan import CALLS_AT_ONCE
from tests.bench.processes import Child
from tests.bench.samples import Figure
from tests.bench.tables import Table, itself, ratio
from tests.bench.targets import Bound, Target

ROWS: Final = (FLOOR, MEMORY, SQLITE, REDIS)

CHECK: Final = "CheckBudget"
RESERVE: Final = "Reserve and Settle"

WORKS: Final[Mapping[str, Work]] = {CHECK: check_budget, RESERVE: reserve_and_settle}


async def measure(bench: Bench) -> None:
    asked = {name: SERVERS[name] for name in ROWS if name not in bench.plan.skipped}
    servers = await bench.stage.servers(asked)
    for work in WORKS.values():
        for server in servers.values():
            await _load(server, work, seconds=bench.plan.warm_up_seconds)
    for number, names in bench.rounds(list(servers)):
        bench.progress(f"gRPC calls, round {number + 1}")
        for workload, work in WORKS.items():
            for name in names:
                load = _load(servers[name], work, seconds=bench.plan.slice_seconds)
                figures = await measured({Figure.SERVER_CPU_US: servers[name].pid}, load)
                bench.add(workload, name, number, figures)


def _load(server: Child, work: Work, *, seconds: float) -> Awaitable[Load]:
    return grpc_load(host_port(server.ready["grpc"]), work, at_once=CALLS_AT_ONCE, seconds=seconds)


_CALLS = Table(
    key="calls",
    title=("gRPC calls,", f"{CALLS_AT_ONCE} at once"),
    rows=ROWS,
    yardsticks=(FLOOR,),
    columns=(
        itself("checks_per_second", ("CheckBudget", "calls/s"), CHECK, Figure.PER_SECOND),
        itself("check_cpu_us", ("server CPU", "us a call"), CHECK, Figure.SERVER_CPU_US),
        ratio("checks_to_floor", ("calls/s", "x floor"), CHECK, Figure.PER_SECOND, to=FLOOR),
        ratio("check_cpu_to_floor", ("server CPU", "x floor"), CHECK, Figure.SERVER_CPU_US, to=FLOOR),
        itself("reserves_per_second", ("Reserve+Settle", "calls/s"), RESERVE, Figure.PER_SECOND),
        itself("reserve_cpu_us", ("server CPU", "us a call"), RESERVE, Figure.SERVER_CPU_US),
        ratio("reserves_to_floor", ("calls/s", "x floor"), RESERVE, Figure.PER_SECOND, to=FLOOR),
        ratio("reserve_cpu_to_floor", ("server CPU", "x floor"), RESERVE, Figure.SERVER_CPU_US, to=FLOOR),
    ),
)

CALLS: Final = Part(
    name="calls",
    about="CheckBudget, and Reserve with Settle, against a gRPC server that does nothing",
    measure=measure,
    tables=(_CALLS,),
    targets=(
        Target(
            what="CheckBudget calls/s against a no-op server's",
            table="calls",
            row=SQLITE,
            column="checks_to_floor",
            bound=Bound.AT_LEAST,
            value=0.85,
        ),
        Target(
            what="Reserve and Settle with SQLite, calls/s against a no-op server's",
            table="calls",
            row=SQLITE,
            column="reserves_to_floor",
            bound=Bound.AT_LEAST,
            value=0.6,
        ),
    ),
)

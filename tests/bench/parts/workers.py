"""Several processes: whether a request costs more when two workers share them."""

from __future__ import annotations

from typing import Final

from tests.bench.arrangements import SQLITE, TWO_WORKERS
from tests.bench.part import Bench, Part
from tests.bench.plan import COMPARED_AT
from tests.bench.samples import Figure
from tests.bench.tables import Table, itself, ratio
from tests.bench.targets import Bound, Target

ROWS: Final = (SQLITE, TWO_WORKERS)
WORKLOAD: Final = "requests, by workers"


async def measure(bench: Bench) -> None:
    arrangements = await bench.arrangements(ROWS)
    for number, turns in bench.rounds(arrangements):
        bench.progress(f"workers, round {number + 1}")
        for turn in turns:
            await bench.sample(WORKLOAD, turn, number, bench.requests(turn.listen_address, COMPARED_AT))


_WORKERS = Table(
    key="workers",
    title=("Workers,", f"{COMPARED_AT} at once"),
    rows=ROWS,
    yardsticks=(SQLITE,),
    columns=(
        itself("per_second", ("", "req/s"), WORKLOAD, Figure.PER_SECOND),
        itself("server_cpu_us", ("server CPU", "us a request"), WORKLOAD, Figure.SERVER_CPU_US),
        ratio("to_one", ("server CPU", "x one"), WORKLOAD, Figure.SERVER_CPU_US, to=SQLITE),
    ),
)

WORKERS: Final = Part(
    name="workers",
    about="two workers against one",
    measure=measure,
    tables=(_WORKERS,),
    targets=(
        Target(
            what="CPU a request with two workers against one",
            table="workers",
            row=TWO_WORKERS,
            column="to_one",
            bound=Bound.AT_MOST,
            value=1.1,
        ),
    ),
)

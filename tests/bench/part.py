"""A part of the benchmark: what it measures, in which tables it is shown, and which targets stand on it."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from policyd.config import HostPort
from tests.bench.arrangements import Arrangement, Stage
from tests.bench.http_load import http_load
from tests.bench.load import Load
from tests.bench.plan import COMPARED_AT, Plan
from tests.bench.processes import cpu_seconds
from tests.bench.samples import Figure, Figures, Sample
from tests.bench.tables import Table
from tests.bench.targets import Target
from tests.bench.traffic import http_request
from tests.bench.wrk import wrk_load

T = TypeVar("T")

BUNDLED: Final = "the bundled client"


class Bench:
    """What a part measures with."""

    def __init__(self, plan: Plan, stage: Stage, *, progress: Callable[[str], None]) -> None:
        self.plan = plan
        self.stage = stage
        self.samples: list[Sample] = []
        self.progress = progress
        self._wrk = shutil.which("wrk") if plan.in_whole_seconds else None

    @property
    def generator(self) -> str:
        """What makes the load of HTTP."""
        return f"wrk, of streams and large prompts {BUNDLED}" if self._wrk else BUNDLED

    def rounds(self, rows: Sequence[T], *, rounds: int | None = None) -> Iterator[tuple[int, Sequence[T]]]:
        """Each round's number, and the rows in its order: who comes first changes from round to round."""
        for number in range(rounds or self.plan.rounds):
            first = number % len(rows)
            yield number, (*rows[first:], *rows[:first])

    def add(self, workload: str, row: str, number: int, figures: Figures) -> None:
        self.samples.append(Sample(workload=workload, row=row, round=number, figures=figures))

    async def arrangements(self, rows: Sequence[str]) -> Sequence[Arrangement]:
        """Those of the rows that the plan does not skip, warmed up."""
        arrangements = await self.stage.arrangements(*(row for row in rows if row not in self.plan.skipped))
        await self.warm_up(arrangements)
        return arrangements

    async def requests(self, address: HostPort, connections: int) -> Load:
        """A slice of plain requests."""
        seconds = self.plan.slice_seconds
        if self._wrk:
            return await wrk_load(self._wrk, address, connections=connections, seconds=int(seconds))
        return await http_load(address, http_request(address), connections=connections, seconds=seconds)

    async def warm_up(self, arrangements: Sequence[Arrangement]) -> None:
        for each in arrangements:
            await http_load(
                each.listen_address,
                http_request(each.listen_address),
                connections=COMPARED_AT,
                seconds=self.plan.warm_up_seconds,
            )

    async def sample(
        self, workload: str, turn: Arrangement, number: int, load: Awaitable[Load], *, units_each: int = 1
    ) -> None:
        """Carries a load to an arrangement. `units_each`: how many units a request is."""
        pids = {Figure.ENVOY_CPU_US: turn.envoy_pid, Figure.SERVER_CPU_US: turn.server_pid}
        self.add(workload, turn.name, number, await measured(pids, load, units_each=units_each))


async def measured(
    pids: dict[Figure, int | None], load: Awaitable[Load], *, units_each: int = 1
) -> dict[Figure, float]:
    """The figures of a load, with the CPU time that the processes used meanwhile."""
    running = {figure: pid for figure, pid in pids.items() if pid is not None}
    before = {figure: cpu_seconds(pid) for figure, pid in running.items()}
    carried = await load
    units = carried.requests * units_each
    used = {figure: (cpu_seconds(pid) - before[figure]) * 1e6 / units for figure, pid in running.items()}
    first_byte = carried.first_byte_p50_ms
    return {
        Figure.PER_SECOND: units / carried.seconds,
        Figure.P50_MS: carried.p50_ms,
        Figure.P99_MS: carried.p99_ms,
        **({} if first_byte is None else {Figure.FIRST_BYTE_P50_MS: first_byte}),
        **used,
        Figure.ALL_CPU_US: sum(used.values()),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: str
    about: str
    """For `make bench ARGS=--help`."""
    measure: Callable[[Bench], Awaitable[None]]
    tables: tuple[Table, ...]
    targets: tuple[Target, ...] = ()

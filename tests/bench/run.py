"""Measures: starts everything, then goes through it round by round."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyd.config import HostPort
from tests.bench.arrangements import Arrangement, running
from tests.bench.calls import check_budget, reserve_and_settle
from tests.bench.grpc_load import Work, grpc_load
from tests.bench.http_load import http_load
from tests.bench.load import Load
from tests.bench.plan import CALLS_AT_ONCE, COMPARED_AT, CONNECTIONS, STREAMS_AT_ONCE, Plan
from tests.bench.processes import cpu_seconds
from tests.bench.samples import Sample, Samples, Series, Workload
from tests.bench.traffic import STREAM_CHUNKS
from tests.bench.wrk import wrk_load

_CALLS: Final[Mapping[Series, Work]] = {Series.CHECK: check_budget, Series.RESERVE: reserve_and_settle}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    generator: str
    """What made the load of JSON requests."""
    ceiling: Load
    """What it gets from the provider at `COMPARED_AT` connections with nothing in between."""
    samples: Samples


async def run(plan: Plan, *, progress: Callable[[str], None]) -> Outcome:
    """`progress` is told what is under way.

    Raises what a load raises, as an `ExceptionGroup` or alone: there are no figures of failures.
    """
    wrk = shutil.which("wrk") if plan.in_whole_seconds else None
    progress("starting seven Envoys, policyd four times, two servers that do nothing, and a provider")
    with tempfile.TemporaryDirectory(prefix="policyd-bench-") as folder:
        async with running(Path(folder)) as it:
            bench = _Bench(plan, it.arrangements, wrk)
            ceiling = await bench.http_load(it.provider, COMPARED_AT)
            await bench.warm_up()
            for number in range(plan.rounds):
                progress(f"round {number + 1} of {plan.rounds}")
                await bench.round(number)
    return Outcome(generator="wrk" if wrk else "the bundled client", ceiling=ceiling, samples=Samples(bench.samples))


class _Bench:
    def __init__(self, plan: Plan, arrangements: tuple[Arrangement, ...], wrk: str | None) -> None:
        self.samples: list[Sample] = []
        self._plan = plan
        self._arrangements = arrangements
        self._wrk = wrk

    async def http_load(self, address: HostPort, connections: int) -> Load:
        seconds = self._plan.http_seconds
        if self._wrk:
            return await wrk_load(self._wrk, address, connections=connections, seconds=int(seconds))
        return await http_load(address, connections=connections, seconds=seconds)

    async def warm_up(self) -> None:
        for each in self._arrangements:
            await http_load(each.listen_address, connections=COMPARED_AT, seconds=self._plan.warm_up_seconds)

    async def round(self, number: int) -> None:
        """Takes every sample once; who comes first changes from round to round."""
        first = number % len(self._arrangements)
        turns = (*self._arrangements[first:], *self._arrangements[:first])
        for connections in CONNECTIONS:
            for turn in turns:
                load = self.http_load(turn.listen_address, connections)
                await self._sample(turn, Workload(Series.HTTP, connections), number, load)
        for turn in turns:
            load = http_load(
                turn.listen_address, connections=STREAMS_AT_ONCE, seconds=self._plan.stream_seconds, stream=True
            )
            await self._sample(turn, Workload(Series.STREAM, STREAMS_AT_ONCE), number, load)
        for series, work in _CALLS.items():
            for turn in turns:
                if turn.grpc_address is not None:
                    load = grpc_load(turn.grpc_address, work, at_once=CALLS_AT_ONCE, seconds=self._plan.calls_seconds)
                    await self._sample(turn, Workload(series, CALLS_AT_ONCE), number, load)

    async def _sample(self, turn: Arrangement, workload: Workload, number: int, load: Awaitable[Load]) -> None:
        envoy_before, server_before = _cpu_seconds(turn)
        carried = await load
        envoy_after, server_after = _cpu_seconds(turn)
        units = carried.requests * (STREAM_CHUNKS if workload.series is Series.STREAM else 1)
        self.samples.append(
            Sample(
                workload=workload,
                row=turn.name,
                round=number,
                units=units,
                units_per_second=units / carried.seconds,
                p50_ms=carried.p50_ms,
                p99_ms=carried.p99_ms,
                envoy_cpu_us=(envoy_after - envoy_before) * 1e6 / units,
                server_cpu_us=(server_after - server_before) * 1e6 / units,
            )
        )


def _cpu_seconds(turn: Arrangement) -> tuple[float, float]:
    """Of Envoy, and of the server that it asks."""
    return cpu_seconds(turn.envoy_pid), cpu_seconds(turn.server_pid) if turn.server_pid is not None else 0.0

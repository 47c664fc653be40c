"""Streamed replies: what a chunk costs, when the first one arrives, and what many open streams hold."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.bench.arrangements import (
    ENVOY_ALONE,
    FLOOR,
    FLOOR_ON_H2RPC,
    MEMORY,
    MEMORY_ON_GRPCIO,
    SQLITE,
    SQLITE_ON_GRPCIO,
)
from tests.bench.http_load import http_load, open_streams
from tests.bench.part import Bench, Part
from tests.bench.plan import FULL, STREAMS_AT_ONCE
from tests.bench.processes import resident_mb
from tests.bench.samples import Figure
from tests.bench.tables import Table, added, itself, ratio
from tests.bench.targets import Bound, Target
from tests.bench.traffic import STREAM_CHUNKS, http_request

ROWS: Final = (ENVOY_ALONE, FLOOR, FLOOR_ON_H2RPC, MEMORY, SQLITE, MEMORY_ON_GRPCIO, SQLITE_ON_GRPCIO)
HELD_OPEN: Final = (FLOOR_ON_H2RPC, SQLITE)

CHUNKS: Final = "chunks"
OPEN: Final = "open streams"

CHUNK_MS: Final = 500
"""From one chunk of a stream that is held open to the next: together they are no load."""

CHUNKS_SEEN: Final = 3
"""How many chunks of each open stream pass before memory is looked at."""


async def measure(bench: Bench) -> None:
    arrangements = await bench.arrangements(ROWS)
    for number, turns in bench.rounds(arrangements):
        bench.progress(f"streams, round {number + 1}")
        for turn in turns:
            load = http_load(
                turn.listen_address,
                http_request(turn.listen_address, stream=True),
                connections=STREAMS_AT_ONCE,
                seconds=bench.plan.slice_seconds,
                stream=True,
            )
            await bench.sample(CHUNKS, turn, number, load, units_each=STREAM_CHUNKS)
    for number, rows in bench.rounds(HELD_OPEN, rounds=bench.plan.starts):
        bench.progress(f"open streams, round {number + 1}")
        for row in rows:
            bench.add(OPEN, row, number, {Figure.RESIDENT_MB: await _added_mb(bench, row)})


async def _added_mb(bench: Bench, row: str) -> float:
    """What a server that has served before holds more while streams are open."""
    async with bench.stage.fresh(row) as arrangement:
        assert arrangement.server_pid is not None
        await bench.warm_up([arrangement])
        idle = resident_mb(arrangement.server_pid)
        address = arrangement.listen_address
        request = http_request(address, stream=True, x_bench_chunk_ms=str(CHUNK_MS))
        async with open_streams(address, request, count=bench.plan.open_streams):
            await asyncio.sleep(CHUNKS_SEEN * CHUNK_MS / 1000)
            return resident_mb(arrangement.server_pid) - idle


_STREAMS = Table(
    key="streams",
    title=(f"Streams of {STREAM_CHUNKS}", f"chunks, {STREAMS_AT_ONCE} at once"),
    rows=ROWS,
    yardsticks=(ENVOY_ALONE, FLOOR, FLOOR_ON_H2RPC),
    columns=(
        itself("server_cpu_us", ("server CPU", "us a chunk"), CHUNKS, Figure.SERVER_CPU_US),
        itself("envoy_cpu_us", ("Envoy CPU", "us a chunk"), CHUNKS, Figure.ENVOY_CPU_US),
        ratio("to_floor", ("server CPU", "x floor"), CHUNKS, Figure.SERVER_CPU_US, to=FLOOR),
        itself("first_byte_ms", ("first byte", "p50 ms"), CHUNKS, Figure.FIRST_BYTE_P50_MS, decimals=2),
        added(
            "added_first_byte_ms",
            ("added to", "first byte ms"),
            CHUNKS,
            Figure.FIRST_BYTE_P50_MS,
            to=ENVOY_ALONE,
            decimals=2,
        ),
    ),
)

_OPEN = Table(
    key="open_streams",
    title=("Open streams", f"{FULL.open_streams} at once"),
    rows=HELD_OPEN,
    yardsticks=(FLOOR_ON_H2RPC,),
    columns=(itself("resident_mb", ("server MB", "above idle"), OPEN, Figure.RESIDENT_MB, decimals=1),),
)

STREAMS: Final = Part(
    name="streams",
    about="streamed replies: CPU a chunk, time to the first byte, memory of 500 open streams",
    measure=measure,
    tables=(_STREAMS, _OPEN),
    targets=(
        Target(
            what="CPU of policyd a streamed chunk",
            table="streams",
            row=SQLITE,
            column="server_cpu_us",
            bound=Bound.AT_MOST,
            value=20,
            unit="us",
        ),
        Target(
            what="memory of 500 open streams above idle",
            table="open_streams",
            row=SQLITE,
            column="resident_mb",
            bound=Bound.AT_MOST,
            value=60,
            unit="MB",
        ),
    ),
)

"""Requests with JSON replies, through Envoy alone, with a server that does nothing, and with policyd."""

from __future__ import annotations

from typing import Final

from tests.bench.arrangements import (
    ENVOY_ALONE,
    FLOOR,
    FLOOR_ON_H2RPC,
    MEMORY,
    MEMORY_ON_GRPCIO,
    ON_GRPCIO,
    REDIS,
    REDIS_ON_GRPCIO,
    SQLITE,
    SQLITE_ON_GRPCIO,
)
from tests.bench.part import Bench, Part
from tests.bench.plan import COMPARED_AT, CONNECTIONS
from tests.bench.samples import Figure
from tests.bench.tables import Table, added, itself, ratio
from tests.bench.targets import Bound, Target

ROWS: Final = (
    ENVOY_ALONE,
    FLOOR,
    FLOOR_ON_H2RPC,
    MEMORY,
    SQLITE,
    REDIS,
    MEMORY_ON_GRPCIO,
    SQLITE_ON_GRPCIO,
    REDIS_ON_GRPCIO,
)

CEILING: Final = "the provider, without Envoy"
"""What the load program reaches: how far it is from being what is measured."""


def workload(connections: int) -> str:
    return f"requests at {connections}"


async def measure(bench: Bench) -> None:
    arrangements = await bench.arrangements(ROWS)
    for number, turns in bench.rounds(arrangements):
        bench.progress(f"requests, round {number + 1}")
        ceiling = await bench.requests(bench.stage.provider, COMPARED_AT)
        bench.add(workload(COMPARED_AT), CEILING, number, {Figure.PER_SECOND: ceiling.per_second})
        for connections in CONNECTIONS:
            for turn in turns:
                load = bench.requests(turn.listen_address, connections)
                await bench.sample(workload(connections), turn, number, load)


_COMPARED = workload(COMPARED_AT)
_AT = f"at {COMPARED_AT}"

_REQUESTS = Table(
    key="requests",
    title=("JSON replies", ""),
    rows=(CEILING, *ROWS),
    yardsticks=(CEILING, ENVOY_ALONE, FLOOR, FLOOR_ON_H2RPC),
    columns=(
        *(itself(f"per_second_at_{at}", ("req/s", f"at {at}"), workload(at), Figure.PER_SECOND) for at in CONNECTIONS),
        itself("p50_ms", ("p50 ms", _AT), _COMPARED, Figure.P50_MS, decimals=1),
        itself("p99_ms", ("p99 ms", _AT), _COMPARED, Figure.P99_MS, decimals=1),
        added("added_p50_ms", ("added p50", "ms at 1"), workload(1), Figure.P50_MS, to=ENVOY_ALONE, decimals=2),
        itself("server_cpu_us", ("server CPU", "us a request"), _COMPARED, Figure.SERVER_CPU_US),
        itself("envoy_cpu_us", ("Envoy CPU", "us a request"), _COMPARED, Figure.ENVOY_CPU_US),
        ratio("cpu_to_floor", ("server CPU", "x floor"), _COMPARED, Figure.SERVER_CPU_US, to=FLOOR),
        ratio("to_floor", ("req/s", "x floor"), _COMPARED, Figure.PER_SECOND, to=FLOOR),
        ratio("to_envoy_alone", ("req/s x", "Envoy alone"), _COMPARED, Figure.PER_SECOND, to=ENVOY_ALONE, decimals=3),
    ),
)

_TRANSPORTS = Table(
    key="transports",
    title=("h2rpc, as a ratio", "to grpcio"),
    rows=tuple(ON_GRPCIO),
    yardsticks=(FLOOR_ON_H2RPC,),
    columns=(
        ratio("per_second", ("req/s", _AT), _COMPARED, Figure.PER_SECOND, to=ON_GRPCIO),
        ratio("server_cpu_us", ("server CPU", "a request"), _COMPARED, Figure.SERVER_CPU_US, to=ON_GRPCIO),
        ratio("p50_ms", ("p50", _AT), _COMPARED, Figure.P50_MS, to=ON_GRPCIO, watched=False),
        ratio("envoy_cpu_us", ("Envoy CPU", "a request"), _COMPARED, Figure.ENVOY_CPU_US, to=ON_GRPCIO, watched=False),
    ),
)

_STORES = Table(
    key="redis",
    title=("Redis, less", "SQLite"),
    rows=(REDIS_ON_GRPCIO, REDIS),
    columns=(
        added(
            "server_cpu_us",
            ("server CPU", "us a request"),
            _COMPARED,
            Figure.SERVER_CPU_US,
            to={REDIS_ON_GRPCIO: SQLITE_ON_GRPCIO, REDIS: SQLITE},
        ),
    ),
)

REQUESTS: Final = Part(
    name="requests",
    about="requests with JSON replies: on every store and transport, against Envoy alone and the floor",
    measure=measure,
    tables=(_REQUESTS, _TRANSPORTS, _STORES),
    targets=(
        Target(
            what="CPU of policyd a request, everything on, SQLite",
            table="requests",
            row=SQLITE,
            column="server_cpu_us",
            bound=Bound.AT_MOST,
            value=200,
            goal=110,
            unit="us",
        ),
        Target(
            what="requests/s at 16 against the floor's",
            table="requests",
            row=SQLITE,
            column="to_floor",
            bound=Bound.AT_LEAST,
            value=1,
            goal=1.25,
        ),
        Target(
            what="requests/s at 16 against Envoy alone",
            table="requests",
            row=SQLITE,
            column="to_envoy_alone",
            bound=Bound.AT_LEAST,
            value=0.5,
        ),
        Target(
            what="CPU of policyd that Redis adds to a request",
            table="redis",
            row=REDIS,
            column="server_cpu_us",
            bound=Bound.AT_MOST,
            value=60,
            unit="us",
        ),
    ),
)

"""What is shown, column by column: each is a figure of every row, with its spread over the rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.bench.arrangements import (
    ENVOY_ALONE,
    FLOOR,
    FLOOR_ON_H2RPC,
    MEMORY,
    MEMORY_ON_H2RPC,
    ON_GRPCIO,
    SQLITE,
    SQLITE_ON_H2RPC,
)
from tests.bench.plan import CALLS_AT_ONCE, COMPARED_AT, CONNECTIONS, STREAMS_AT_ONCE
from tests.bench.samples import Measure, Sample, Samples, Series, Spread, Workload
from tests.bench.traffic import STREAM_CHUNKS

Heading = tuple[str, str]
"""Two lines."""

Cell = Callable[[Samples, str], Spread | None]
"""The figure of a row, by the row's name; `None` where that row has none."""


@dataclass(frozen=True, slots=True)
class Column:
    key: str
    heading: Heading
    cell: Cell
    decimals: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    key: str
    title: Heading
    rows: tuple[str, ...]
    columns: tuple[Column, ...]


# --- figures of a sample ---


def _rate(sample: Sample) -> float:
    return sample.units_per_second


def _p50_ms(sample: Sample) -> float:
    return sample.p50_ms


def _p99_ms(sample: Sample) -> float:
    return sample.p99_ms


def _envoy_cpu_us(sample: Sample) -> float:
    return sample.envoy_cpu_us


def _server_cpu_us(sample: Sample) -> float:
    return sample.server_cpu_us


# --- cells ---


def _spread(workload: Workload, measure: Measure) -> Cell:
    return lambda samples, row: samples.spread(workload, row, measure)


def _spread_of_servers(workload: Workload, measure: Measure) -> Cell:
    return lambda samples, row: None if row == ENVOY_ALONE else samples.spread(workload, row, measure)


def _ratio(workload: Workload, measure: Measure, *, to: str) -> Cell:
    return lambda samples, row: samples.ratio(workload, row, measure, to=to)


def _ratio_to_grpcio(workload: Workload, measure: Measure) -> Cell:
    return lambda samples, row: samples.ratio(workload, row, measure, to=ON_GRPCIO[row])


def _added(workload: Workload, measure: Measure, *, to: str) -> Cell:
    return lambda samples, row: samples.difference(workload, row, measure, to=to)


# --- the tables ---

_HTTP = partial(Workload, Series.HTTP)
_COMPARED = _HTTP(COMPARED_AT)
_STREAMS = Workload(Series.STREAM, STREAMS_AT_ONCE)
_CHECKS = Workload(Series.CHECK, CALLS_AT_ONCE)
_RESERVES = Workload(Series.RESERVE, CALLS_AT_ONCE)
_AT = f"at {COMPARED_AT}"

_EXCHANGES = (ENVOY_ALONE, FLOOR, MEMORY, SQLITE, FLOOR_ON_H2RPC, MEMORY_ON_H2RPC, SQLITE_ON_H2RPC)

TABLES: Final = (
    Table(
        key="requests",
        title=("JSON replies", ""),
        rows=_EXCHANGES,
        columns=(
            *(Column(f"per_second_at_{at}", ("req/s", f"at {at}"), _spread(_HTTP(at), _rate)) for at in CONNECTIONS),
            Column("p50_ms", ("p50 ms", _AT), _spread(_COMPARED, _p50_ms), 1),
            Column("p99_ms", ("p99 ms", _AT), _spread(_COMPARED, _p99_ms), 1),
            Column("added_p50_ms", ("added p50", "ms at 1"), _added(_HTTP(1), _p50_ms, to=ENVOY_ALONE), 2),
            Column("server_cpu_us", ("server CPU", "us a request"), _spread_of_servers(_COMPARED, _server_cpu_us)),
            Column("envoy_cpu_us", ("Envoy CPU", "us a request"), _spread(_COMPARED, _envoy_cpu_us)),
            Column("to_floor", ("req/s", "x floor"), _ratio(_COMPARED, _rate, to=FLOOR), 2),
            Column("to_envoy_alone", ("req/s x", "Envoy alone"), _ratio(_COMPARED, _rate, to=ENVOY_ALONE), 3),
        ),
    ),
    Table(
        key="streams",
        title=(f"Streams of {STREAM_CHUNKS}", f"chunks, {STREAMS_AT_ONCE} at once"),
        rows=_EXCHANGES,
        columns=(
            Column("server_cpu_us", ("server CPU", "us a chunk"), _spread_of_servers(_STREAMS, _server_cpu_us)),
            Column("envoy_cpu_us", ("Envoy CPU", "us a chunk"), _spread(_STREAMS, _envoy_cpu_us)),
        ),
    ),
    Table(
        key="transports",
        title=("h2rpc, as a ratio", "to grpcio"),
        rows=tuple(ON_GRPCIO),
        columns=(
            Column("per_second", ("req/s", _AT), _ratio_to_grpcio(_COMPARED, _rate), 2),
            Column("p50_ms", ("p50", _AT), _ratio_to_grpcio(_COMPARED, _p50_ms), 2),
            Column("server_cpu_us", ("server CPU", "a request"), _ratio_to_grpcio(_COMPARED, _server_cpu_us), 2),
            Column("envoy_cpu_us", ("Envoy CPU", "a request"), _ratio_to_grpcio(_COMPARED, _envoy_cpu_us), 2),
            Column("chunk_cpu_us", ("server CPU", "a chunk"), _ratio_to_grpcio(_STREAMS, _server_cpu_us), 2),
        ),
    ),
    Table(
        key="calls",
        title=("gRPC calls,", f"{CALLS_AT_ONCE} at once"),
        rows=(FLOOR, MEMORY, SQLITE),
        columns=(
            Column("checks_per_second", ("CheckBudget", "calls/s"), _spread(_CHECKS, _rate)),
            Column("check_cpu_us", ("server CPU", "us a call"), _spread(_CHECKS, _server_cpu_us)),
            Column("checks_to_floor", ("calls/s", "x floor"), _ratio(_CHECKS, _rate, to=FLOOR), 2),
            Column("reserves_per_second", ("Reserve+Settle", "calls/s"), _spread(_RESERVES, _rate)),
            Column("reserve_cpu_us", ("server CPU", "us a call"), _spread(_RESERVES, _server_cpu_us)),
            Column("reserves_to_floor", ("calls/s", "x floor"), _ratio(_RESERVES, _rate, to=FLOOR), 2),
        ),
    ),
)

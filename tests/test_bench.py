"""The benchmark's tiniest slice: that it runs, and that its figures are of what they say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest

from policyd.config import HostPort
from tests.bench.arrangements import (
    ENVOY_ALONE,
    FLOOR,
    MEMORY,
    MEMORY_ON_GRPCIO,
    REDIS,
    REDIS_ON_GRPCIO,
    SQLITE_ON_GRPCIO,
)
from tests.bench.baseline import Baseline, Ratio, ratios, watched, worse, worse_again
from tests.bench.hot_path import measure
from tests.bench.http_load import http_load
from tests.bench.load import Load, UnexpectedReply
from tests.bench.part import Part
from tests.bench.parts.growth import STORES, row
from tests.bench.parts.registry import PARTS, USUAL
from tests.bench.parts.requests import CEILING, REQUESTS, workload
from tests.bench.plan import COMPARED_AT, FULL, Plan
from tests.bench.readme import BEGIN, COLUMNS, END, README, with_figures
from tests.bench.report import Report
from tests.bench.run import Outcome, run
from tests.bench.samples import Figure, Sample, Samples, Spread
from tests.bench.soak import GROWTH_BYTES_MAX, soak
from tests.bench.tables import Table, itself, ratio
from tests.bench.targets import Bound, Standing, Target, standings
from tests.bench.traffic import http_request

MACHINE: Mapping[str, str | float] = {"processor": "one of many", "cpus": 2, "system": "Linux", "load": 0.0}

TINY: Final = Plan(
    rounds=1,
    slice_seconds=0.02,
    warm_up_seconds=0.02,
    starts=1,
    open_streams=5,
    accounts=(1_000,),
    skipped=frozenset({MEMORY_ON_GRPCIO, REDIS_ON_GRPCIO, MEMORY, REDIS}),
)
"""Enough to see that it all works."""

LEFT_OUT: Final = TINY.skipped | {row(store, accounts) for store in STORES for accounts in FULL.accounts[1:]}
"""Rows that the tiniest slice has no time for."""


@pytest.mark.parametrize(
    "names",
    [("requests", "prompts"), ("streams",), ("calls", "policies"), ("startup",), ("lean",), ("workers",), ("growth",)],
    ids=" ".join,
)
async def test_the_tiniest_slice(names: tuple[str, ...]) -> None:
    parts = [PARTS[name] for name in names]
    report = report_of(await run(TINY, parts, progress=lambda _: None))

    told: dict[str, Any] = json.loads(report.as_json())
    text = report.as_text()
    for table in (table for part in parts for table in part.tables):
        measured = {row for row, _, _ in table.cells(report.samples)}
        assert measured == set(table.rows) - LEFT_OUT
        assert all(row in text for row in measured)
        assert not measured or told["tables"][table.key].keys() == set(table.rows)
    assert [each["what"] for each in told["targets"]] == [
        target.what for part in parts for target in part.targets if target.row not in LEFT_OUT
    ]
    # Envoy asked the servers, and did not let the requests pass without them.
    for table in told["tables"].values():
        for name, cells in table.items():
            if "server_cpu_us" in cells and name not in {ENVOY_ALONE, CEILING, *LEFT_OUT}:
                assert cells["server_cpu_us"]["median"] != 0
    if "requests" in names:
        requests = told["tables"]["requests"]
        assert requests[ENVOY_ALONE]["server_cpu_us"] is None
        assert requests[FLOOR]["to_floor"]["median"] == 1


def test_every_usual_part_is_tried() -> None:
    assert set(USUAL) == {"requests", "streams", "lean", "prompts", "workers", "calls", "policies", "startup", "growth"}


@pytest.mark.parametrize(
    ("reply", "stream"),
    [
        (b"HTTP/1.1 402 Payment Required\r\ncontent-length: 2\r\n\r\n{}", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n", True),
    ],
    ids=["a refusal", "a stream that was cut"],
)
async def test_there_are_no_figures_of(reply: bytes, stream: bool) -> None:
    closed = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = HostPort(*server.sockets[0].getsockname())
        with pytest.RaisesGroup(UnexpectedReply):
            await http_load(address, http_request(address), connections=1, seconds=1, stream=stream)
        await closed.wait()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_shortest_hot_path(stream: bool) -> None:
    assert all(us > 0 for us in await measure("memory", stream=stream, rounds=2, profile=False))


async def test_the_tiniest_soak() -> None:
    done = await soak(rounds=4, batches=10, progress=lambda _: None)

    assert done.calls == 4000
    assert len(done.resident_bytes) == 4
    assert done.growth_bytes < GROWTH_BYTES_MAX


# --- figures ---


def samples_of(figure: Figure, rounds: Mapping[str, tuple[float, ...]], *, workload: str = "work") -> list[Sample]:
    """Of each row, a figure a round."""
    return [
        Sample(workload=workload, row=row, round=number, figures={figure: value})
        for row, values in rounds.items()
        for number, value in enumerate(values)
    ]


def report_of(outcome: Outcome) -> Report:
    return Report(started_at="2026-11-21T10:00:00+00:00", machine=MACHINE, versions={"policyd": "1"}, outcome=outcome)


def test_ratios_are_taken_round_by_round() -> None:
    # The machine becomes four times as fast after the first round.
    samples = Samples(samples_of(Figure.PER_SECOND, {"slow": (100, 400, 420), "fast": (200, 800, 800)}))

    assert samples.ratio("work", "slow", Figure.PER_SECOND, to="fast") == Spread(0.5, 0.5, 0.525)
    assert samples.difference("work", "fast", Figure.PER_SECOND, to="slow") == Spread(380, 100, 400)
    assert samples.spread("work", "nobody", Figure.PER_SECOND) is None


@pytest.mark.parametrize(("count", "p50_ms", "p99_ms"), [(1, 1, 1), (100, 50, 99), (101, 51, 100), (1000, 500, 990)])
def test_percentiles(count: int, p50_ms: float, p99_ms: float) -> None:
    load = Load.of([number / 1000 for number in range(count, 0, -1)], requests=count, seconds=2)

    assert load.p50_ms == pytest.approx(p50_ms)
    assert load.p99_ms == pytest.approx(p99_ms)
    assert load.per_second == count / 2


# --- targets ---


@pytest.mark.parametrize(
    ("bound", "value", "goal", "median", "text"),
    [
        (Bound.AT_MOST, 200, 110, 100, "met by 50 %, and so is the goal"),
        (Bound.AT_MOST, 200, 110, 150, "met by 25 %"),
        (Bound.AT_MOST, 200, None, 300, "missed by 50 %"),
        (Bound.AT_LEAST, 0.5, None, 0.5, "met by 0 %"),
        (Bound.AT_LEAST, 0.5, None, 0.4, "missed by 20 %"),
    ],
)
def test_a_target_says_by_how_much(bound: Bound, value: float, goal: float | None, median: float, text: str) -> None:
    target = Target(what="it", table="t", row="r", column="c", bound=bound, value=value, goal=goal)
    column = itself("c", ("", ""), "work", Figure.P50_MS)

    assert str(Standing(target, column, Spread(median, median, median))) == text


def test_every_target_stands_on_a_figure() -> None:
    for part in PARTS.values():
        tables = {table.key: table for table in part.tables}
        for target in part.targets:
            assert target.row in tables[target.table].rows
            assert tables[target.table].column(target.column).key == target.column


def test_a_target_that_was_not_measured_is_not_told() -> None:
    assert list(standings(REQUESTS.targets, REQUESTS.tables, Samples([]))) == []


# --- the baseline ---

RATE = ratio("rate", ("req/s", "x floor"), "work", Figure.PER_SECOND, to="floor")
CPU = ratio("cpu", ("CPU", "x floor"), "work", Figure.SERVER_CPU_US, to="floor")
TABLE = Table(key="t", title=("", ""), rows=("floor", "policyd"), yardsticks=("floor",), columns=(RATE, CPU))


async def _nothing(_bench: object) -> None: ...


PART = Part(name="part", about="", measure=_nothing, tables=(TABLE,))
BASELINE = Baseline(
    machine=MACHINE,
    versions={},
    ratios={"t | policyd | req/s x floor": Ratio(0.8, 0.1), "t | policyd | CPU x floor": Ratio(2.0, 0.25)},
)


@pytest.mark.parametrize(
    ("figure", "policyd", "text"),
    [
        (Figure.PER_SECOND, 73, ""),
        (Figure.PER_SECOND, 70, "t | policyd | req/s x floor: 0.7, was 0.8: worse by 14 %, tolerated 10 %"),
        (Figure.PER_SECOND, 200, ""),
        (Figure.SERVER_CPU_US, 249, ""),
        (Figure.SERVER_CPU_US, 300, "t | policyd | CPU x floor: 3, was 2: worse by 50 %, tolerated 25 %"),
        (Figure.SERVER_CPU_US, 50, ""),
    ],
)
def test_what_got_worse_is_named(figure: Figure, policyd: float, text: str) -> None:
    samples = Samples(samples_of(figure, {"floor": (100,), "policyd": (policyd,)}))

    assert "".join(map(str, worse(BASELINE, [PART], samples))) == text


@pytest.mark.parametrize(("second", "is_worse"), [(60.0, True), (80.0, False)])
def test_what_looks_worse_is_measured_again(second: float, is_worse: bool) -> None:
    other = Part(name="other", about="", measure=_nothing, tables=())
    runs = iter((70.0, second))
    measured: list[Sequence[Part]] = []

    def measure(parts: Sequence[Part]) -> Samples:
        measured.append(parts)
        return Samples(samples_of(Figure.PER_SECOND, {"floor": (100,), "policyd": (next(runs),)}))

    found, compared = worse_again(BASELINE, [other, PART], measure)

    assert measured == [[other, PART], [PART]]
    assert [each.now for each in found] == [0.6] * is_worse
    assert compared == 1


def test_the_tolerance_is_made_of_what_runs_scatter_by() -> None:
    runs = [
        Samples(samples_of(Figure.PER_SECOND, {"floor": (100, 100, 100), "policyd": rates}))
        for rates in ((80.0, 10.0, 82.0), (80.0, 78.0, 200.0), (90.0, 90.0, 90.0))
    ]

    assert ratios([PART], runs) == {"t | policyd | req/s x floor": Ratio(0.8, 0.25)}
    assert ratios([PART], runs[:1]) == {"t | policyd | req/s x floor": Ratio(0.8, 0.1)}


def test_the_baseline_compares_what_is_measured() -> None:
    names = {
        f"{table.key} | {row} | {' '.join(column.heading)}"
        for part in PARTS.values()
        for table in part.tables
        for row in table.rows
        for column in table.columns
        if column.watched and row not in table.yardsticks
    }

    assert Baseline.load().ratios.keys() <= names


def test_yardsticks_are_not_watched() -> None:
    everything = dict.fromkeys(REQUESTS.tables[0].rows, (1.0,))
    samples = Samples(samples_of(Figure.PER_SECOND, everything, workload=workload(COMPARED_AT)))

    rows = {name.split(" | ")[1] for name, _, _, _ in watched([REQUESTS], samples)}

    assert SQLITE_ON_GRPCIO in rows
    assert not rows & {FLOOR, ENVOY_ALONE}


# --- the README ---


def test_the_readme_has_a_place_for_the_figures() -> None:
    parts = [PARTS[name] for name in ("requests", "streams")]
    tables = {table.key: table for part in parts for table in part.tables}
    samples = [
        sample
        for table in (tables["requests"], tables["streams"])
        for column in table.columns
        for sample in samples_of(column.figure, {SQLITE_ON_GRPCIO: (7.0, 9.0, 8.0)}, workload=column.workload)
    ]
    outcome = Outcome(plan=TINY, parts=parts, generator="a client", samples=Samples(samples))

    text = with_figures(README.read_text(), report_of(outcome))

    before, _, rest = text.partition(BEGIN)
    figures, _, after = rest.partition(END)
    assert README.read_text().startswith(before)
    assert README.read_text().endswith(after)
    assert f"| {SQLITE_ON_GRPCIO} | 8 (7-9) | - |" in figures
    assert all(f" {name} |" in figures for _, _, name in COLUMNS)
    assert with_figures(text, report_of(outcome)) == text

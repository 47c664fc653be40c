"""The benchmark's tiniest slice: that it runs, and that its figures are of what they say."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from policyd.config import HostPort
from tests.bench.arrangements import ENVOY_ALONE, FLOOR, ON_GRPCIO
from tests.bench.http_load import http_load
from tests.bench.load import Load, UnexpectedReply
from tests.bench.machine import describe_machine, describe_versions
from tests.bench.plan import TINY
from tests.bench.report import Report
from tests.bench.run import run
from tests.bench.samples import Sample, Samples, Series, Workload
from tests.bench.soak import GROWTH_BYTES_MAX, soak
from tests.bench.tables import TABLES

WORKLOAD = Workload(Series.HTTP, 1)


async def test_the_tiniest_slice() -> None:
    outcome = await run(TINY, progress=lambda _: None)
    report = Report(
        started_at="2026-11-21T10:00:00+00:00",
        machine=describe_machine(),
        versions=describe_versions(),
        plan=TINY,
        outcome=outcome,
    )

    assert all(sample.units > 0 and sample.p50_ms > 0 for sample in outcome.samples.all)

    told: dict[str, Any] = json.loads(report.as_json())
    text = report.as_text()
    for table in TABLES:
        assert told[table.key].keys() == set(table.rows)
        for row in table.rows:
            assert row in text
            assert told[table.key][row].keys() == {column.key for column in table.columns}
    assert told["requests"][ENVOY_ALONE]["server_cpu_us"] is None
    # Envoy asked the servers, and did not let the requests pass without them.
    for row in (*ON_GRPCIO, *ON_GRPCIO.values()):
        assert told["requests"][row]["server_cpu_us"]["median"] > 0
        assert told["requests"][row]["to_envoy_alone"]["median"] > 0
    assert told["requests"][FLOOR]["to_floor"]["median"] == 1


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
            await http_load(address, connections=1, seconds=1, stream=stream)
        await closed.wait()


async def test_the_tiniest_soak() -> None:
    done = await soak(rounds=4, batches=10, progress=lambda _: None)

    assert done.calls == 4000
    assert len(done.resident_bytes) == 4
    assert done.growth_bytes < GROWTH_BYTES_MAX


def test_ratios_are_taken_round_by_round() -> None:
    # The machine becomes four times as fast after the first round.
    rates = {"slow": (100, 400, 420), "fast": (200, 800, 800)}
    samples = Samples([_sample(row, number, rate) for row in rates for number, rate in enumerate(rates[row])])

    ratio = samples.ratio(WORKLOAD, "slow", lambda sample: sample.units_per_second, to="fast")

    assert (ratio.median, ratio.least, ratio.most) == (0.5, 0.5, 0.525)


@pytest.mark.parametrize(("count", "p50_ms", "p99_ms"), [(1, 1, 1), (100, 50, 99), (101, 51, 100), (1000, 500, 990)])
def test_percentiles(count: int, p50_ms: float, p99_ms: float) -> None:
    load = Load.of([number / 1000 for number in range(count, 0, -1)], requests=count, seconds=2)

    assert load.p50_ms == pytest.approx(p50_ms)
    assert load.p99_ms == pytest.approx(p99_ms)
    assert load.per_second == count / 2


def _sample(row: str, number: int, rate: float) -> Sample:
    return Sample(
        workload=WORKLOAD,
        row=row,
        round=number,
        units=1,
        units_per_second=rate,
        p50_ms=1,
        p99_ms=1,
        envoy_cpu_us=1,
        server_cpu_us=1,
    )

"""Large prompts, and what small requests suffer beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from tests.bench.arrangements import ENVOY_ALONE, FLOOR_ON_H2RPC, SQLITE, Arrangement
from tests.bench.http_load import http_load
from tests.bench.load import Load
from tests.bench.part import Bench, Part
from tests.bench.samples import Figure
from tests.bench.tables import Table, itself, ratio
from tests.bench.traffic import http_request

ROWS: Final = (ENVOY_ALONE, FLOOR_ON_H2RPC, SQLITE)

SIZES: Final = {"10 KB": 10_000, "100 KB": 100_000, "1 MB": 1_000_000}
"""In bytes of the prompt."""

LARGE_AT_ONCE: Final = 2
SMALL_AT_ONCE: Final = 8

SMALL: Final = "small requests"
BESIDE: Final = "small requests beside large ones"


async def measure(bench: Bench) -> None:
    arrangements = await bench.arrangements(ROWS)
    for number, turns in bench.rounds(arrangements):
        bench.progress(f"large prompts, round {number + 1}")
        for turn in turns:
            for size in SIZES:
                await bench.sample(size, turn, number, _large(bench, turn, size))
            await bench.sample(SMALL, turn, number, _small(bench, turn))
            await bench.sample(BESIDE, turn, number, _small_beside_large(bench, turn))


def _large(bench: Bench, turn: Arrangement, size: str) -> Awaitable[Load]:
    address = turn.listen_address
    request = http_request(address, prompt_bytes=SIZES[size])
    return http_load(address, request, connections=LARGE_AT_ONCE, seconds=bench.plan.slice_seconds)


def _small(bench: Bench, turn: Arrangement) -> Awaitable[Load]:
    address = turn.listen_address
    return http_load(address, http_request(address), connections=SMALL_AT_ONCE, seconds=bench.plan.slice_seconds)


async def _small_beside_large(bench: Bench, turn: Arrangement) -> Load:
    """What the small ones suffer while prompts of the largest size are under way."""
    small, _ = await asyncio.gather(_small(bench, turn), _large(bench, turn, list(SIZES)[-1]))
    return small


_PROMPTS = Table(
    key="prompts",
    title=("Large prompts,", f"{LARGE_AT_ONCE} at once"),
    rows=ROWS,
    yardsticks=(ENVOY_ALONE, FLOOR_ON_H2RPC),
    columns=tuple(
        column
        for size in SIZES
        for column in (
            itself(f"p50_ms {size}", (size, "p50 ms"), size, Figure.P50_MS, decimals=1),
            itself(f"server_cpu_us {size}", (size, "server CPU us"), size, Figure.SERVER_CPU_US),
            ratio(f"cpu_to_noop {size}", (size, "x no-op's"), size, Figure.SERVER_CPU_US, to=FLOOR_ON_H2RPC),
        )
    ),
)

_BESIDE = Table(
    key="beside",
    title=(f"Small requests, {SMALL_AT_ONCE} at once,", f"beside {LARGE_AT_ONCE} of 1 MB"),
    rows=ROWS,
    columns=(
        itself("small_p50_ms", ("alone", "p50 ms"), SMALL, Figure.P50_MS, decimals=1),
        itself("small_p99_ms", ("alone", "p99 ms"), SMALL, Figure.P99_MS, decimals=1),
        itself("beside_p50_ms", ("beside", "p50 ms"), BESIDE, Figure.P50_MS, decimals=1),
        itself("beside_p99_ms", ("beside", "p99 ms"), BESIDE, Figure.P99_MS, decimals=1),
        ratio(
            "beside_p99_to_envoy",
            ("p99 beside,", "x Envoy alone"),
            BESIDE,
            Figure.P99_MS,
            to=ENVOY_ALONE,
            watched=False,
        ),
    ),
)

PROMPTS: Final = Part(
    name="prompts",
    about="prompts of 10 KB, 100 KB and 1 MB, and what small requests suffer beside them",
    measure=measure,
    tables=(_PROMPTS, _BESIDE),
)

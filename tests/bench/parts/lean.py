"""The lean profile against the default one: requests, and the chunks of streams, of which policyd sees none.

What Envoy logs of an exchange comes a moment after it. That is waited for: settling belongs to the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from policyd.envoy_config.lean import FLUSH_SECONDS
from tests.bench.arrangements import LEAN, SQLITE
from tests.bench.http_load import http_load
from tests.bench.load import Load
from tests.bench.part import Bench, Part
from tests.bench.plan import COMPARED_AT, STREAMS_AT_ONCE
from tests.bench.samples import Figure
from tests.bench.tables import Table, itself, ratio
from tests.bench.targets import Bound, Target
from tests.bench.traffic import STREAM_CHUNKS, http_request

ROWS: Final = (SQLITE, LEAN)
REQUESTS: Final = "requests, by profile"
CHUNKS: Final = "chunks, by profile"


async def measure(bench: Bench) -> None:
    arrangements = await bench.arrangements(ROWS)
    for number, turns in bench.rounds(arrangements):
        bench.progress(f"the lean profile, round {number + 1}")
        for turn in turns:
            load = bench.requests(turn.listen_address, COMPARED_AT)
            await bench.sample(REQUESTS, turn, number, _logged(load))
        for turn in turns:
            load = http_load(
                turn.listen_address,
                http_request(turn.listen_address, stream=True),
                connections=STREAMS_AT_ONCE,
                seconds=bench.plan.slice_seconds,
                stream=True,
            )
            await bench.sample(CHUNKS, turn, number, _logged(load), units_each=STREAM_CHUNKS)


async def _logged(load: Awaitable[Load]) -> Load:
    """`load`, once Envoy has told of all of it."""
    carried = await load
    await asyncio.sleep(2 * FLUSH_SECONDS)
    return carried


_LEAN = Table(
    key="lean",
    title=("Profiles,", f"{COMPARED_AT} at once"),
    rows=ROWS,
    yardsticks=(SQLITE,),
    columns=(
        itself("per_second", ("", "req/s"), REQUESTS, Figure.PER_SECOND),
        itself("server_cpu_us", ("server CPU", "us a request"), REQUESTS, Figure.SERVER_CPU_US),
        itself("envoy_cpu_us", ("Envoy CPU", "us a request"), REQUESTS, Figure.ENVOY_CPU_US),
        itself("chunk_cpu_us", ("server CPU", "us a chunk"), CHUNKS, Figure.SERVER_CPU_US, decimals=1),
        ratio("to_default", ("req/s", "x default"), REQUESTS, Figure.PER_SECOND, to=SQLITE),
        ratio("cpu_to_default", ("server CPU", "x default"), REQUESTS, Figure.SERVER_CPU_US, to=SQLITE),
    ),
)

LEAN_PROFILE: Final = Part(
    name="lean",
    about="the lean profile against the default one",
    measure=measure,
    tables=(_LEAN,),
    targets=(
        Target(
            what="requests/s of the lean profile against the default one's",
            table="lean",
            row=LEAN,
            column="to_default",
            bound=Bound.AT_LEAST,
            value=1.15,
        ),
    ),
)

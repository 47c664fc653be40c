"""What people use today, under the same load before the same provider: LiteLLM's proxy.

Envoy AI Gateway and Limitador are not compared: both come as container images, and no package registry has them.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from tests.bench.arrangements import SQLITE, Arrangement
from tests.bench.http_load import http_load
from tests.bench.litellm import install, litellm
from tests.bench.part import Bench, Part
from tests.bench.plan import COMPARED_AT
from tests.bench.processes import resident_mb
from tests.bench.samples import Figure
from tests.bench.tables import Table, itself, ratio
from tests.bench.targets import Bound, Target
from tests.bench.traffic import http_request

LITELLM: Final = "LiteLLM, no budgets"
LITELLM_BUDGET: Final = "LiteLLM, a provider's budget"
ROWS: Final = (SQLITE, LITELLM, LITELLM_BUDGET)

WORKLOAD: Final = "requests, by peer"


async def measure(bench: Bench) -> None:
    bench.progress("peers, installing LiteLLM if it is not there yet")
    await install()
    async with AsyncExitStack() as stack:
        turns = list(await bench.stage.arrangements(SQLITE))
        for name in (LITELLM, LITELLM_BUDGET):
            running = await stack.enter_async_context(
                litellm(bench.stage.provider, bench.stage.folder, budget=name == LITELLM_BUDGET)
            )
            turns.append(Arrangement(name=name, listen_address=running.address, server_pid=running.pid))
        await bench.warm_up(turns)
        for number, in_turn in bench.rounds(turns):
            bench.progress(f"peers, round {number + 1}")
            for turn in in_turn:
                address = turn.listen_address
                load = http_load(
                    address, http_request(address), connections=COMPARED_AT, seconds=bench.plan.slice_seconds
                )
                await bench.sample(WORKLOAD, turn, number, load)
        for turn in turns:
            pids = (pid for pid in (turn.envoy_pid, turn.server_pid) if pid is not None)
            bench.add(WORKLOAD, turn.name, 0, {Figure.RESIDENT_MB: sum(map(resident_mb, pids))})


_PEERS = Table(
    key="peers",
    title=("Peers,", f"{COMPARED_AT} at once"),
    rows=ROWS,
    columns=(
        itself("per_second", ("", "req/s"), WORKLOAD, Figure.PER_SECOND),
        itself("p50_ms", ("p50", "ms"), WORKLOAD, Figure.P50_MS, decimals=1),
        itself("p99_ms", ("p99", "ms"), WORKLOAD, Figure.P99_MS, decimals=1),
        itself("all_cpu_us", ("CPU us a request,", "Envoy's too"), WORKLOAD, Figure.ALL_CPU_US),
        ratio(
            "to_policyd",
            ("CPU, x Envoy", "and policyd"),
            WORKLOAD,
            Figure.ALL_CPU_US,
            to=SQLITE,
            decimals=1,
            watched=False,
        ),
        itself("resident_mb", ("memory", "MB"), WORKLOAD, Figure.RESIDENT_MB),
    ),
)

PEERS: Final = Part(
    name="peers",
    about="LiteLLM's proxy, installed from PyPI into .bench/ (make bench PEERS=1)",
    measure=measure,
    tables=(_PEERS,),
    targets=(
        Target(
            what="CPU a request of LiteLLM without budgets against Envoy and policyd together",
            table="peers",
            row=LITELLM,
            column="to_policyd",
            bound=Bound.AT_LEAST,
            value=20,
        ),
    ),
)

"""`policyd up --workers N`: several processes with one ledger, which can be restarted while requests pass."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from policyd.core.record import Outcome
from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from policyd.stores.base import UsageFilter
from policyd.stores.url import open_store
from tests.e2e.books import BUDGET, ENDED_SECONDS_MAX, calls, cost, wait_until_idle
from tests.e2e.conftest import BOTH_TRANSPORTS, Start
from tests.e2e.load import CLIENTS, load
from tests.e2e.mesh import READY_SECONDS_MAX, Balance, Mesh
from tests.e2e.sdks import OpenAI
from tests.stores.redis_server import wait_until

WORKERS = 2

POLICY = """
version: 1
reservations: {ttl: 2s, grace: 0s}
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1000
    window: lifetime
"""

pytestmark = BOTH_TRANSPORTS


@pytest.fixture(scope="module")
def store_url(transport: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('workers')}/policyd.db"


@pytest.fixture(scope="module")
def workers(start: Start, store_url: str) -> Mesh:
    return start(POLICY, store=store_url, environ={"POLICYD_WORKERS": str(WORKERS)})


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider) -> Iterator[None]:
    wait_until_idle(provider)
    provider.reset()
    yield
    wait_until_idle(provider)


def pids(mesh: Mesh) -> list[int]:
    """Of the workers that run, the oldest first."""
    supervisor = mesh.process.pid
    children = map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())
    return [pid for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"policyd\0worker\0")]


def restarts(mesh: Mesh) -> float:
    return mesh.metric("policyd_worker_restarts_total")


def wait_until_restarted(mesh: Mesh, times: float) -> None:
    """Until workers were started again so many times in all, and all are ready: each loads what a server loads."""
    for metric, value in (("policyd_worker_restarts_total", times), ("policyd_workers", WORKERS)):
        mesh.wait_for_metric(metric, value, seconds_max=READY_SECONDS_MAX)


def truth(provider: SimulatedProvider) -> int:
    """What the provider has served costs, in nano-USD."""
    return cost(OpenAI, Usage(input=provider.served.input_tokens, output=provider.served.output_tokens))


def test_all_share_the_work_and_one_ledger(workers: Mesh, provider: SimulatedProvider, project: str) -> None:
    with load(workers.listen, project=project) as asked:
        asked.wait_for(40)
    workers.records_of(project, count=asked.requests)
    assert set(asked.outcomes) == {"200"}
    assert workers.balance(BUDGET, project=project) == Balance(spent=truth(provider), reserved=0)
    served = [
        workers.metric("policyd_exchanges_total", worker=str(number), outcome="served") for number in range(WORKERS)
    ]
    assert all(served)
    assert workers.metric("policyd_workers") == WORKERS
    assert workers.get("/readyz") == (200, "ok\n")


def test_a_rolling_restart_fails_no_request_and_leaks_no_hold(
    workers: Mesh, provider: SimulatedProvider, project: str
) -> None:
    before = restarts(workers)
    with load(workers.listen, project=project) as asked:
        for number, pid in enumerate(pids(workers)):
            asked.wait_for(20)
            os.kill(pid, signal.SIGTERM)
            wait_until_restarted(workers, before + number + 1)
        asked.wait_for(20)
    assert set(asked.outcomes) == {"200"}
    assert calls(provider) == asked.requests
    lines = workers.records_of(project, count=asked.requests)
    assert {line["outcome"] for line in lines} == {"served"}
    assert workers.balance(BUDGET, project=project) == Balance(spent=truth(provider), reserved=0)


async def test_a_killed_worker_is_replaced_and_what_it_held_is_charged_once(
    workers: Mesh, provider: SimulatedProvider, store_url: str, project: str
) -> None:
    before = restarts(workers)
    with load(workers.listen, project=project) as asked:
        asked.wait_for(20)
        os.kill(pids(workers)[0], signal.SIGKILL)
        asked.wait_for(20)
        wait_until_restarted(workers, before + 1)
        asked.wait_for(20)
    wait_until(lambda: workers.balance(BUDGET, project=project).reserved == 0, "what was held is charged")
    store = open_store(store_url)
    try:
        page = await store.usage(UsageFilter(attributes={"project": project}), limit=10_000)
    finally:
        await store.close()
    # Only what the killed process had open failed, and what it held for that is charged.
    assert asked.requests - asked.outcomes["200"] <= CLIENTS
    assert sum(record.outcome is Outcome.EXPIRED for record in page.records) <= CLIENTS
    assert len(page.records) >= calls(provider)
    spent = workers.balance(BUDGET, project=project).spent
    assert spent == sum(record.actual_cost_nanos or 0 for record in page.records)
    assert truth(provider) <= spent


def test_without_its_supervisor_a_worker_ends(start: Start, transport: Mapping[str, str], tmp_path: Path) -> None:
    mesh = start(POLICY, store=f"sqlite:///{tmp_path}/policyd.db", environ={"POLICYD_WORKERS": "2"})
    descriptors = [os.pidfd_open(pid) for pid in pids(mesh)]
    mesh.kill()
    for descriptor in descriptors:
        # Readable once its process has ended.
        assert select.select([descriptor], [], [], ENDED_SECONDS_MAX)[0]
        os.close(descriptor)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--store", "memory://"], "--workers: memory:// is inside one process"),
        (["--store", "sqlite:///x.db", "--grpc", "unix:x"], "--grpc: workers share a port"),
        (["--store", "sqlite:///x.db", "--ext-proc", "127.0.0.1:65535"], "--workers: 2 workers have no ports"),
    ],
)
def test_what_workers_cannot_share_is_refused(
    flags: list[str], message: str, tmp_path: Path, transport: Mapping[str, str]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "policyd", "serve", "--workers", "2", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **transport},
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert message in ran.stderr

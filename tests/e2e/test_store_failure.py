"""A store that fails: `failure_mode` decides what becomes of requests, and what is held is not forgotten.

The disk of the process is made full (its files may grow no more), and later has room again.
"""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import IncompleteRead
from pathlib import Path

import pytest

from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from tests.e2e import raw
from tests.e2e.books import BUDGET, ENDED_SECONDS_MAX, assert_charged, calls, cost, nanos, wait_until_idle
from tests.e2e.conftest import Start
from tests.e2e.mesh import Balance, Mesh
from tests.e2e.sdks import OpenAI, Sdk, policyd_object

POLICY = """
version: 1
failure_mode: {failure_mode}
default_max_output_tokens: 20
reservations: {{ttl: 2s, grace: 0s}}
limits:
  - name: project-spend
    per: [project]
    cost_usd: 1.00
    window: lifetime
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def closed(start: Start, folder: Path) -> Mesh:
    return start(POLICY.format(failure_mode="closed"), store=f"sqlite:///{folder}/closed.db")


@pytest.fixture(scope="module")
def opened(start: Start, folder: Path) -> Mesh:
    return start(POLICY.format(failure_mode="open"), store=f"sqlite:///{folder}/open.db")


@pytest.fixture(autouse=True)
def nothing_served_yet(provider: SimulatedProvider) -> None:
    wait_until_idle(provider)
    provider.reset()


@contextmanager
def disk_full(mesh: Mesh) -> Iterator[None]:
    """Inside the block nothing that policyd writes to a file fits."""
    pid = mesh.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside the block another process, as it were, writes to the store and does not come to an end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_closed_a_request_that_cannot_be_booked_is_refused(
    closed: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    with disk_full(closed), pytest.raises(sdk.status_errors[503]) as raised:
        sdk.ask(closed, project=project)

    assert policyd_object(raised.value)["reason"] == "policy_unavailable"
    headers = raised.value.response.headers  # type: ignore[attr-defined]
    assert headers["retry-after"] == "1"
    assert "x-should-retry" not in headers
    line = closed.record(headers["x-policyd-request-id"])
    assert (line["decision"], line["outcome"], line["status"]) == ("deny", "failed", 503)
    assert line["error"]
    assert calls(provider) == 0
    # With room on the disk again, it goes on.
    reply = sdk.ask(closed, project=project)
    assert reply.usage is not None
    assert_charged(closed, project, reply.usage, sdk=sdk, request_id=reply.request_id)


def test_open_a_request_that_cannot_be_journalled_either_is_refused(
    opened: Mesh, provider: SimulatedProvider, sdk: Sdk, project: str
) -> None:
    with disk_full(opened), pytest.raises(sdk.status_errors[503]) as raised:
        sdk.ask(opened, project=project)

    assert policyd_object(raised.value)["reason"] == "policy_unavailable"
    assert raised.value.response.headers["retry-after"] == "1"  # type: ignore[attr-defined]
    assert calls(provider) == 0
    assert opened.balance(BUDGET, project=project) == Balance(spent=0, reserved=0)


def test_closed_a_store_that_does_not_answer_in_time_refuses(closed: Mesh, folder: Path, project: str) -> None:
    with locked(folder / "closed.db"), pytest.raises(OpenAI.status_errors[503]) as raised:
        OpenAI().ask(closed, project=project)

    assert policyd_object(raised.value)["reason"] == "policy_unavailable"


def test_a_policyd_whose_store_does_not_answer_lives_and_is_not_ready(closed: Mesh, folder: Path) -> None:
    with locked(folder / "closed.db"):
        assert closed.get("/healthz") == (200, "ok\n")
        status, problem = closed.get("/readyz")
    assert status == 503
    assert problem.startswith("store: ")
    assert closed.get("/readyz") == (200, "ok\n")


def test_open_a_store_that_does_not_answer_is_told_later(
    opened: Mesh, provider: SimulatedProvider, folder: Path, sdk: Sdk, project: str
) -> None:
    with locked(folder / "open.db"):
        sdk.ask(opened, project=project)
        sdk.stream(opened, project=project)
        assert opened.get("/readyz") == (200, "ok\n")

    lines = opened.records_of(project, count=2)
    assert [line["outcome"] for line in lines] == ["served"] * 2
    opened.wait_for_metric("policyd_journal_bytes", 0)
    served = provider.served
    true_cost = cost(sdk, Usage(input=served.input_tokens, output=served.output_tokens))
    assert true_cost == sum(nanos(line["actual_cost_usd"]) for line in lines)
    assert opened.balance(BUDGET, project=project) == Balance(spent=true_cost, reserved=0)


def test_replies_that_cannot_be_booked_cost_their_holds(
    closed: Mesh, provider: SimulatedProvider, project: str
) -> None:
    """What ended arrives all the same; what would have to hold more breaks off."""
    headers = {"x-policyd-project": project, "x-sim-delay-ms": "1000"}
    endless = {**headers, "x-sim-output-tokens": "1000", "x-sim-chunk-delay-ms": "10"}
    failed_before = closed.metric("policyd_store_errors_total", operation="settle")
    with (
        raw.connected(closed.listen) as asking,
        raw.connected(closed.listen) as streaming,
        raw.connected(closed.listen) as growing,
    ):
        raw.send_only(asking, body=raw.chat(max_tokens=100), headers=headers)
        raw.send_only(streaming, body=raw.chat(max_tokens=100, stream=True), headers=headers)
        raw.send_only(growing, body=raw.chat(stream=True), headers=endless)
        provider.wait_until(lambda served: calls(provider) == 3, timeout_seconds=ENDED_SECONDS_MAX)
        with disk_full(closed):
            answered, streamed = raw.read(asking.getresponse()), raw.read(streaming.getresponse())
            with pytest.raises(IncompleteRead):
                raw.read(growing.getresponse())
            closed.wait_for_metric("policyd_store_errors_total", failed_before + 3, operation="settle")

    assert answered.status == 200
    assert "x-policyd-cost-usd" not in answered.headers
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    wait_until_idle(provider)
    assert provider.served.streams_cancelled == 1
    lines = closed.records_of(project, count=3)
    assert {line["outcome"] for line in lines} == {"expired"}
    assert all(line["actual_cost_usd"] == line["estimated_cost_usd"] for line in lines)
    spent = sum(nanos(line["actual_cost_usd"]) for line in lines)
    assert closed.balance(BUDGET, project=project) == Balance(spent=spent, reserved=0)

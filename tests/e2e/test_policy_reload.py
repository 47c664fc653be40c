"""A changed policy file takes effect while policyd runs; a bad one changes nothing and is reported."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.books import nanos
from tests.e2e.conftest import Start
from tests.e2e.mesh import POLICY_RELOADS, Mesh
from tests.e2e.sdks import OpenAI

POLICY = """
version: 1
on_disconnect: {on_disconnect}
limits:
  - name: project-spend
    per: [project]
    cost_usd: {limit_usd}
    window: lifetime
"""


def policy(*, limit_usd: str = "1.00", on_disconnect: str = "observed") -> str:
    return POLICY.format(limit_usd=limit_usd, on_disconnect=on_disconnect)


@pytest.fixture(scope="module")
def stderr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What policyd writes to standard error."""
    return tmp_path_factory.mktemp("output") / "stderr"


@pytest.fixture(scope="module")
def mesh(start: Start, stderr: Path) -> Iterator[Mesh]:
    with stderr.open("wb") as output:
        yield start(policy(), stderr=output)


def file_of(mesh: Mesh) -> Path:
    assert mesh.policy is not None
    return mesh.policy


def replace(mesh: Mesh, text: str, *, result: str) -> None:
    """Replaces the file as an editor does, and waits until policyd has seen it by itself."""
    before = mesh.metric(POLICY_RELOADS, result=result)
    new = file_of(mesh).with_suffix(".new")
    new.write_text(text)
    new.replace(file_of(mesh))
    mesh.wait_for_metric(POLICY_RELOADS, before + 1, result=result)


def test_a_changed_file_is_in_force_soon(mesh: Mesh, project: str) -> None:
    sdk = OpenAI()
    mesh.put_in_force(policy(limit_usd="0.002"))
    sdk.ask(mesh, project=project, max_tokens=100)
    with pytest.raises(sdk.status_errors[402]):
        sdk.ask(mesh, project=project, max_tokens=200)

    # A changed amount keeps what was spent.
    replace(mesh, policy(limit_usd="0.003"), result="ok")
    reply = sdk.ask(mesh, project=project, max_tokens=200)
    assert float(reply.headers["x-policyd-budget-remaining-usd"]) < 0.001


def test_sighup_reads_the_file_again(mesh: Mesh, project: str) -> None:
    sdk = OpenAI()
    mesh.put_in_force(policy(limit_usd="1.00"))
    # The same length, the same file and the same time: nothing tells that it changed.
    status = file_of(mesh).stat()
    file_of(mesh).write_text(policy(limit_usd="0.00"))
    os.utime(file_of(mesh), ns=(status.st_atime_ns, status.st_mtime_ns))
    before = mesh.metric(POLICY_RELOADS, result="ok")
    mesh.process.send_signal(signal.SIGHUP)
    mesh.wait_for_metric(POLICY_RELOADS, before + 1, result="ok")

    with pytest.raises(sdk.status_errors[402]):
        sdk.ask(mesh, project=project)


def test_a_bad_file_changes_nothing_and_says_where_it_is_wrong(mesh: Mesh, stderr: Path, project: str) -> None:
    sdk = OpenAI()
    mesh.put_in_force(policy(limit_usd="0.002"))
    revision = mesh.metric("policyd_policy_info")
    bad = policy(limit_usd="ten").replace("window: lifetime", "window: fortnight")
    replace(mesh, bad, result="failed")

    reported = stderr.read_text()
    assert f"{file_of(mesh)}:7: limits[0].cost_usd: " in reported
    assert f"{file_of(mesh)}:8: limits[0].window: " in reported
    assert mesh.metric("policyd_policy_info") == revision
    sdk.ask(mesh, project=project, max_tokens=100)
    with pytest.raises(sdk.status_errors[402]):
        sdk.ask(mesh, project=project, max_tokens=200)


def test_a_file_that_is_gone_changes_nothing(mesh: Mesh, project: str) -> None:
    mesh.put_in_force(policy(limit_usd="1.50"))
    before = mesh.metric(POLICY_RELOADS, result="failed")
    file_of(mesh).unlink()
    mesh.wait_for_metric(POLICY_RELOADS, before + 1, result="failed")

    assert OpenAI().ask(mesh, project=project).usage is not None
    mesh.put_in_force(policy(limit_usd="2.00"))


def test_an_exchange_keeps_the_policy_that_it_began_with(mesh: Mesh, project: str) -> None:
    sdk = OpenAI()
    mesh.put_in_force(policy(on_disconnect="maximum"))
    call = sdk.call(mesh, project=project, script={"output-tokens": 100, "chunk-delay-ms": 100}, stream=True)
    with sdk.client(call) as client, client.chat.completions.create(**call.members) as stream:
        next(stream)
        mesh.put_in_force(policy(on_disconnect="observed"))

    (line,) = mesh.records_of(project)
    assert line["outcome"] == "disconnected"
    assert nanos(line["actual_cost_usd"]) == nanos(line["estimated_cost_usd"])

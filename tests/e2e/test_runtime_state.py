"""Commands of an operator's, each a process of its own, take effect on running servers that share the store."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from policyd.demo.provider import SimulatedProvider
from tests.e2e.conftest import POLICY, Start, written
from tests.e2e.mesh import Mesh, policyd_up
from tests.e2e.sdks import OpenAI, Sdk, policyd_object

COMMAND_SECONDS_MAX = 30
EXPIRY_SECONDS_MAX = 20
POLL_SECONDS = 0.1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/policyd.db"


@pytest.fixture(scope="module")
def replicas(start: Start, store: str) -> tuple[Mesh, Mesh]:
    """Two servers, each behind its own Envoy, that share a file."""
    return start(POLICY, store=store), start(POLICY, store=store)


def policyd(store: str, mesh: Mesh, *arguments: str) -> str:
    """What a command says."""
    command = [sys.executable, "-m", "policyd", *arguments, "--store", store, "--config", str(mesh.policy)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@contextmanager
def refused(sdk: Sdk, status: int) -> Iterator[dict[str, Any]]:
    """The block is refused with this status; what policyd says of it is put into what is yielded."""
    said: dict[str, Any] = {}
    with pytest.raises(sdk.status_errors[status]) as raised:
        yield said
    said |= policyd_object(raised.value)


def test_a_block_holds_for_the_next_request_of_every_replica(
    replicas: tuple[Mesh, Mesh], store: str, sdk: Sdk, project: str, provider: SimulatedProvider
) -> None:
    for mesh in replicas:
        sdk.ask(mesh, project=project)
    provider.reset()
    policyd(store, replicas[0], "block", f"project={project}", "--reason", "call the office")
    for mesh in replicas:
        # With retries allowed: the SDK makes none.
        with refused(sdk, 403) as said:
            sdk.ask(mesh, project=project, retries=2)
        assert (said["reason"], said["block"]["reason"]) == ("blocked", "call the office")
        line = mesh.record(said["request_id"])
        assert (line["outcome"], line["denied_by"], line["status"]) == ("denied", [f"block:project={project}"], 403)
        assert mesh.metric("policyd_denials_total", limit=f"block:project={project}") == 1
    assert provider.served.requests_received == {}
    policyd(store, replicas[1], "unblock", f"project={project}")
    for mesh in replicas:
        sdk.ask(mesh, project=project)


def test_a_budget_is_lowered_and_raised_at_once(replicas: tuple[Mesh, Mesh], store: str, project: str) -> None:
    sdk, scope = OpenAI(), f"project={project}"
    policyd(store, replicas[0], "budget", "set", scope, "0", "--limit", "project-spend")
    for mesh in replicas:
        with refused(sdk, 402) as said:
            sdk.ask(mesh, project=project)
        assert said["limit_usd"] == 0
    policyd(store, replicas[0], "budget", "set", scope, "0.50", "--limit", "project-spend", "--for", "1h")
    for mesh in replicas:
        assert sdk.ask(mesh, project=project).headers["x-policyd-budget-remaining-usd"].startswith("0.49")
    policyd(store, replicas[0], "budget", "delete", scope, "--limit", "project-spend")
    for mesh in replicas:
        assert sdk.ask(mesh, project=project).headers["x-policyd-budget-remaining-usd"].startswith("0.99")


def test_a_reset_starts_at_nothing(replicas: tuple[Mesh, Mesh], store: str, project: str) -> None:
    sdk = OpenAI()
    sdk.ask(replicas[0], project=project)
    assert replicas[1].balance("project-spend", project=project).spent > 0
    policyd(store, replicas[0], "budget", "reset", f"project={project}", "--limit", "project-spend")
    for mesh in replicas:
        assert mesh.balance("project-spend", project=project).spent == 0


def test_a_block_ends_by_itself(replicas: tuple[Mesh, Mesh], store: str, project: str) -> None:
    sdk = OpenAI()
    policyd(store, replicas[0], "block", f"project={project}", "--reason", "cool down", "--for", "2s")
    deadline = time.monotonic() + EXPIRY_SECONDS_MAX
    while True:
        try:
            sdk.ask(replicas[0], project=project)
        except sdk.status_errors[403]:
            assert time.monotonic() < deadline
            time.sleep(POLL_SECONDS)
        else:
            break
    assert f"project={project}" not in policyd(store, replicas[0], "blocks", "list")


def test_commands_and_traffic_do_not_disturb_each_other(replicas: tuple[Mesh, Mesh], store: str, project: str) -> None:
    sdk = OpenAI()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(sdk.ask, replicas[number % 2], project=project) for number in range(40)]
        for number in range(3):
            policyd(store, replicas[0], "block", f"user=u{number}", "--reason", "elsewhere")
        assert all(reply.result().text for reply in asked)


def test_what_was_set_survives_a_restart(provider: SimulatedProvider, tmp_path: Path, project: str) -> None:
    sdk, store = OpenAI(), f"sqlite:///{tmp_path}/policyd.db"
    policy = written(POLICY, folder=tmp_path)
    upstreams = {"openai": provider.url}
    with policyd_up(upstreams=upstreams, store=store, policy=policy) as mesh:
        policyd(store, mesh, "freeze", f"project={project}", "--reason", "a loop")
    with policyd_up(upstreams=upstreams, store=store, policy=policy) as mesh:
        with refused(sdk, 403) as said:
            sdk.ask(mesh, project=project)
        assert said["reason"] == "frozen"

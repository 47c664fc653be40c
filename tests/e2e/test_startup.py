"""What a user reads who starts policyd wrongly: one line for each mistake, and no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.mesh import ANY_PORT

EXIT_SECONDS_MAX = 20


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def complaint(command: str, flags: Mapping[str, str], environ: Mapping[str, str] | None = None) -> str:
    """What policyd writes to standard error as it gives up; fails if it writes anything to standard output."""
    addresses = {"ext-proc": ANY_PORT, "grpc": ANY_PORT, "http": ANY_PORT}
    if command == "up":
        addresses |= {"listen": ANY_PORT, "admin": ANY_PORT, "upstream": "openai=http://127.0.0.1:1"}
    given = {**addresses, "store": "memory://", **flags}
    ended = subprocess.run(
        [sys.executable, "-m", "policyd", command, *(f"--{name}={value}" for name, value in given.items())],
        capture_output=True,
        check=False,
        env={**os.environ, **(environ or {})},
        timeout=EXIT_SECONDS_MAX,
    )
    assert (ended.returncode, ended.stdout) == (1, b"")
    return ended.stderr.decode()


@pytest.mark.parametrize("flag", ["listen", "ext-proc", "grpc", "http"])
def test_a_port_that_is_taken(taken: str, flag: str) -> None:
    (line,) = complaint("up", {flag: taken}).splitlines()
    assert line.startswith(f"policyd: --{flag}: cannot listen on {taken}")
    assert "in use" in line


def test_every_mistake_of_a_policy_file(tmp_path: Path) -> None:
    file = tmp_path / "policyd.yaml"
    file.write_text("version: 1\nfailure_mode: maybe\nlimits:\n  - {name: a, cost_usd: much, window: day}\n")

    one, other = complaint("serve", {"config": str(file)}).splitlines()
    assert one.startswith(f"policyd: {file}:2: failure_mode: ")
    assert other.startswith(f"policyd: {file}:4: limits[0].cost_usd: ")


def test_a_policy_file_that_is_not_there(tmp_path: Path) -> None:
    (line,) = complaint("serve", {"config": str(tmp_path / "missing.yaml")}).splitlines()
    assert line == f"policyd: {tmp_path}/missing.yaml: cannot be read: No such file or directory"


def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    (line,) = complaint("serve", {"store": f"sqlite:///{tmp_path}/no/such/folder/policyd.db"}).splitlines()
    assert line.startswith("policyd: ")
    assert "policyd.db" in line


def test_every_mistake_of_flags_and_variables() -> None:
    said = complaint("serve", {"grpc": "nowhere"}, {"POLICYD_REQUEST_BODY_MAX": "a lot"})
    assert "policyd: --grpc: " in said
    assert "policyd: POLICYD_REQUEST_BODY_MAX: " in said


def test_an_envoy_that_is_not_there(tmp_path: Path) -> None:
    (line,) = complaint("up", {}, {"POLICYD_ENVOY": str(tmp_path / "envoy")}).splitlines()
    assert line.startswith("policyd: POLICYD_ENVOY: ")

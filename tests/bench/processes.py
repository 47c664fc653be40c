"""Child processes: started, found ready, measured, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policyd.launch import launched

READY_SECONDS_MAX: Final = 60
STOP_SECONDS_MAX: Final = 10

ROOT: Final = Path(__file__).parents[2]

_POLL_SECONDS = 0.01
_CPUCLOCK_SCHED = 2
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ChildFailed(Exception):
    """A child process ended by itself, or was not ready in time."""


@dataclass(frozen=True, slots=True)
class Child:
    pid: int
    ready: Mapping[str, str]
    """What it announced when it was ready."""


class Asked:
    """A child that does something whenever it is asked to."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    async def ask(self, question: Mapping[str, Any], *, seconds_max: float) -> Any:
        """Its answer; both are JSON, on one line. Raises `ChildFailed`, `TimeoutError`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.returncode is not None:
            raise ChildFailed(f"{self._name} has ended; its own words are above")
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        async with asyncio.timeout(seconds_max):
            line = await self._process.stdout.readline()
        if not line:
            raise ChildFailed(f"{self._name} ended without an answer; its own words are above")
        return json.loads(line)


def announce(**addresses: object) -> None:
    """Says, in a child, that it is ready, in the form that policyd says it in."""
    print(json.dumps({"event": "ready", **addresses}), flush=True)


@asynccontextmanager
async def child(module: str, *arguments: str, log: Path) -> AsyncIterator[Child]:
    """Runs `python -m module` for the length of the block; it is ready when its first line says so.

    Its standard output goes to the file `log`: nobody is kept busy with reading it. Raises `ChildFailed`.
    """
    command = (sys.executable, "-m", module, *arguments)
    with log.open("wb") as stdout:
        async with process(*command, stdin=asyncio.subprocess.DEVNULL, stdout=stdout.fileno()) as started:
            yield Child(started.pid, await _ready(started, log))


@asynccontextmanager
async def asked(module: str, *arguments: str) -> AsyncIterator[Asked]:
    """Runs `python -m module` for the length of the block, to be asked."""
    command, pipe = (sys.executable, "-m", module, *arguments), asyncio.subprocess.PIPE
    async with process(*command, stdin=pipe, stdout=pipe) as started:
        yield Asked(started, module)


@asynccontextmanager
async def process(
    *command: str,
    stdin: int = asyncio.subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a program for the length of the block. It does not outlive this process, however that ends."""
    started = await asyncio.create_subprocess_exec(
        *launched(*command, with_parent=signal.SIGKILL),
        cwd=ROOT,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=None if environ is None else {**os.environ, **environ},
        # Ctrl-C is for this process, which then stops its children.
        start_new_session=True,
    )
    try:
        yield started
    finally:
        await _stop(started)


async def _ready(process: asyncio.subprocess.Process, log: Path) -> Mapping[str, str]:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_SECONDS_MAX):
            while process.returncode is None:
                line, newline, _ = (await asyncio.to_thread(log.read_bytes)).partition(b"\n")
                if newline:
                    return {name: str(value) for name, value in json.loads(line).items()}
                await asyncio.sleep(_POLL_SECONDS)
    raise ChildFailed(f"{log.stem} was not ready (exit status {process.returncode})")


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process and its children have used up to now, in user and in system mode, in all threads."""
    # What clock_getcpuclockid(3) returns on Linux; the ticks of /proc/PID/stat are 10 ms, too coarse for a short slice.
    return sum(time.clock_gettime(~each << 3 | _CPUCLOCK_SCHED) for each in _family(pid))


def resident_mb(pid: int) -> float:
    """The memory that a process and its children hold."""
    return sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in _family(pid)) * _PAGE_BYTES / 1e6


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for each in children.read_text().split():
            yield from _family(int(each))

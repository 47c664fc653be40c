"""Child processes: started, found ready, measured, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyd.up import launch

READY_SECONDS_MAX: Final = 30
STOP_SECONDS_MAX: Final = 10

_ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.01
_CPUCLOCK_SCHED = 2


class ChildFailed(Exception):
    """A child process ended by itself, or was not ready in time."""


@dataclass(frozen=True, slots=True)
class Child:
    pid: int
    ready: Mapping[str, str]
    """What it announced when it was ready."""


def announce(**addresses: object) -> None:
    """Says, in a child, that it is ready, in the form that policyd says it in."""
    print(json.dumps({"event": "ready", **addresses}), flush=True)


@asynccontextmanager
async def child(module: str, *arguments: str, log: Path) -> AsyncIterator[Child]:
    """Runs `python -m module` for the length of the block; it is ready when its first line says so.

    Its standard output goes to the file `log`: nobody is kept busy with reading it. Raises `ChildFailed`.
    """
    with log.open("wb") as stdout:
        process = await asyncio.create_subprocess_exec(
            # It does not outlive this process, however that ends.
            *(sys.executable, "-IS", launch.__file__, str(os.getpid())),
            *(sys.executable, "-m", module, *arguments),
            cwd=_ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            # Ctrl-C is for this process, which then stops its children.
            start_new_session=True,
        )
    try:
        yield Child(process.pid, await _ready(process, log))
    finally:
        await _stop(process)


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
    """The CPU time that a process has used up to now, in user and in system mode, with all of its threads."""
    # What clock_getcpuclockid(3) returns on Linux; the ticks of /proc/PID/stat are 10 ms, too coarse for a short slice.
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)

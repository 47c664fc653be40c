"""One worker: a process that runs `policyd worker`, and the next one where that has ended."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, cast

from policyd.config import HostPort, parse_host_port
from policyd.core.errors import PolicydError
from policyd.launch import launched

READY_SECONDS_MAX: Final = 60
"""How long a worker may take to be ready. It needs a second or two; a busy machine is granted more."""

TOKEN_VARIABLE: Final = "POLICYD_WORKER_TOKEN"
"""The environment variable by which a worker learns for whom its pages are."""

ANSWER_SECONDS_MAX: Final = 5
"""How long a worker may take to answer for a page."""

_LINE_BYTES_MAX = 1024 * 1024


class WorkerFailed(PolicydError):
    """A worker did not become ready. Why, it has said on standard error itself."""


class Worker:
    """Worker `number`. `environ` is its whole environment; each line that it logs goes to `log_line`.

    Its pages are for whoever shows `token`.
    """

    def __init__(
        self, number: int, environ: Mapping[str, str], *, token: str, log_line: Callable[[bytes], None]
    ) -> None:
        self.number = number
        self._token = token
        self._environ = environ
        self._log_line = log_line
        self._process: asyncio.subprocess.Process | None = None
        self._http_address: HostPort | None = None
        """Where it serves its own pages; `None` while it is not ready."""

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None else None

    @property
    def is_ready(self) -> bool:
        return self._http_address is not None

    async def start(self) -> None:
        """Starts a process and waits until it serves. Raises `WorkerFailed`."""
        self._process = process = await asyncio.create_subprocess_exec(
            # SIGTERM: without its supervisor it ends what is open, and goes.
            *launched(sys.executable, "-m", "policyd", "worker", with_parent=signal.SIGTERM),
            env={**self._environ, TOKEN_VARIABLE: self._token},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
            # Ctrl-C is for the supervisor, which then stops its workers.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(READY_SECONDS_MAX):
                ready = await self._lines.readline()
        except TimeoutError:
            process.kill()
            ready = b""
        if not ready:
            status = await self._reap()
            raise WorkerFailed(f"worker {self.number} did not become ready (exit status {status})")
        self._http_address = parse_host_port(json.loads(ready)["http"])

    async def ended(self) -> int:
        """Passes on what the process logs until it has ended; returns its exit status, below 0 for a signal."""
        with suppress(asyncio.IncompleteReadError):
            while True:
                self._log_line((await self._lines.readuntil()).removesuffix(b"\n"))
        return await self._reap()

    def send_signal(self, number: signal.Signals) -> None:
        """To the process, if there is one."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def page(self, path: str) -> tuple[int, str] | None:
        """Status and body of a page of its own; `None` if it does not answer."""
        if self._http_address is None:
            return None
        try:
            return await asyncio.to_thread(_get, self._http_address, path, self._token)
        except (OSError, http.client.HTTPException):
            return None  # it has just ended, or is too busy

    async def hangs(self) -> bool:
        """Whether it is ready, takes a connection, and does not answer in time that it lives."""
        asked = self._http_address
        if asked is None:
            return False
        try:
            await asyncio.to_thread(_get, asked, "/healthz", self._token)
        except TimeoutError:
            return self._http_address is asked
        except (OSError, http.client.HTTPException):
            pass  # it is ending
        return False

    @property
    def _lines(self) -> asyncio.StreamReader:
        return cast(asyncio.StreamReader, cast(asyncio.subprocess.Process, self._process).stdout)

    async def _reap(self) -> int:
        self._http_address = None
        status = await cast(asyncio.subprocess.Process, self._process).wait()
        self._process = None
        return status


def _get(address: HostPort, path: str, token: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=ANSWER_SECONDS_MAX)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()

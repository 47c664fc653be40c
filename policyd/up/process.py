"""Envoy as a child process: started, found ready, watched, drained, and never left behind."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

from policyd.config import HostPort
from policyd.core.errors import PolicydError
from policyd.launch import launched
from policyd.up.admin import Admin

START_SECONDS_MAX: Final = 20
"""How long Envoy may take to be ready. It needs a fifth of a second; a busy machine is granted more."""

STOP_SECONDS_MAX: Final = 5
"""How long Envoy may take to end before it is killed."""

_POLL_SECONDS = 0.01
_DRAIN_POLL_SECONDS = 0.05
_LAST_WORDS_BYTES_MAX = 4096


class EnvoyFailed(PolicydError):
    """Envoy did not start, or ended by itself. The message holds its last words."""


class EnvoyProcess:
    """A running Envoy, for the length of an `async with`.

    `config` is the bootstrap, as dicts or as text in YAML or JSON. Envoy's log, of warnings and worse, goes to `log`,
    stderr by default; what an access log writes to stdout goes to this process's stdout. Entering raises `EnvoyFailed`
    if Envoy does not start. Enter it in a thread that stays: the kernel ends Envoy with it (launch.py).
    """

    listen_address: HostPort
    """Where the first listener really listens."""
    admin_address: HostPort

    def __init__(
        self, config: dict[str, Any] | str, *, binary: Path, concurrency: int = 1, log: BinaryIO | None = None
    ) -> None:
        self._config = config if isinstance(config, str) else json.dumps(config)
        self._binary = binary
        self._concurrency = concurrency
        self._log = sys.stderr.buffer if log is None else log
        self._last_words = b""
        self._running = False

    async def __aenter__(self) -> Self:
        # Envoy reads its configuration once: when it is ready the folder goes, and not even kill -9 leaves one behind.
        with tempfile.TemporaryDirectory(prefix="policyd-envoy-") as name:
            await self._start(Path(name))
            try:
                await self._become_ready(Path(name) / "admin-address")
            except BaseException:
                await self._stop()
                raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._stop()

    @property
    def pid(self) -> int:
        """The process id, of Envoy itself and not of something around it."""
        return self._process.pid

    async def watch(self) -> None:
        """Waits until Envoy ends. Raises `EnvoyFailed` unless it was told to."""
        await asyncio.shield(self._ended)
        if self._running:
            raise self._failure("ended")

    async def drain(self, *, stat_prefix: str, seconds: float) -> bool:
        """Takes no new connections and waits until no request is open; returns whether that came about in time."""
        admin = Admin(self.admin_address)
        try:
            async with asyncio.timeout(seconds):
                await admin.stop_listening()
                while await admin.open_requests(stat_prefix):  # noqa: ASYNC110 (Envoy tells when asked, and only then)
                    await asyncio.sleep(_DRAIN_POLL_SECONDS)
        except (TimeoutError, OSError):
            return False
        return True

    async def _start(self, folder: Path) -> None:
        (folder / "bootstrap.yaml").write_text(self._config)
        self._process = await asyncio.create_subprocess_exec(
            *launched(
                str(self._binary),
                *("--config-path", str(folder / "bootstrap.yaml")),
                *("--admin-address-path", str(folder / "admin-address")),
                *("--concurrency", str(self._concurrency)),
                *("--log-level", "warning"),
                *("--log-format", "%Y-%m-%dT%T.%e%z envoy %l: %v"),
                # Without it two Envoys need different base ids, and each leaves a file in /dev/shm.
                "--disable-hot-restart",
                with_parent=signal.SIGKILL,
            ),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # policyd's own settings are no business of Envoy's, and some are secrets.
            env={name: value for name, value in os.environ.items() if not name.startswith("POLICYD_")},
            # Ctrl-C on a terminal signals every process of the group, and Envoy would end before its requests do.
            start_new_session=True,
        )
        self._ended = asyncio.create_task(self._follow())

    async def _follow(self) -> int:
        """Reads Envoy's log until Envoy has ended; returns its exit status."""
        stderr = cast(asyncio.StreamReader, self._process.stderr)
        while chunk := await stderr.read(_LAST_WORDS_BYTES_MAX):
            self._last_words = (self._last_words + chunk)[-_LAST_WORDS_BYTES_MAX:]
            if self._running:
                self._pass_on(chunk)
        return await self._process.wait()

    def _pass_on(self, text: bytes) -> None:
        # A log that cannot be written, because its reader has gone or its disk is full, is no reason to stop serving.
        with contextlib.suppress(OSError):
            self._log.write(text)
            self._log.flush()

    async def _become_ready(self, address_path: Path) -> None:
        addresses = asyncio.create_task(_addresses_when_live(address_path))
        try:
            await asyncio.wait({addresses, self._ended}, timeout=START_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                raise self._failure("ended before it was ready")
            if not addresses.done():
                raise self._failure(f"was not ready within {START_SECONDS_MAX} seconds")
            self.admin_address, self.listen_address = addresses.result()
        finally:
            addresses.cancel()
        self._running = True
        self._pass_on(self._last_words)

    async def _stop(self) -> None:
        self._running = False
        try:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await asyncio.wait({self._ended}, timeout=STOP_SECONDS_MAX)
        finally:  # also when this is cancelled
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._ended

    def _failure(self, what: str) -> EnvoyFailed:
        words = self._last_words.decode(errors="replace").strip()
        status = f" ({_status_shown(self._ended.result())})" if self._ended.done() else ""
        return EnvoyFailed(f"{self._binary} {what}{status}" + (f"; it said:\n{words}" if words else ""))


async def _addresses_when_live(address_path: Path) -> tuple[HostPort, HostPort]:
    """Polls until Envoy is live; returns where its admin interface and its first listener are."""
    while True:
        # Not written yet, not listening yet, or without its listener yet.
        with contextlib.suppress(OSError, ValueError, LookupError):
            admin = _admin_at(address_path)
            if await admin.is_live():
                return admin.address, await admin.listen_address()
        await asyncio.sleep(_POLL_SECONDS)


def _admin_at(address_path: Path) -> Admin:
    host, _, port = address_path.read_text().rpartition(":")
    return Admin(HostPort(host.strip("[]"), int(port)))


def _status_shown(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name

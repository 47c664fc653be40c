"""The simulated provider as a process of its own: `python -m tests.faults.provider ADDRESS BILL`.

Whatever is handed to a connection stands in the bill before: one line a fact, written at once, so that it outlives the
process. A request is known there by its header `x-policyd-session`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from policyd.config import HostPort
from policyd.core.usage import Usage
from policyd.demo.simulated.app import simulated_app
from policyd.demo.simulated.reply import Chunk
from policyd.demo.simulated.served import LastRequest, OpenRequest, Outcome, Tally
from policyd.demo.simulated.serving import on_thread
from policyd.launch import launched
from policyd.tokens import TokenCounter
from policyd.workers.ports import real_address, reserve_port

SESSION = "x-policyd-session"

BACKLOG_CONNECTIONS = 2048

STOP_SECONDS_MAX = 10


class Provider:
    """Runs it, on one port whenever it runs."""

    def __init__(self, bill: Path) -> None:
        self._bill = bill
        anywhere = HostPort("127.0.0.1", 0)
        self._port = reserve_port(anywhere, flag="the provider")
        self._address = real_address(anywhere, self._port)

    @property
    def url(self) -> str:
        return f"http://{self._address}"

    def start(self) -> None:
        """Returns once it serves."""
        self._process = subprocess.Popen(
            launched(
                *(sys.executable, "-m", "tests.faults.provider", str(self._address.port), str(self._bill)),
                with_parent=signal.SIGKILL,
            ),
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(STOP_SECONDS_MAX)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def hang(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        self._port.close()

    def bill(self) -> Mapping[str, Usage]:
        """What was served for each session whose reply began."""
        return read_bill(self._bill)


@contextmanager
def providing(bill: Path) -> Iterator[Provider]:
    provider = Provider(bill)
    provider.start()
    try:
        yield provider
    finally:
        provider.close()


def read_bill(path: Path) -> Mapping[str, Usage]:
    input_tokens: dict[str, int] = defaultdict(int)
    output_tokens: dict[str, int] = defaultdict(int)
    for line in path.read_text().splitlines():
        session, read, written = line.split()
        input_tokens[session] += int(read)
        output_tokens[session] += int(written)
    return {session: Usage(input=input_tokens[session], output=output_tokens[session]) for session in input_tokens}


@dataclass(frozen=True, slots=True)
class Bill:
    """An open file to which whole lines are appended."""

    descriptor: int

    def add(self, session: str, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
        os.write(self.descriptor, f"{session} {input_tokens} {output_tokens}\n".encode())


class BilledTally(Tally):
    """A tally that writes a bill too."""

    def __init__(self, bill: Bill) -> None:
        super().__init__()
        self._bill = bill

    @contextmanager
    def request(self, path: str) -> Iterator[OpenRequest]:
        with super().request(path) as request:
            yield BilledRequest(request, self._bill)


class BilledRequest(OpenRequest):
    """A request under way, of which each step is written down before it is taken."""

    def __init__(self, counted: OpenRequest, bill: Bill) -> None:
        self._counted = counted
        self._bill = bill
        self._session = ""

    def read(self, request: LastRequest) -> None:
        self._session = dict(request.headers)[SESSION]
        self._counted.read(request)

    def begin_reply(self, *, input_tokens: int) -> None:
        self._bill.add(self._session, input_tokens=input_tokens)
        self._counted.begin_reply(input_tokens=input_tokens)

    def send(self, chunk: Chunk) -> None:
        if chunk.output_tokens:
            self._bill.add(self._session, output_tokens=chunk.output_tokens)
        self._counted.send(chunk)

    def end(self, outcome: Outcome) -> None:
        self._counted.end(outcome)


def main(port: int, bill: Path) -> None:
    """Serves until it is killed."""
    counter = TokenCounter()
    tally = BilledTally(Bill(os.open(bill, os.O_WRONLY | os.O_APPEND | os.O_CREAT)))
    app = simulated_app(
        tally=tally, count_text=lambda text: counter.count_text(text, provider="openai", model="gpt-4o")
    )
    listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG_CONNECTIONS, reuse_port=True)
    with on_thread(app, listener):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

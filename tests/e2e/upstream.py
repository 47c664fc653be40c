"""An upstream that answers with the bytes it is given: what no provider sends on a good day."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socketserver import BaseRequestHandler, ThreadingTCPServer

REQUEST_SECONDS_MAX = 20


@dataclass
class Upstream:
    """Answers every request with `reply`, waits for `go_on`, sends the `rest`, and closes the connection."""

    port: int = 0
    reply: bytes = b""
    rest: bytes = b""
    go_on: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def upstream() -> Iterator[Upstream]:
    it = Upstream()
    it.go_on.set()

    class Handler(BaseRequestHandler):
        request: socket.socket

        def handle(self) -> None:
            self.request.settimeout(REQUEST_SECONDS_MAX)
            _read_request(self.request)
            self.request.sendall(it.reply)
            it.go_on.wait(REQUEST_SECONDS_MAX)
            # Whoever hung up meanwhile gets nothing.
            with suppress(ConnectionError):
                self.request.sendall(it.rest)

    class Server(ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        it.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield it
        finally:
            it.go_on.set()
            server.shutdown()


@contextmanager
def refusing() -> Iterator[str]:
    """The URL of a port that refuses every connection, and that nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def _read_request(connection: socket.socket) -> None:
    with connection.makefile("rb") as reader:
        length = 0
        while line := reader.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        reader.read(length)


@contextmanager
def kept_open(it: Upstream) -> Iterator[threading.Event]:
    """Inside the block a connection stays open after the reply, until the event is set."""
    it.go_on.clear()
    try:
        yield it.go_on
    finally:
        it.go_on.set()


def response(*, content_type: str = "application/json", body: bytes = b"", **headers: str) -> bytes:
    """A reply whose body ends where the connection does, unless a header says otherwise."""
    lines = ["HTTP/1.1 200 OK", f"content-type: {content_type}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body

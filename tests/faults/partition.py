"""A TCP proxy that can stop forwarding, in one direction or in both.

What it has received by then, or receives meanwhile, is delivered late and in order once it forwards again, also where
its sender has long given up: the worst that a network does to a store.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_CHUNK_BYTES = 65_536


@dataclass
class Partition:
    """A proxy to `port` on this machine. Each gate is open while its direction forwards."""

    port: int
    there: threading.Event = field(default_factory=threading.Event)
    back: threading.Event = field(default_factory=threading.Event)
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def __post_init__(self) -> None:
        self.mend()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def mend(self) -> None:
        self.there.set()
        self.back.set()

    def serve(self) -> None:
        """Until the listener is shut down."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._connect, args=(client, server), daemon=True).start()

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            returning = threading.Thread(target=_forward, args=(server, client, self.back), daemon=True)
            returning.start()
            _forward(client, server, self.there)
            returning.join()


def _forward(source: socket.socket, target: socket.socket, gate: threading.Event) -> None:
    """Until the source ends; then the target is told that no more will come."""
    while data := _received(source):
        gate.wait()
        # Whoever has gone gets nothing, and whoever has not yet been told still gets what is waiting here.
        with suppress(OSError):
            target.sendall(data)
    gate.wait()
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(_CHUNK_BYTES)
    except OSError:
        return b""


@contextmanager
def partitionable(port: int) -> Iterator[Partition]:
    proxy = Partition(port)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.mend()
        proxy.listener.shutdown(socket.SHUT_RDWR)
        proxy.listener.close()
        thread.join()

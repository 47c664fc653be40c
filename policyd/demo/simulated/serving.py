"""Runs uvicorn under a simulated provider, on a thread or in the event loop around it.

A module of its own, because importing uvicorn takes a while.
"""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

# Longer than any pause of a test or of a spectator: an idle connection that closes under a proxy's next request would
# look like a failure of the provider.
_KEEP_ALIVE_SECONDS = 300
_STOP_SECONDS = 1


@contextmanager
def on_thread(app: ASGIApp, listener: socket.socket) -> Iterator[None]:
    """Serves `app` on a thread with an event loop of its own, until the block ends."""
    server = _Server(app)
    thread = threading.Thread(target=server.run, args=([listener],), name="simulated-provider", daemon=True)
    thread.start()
    try:
        server.ready.result()
        yield
    finally:
        server.should_exit = True
        thread.join()


@asynccontextmanager
async def in_running_loop(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serves `app` in the event loop that runs, until the block ends."""
    server = _Server(app)
    task = asyncio.create_task(server.serve([listener]))
    try:
        await asyncio.wrap_future(server.ready)
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """Serves an app on a socket, tells when it is ready, and leaves the process's signals alone."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        self.ready: Future[None] = Future()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            if not self.ready.done():
                self.ready.set_exception(RuntimeError("the simulated provider did not start"))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set_result(None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Whoever still reads a reply sees its connection die, rather than everyone waiting for the slowest stream.
        for connection in self.server_state.connections:
            connection.transport.abort()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The program around it decides what SIGINT and SIGTERM mean, also where this runs in its main thread.
        yield

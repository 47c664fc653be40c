"""A simulated LLM provider: OpenAI chat completions and Anthropic messages, as the real ones speak on the wire.

It stands where the real provider would, behind Envoy, for `policyd demo` and for the end-to-end tests. Its usage is
honest: input tokens are counted from the text of the request, output tokens are the tokens really sent, one to a delta.
What it should do otherwise, a request asks for by `x-sim-*` headers: `simulated/script.py` is the table of them.

    POST /v1/chat/completions       OpenAI, JSON or SSE
    GET  /v1/models                 OpenAI
    POST /v1/messages               Anthropic, JSON or SSE
    POST /v1/messages/count_tokens  Anthropic
    GET  /_sim/stats                what was served (`simulated/served.py`) as JSON
    POST /_sim/reset                counts back to zero

Everything else is 404 in the shape of the provider whose path it resembles. It checks no credentials.
"""

import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Self

from policyd.demo.simulated.reply import CountText
from policyd.demo.simulated.served import LastRequest, Served, Tally

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["CountText", "LastRequest", "Served", "SimulatedProvider", "create_app"]

# The imports inside functions bring in Starlette and uvicorn: a program that merely offers the demo should not wait
# for them.

_BACKLOG_CONNECTIONS = 1024


def create_app(*, count_text: CountText) -> "Starlette":
    """The provider as an ASGI app, with counts of its own. `count_text` says how many tokens a text makes."""
    return _create_app(Tally(), count_text)


def _create_app(tally: Tally, count_text: CountText) -> "Starlette":
    from policyd.demo.simulated.app import simulated_app  # noqa: PLC0415

    return simulated_app(tally=tally, count_text=count_text)


class SimulatedProvider:
    """The provider listening on a socket: with `async with` in the running event loop, with `with` on a thread.

    Reading the counts and waiting for them is safe from any thread. Port 0 takes a free one.
    """

    def __init__(self, *, count_text: CountText, host: str = "127.0.0.1", port: int = 0) -> None:
        self._tally = Tally()
        self._app = _create_app(self._tally, count_text)
        self._address = (host, port)
        self._url: str | None = None
        self._in_loop = AsyncExitStack()
        self._on_thread = ExitStack()

    @property
    def url(self) -> str:
        """`http://host:port`, from the moment it listens."""
        if self._url is None:
            raise RuntimeError("the simulated provider has an address only once it is entered")
        return self._url

    @property
    def served(self) -> Served:
        """What was served up to now."""
        return self._tally.served

    def reset(self) -> None:
        """Sets the counts back to zero."""
        self._tally.reset()

    def wait_until(self, holds: Callable[[Served], bool], *, timeout_seconds: float) -> Served:
        """Blocks until the counts satisfy `holds`, and returns them; TimeoutError if they do not in time.

        In the event loop that serves the provider, call it by `asyncio.to_thread`.
        """
        return self._tally.wait_until(holds, timeout_seconds=timeout_seconds)

    async def __aenter__(self) -> Self:
        from policyd.demo.simulated.serving import in_running_loop  # noqa: PLC0415

        await self._in_loop.enter_async_context(in_running_loop(self._app, self._listen()))
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._in_loop.aclose()

    def __enter__(self) -> Self:
        from policyd.demo.simulated.serving import on_thread  # noqa: PLC0415

        self._on_thread.enter_context(on_thread(self._app, self._listen()))
        return self

    def __exit__(self, *_error: object) -> None:
        self._on_thread.close()

    def _listen(self) -> socket.socket:
        listener = socket.create_server(self._address, backlog=_BACKLOG_CONNECTIONS)
        host, port = listener.getsockname()[:2]
        self._url = f"http://{host}:{port}"
        return listener

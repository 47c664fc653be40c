"""A provider that gives the answer that it was told, piece by piece, and remembers what reached it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from policyd.demo.simulated.serving import on_thread
from tests.e2e.providers.case import Answer


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it reached the provider."""

    method: str
    target: str
    """The path with its query, as they were written."""
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Provider:
    """Answers every request with `answer`, as an ASGI app."""

    url: str
    answer: Answer = field(default_factory=lambda: Answer(()))
    arrivals: list[Arrival] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    """Set when a reply that does not end was given up by its client."""

    def expect(self, answer: Answer) -> None:
        """What it answers from now on; what reached it before is forgotten."""
        self.answer = answer
        self.arrivals.clear()
        self.hung_up.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, body = self.answer, b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        body += message["body"]
        target = b"?".join(part for part in (scope["raw_path"], scope["query_string"]) if part).decode()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.arrivals.append(Arrival(scope["method"], target, headers, body))
        reply_headers = [(b"content-type", answer.content_type.encode())]
        if len(answer.chunks) == 1:
            reply_headers.append((b"content-length", b"%d" % len(answer.chunks[0])))
        await send({"type": "http.response.start", "status": 200, "headers": reply_headers})
        for chunk in answer.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            # Lets the chunk leave by itself.
            await asyncio.sleep(0)
        if not answer.ends:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.hung_up.set()
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def running() -> Iterator[Provider]:
    """A provider on a port of its own, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        provider = Provider(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with on_thread(provider, listener):
            yield provider

"""Clients that ask all the time, and what became of each request."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.e2e import raw

CLIENTS = 6
DELAY_MS = 20
"""How long the simulated provider takes for each request."""

MAX_TOKENS = 40
OUTPUT_TOKENS = 20
ENDED_SECONDS_MAX = 30

AFTER_FAILURE_SECONDS = 0.05
"""How long a client waits before it tries again: where nobody listens, asking costs nothing but this machine's time."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. Times are seconds of the monotonic clock."""

    session: str
    """Of this request alone: with it, whoever has seen the request says which one it was."""
    began: float
    ended: float
    outcome: str
    """The status of a reply that came to its orderly end, or the name of the error."""


@dataclass
class Load:
    """What became of the requests so far."""

    project: str
    asked: list[Asked] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def outcomes(self) -> Counter[str]:
        """Statuses, and the names of the errors where there was none."""
        return Counter(each.outcome for each in self.asked)

    @property
    def requests(self) -> int:
        return len(self.asked)

    def wait_for(self, more: int) -> None:
        """Waits until so many more requests have ended well."""
        with self._changed:
            wanted = self.outcomes["200"] + more
            came = self._changed.wait_for(lambda: self.outcomes["200"] >= wanted, timeout=ENDED_SECONDS_MAX)
        assert came, f"requests do not pass any more: {self.outcomes}"

    def _run(self, address: str, client: int, *, stream: bool, script: Mapping[str, str]) -> None:
        body = raw.chat(max_tokens=MAX_TOKENS, stream=stream)
        number = 0
        while not self._over.is_set():
            session = f"{self.project}-{client}-{number}"
            headers = {"x-policyd-project": self.project, "x-policyd-session": session, **script}
            began = time.monotonic()
            try:
                outcome = str(raw.post(address, body=body, headers=headers).status)
            except (OSError, HTTPException) as error:
                outcome = type(error).__name__
            with self._changed:
                self.asked.append(Asked(session, began, time.monotonic(), outcome))
                self._changed.notify_all()
            if outcome != "200":
                self._over.wait(AFTER_FAILURE_SECONDS)
            number += 1


@contextmanager
def load(address: str, *, project: str, clients: int = CLIENTS, chunk_delay_ms: int = 0) -> Iterator[Load]:
    """Inside the block `clients` ask Envoy at `address` one request after the other, every second client for streams.

    `chunk_delay_ms`: what the provider waits between two tokens of a stream. At the block's end each client finishes
    what it has begun.
    """
    running = Load(project)
    script = {
        "x-sim-output-tokens": str(OUTPUT_TOKENS),
        "x-sim-delay-ms": str(DELAY_MS),
        "x-sim-chunk-delay-ms": str(chunk_delay_ms),
    }
    threads = [
        threading.Thread(
            target=running._run,
            args=(address, client),
            kwargs={"stream": bool(client % 2), "script": script},
            daemon=True,
        )
        for client in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        running._over.set()
        for thread in threads:
            thread.join(ENDED_SECONDS_MAX)

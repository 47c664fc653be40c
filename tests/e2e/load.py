"""Clients that ask all the time, and what became of each request."""

from __future__ import annotations

import threading
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
ENDED_SECONDS_MAX = 30


@dataclass
class Load:
    """What became of the requests so far: statuses, and the names of the errors where there was none."""

    outcomes: Counter[str] = field(default_factory=Counter)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())

    def wait_for(self, more: int) -> None:
        """Waits until so many more requests have ended well."""
        with self._changed:
            wanted = self.outcomes["200"] + more
            came = self._changed.wait_for(lambda: self.outcomes["200"] >= wanted, timeout=ENDED_SECONDS_MAX)
        assert came, f"requests do not pass any more: {self.outcomes}"

    def _run(self, address: str, *, stream: bool, headers: Mapping[str, str]) -> None:
        body = raw.chat(max_tokens=MAX_TOKENS, stream=stream)
        while not self._over.is_set():
            try:
                outcome = str(raw.post(address, body=body, headers=headers).status)
            except (OSError, HTTPException) as error:
                outcome = type(error).__name__
            with self._changed:
                self.outcomes[outcome] += 1
                self._changed.notify_all()


@contextmanager
def load(address: str, *, project: str) -> Iterator[Load]:
    """Inside the block `CLIENTS` ask Envoy at `address` one request after the other, every second client for streams.

    At its end each finishes what it has begun.
    """
    running = Load()
    headers = {"x-policyd-project": project, "x-sim-output-tokens": "20", "x-sim-delay-ms": str(DELAY_MS)}
    threads = [
        threading.Thread(
            target=running._run, args=(address,), kwargs={"stream": bool(number % 2), "headers": headers}, daemon=True
        )
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        running._over.set()
        for thread in threads:
            thread.join(ENDED_SECONDS_MAX)

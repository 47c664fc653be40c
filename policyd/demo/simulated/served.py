"""What a simulated provider has served: immutable counts, and the tally that keeps them.

The last request is kept whole, headers and body, so that a test can compare byte for byte what was forwarded. That is
fit for a simulator, whose prompts are made up, and for nothing else.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum

from policyd.demo.simulated.reply import Chunk


class Outcome(Enum):
    """How a request ended; the value is the field of `Served` that counts it."""

    COMPLETED = "requests_completed"
    FAILED = "requests_failed"
    BROKEN_OFF = "requests_broken_off"
    CANCELLED = "streams_cancelled"
    ABANDONED = "requests_abandoned"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRequest:
    """A request as it arrived. Header names are lower case, their order and repetition kept."""

    method: str
    path: str
    """Percent-decoded."""
    target: str
    """Path and query string, as sent."""
    headers: tuple[tuple[str, str], ...]
    body: bytes
    """Base64 in the JSON form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Counts since the start or the last reset. Requests to `/_sim/` are not among them.

    What is sent is counted just before it is handed to the connection: whoever has seen a token, or the end of a reply,
    finds it counted.
    """

    requests_received: Mapping[str, int] = field(default_factory=dict)
    """By path, counted when the headers are in."""
    requests_open: int = 0
    """Received and not ended; a reset leaves it as it is."""
    requests_completed: int = 0
    """Got the whole of a good reply."""
    requests_failed: int = 0
    """Got an error: a status of 400 or above, or an error event at the end of a stream."""
    requests_broken_off: int = 0
    """Were told to have their connection die, and had it die."""
    streams_cancelled: int = 0
    """Hung up by the client, or by a proxy, in the middle of the reply."""
    requests_abandoned: int = 0
    """Hung up before the reply began."""

    input_tokens: int = 0
    """Of requests whose reply began, errors excepted."""
    output_tokens: int = 0
    """Of text that was sent, in whole and in broken replies."""
    bytes_received: int = 0
    """Of request bodies."""
    bytes_sent: int = 0
    """Of reply bodies, as encoded."""

    last_request: LastRequest | None = None


class Tally:
    """Keeps the counts of one provider. Safe to read, to reset and to wait on from any thread."""

    def __init__(self) -> None:
        self._served = Served()
        self._changed = threading.Condition()

    @property
    def served(self) -> Served:
        return self._served

    def reset(self) -> None:
        """Back to zero, except for the requests that are open."""
        self._update(lambda served: Served(requests_open=served.requests_open))

    def wait_until(self, holds: Callable[[Served], bool], *, timeout_seconds: float) -> Served:
        """Blocks until the counts satisfy `holds` and returns them, or raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self._served), timeout=timeout_seconds):
                counts = replace(self._served, last_request=None)
                raise TimeoutError(f"not within {timeout_seconds} s; the counts are {counts}")
            return self._served

    @contextmanager
    def request(self, path: str) -> Iterator["OpenRequest"]:
        """Counts a request from its headers to its end, which is a hang-up unless it ended otherwise before."""

        def count(served: Served) -> Served:
            by_path = {**served.requests_received, path: served.requests_received.get(path, 0) + 1}
            return replace(served, requests_received=by_path, requests_open=served.requests_open + 1)

        self._update(count)
        request = OpenRequest(self._update)
        try:
            yield request
        finally:
            request.end(Outcome.CANCELLED if request.reply_began else Outcome.ABANDONED)

    def _update(self, change: Callable[[Served], Served]) -> None:
        with self._changed:
            self._served = change(self._served)
            self._changed.notify_all()


class OpenRequest:
    """One request on its way through. It ends once: the first outcome recorded is the one that counts."""

    def __init__(self, update: Callable[[Callable[[Served], Served]], None]) -> None:
        self._update = update
        self._ended = False
        self.reply_began = False

    def read(self, request: LastRequest) -> None:
        """Records the request, its body read to the end."""
        self._update(
            lambda served: replace(
                served, bytes_received=served.bytes_received + len(request.body), last_request=request
            )
        )

    def begin_reply(self, *, input_tokens: int) -> None:
        """Records that the reply's headers are about to be sent."""
        self.reply_began = True
        self._update(lambda served: replace(served, input_tokens=served.input_tokens + input_tokens))

    def send(self, chunk: Chunk) -> None:
        """Records a chunk that is about to be sent."""
        self._update(
            lambda served: replace(
                served,
                output_tokens=served.output_tokens + chunk.output_tokens,
                bytes_sent=served.bytes_sent + len(chunk.data),
            )
        )

    def end(self, outcome: Outcome) -> None:
        """Records how the request ends, unless it has ended."""
        if self._ended:
            return
        self._ended = True

        def count(served: Served) -> Served:
            ended = {outcome.value: getattr(served, outcome.value) + 1}
            return replace(served, requests_open=served.requests_open - 1, **ended)

        self._update(count)

"""Reads a reply while it passes, and knows at any moment what it has used so far.

A stream is read event by event, as far as what is held covers it, however many of them come at once: a burst ends
where the budget does. It is passed on in whole events: an event is never split between what the client got and what it
did not, so the stream can be ended after any of them. A document is passed on as it comes. A reply that is not known to
be a document when its headers pass is passed on decoded, because they have promised that.

Output text is counted lazily. Its UTF-8 bytes bound its tokens from above, so as long as the bytes fit into the hold
nothing is counted at all; only near the hold, or when the reply ends without the provider's own numbers, is the text
turned into tokens. Text is kept until it is counted, and no longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from policyd.core.estimate import Estimate
from policyd.core.record import UsageSource
from policyd.core.usage import Usage
from policyd.ext_proc.document import ReplyDocument
from policyd.ext_proc.encoding import Decoder
from policyd.ext_proc.room import Room
from policyd.providers.base import ErrorInfo, ReplyReader, WireFormat
from policyd.providers.framing.frame import Frame, Framer
from policyd.providers.framing.json_array import JsonArrayFramer
from policyd.providers.framing.sse import SseFramer

UNDECODED_BYTES_MAX = 65_536
"""How many bytes of events are kept at most before they are read."""

UNCOUNTED_BYTES_MAX = 65_536
"""How much output text is kept at most before it is counted."""

TOP_UP_TOKENS_MIN = 256
"""The least that a growing stream asks for at once, so that it does not go to the store at every event."""


class Framing(Enum):
    EVENTS = auto()
    DOCUMENT = auto()
    UNSURE = auto()
    """A stream was asked for and the reply is not labelled as one: its first byte tells."""


class ReplyMeter:
    def __init__(
        self,
        *,
        reader: ReplyReader,
        framing: Framing,
        framer: Framer | None = None,
        decoder: Decoder | None,
        estimate: Estimate,
        held: Usage,
        count_text: Callable[[str], int],
    ) -> None:
        self.reader = reader
        self._framing = framing
        self._passes_plain = framing is not Framing.DOCUMENT
        self._decoder = decoder
        self._estimate = estimate
        self._room = Room(estimate, held)
        self._output_tokens_max = estimate.maximum.output_tokens if estimate.bounded else None
        self._count_text = count_text
        self._events = framer or SseFramer()
        self._unread: deque[Frame] = deque()
        """Events that have come and wait for room."""
        self._uncovered = b""
        """The latest event that was read, until it is known to be covered."""
        self._document = ReplyDocument(reader)
        self._has_come = False
        self._counted_tokens = 0
        self._latest_tokens = 0
        self._uncounted: list[str] = []
        self._uncounted_bytes = 0
        self._latest_bytes = 0
        self._undecoded = bytearray()
        """Events that passed without being read."""

    @property
    def is_stream(self) -> bool:
        """Whether the reply consists of events, so that it can be ended with one."""
        return self._framing is Framing.EVENTS

    def last_event(self, wire: WireFormat, error: ErrorInfo) -> bytes:
        """What ends the stream with an error as the provider would, in the framing that it came in."""
        if isinstance(self._events, JsonArrayFramer):
            return self._events.end_with(wire.error_body(error))
        event = wire.error_event(error)
        if isinstance(self._events, SseFramer) and event.startswith(b"{"):
            # Cohere v1 sends its JSON lines as server-sent events to a client that accepts these.
            return b"data: " + event.rstrip() + b"\n\n"
        return event

    def feed(self, chunk: bytes) -> bytes:
        """Reads a chunk; returns the bytes that the client may have now. Raises `UndecodableReply`."""
        plain = self._decode(chunk)
        if self._framing is Framing.EVENTS:
            self._unread += self._events.feed(plain)
            return self.read_on()
        self._document.feed(plain)
        return plain if self._passes_plain else chunk

    def read_on(self) -> bytes:
        """Reads the events that have come, as far as what is held covers them; returns those that the client may have.

        It stops at an event that is not covered, and before one that may not be: there is a shortfall then.
        """
        passing = []
        while not (short := self.shortfall_tokens()) or self._covers_observed():
            passing.append(self._uncovered)
            self._uncovered = b""
            if short or not self._unread:
                break
            self._uncovered = self._read(self._unread.popleft())
        return b"".join(passing)

    def finish(self) -> bytes:
        """The reply has ended, or broken off; returns what was held back and may still pass.

        Events that wait for room are read too: what has come has been generated.
        """
        if self._framing is Framing.EVENTS:
            self._unread += self._events.finish()
            rest = self._uncovered + b"".join(map(self._read, self._unread))
            self._uncovered = b""
            self._unread.clear()
            if self.reader.usage_complete:
                self._undecoded.clear()
            return rest
        self._document.finish()
        self._keep_text()
        return b""

    def read_whole(self, body: bytes) -> bytes:
        """Reads a reply that came in one piece; returns what the client may have of it. Raises `UndecodableReply`."""
        plain = self._decode(body)
        if self._framing is Framing.EVENTS:
            self._unread += self._events.feed(plain)
            return self.finish()
        if self._document.read_whole(plain):
            self._keep_text()
        return plain if self._passes_plain else body

    def passes_unread(self, chunk: bytes) -> bool:
        """Whether `chunk` is of whole events that only bring text, for which there is room at a token for every byte.

        If so, it is not to be fed. Such events are kept as they came, and read only if their text has to be counted:
        when the room gets tight, or when the reply ends without the provider's own numbers.
        """
        reader, events = self.reader, self._events
        telling = reader.telling
        if (
            telling is None
            # The first event tells more than the others.
            or reader.model is None
            or self._decoder is not None
            or self._framing is not Framing.EVENTS
            or self._unread
            or self._uncovered
            or not isinstance(events, SseFramer)
            or not events.is_whole(chunk)
            or telling.search(chunk) is not None
        ):
            return False
        if len(self._undecoded) + len(chunk) > UNDECODED_BYTES_MAX:
            self._decode_kept()
        latest_bytes, self._latest_bytes = self._latest_bytes, len(chunk)
        self._undecoded += chunk
        if self._output_bound() <= self._room.tokens_beside(reader.usage):
            return True
        self._latest_bytes = latest_bytes
        del self._undecoded[-len(chunk) :]
        return False

    def _decode_kept(self) -> None:
        """Reads the events that passed without being read."""
        if self._undecoded:
            kept, self._undecoded = bytes(self._undecoded), bytearray()
            for frame in SseFramer().feed(kept):
                self._read(frame)

    @property
    def is_unread(self) -> bool:
        """Whether a document has come that said nothing of what it costs: not whole, not JSON, or without usage."""
        if self._framing is Framing.EVENTS or self.reader.usage is not None or self.reader.error is not None:
            return False
        return self._has_come and not self._uncounted and not self._counted_tokens

    def observed(self) -> tuple[Usage, UsageSource]:
        """What has been used so far, in the provider's numbers where it gave them and counted where it did not."""
        reported = self.reader.usage
        if reported is not None and self.reader.usage_complete:
            return reported, UsageSource.REPORTED
        self._decode_kept()
        self._count()
        if reported is None or not reported.input_tokens:
            reported = (reported or Usage())._replace(input=self._estimate.expected.input)
        unreported = max(0, self._within_bound(self._counted_tokens) - reported.output_tokens)
        seen = reported._replace(output=reported.output + unreported)
        return seen.with_pieces_of(self._estimate.expected), UsageSource.COUNTED

    def shortfall_tokens(self) -> int:
        """How many output tokens more have to be held for the reply to go on.

        That is for what was read and for as much again as was read last: the next event should fit before it is read.
        A reply whose usage is complete has nothing more to come.
        """
        room = self._room.tokens_beside(self.reader.usage)
        if self.reader.usage_complete or self._output_bound() <= room:
            return 0
        if self._undecoded:
            self._decode_kept()
            if self._output_bound() <= room:
                return 0
        usage, _ = self.observed()
        coming = self._within_bound(usage.output_tokens + max(1, self._latest_tokens))
        return max(0, max(usage.output_tokens, coming) - room)

    def top_up_tokens(self, shortfall_tokens: int) -> int:
        """How many to ask for: as many again as are held, but no more than a bounded reply can come to."""
        wanted = max(shortfall_tokens, TOP_UP_TOKENS_MIN, self._room.all_tokens)
        if self._estimate.bounded:
            rest = self._estimate.maximum.output_tokens - self._room.tokens_beside(self.reader.usage)
            wanted = min(wanted, max(shortfall_tokens, rest))
        return wanted

    def grant(self, tokens: int) -> None:
        """`tokens` more output tokens are held."""
        self._room.grant(tokens)

    def _covers_observed(self) -> bool:
        """Whether what is held covers all that was read so far."""
        usage, _ = self.observed()
        return usage.output_tokens <= self._room.tokens_beside(self.reader.usage)

    def _output_bound(self) -> int:
        """No more output tokens than this have come or come with an event as long as the latest one."""
        usage = self.reader.usage
        reported = usage.output_tokens if usage is not None else 0
        observed = max(reported, self._counted_tokens + self._uncounted_bytes + len(self._undecoded))
        return max(reported, self._within_bound(observed + self._latest_bytes + 1))

    def _within_bound(self, output_tokens: int) -> int:
        """`output_tokens`, as far as a bounded request lets its reply go: an inexact count can pass that."""
        maximum = self._output_tokens_max
        return output_tokens if maximum is None or output_tokens < maximum else maximum

    def _decode(self, chunk: bytes) -> bytes:
        plain = self._decoder.feed(chunk) if self._decoder is not None else chunk
        self._has_come = self._has_come or bool(plain.strip())
        if self._framing is Framing.UNSURE and (start := plain.lstrip()):
            self._framing = Framing.DOCUMENT if start.startswith(b"{") else Framing.EVENTS
            if start.startswith(b"["):
                self._events = JsonArrayFramer()
        return plain

    def _read(self, frame: Frame) -> bytes:
        """Reads an event; returns what the client may see of it."""
        visible = self.reader.read_frame(frame)
        self._keep_text()
        return frame.raw if visible else b""

    def _keep_text(self) -> None:
        text = self.reader.take_text()
        if text:
            self._latest_bytes = len(text.encode("utf-8", "surrogatepass"))
            self._uncounted.append(text)
            self._uncounted_bytes += self._latest_bytes
            if self._uncounted_bytes > UNCOUNTED_BYTES_MAX:
                self._count()

    def _count(self) -> None:
        """Counts the text that has come since the last time, the latest piece apart."""
        if not self._uncounted:
            return
        *earlier, latest = self._uncounted
        self._latest_tokens = self._count_text(latest)
        self._counted_tokens += self._count_text("".join(earlier)) + self._latest_tokens
        self._uncounted.clear()
        self._uncounted_bytes = 0

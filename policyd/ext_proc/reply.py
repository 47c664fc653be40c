"""The reply's side of an exchange: how its body comes, how it is read, and how it goes on to the client.

The default profile's STREAMED is overridden reply by reply. A JSON document whose length is known to fit is BUFFERED,
so that its cost can go into its headers. The length matters because a reply that outgrew Envoy's buffer would hang.
Everything else comes in FULL_DUPLEX_STREAMED, where a stream can be cut in an orderly way. An operator who configured
another mode gets that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from policyd.enforcer import Verdict
from policyd.ext_proc import messages as m
from policyd.ext_proc.encoding import UndecodableReply, decoder
from policyd.ext_proc.meter import Framing, ReplyMeter
from policyd.ext_proc.request import decimal
from policyd.providers.base import ErrorInfo, ReplyReader, WireFormat
from policyd.providers.framing.choice import framer_for


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """A reply's headers, as far as metering needs them."""

    status: int
    """0 before any headers came."""
    content_type: str
    content_encoding: str
    content_length: int
    """-1 where it is not given."""
    has_body: bool
    configured_mode: m.BodyMode = m.BodyMode.STREAMED
    mode_fixed: bool = False

    @classmethod
    def of(cls, event: m.ResponseHeaders) -> ReplyHead:
        headers: Mapping[str, str] = event.headers
        return cls(
            status=decimal(headers.get(":status", ""), otherwise=0),
            content_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
            content_encoding=headers.get("content-encoding", ""),
            content_length=decimal(headers.get("content-length", ""), otherwise=-1),
            has_body=not event.end_of_stream,
            configured_mode=event.body_mode,
            mode_fixed=event.mode_fixed,
        )

    def framing(self, *, streamed: bool) -> Framing:
        """`streamed`: the request asked for a stream."""
        if framer_for(self.content_type) is not None:
            return Framing.EVENTS
        if streamed and self.status < 400:
            # Some vendors label a stream as JSON.
            return Framing.UNSURE
        return Framing.DOCUMENT

    def body_mode(self, framing: Framing, *, buffer_bytes_max: int) -> m.BodyMode:
        """The mode in which the body is wanted."""
        if self.configured_mode is not m.BodyMode.STREAMED or self.mode_fixed:
            return self.configured_mode
        if framing is Framing.DOCUMENT and 0 <= self.content_length <= buffer_bytes_max:
            return m.BodyMode.BUFFERED
        return m.BodyMode.FULL_DUPLEX_STREAMED


NO_REPLY = ReplyHead(status=0, content_type="", content_encoding="", content_length=-1, has_body=False)
"""What is known of a reply before any of it has come."""


class ReplySide:
    """`meter` is `None` where there is nothing to read, or what there is cannot be read."""

    def __init__(
        self,
        head: ReplyHead,
        *,
        buffer_bytes_max: int,
        reader: ReplyReader,
        verdict: Verdict,
        streamed: bool,
        count_text: Callable[[str], int],
    ) -> None:
        self.head = head
        self._framing = head.framing(streamed=streamed)
        self._mode = head.body_mode(self._framing, buffer_bytes_max=buffer_bytes_max)
        self._overridden = self._mode is not head.configured_mode
        self._rewritten = False
        """Whether the body is passed on plain, and in a length that a cut or a withheld event changes."""
        self._withheld = b""
        self.meter: ReplyMeter | None = None
        try:
            encoding = decoder(head.content_encoding)
        except UndecodableReply:
            return
        if head.has_body:
            self._rewritten = self._framing is not Framing.DOCUMENT
            self.meter = ReplyMeter(
                reader=reader,
                framing=self._framing,
                framer=framer_for(head.content_type),
                decoder=encoding,
                estimate=verdict.decision.estimate,
                held=verdict.decision.held,
                count_text=count_text,
            )

    @property
    def in_full_duplex(self) -> bool:
        return self._mode is m.BodyMode.FULL_DUPLEX_STREAMED

    def headers(self, set_headers: Mapping[str, str]) -> m.HeadersReply:
        """Lets the headers pass, with the mode in which the body is wanted."""
        override = m.ModeOverride(response_body=self._mode, response_trailers=self.in_full_duplex)
        return m.HeadersReply(
            response=True,
            set_headers=set_headers,
            remove_headers=("content-encoding", "content-length") if self._rewritten else (),
            mode=override if self._overridden and self.head.has_body else None,
        )

    def is_whole(self, event: m.ResponseBody) -> bool:
        """Whether this message is the whole reply, as asked for with BUFFERED."""
        if self._mode is not m.BodyMode.BUFFERED:
            return False
        if event.end_of_stream or not self._overridden or len(event.chunk) >= self.head.content_length:
            return True
        # Envoy did not follow the override (`allow_mode_override` is off): the reply comes in pieces after all.
        self._mode = m.BodyMode.STREAMED
        return False

    def breaks_off(self, event: m.ResponseBody) -> bool:
        """Whether more of the reply comes than Envoy shows: it is larger than the buffer of BUFFERED_PARTIAL."""
        return self._mode is m.BodyMode.BUFFERED_PARTIAL and not event.end_of_stream

    def passes_unread(self, event: m.ResponseBody) -> bool:
        """Whether a piece may go on as it came without being fed: one of a stream that only brings text."""
        return (
            self.meter is not None
            and not event.end_of_stream
            and (self.in_full_duplex or self._mode is m.BodyMode.STREAMED)
            and self.meter.passes_unread(event.chunk)
        )

    def feed(self, event: m.ResponseBody) -> bytes:
        """Reads a piece; returns what may go on to the client.

        Raises `UndecodableReply` where that would have to be decoded; what passes as it comes just goes unread then.
        """
        if self.meter is None:
            return event.chunk
        try:
            passing = self.meter.feed(event.chunk)
        except UndecodableReply:
            self.meter = None
            if self._rewritten:
                raise
            return event.chunk
        return passing + self.meter.finish() if event.end_of_stream else passing

    def finish(self) -> bytes:
        """The body has ended without a last piece (trailers follow); returns what was held back."""
        return self.meter.finish() if self.meter is not None and self._mode is not m.BodyMode.BUFFERED else b""

    def read_whole(self, body: bytes) -> bytes | None:
        """Reads a reply that came in one piece, or gives up reading it; returns what takes its place, if it changes."""
        if self.meter is None:
            return None
        try:
            passing = self.meter.read_whole(body)
        except UndecodableReply:
            self.meter = None
            return None
        return passing if passing != body else None

    def piece(self, passing: bytes, *, end_of_stream: bool) -> m.Effect:
        """Sends `passing` on, in place of the message that came."""
        if self.in_full_duplex:
            return m.StreamedBody(response=True, body=passing, end_of_stream=end_of_stream)
        return m.BodyReply(response=True, body=passing)

    def pieces(self, passing: bytes, *, end_of_stream: bool) -> list[m.Effect]:
        """The same, or nothing: in full duplex an event that is not whole yet needs no reply."""
        if self.in_full_duplex and not passing and not end_of_stream:
            return []
        return [self.piece(passing, end_of_stream=end_of_stream)]

    def last_words(self, passing: bytes, wire: WireFormat, error: ErrorInfo) -> bytes:
        """`passing`, and after it what ends the stream with an error as the provider would."""
        return passing + (wire.error_event(error) if self.meter is None else self.meter.last_event(wire, error))

    def withhold(self, passing: bytes) -> None:
        """Keeps what may go on once more is held."""
        self._withheld = passing

    def take_withheld(self) -> bytes:
        withheld, self._withheld = self._withheld, b""
        return withheld

"""The other end of a connection, by hand: whatever bytes a test wants, and what the server says to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from struct import pack, unpack

from policyd.h2rpc import frames
from policyd.h2rpc.codes import ErrorCode
from policyd.h2rpc.connection import Connection
from policyd.h2rpc.events import Event, RequestReceived
from policyd.h2rpc.frames import Frame, FrameReader
from policyd.h2rpc.headers import NO_DYNAMIC_TABLE, header_block
from policyd.h2rpc.limits import Limits

PATH = "/test.Test/Method"

REQUEST_HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "server"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def block_of(fields: Iterable[tuple[str, str]]) -> bytes:
    """A request's header block, which says that no dynamic table is used: the server allows none."""
    return NO_DYNAMIC_TABLE + header_block(list(fields))


REQUEST = block_of(REQUEST_HEADERS)
REPLY = header_block([(":status", "200")])
TRAILERS = header_block([("grpc-status", "0")])


def headers(stream_id: int, block: bytes = REQUEST, *, end_stream: bool = False, end_headers: bool = True) -> bytes:
    flags = (frames.END_STREAM if end_stream else 0) | (frames.END_HEADERS if end_headers else 0)
    return frames.frame(frames.HEADERS, flags, stream_id, block)


def continuation(stream_id: int, fragment: bytes, *, end_headers: bool = False) -> bytes:
    return frames.frame(frames.CONTINUATION, frames.END_HEADERS if end_headers else 0, stream_id, fragment)


def data(stream_id: int, content: bytes, *, end_stream: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if end_stream else 0, stream_id, content)


def rst_stream(stream_id: int) -> bytes:
    return frames.rst_stream(stream_id, ErrorCode.CANCEL)


def window_update(stream_id: int, increment: int) -> bytes:
    return frames.frame(frames.WINDOW_UPDATE, 0, stream_id, pack(">L", increment))


def ping(content: bytes = b"12345678") -> bytes:
    return frames.ping(content, ack=False)


@dataclass
class Peer:
    """A client of `connection` that has nothing behind it."""

    limits: Limits = field(default_factory=Limits)
    connection: Connection = field(init=False)
    events: list[Event] = field(default_factory=list)
    """All that came out of the connection."""
    received: list[Frame] = field(default_factory=list)
    """All that the server has sent."""
    now_ms: int = 0

    def __post_init__(self) -> None:
        self.connection = Connection(self.limits)
        self._reader = FrameReader(frame_bytes_max=2**24 - 1)
        self.look()

    def greet(self, settings: dict[int, int] | None = None) -> None:
        """Sends the preface and SETTINGS, and takes note of the server's."""
        self.say(frames.PREFACE + frames.settings(settings or {}) + frames.SETTINGS_ACK)

    def say(self, *content: bytes) -> list[Event]:
        """What comes out of the connection for it."""
        events = self.connection.receive(b"".join(content), now_ms=self.now_ms)
        self.events += events
        self.look()
        return events

    def look(self) -> None:
        """Reads what the server has sent."""
        self.received += self._reader.frames(self.connection.take_output())

    def of(self, kind: int) -> list[Frame]:
        """The frames of a kind that the server has sent."""
        return [frame for frame in self.received if frame.kind == kind]

    @property
    def opened(self) -> list[int]:
        """The streams that the server has taken up."""
        return [event.stream_id for event in self.events if isinstance(event, RequestReceived)]

    @property
    def resets(self) -> dict[int, ErrorCode]:
        """The streams that the server has reset, and why."""
        return {frame.stream_id: ErrorCode(*unpack(">L", frame.payload)) for frame in self.of(frames.RST_STREAM)}

    @property
    def sent_bytes(self) -> int:
        """How much DATA the server has sent."""
        return sum(len(frame.payload) for frame in self.of(frames.DATA))

    @property
    def goaway(self) -> ErrorCode | None:
        """Why the server closes the connection, if it does."""
        found = self.of(frames.GOAWAY)
        return ErrorCode(unpack(">LL", found[-1].payload[:8])[1]) if found else None


def greeted(limits: Limits | None = None, settings: dict[int, int] | None = None) -> Peer:
    peer = Peer(limits or Limits())
    peer.greet(settings)
    return peer

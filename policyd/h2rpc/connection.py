"""One HTTP/2 connection of a server: bytes in, events out, no I/O and no clock.

    connection = Connection()
    for event in connection.receive(data, now_ms=...):
        ...                                 # and answer with send_headers, send_data, end, reset
    write(connection.take_output())         # after each call

The life of a connection is the table in lifecycle.py, that of a stream the one in streams.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from policyd.h2rpc import frames
from policyd.h2rpc.codes import ConnectionFault, ErrorCode, StreamFault
from policyd.h2rpc.events import DataReceived, Event, OutboxEmptied, RequestEnded, RequestReceived, StreamReset
from policyd.h2rpc.flow import ReceiveWindow, WindowOverflow
from policyd.h2rpc.frames import Frame, FrameReader
from policyd.h2rpc.headers import HeaderAssembly, HeaderBlockReader, RequestHead
from policyd.h2rpc.lifecycle import TABLE, ConnectionInput, ConnectionState
from policyd.h2rpc.limits import WINDOW_BYTES_DEFAULT, Limits
from policyd.h2rpc.nuisance import NuisanceBucket
from policyd.h2rpc.sending import Sender
from policyd.h2rpc.settings import PeerSettings, settings_of
from policyd.h2rpc.streams import Stream, StreamInput, StreamState

_DRAIN_PING: Final = b"draining"
_ALIVE_PING: Final = b"alive?  "


class Connection:
    """The server's side of one connection."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits = limits or Limits()
        self.state = ConnectionState.AWAITING_PREFACE
        self.fault: ConnectionFault | None = None
        """Why the connection was closed, if the peer broke its rules."""
        self._peer = PeerSettings()
        self._sender = Sender(self._peer, on_sent=self._outbox_emptied, on_ended=self._ended)
        self._reader = FrameReader(frame_bytes_max=limits.frame_bytes_max)
        self._header_blocks = HeaderBlockReader(limits)
        self._nuisances = NuisanceBucket(most=limits.nuisances_max, per_second=limits.nuisances_per_second)
        # Apart, since only time makes up for them: DATA before each of them would else undo it.
        self._rapid_resets = NuisanceBucket(most=limits.nuisances_max, per_second=limits.nuisances_per_second)
        self._window = ReceiveWindow(limits.connection_window_bytes)
        self._streams: dict[int, Stream] = {}
        self._last_stream_id = 0
        self._preface = b""
        self._headers: HeaderAssembly | None = None
        self._events: list[Event] = []
        self._now_ms = 0
        self._sender.control(frames.settings(settings_of(limits)))
        if more := limits.connection_window_bytes - WINDOW_BYTES_DEFAULT:
            self._sender.control(frames.window_update(0, more))

    @property
    def is_closed(self) -> bool:
        """Whether the socket is to be closed, once the output is written."""
        return self.state is ConnectionState.CLOSED

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    # --- in and out ---

    def receive(self, data: bytes, *, now_ms: int) -> list[Event]:
        """What follows from `data`. A peer that breaks the rules closes the connection: see `state` and `fault`."""
        self._now_ms = now_ms
        try:
            if self.state is ConnectionState.AWAITING_PREFACE:
                data = self._receive_preface(data)
            if self.state is not ConnectionState.AWAITING_PREFACE:
                for frame in self._reader.frames(data):
                    if self.is_closed:
                        break
                    self._receive_frame(frame)
        except ConnectionFault as fault:
            self._close(fault)
        events, self._events = self._events, []
        return events

    def take_output(self) -> bytes:
        """What is to be written to the peer."""
        return self._sender.take_output()

    # --- answers; all of them are silent about a stream that is closed: it may have been reset meanwhile ---

    def send_headers(self, stream_id: int, block: bytes) -> None:
        if stream := self._streams.get(stream_id):
            self._sender.headers(stream, block)

    def send_data(self, stream_id: int, data: bytes) -> bool:
        """Whether all of it has left; if not, an `OutboxEmptied` follows when it has."""
        stream = self._streams.get(stream_id)
        return stream is None or self._sender.data(stream, data)

    def end(self, stream_id: int, trailers: bytes) -> None:
        """Ends the stream with a last header block, after the data that waits."""
        if stream := self._streams.get(stream_id):
            stream.answered = True
            self._sender.end(stream, trailers)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        if stream := self._streams.get(stream_id):
            self._sender.control(frames.rst_stream(stream_id, code))
            self._remove(stream, StreamInput.RESET)

    def taken(self, stream_id: int, window_bytes: int) -> None:
        """What came on a stream has been worked off: the peer may send as much again."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is not StreamState.OPEN:
            return
        if increment := stream.receive_window.free(window_bytes):
            self._sender.control(frames.window_update(stream_id, increment))

    def waiting(self) -> Mapping[int, int]:
        """The streams whose data waits for a window, and how many bytes."""
        return {stream.id: stream.waiting_bytes for stream in self._streams.values() if stream.outbox}

    # --- the whole connection ---

    def ping(self) -> None:
        """Asks whether the peer is there."""
        self._sender.control(frames.ping(_ALIVE_PING, ack=False))

    def drain(self) -> None:
        """Opens no more streams, finishes those that are open, and then closes the connection."""
        if self.state is ConnectionState.OPEN:
            # The peer may have opened streams before it hears this; its answer to the PING comes after them (6.8).
            self._sender.control(frames.goaway(frames.STREAM_ID_MAX, ErrorCode.NO_ERROR))
            self._sender.control(frames.ping(_DRAIN_PING, ack=False))
        self._step(ConnectionInput.DRAIN)

    def close(self) -> None:
        """Closes the connection at once, whatever is open."""
        if not self.is_closed:
            self._close(ConnectionFault(ErrorCode.NO_ERROR, "the server closes the connection"))
            self.fault = None

    # --- frames ---

    def _receive_preface(self, data: bytes) -> bytes:
        self._preface += data
        expected = frames.PREFACE[: len(self._preface)]
        if not self._preface.startswith(expected):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the connection does not begin with HTTP/2's preface")
        if len(expected) < len(frames.PREFACE):
            return b""
        self._step(ConnectionInput.PREFACE)
        rest, self._preface = self._preface[len(frames.PREFACE) :], b""
        return rest

    def _receive_frame(self, frame: Frame) -> None:
        if self._headers is not None and frame.kind != frames.CONTINUATION:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        if self.state is ConnectionState.AWAITING_SETTINGS and (frame.kind, frame.flags & frames.ACK) != (
            frames.SETTINGS,
            0,
        ):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        handler = _HANDLERS.get(frame.kind)
        if handler is None:
            self._nuisances.take(now_ms=self._now_ms)
            return
        try:
            handler(self, frame)
        except StreamFault as fault:
            self._nuisances.take(now_ms=self._now_ms)
            self.reset(fault.stream_id, fault.code)
            self._events.append(StreamReset(fault.stream_id))

    def _receive_data(self, frame: Frame) -> None:
        window_bytes = len(frame.payload)
        if not self._window.receive(window_bytes):
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        # Of the connection's window nothing is held back: one stream that is not read must not stop the others.
        if increment := self._window.free(window_bytes):
            self._sender.control(frames.window_update(0, increment))
        data = frames.without_padding(frame) if frame.flags & frames.PADDED else frame.payload
        ends = frame.flags & frames.END_STREAM
        if not data and not ends:
            self._nuisances.take(now_ms=self._now_ms)
        stream = self._open_stream(frame)
        if stream is None:
            return
        stream.step(StreamInput.DATA)
        if not stream.receive_window.receive(window_bytes):
            raise StreamFault(stream.id, ErrorCode.FLOW_CONTROL_ERROR)
        if data:
            self._nuisances.give_back()
        if window_bytes:
            self._events.append(DataReceived(stream.id, data, window_bytes))
        if ends:
            self._request_ended(stream)

    def _receive_headers(self, frame: Frame) -> None:
        if not frame.stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that is not the client's")
        headers = self._headers = HeaderAssembly(
            frame.stream_id, ends_stream=bool(frame.flags & frames.END_STREAM), limits=self._limits
        )
        self._add_to_headers(headers, frame, frames.header_fragment(frame))

    def _receive_continuation(self, frame: Frame) -> None:
        if self._headers is None or frame.stream_id != self._headers.stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._add_to_headers(self._headers, frame, frame.payload)

    def _add_to_headers(self, headers: HeaderAssembly, frame: Frame, fragment: bytes) -> None:
        headers.add(fragment)
        if not frame.flags & frames.END_HEADERS:
            return
        self._headers = None
        # Read in any case: what comes after it may refer to it.
        head = self._header_blocks.read(headers.block())
        if headers.stream_id > self._last_stream_id:
            self._request(headers, head)
        else:
            self._trailers(frame, headers)

    def _request(self, headers: HeaderAssembly, head: RequestHead | None) -> None:
        stream_id = headers.stream_id
        self._last_stream_id = stream_id
        if self.state is ConnectionState.LAST_STREAMS:
            self._nuisances.take(now_ms=self._now_ms)
            return
        if len(self._streams) >= self._limits.streams_max:
            self._nuisances.take(now_ms=self._now_ms)
            self._sender.control(frames.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            return
        if head is None:
            self._nuisances.take(now_ms=self._now_ms)
            self._sender.control(frames.rst_stream(stream_id, ErrorCode.PROTOCOL_ERROR))
            return
        stream = self._streams[stream_id] = Stream(
            stream_id,
            send_window_bytes=self._peer.stream_window_bytes,
            receive_window_bytes=self._limits.stream_window_bytes,
        )
        stream.step(StreamInput.HEADERS)
        self._events.append(RequestReceived(stream_id, head))
        if headers.ends_stream:
            self._request_ended(stream)

    def _trailers(self, frame: Frame, headers: HeaderAssembly) -> None:
        stream = self._open_stream(frame)
        if stream is None:
            return
        stream.step(StreamInput.HEADERS)
        if not headers.ends_stream:
            raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR)
        self._request_ended(stream)

    def _receive_priority(self, frame: Frame) -> None:
        frames.check_priority(frame)
        self._nuisances.take(now_ms=self._now_ms)

    def _receive_rst_stream(self, frame: Frame) -> None:
        frames.number_in(frame)
        stream = self._open_stream(frame)
        if stream is None:
            return
        if not stream.answered:
            self._rapid_resets.take(now_ms=self._now_ms)
        self._remove(stream, StreamInput.RESET)
        self._events.append(StreamReset(stream.id))

    def _receive_settings(self, frame: Frame) -> None:
        if frame.stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if frame.flags & frames.ACK:
            if frame.payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with content")
            self._header_blocks.forbid_table()
            return
        if self.state is not ConnectionState.AWAITING_SETTINGS:
            self._nuisances.take(now_ms=self._now_ms)
        window_before = self._peer.stream_window_bytes
        self._peer.take(frames.settings_in(frame))
        self._step(ConnectionInput.SETTINGS)
        self._sender.control(frames.SETTINGS_ACK)
        if change := self._peer.stream_window_bytes - window_before:
            self._change_windows(change)

    def _change_windows(self, change_bytes: int) -> None:
        for stream in list(self._streams.values()):
            try:
                stream.send_window.grow(change_bytes)
            except WindowOverflow as error:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS make a window overflow") from error
            self._sender.stream_window_grew(stream)

    def _receive_ping(self, frame: Frame) -> None:
        frames.check_ping(frame)
        if frame.stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if not frame.flags & frames.ACK:
            self._nuisances.take(now_ms=self._now_ms)
            self._sender.control(frames.ping(frame.payload, ack=True))
        elif frame.payload == _DRAIN_PING and self.state is ConnectionState.DRAINING:
            self._sender.control(frames.goaway(self._last_stream_id, ErrorCode.NO_ERROR))
            self._step(ConnectionInput.DRAIN_HEARD)
            self._close_if_empty()

    def _receive_goaway(self, frame: Frame) -> None:
        """The client opens no more streams, and closes the connection when it has what it wants."""
        frames.check_goaway(frame)
        self._nuisances.take(now_ms=self._now_ms)

    def _receive_window_update(self, frame: Frame) -> None:
        increment = frames.number_in(frame) & frames.STREAM_ID_MAX
        if not frame.stream_id:
            self._grow_connection_window(increment)
            return
        stream = self._open_stream(frame)
        if stream is None:
            return
        if not increment:
            raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR)
        try:
            stream.send_window.grow(increment)
        except WindowOverflow as error:
            raise StreamFault(stream.id, ErrorCode.FLOW_CONTROL_ERROR) from error
        self._sender.stream_window_grew(stream)

    def _grow_connection_window(self, increment: int) -> None:
        if not increment:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        try:
            self._sender.window.grow(increment)
        except WindowOverflow as error:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE makes the window overflow") from error
        self._sender.connection_window_grew()

    def _receive_push_promise(self, frame: Frame) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    # --- parts ---

    def _open_stream(self, frame: Frame) -> Stream | None:
        """The stream of a frame; `None` if it is closed, as it may be without the peer's knowing it yet."""
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            if not 0 < frame.stream_id <= self._last_stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame on a stream that was not opened")
            self._nuisances.take(now_ms=self._now_ms)
        return stream

    def _request_ended(self, stream: Stream) -> None:
        stream.step(StreamInput.END_STREAM)
        self._events.append(RequestEnded(stream.id))

    def _outbox_emptied(self, stream: Stream) -> None:
        self._events.append(OutboxEmptied(stream.id))

    def _ended(self, stream: Stream) -> None:
        """The last of the reply was sent."""
        if stream.state is StreamState.OPEN:
            self._sender.control(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))
        self._remove(stream, StreamInput.END)

    def _remove(self, stream: Stream, event: StreamInput) -> None:
        stream.step(event)
        self._sender.forget(stream)
        del self._streams[stream.id]
        self._close_if_empty()

    def _close_if_empty(self) -> None:
        if not self._streams:
            self._step(ConnectionInput.EMPTY)

    def _close(self, fault: ConnectionFault) -> None:
        self.fault = fault
        self._sender.control(frames.goaway(self._last_stream_id, fault.code, fault.reason))
        self._streams.clear()
        self._step(ConnectionInput.FAULT)

    def _step(self, event: ConnectionInput) -> None:
        self.state = TABLE[self.state, event]


_HANDLERS: Final[Mapping[int, Callable[[Connection, Frame], None]]] = {
    frames.DATA: Connection._receive_data,
    frames.HEADERS: Connection._receive_headers,
    frames.PRIORITY: Connection._receive_priority,
    frames.RST_STREAM: Connection._receive_rst_stream,
    frames.SETTINGS: Connection._receive_settings,
    frames.PUSH_PROMISE: Connection._receive_push_promise,
    frames.PING: Connection._receive_ping,
    frames.GOAWAY: Connection._receive_goaway,
    frames.WINDOW_UPDATE: Connection._receive_window_update,
    frames.CONTINUATION: Connection._receive_continuation,
}
"""Of a frame of another kind nothing follows (5.5)."""

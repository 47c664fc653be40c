"""What goes out: frames that may leave at once, and DATA that waits for a window and its turn.

A stream waits for its own window by itself: its WINDOW_UPDATE sets it going. For the connection's window streams stand
in a line, and each sends one frame when it is its turn, so that a large message does not keep the others waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from policyd.h2rpc import frames
from policyd.h2rpc.flow import SendWindow
from policyd.h2rpc.headers import NO_DYNAMIC_TABLE
from policyd.h2rpc.limits import WINDOW_BYTES_DEFAULT
from policyd.h2rpc.settings import PeerSettings
from policyd.h2rpc.streams import Stream

_END: Final = frames.END_STREAM | frames.END_HEADERS


class Sender:
    """`on_sent` is called with a stream whose outbox has become empty, `on_ended` with one that was sent its end."""

    def __init__(
        self, peer: PeerSettings, *, on_sent: Callable[[Stream], None], on_ended: Callable[[Stream], None]
    ) -> None:
        self.window = SendWindow(WINDOW_BYTES_DEFAULT)
        self._peer = peer
        self._on_sent = on_sent
        self._on_ended = on_ended
        self._output: list[bytes | memoryview] = []
        self._line: dict[int, Stream] = {}
        """Streams that wait for the connection's window, in their order."""
        self._table_forbidden = False

    def take_output(self) -> bytes:
        """Everything that is to be written now."""
        output, self._output = self._output, []
        return output[0] if len(output) == 1 and isinstance(output[0], bytes) else b"".join(output)

    def control(self, frame: bytes) -> None:
        """A frame that no window holds back."""
        self._output.append(frame)

    def headers(self, stream: Stream, block: bytes) -> None:
        stream.answered = True
        self._header_block(stream, block, frames.END_HEADERS)

    def data(self, stream: Stream, content: bytes) -> bool:
        """Sends DATA, or lets it wait; whether all of it has left."""
        size = len(content)
        if (
            not stream.outbox
            and size <= stream.send_window.bytes_left
            and size <= self.window.bytes_left
            and size <= self._peer.frame_bytes_max
        ):
            stream.send_window.bytes_left -= size
            self.window.bytes_left -= size
            self._output.append(frames.frame_header(frames.DATA, 0, stream.id, size))
            self._output.append(content)
            return True
        stream.outbox.append(memoryview(content))
        stream.waiting_bytes += size
        self._send_what_fits(stream)
        self._line_up(stream)
        return not stream.outbox

    def end(self, stream: Stream, trailers: bytes) -> None:
        """Sends trailers, after the DATA that waits."""
        if stream.outbox:
            stream.trailers = trailers
        else:
            self._end(stream, trailers)

    def forget(self, stream: Stream) -> None:
        """The stream was reset: nothing more is sent on it."""
        stream.outbox.clear()
        stream.waiting_bytes = 0
        self._line.pop(stream.id, None)

    def stream_window_grew(self, stream: Stream) -> None:
        if stream.outbox:
            self._send_what_fits(stream)
            self._go_on_after(stream)

    def connection_window_grew(self) -> None:
        while self._line and self.window.bytes_left > 0:
            stream = self._line.pop(next(iter(self._line)))
            self._send_one(stream)
            self._go_on_after(stream)

    def _send_what_fits(self, stream: Stream) -> None:
        """As much as the windows allow, unless other streams are before it in the line."""
        while stream.outbox and not self._line and min(stream.send_window.bytes_left, self.window.bytes_left) > 0:
            self._send_one(stream)

    def _line_up(self, stream: Stream) -> None:
        if stream.outbox and stream.send_window.bytes_left > 0:
            self._line.setdefault(stream.id, stream)

    def _send_one(self, stream: Stream) -> None:
        """One frame, as large as the windows and the peer's SETTINGS allow."""
        chunk = stream.outbox[0]
        size = min(len(chunk), stream.send_window.bytes_left, self.window.bytes_left, self._peer.frame_bytes_max)
        if size <= 0:
            return
        self._output.append(frames.frame_header(frames.DATA, 0, stream.id, size))
        self._output.append(chunk[:size])
        stream.send_window.bytes_left -= size
        self.window.bytes_left -= size
        stream.waiting_bytes -= size
        if size == len(chunk):
            stream.outbox.popleft()
        else:
            stream.outbox[0] = chunk[size:]

    def _go_on_after(self, stream: Stream) -> None:
        """What follows once some of the outbox has left."""
        if stream.outbox:
            self._line_up(stream)
        elif stream.trailers is not None:
            self._end(stream, stream.trailers)
        else:
            self._on_sent(stream)

    def _end(self, stream: Stream, trailers: bytes) -> None:
        self._header_block(stream, trailers, _END)
        self._on_ended(stream)

    def _header_block(self, stream: Stream, block: bytes, flags: int) -> None:
        if not self._table_forbidden:
            self._table_forbidden = True
            block = NO_DYNAMIC_TABLE + block
        size_max = self._peer.frame_bytes_max
        if len(block) <= size_max:
            self._output.append(frames.frame(frames.HEADERS, flags, stream.id, block))
            return
        pieces = [block[at : at + size_max] for at in range(0, len(block), size_max)]
        self._output.append(frames.frame(frames.HEADERS, flags & ~frames.END_HEADERS, stream.id, pieces[0]))
        for piece in pieces[1:-1]:
            self._output.append(frames.frame(frames.CONTINUATION, 0, stream.id, piece))
        self._output.append(frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream.id, pieces[-1]))

"""Server-sent events: chunks of any size to whole events.

The text format of the WHATWG HTML standard, section "Server-sent events": lines end in LF, CRLF or CR; an empty line
ends an event; a line that starts with a colon is a comment. Each frame keeps its raw bytes, so that what is forwarded
is what came in.
"""

from __future__ import annotations

import re

from policyd.providers.framing.frame import Frame

EVENT_BYTES_MAX = 16 * 1024 * 1024
"""The largest event that is read: more than any provider's, images in base64 included."""

# An end of line is atomic: the CR of a CRLF must never pass for a line of its own.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_USUAL_ENDS = (b"\n\n", b"\r\n\r\n")
_BLANK_LINE_BYTES_MAX = 4
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SseFramer:
    """Cuts a stream of bytes into frames. The frames' raw bytes, joined, are the bytes that were fed.

    The same bytes give the same frames, however they are cut into chunks; only an event over `event_bytes_max` may come
    out in pieces that are no events, so that what is kept stays bounded and nothing is withheld from the client.
    """

    __slots__ = ("_at_start", "_buffer", "_event_bytes_max", "_oversized", "_searched")

    def __init__(self, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._event_bytes_max = event_bytes_max
        self._buffer = bytearray()
        self._searched = 0
        """How much of the buffer is known to hold no blank line."""
        self._oversized = False
        """Whether the buffer goes on with an event whose beginning was given up."""
        self._at_start = True

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes."""
        self._buffer += chunk
        return self._frames(ended=False)

    def is_whole(self, chunk: bytes) -> bool:
        """Whether `chunk`, were it fed next, is of whole events; as far as can be told at a glance."""
        return not self._buffer and not self._at_start and not self._oversized and chunk.endswith(_USUAL_ENDS)

    def finish(self) -> list[Frame]:
        """The frames that the end of the stream completes: the last one may lack its blank line."""
        frames = self._frames(ended=True)
        if self._buffer:
            frames.append(self._take(len(self._buffer)))
        return frames

    def _frames(self, *, ended: bool) -> list[Frame]:
        frames = []
        while (end := self._frame_end(ended=ended)) is not None:
            frames.append(self._take(end))
        # A blank line can begin in the bytes seen so far and end in the next ones.
        self._searched = max(0, len(self._buffer) - _BLANK_LINE_BYTES_MAX + 1)
        if len(self._buffer) > self._event_bytes_max:
            frames.append(self._give_up())
        return frames

    def _frame_end(self, *, ended: bool) -> int | None:
        found = _BLANK_LINE.search(self._buffer, self._searched)
        if found is None:
            return None
        end = found.end()
        # A CR at the very end may be half of a CRLF.
        if end == len(self._buffer) and self._buffer.endswith(b"\r") and not ended:
            return None
        return end

    def _take(self, end: int) -> Frame:
        raw = self._cut(end)
        if self._oversized:
            self._oversized = False
            return Frame(raw, "", b"")
        text = raw.removeprefix(_BYTE_ORDER_MARK) if self._at_start else raw
        self._at_start = False
        return parse_frame(raw, text)

    def _give_up(self) -> Frame:
        self._oversized = True
        self._at_start = False
        # What could be the beginning of the blank line that ends the event stays.
        return Frame(self._cut(self._searched), "", b"")

    def _cut(self, end: int) -> bytes:
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._searched = 0
        return raw


def parse_frame(raw: bytes, text: bytes) -> Frame:
    """The frame of the lines in `text`. Fields other than `data` and `event` are passed over."""
    event = b""
    data = []
    for line in text.splitlines():
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ")
    joined = b"\n".join(data)
    # An event without data is none, as the standard has it.
    return Frame(raw, event.decode("utf-8", "replace") if joined else "", joined)

"""JSON lines (NDJSON): chunks of any size to whole lines, each an event that is one JSON value.

A line ends in LF; a CR before it is white space, as it is to a JSON parser. An empty line is no event. Each frame keeps
its raw bytes, so that what is forwarded is what came in.
"""

from __future__ import annotations

from policyd.providers.framing.frame import Frame

LINE_BYTES_MAX = 16 * 1024 * 1024
"""The longest line that is read: more than any provider's, images in base64 included."""

_WHITESPACE = b" \t\r\n"


class NdjsonFramer:
    """Cuts a stream of bytes into lines. The frames' raw bytes, joined, are the bytes that were fed.

    The same bytes give the same frames, however they are cut into chunks; only a line over `line_bytes_max` may come
    out in pieces that are no events, so that what is kept stays bounded and nothing is withheld from the client.
    """

    __slots__ = ("_buffer", "_line_bytes_max", "_oversized", "_searched")

    def __init__(self, *, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self._line_bytes_max = line_bytes_max
        self._buffer = bytearray()
        self._searched = 0
        """How much of the buffer is known to hold no end of line."""
        self._oversized = False
        """Whether the buffer goes on with a line whose beginning was given up."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes."""
        self._buffer += chunk
        frames = []
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            frames.append(self._take(end + 1))
        self._searched = len(self._buffer)
        if len(self._buffer) > self._line_bytes_max:
            frames.append(self._give_up())
        return frames

    def finish(self) -> list[Frame]:
        """The last line, which may lack its end."""
        return [self._take(len(self._buffer))] if self._buffer else []

    def _take(self, end: int) -> Frame:
        raw = self._cut(end)
        if self._oversized:
            self._oversized = False
            return Frame(raw, "", b"")
        return Frame(raw, "", raw.strip(_WHITESPACE))

    def _give_up(self) -> Frame:
        self._oversized = True
        return Frame(self._cut(len(self._buffer)), "", b"")

    def _cut(self, end: int) -> bytes:
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._searched = 0
        return raw

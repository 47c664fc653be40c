"""A stream that is one JSON array: chunks of any size to its elements.

Google's streams come so unless they are asked for as server-sent events. Only objects and arrays are elements here; any
other value passes with the separators around it. Each frame keeps its raw bytes, the separators before its element
included, so that what is forwarded is what came in.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from policyd.providers.framing.frame import Frame
from policyd.providers.framing.json_patterns import NESTED, OPENING, QUOTE, WHITESPACE, end_of
from policyd.providers.framing.sse import EVENT_BYTES_MAX

_BETWEEN = re.compile(rb'[^"\[\]{}]*+')
_STRING_REST = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""The rest of a string, up to its closing quote, to the end of the buffer or to a lone backslash there."""


class _At(Enum):
    """Where in the array the next byte stands."""

    START = auto()
    """Before the opening bracket."""
    BETWEEN = auto()
    """Before an element, or the closing bracket."""
    ELEMENT = auto()
    END = auto()
    """After the array, or after something that is no array: whatever comes passes at once."""


class JsonArrayFramer:
    """Cuts a JSON array into frames, one an element. The frames' raw bytes, joined, are the bytes that were fed.

    The same bytes give the same elements, however they are cut into chunks; only an element over `element_bytes_max`
    comes out in pieces that are none, so that what is kept stays bounded and nothing is withheld from the client.
    """

    __slots__ = (
        "_at",
        "_begun",
        "_buffer",
        "_depth",
        "_element_bytes_max",
        "_element_start",
        "_in_string",
        "_oversized",
        "_scanned",
    )

    def __init__(self, *, element_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._element_bytes_max = element_bytes_max
        self._at = _At.START
        self._buffer = bytearray()
        self._scanned = 0
        """How much of the buffer has been gone over."""
        self._element_start = 0
        self._depth = 0
        """How many containers are open, from the element on."""
        self._in_string = False
        self._oversized = False
        """Whether the buffer goes on with an element whose beginning was given up."""
        self._begun = False
        """Whether any of the array was given out."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes."""
        self._buffer += chunk
        frames = []
        while self._advance():
            frames.append(self._take_element())
        if self._at is _At.END:
            frames += self.finish()
        elif len(self._buffer) > self._element_bytes_max:
            frames.append(self._give_up())
        return frames

    def finish(self) -> list[Frame]:
        """What was left when the bytes ended: no element."""
        return [Frame(self._cut(len(self._buffer)), "", b"")] if self._buffer else []

    def end_with(self, element: bytes) -> bytes:
        """What ends the array for a client who got the frames given out so far: one more element, a JSON value."""
        return (b",\n" if self._begun else b"[") + element + b"\n]"

    def _advance(self) -> bool:
        """Goes on over the buffer; returns whether an element ends where it stopped."""
        while self._at is not _At.END and self._scanned < len(self._buffer):
            before = self._scanned
            self._go_on()
            if self._at is _At.ELEMENT and not self._depth:
                return True
            if self._scanned == before:
                break
        return False

    def _go_on(self) -> None:
        """Goes over one stretch; over none where the buffer ends in half of an escape."""
        if self._in_string:
            self._go_over_string()
        elif self._at is _At.ELEMENT:
            self._go_over_element()
        else:
            self._go_between()

    def _go_between(self) -> None:
        pattern = WHITESPACE if self._at is _At.START else _BETWEEN
        self._scanned = end_of(pattern, self._buffer, self._scanned)
        if self._scanned == len(self._buffer):
            return
        byte = self._buffer[self._scanned]
        if self._at is _At.START:
            self._at = _At.BETWEEN if byte == _BRACKET else _At.END
        elif byte == QUOTE:
            self._in_string = True
        elif byte in OPENING:
            self._at = _At.ELEMENT
            self._depth = 1
            self._element_start = self._scanned
        else:
            self._at = _At.END
        self._scanned += 1

    def _go_over_string(self) -> None:
        self._scanned = end_of(_STRING_REST, self._buffer, self._scanned)
        if self._buffer.startswith(b'"', self._scanned):
            self._in_string = False
            self._scanned += 1

    def _go_over_element(self) -> None:
        self._scanned = end_of(NESTED, self._buffer, self._scanned)
        if self._scanned == len(self._buffer):
            return
        byte = self._buffer[self._scanned]
        if byte == QUOTE:
            self._in_string = True
        else:
            self._depth += 1 if byte in OPENING else -1
        self._scanned += 1

    def _take_element(self) -> Frame:
        self._at = _At.BETWEEN
        element = b"" if self._oversized else bytes(self._buffer[self._element_start : self._scanned])
        self._oversized = False
        return Frame(self._cut(self._scanned), "", element)

    def _give_up(self) -> Frame:
        self._oversized = self._at is _At.ELEMENT
        # What could be half of an escape stays.
        return Frame(self._cut(self._scanned), "", b"")

    def _cut(self, end: int) -> bytes:
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._scanned = 0
        self._begun = True
        return raw


_BRACKET = ord("[")

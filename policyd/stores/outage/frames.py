"""Lines of a journal: `LENGTH CHECKSUM PAYLOAD`, the first two of eight hexadecimal digits, the payload one of JSON.

A file is written from its beginning to its end, so what a crash cuts short is the last line, and nothing else. Anything
else that is no whole line is damage; reading goes on after the next line end, for no payload has one inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

_HEAD_BYTES = 18


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a file."""

    raw: bytes
    payload: bytes | None
    """`None`: it is damaged."""
    end: int
    """Where the next one begins."""


def framed(payload: bytes) -> bytes:
    """The line that holds `payload`, which has no line end in it."""
    return b"%08x %08x %b\n" % (len(payload), crc32(payload), payload)


def frames(data: bytes, *, start: int = 0) -> Iterator[Frame]:
    """The lines of `data` from `start` on, without the last one if it was cut short."""
    while start < len(data):
        payload = _payload(data, start)
        if payload is not None:
            # Its own line end may be what is damaged: the next line begins behind it all the same.
            end = min(len(data), start + _HEAD_BYTES + len(payload) + 1)
        else:
            end = data.find(b"\n", start) + 1
            if not end:
                return
        yield Frame(data[start:end], payload, end)
        start = end


def _payload(data: bytes, start: int) -> bytes | None:
    """The payload of the line at `start` if it is whole and has its checksum."""
    head = data[start : start + _HEAD_BYTES]
    try:
        length, checksum = int(head[:8], 16), int(head[9:17], 16)
    except ValueError:
        return None
    payload = data[start + _HEAD_BYTES : start + _HEAD_BYTES + length]
    is_whole = len(head) == _HEAD_BYTES and len(payload) == length
    return payload if is_whole and crc32(payload) == checksum else None

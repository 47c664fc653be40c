"""AWS event stream (`application/vnd.amazon.eventstream`): chunks of any size to whole messages.

A message says its length before its content, all integers big-endian:

    total length (4)   headers' length (4)   CRC-32 of these eight bytes (4)
    headers            name, a byte for the value's type, value; one after the other
    payload
    CRC-32 of everything before it (4)

The layout is that of AWS's "event stream encoding". Each frame keeps its raw bytes, so that what is forwarded is what
came in: a message with a wrong checksum goes on as well, to whoever will refuse it, but it is no event.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

from policyd.providers.framing.frame import Frame

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""The largest message that is read: more than any provider's, images in base64 included."""

_LENGTH_BYTES = 4
_CHECKSUM_BYTES = 4
_PRELUDE_BYTES = 2 * _LENGTH_BYTES + _CHECKSUM_BYTES
_MESSAGE_BYTES_MIN = _PRELUDE_BYTES + _CHECKSUM_BYTES
_VALUE_LENGTH_BYTES = 2

_TEXT = 7
_SIZED = (6, _TEXT)
"""The types of header values that say their length themselves: bytes and text."""

_FIXED_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""The length of the other types: true, false, integers of one to eight bytes, a time, a UUID."""

_NAMES = {"event": ":event-type", "exception": ":exception-type", "error": ":error-code"}
"""Which header names what a message is, by its `:message-type`."""


class EventStreamFramer:
    """Cuts a stream of bytes into messages. The frames' raw bytes, joined, are the bytes that were fed.

    A frame's `event` is the message's `:event-type`, or the `:exception-type` or `:error-code` of one that tells of a
    failure; its `data` is the payload. A message over `message_bytes_max` passes in pieces that are no events. Where a
    prelude is wrong there is no telling where the next message begins: from there on nothing is an event.
    """

    __slots__ = ("_buffer", "_is_lost", "_message_bytes_max", "_unread")

    def __init__(self, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._message_bytes_max = message_bytes_max
        self._buffer = bytearray()
        self._unread = 0
        """How many bytes are still to come of a message that was given up."""
        self._is_lost = False

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes."""
        self._buffer += chunk
        frames = []
        while (end := self._frame_end()) > 0:
            frames.append(self._take(end))
        return frames

    def finish(self) -> list[Frame]:
        """What is left of a message that broke off."""
        return [self._take(len(self._buffer))] if self._buffer else []

    def _frame_end(self) -> int:
        """How many bytes the next frame has; zero while it is not whole."""
        if self._is_lost:
            return len(self._buffer)
        if self._unread:
            return min(self._unread, len(self._buffer))
        if len(self._buffer) < _PRELUDE_BYTES:
            return 0
        prelude = bytes(self._buffer[:_PRELUDE_BYTES])
        message_bytes, headers_bytes = _lengths(prelude)
        if not _is_sealed(prelude) or message_bytes < _MESSAGE_BYTES_MIN + headers_bytes:
            self._is_lost = True
            return len(self._buffer)
        if message_bytes > self._message_bytes_max:
            self._unread = message_bytes
            return min(message_bytes, len(self._buffer))
        return message_bytes if message_bytes <= len(self._buffer) else 0

    def _take(self, end: int) -> Frame:
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        if self._unread:
            self._unread -= end
            return Frame(raw, "", b"")
        return Frame(raw, "", b"") if self._is_lost else _parse(raw)


def encode_message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """A message with `headers`, all of them texts of less than 64 KiB."""
    encoded = b"".join(_encode_header(name.encode(), value.encode()) for name, value in headers.items())
    message_bytes = _MESSAGE_BYTES_MIN + len(encoded) + len(payload)
    prelude = _seal(message_bytes.to_bytes(_LENGTH_BYTES) + len(encoded).to_bytes(_LENGTH_BYTES))
    return _seal(prelude + encoded + payload)


def _parse(raw: bytes) -> Frame:
    """The frame of a message; of one that is cut short or garbled, a frame that is no event."""
    if len(raw) < _MESSAGE_BYTES_MIN or not _is_sealed(raw):
        return Frame(raw, "", b"")
    payload_start = _PRELUDE_BYTES + _lengths(raw)[1]
    try:
        headers = _headers(raw[_PRELUDE_BYTES:payload_start])
    except (LookupError, UnicodeDecodeError):
        return Frame(raw, "", b"")
    name = _NAMES.get(headers.get(":message-type", "event"), "")
    return Frame(raw, headers.get(name, ""), raw[payload_start:-_CHECKSUM_BYTES])


def _lengths(prelude: bytes) -> tuple[int, int]:
    """The length of the message, and of its headers."""
    return int.from_bytes(prelude[:_LENGTH_BYTES]), int.from_bytes(prelude[_LENGTH_BYTES : 2 * _LENGTH_BYTES])


def _headers(encoded: bytes) -> dict[str, str]:
    """The headers that are texts. Raises `LookupError` or `UnicodeDecodeError` for what are none."""
    headers = {}
    position = 0
    while position < len(encoded):
        name_end = position + 1 + encoded[position]
        kind = encoded[name_end]
        start = name_end + 1
        if kind in _SIZED:
            value_bytes = int.from_bytes(encoded[start : start + _VALUE_LENGTH_BYTES])
            start += _VALUE_LENGTH_BYTES
        else:
            value_bytes = _FIXED_BYTES[kind]
        end = start + value_bytes
        if end > len(encoded):
            raise LookupError("a header is cut short")
        if kind == _TEXT:
            headers[encoded[position + 1 : name_end].decode()] = encoded[start:end].decode()
        position = end
    return headers


def _encode_header(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + bytes((_TEXT,)) + len(value).to_bytes(_VALUE_LENGTH_BYTES) + value


def _seal(content: bytes) -> bytes:
    """`content` with its checksum after it."""
    return content + crc32(content).to_bytes(_CHECKSUM_BYTES)


def _is_sealed(content: bytes) -> bool:
    """Whether the checksum at the end of `content` is that of everything before it."""
    return crc32(memoryview(content)[:-_CHECKSUM_BYTES]) == int.from_bytes(content[-_CHECKSUM_BYTES:])

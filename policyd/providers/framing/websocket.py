"""WebSocket frames of one direction: chunks of any size to whole messages (RFC 6455, section 5).

wsproto reads what a frame says and whether it may say it (masking, reserved bits, control frames, UTF-8). What it does
not keep are the bytes, and what goes on has to be what came in: so the stream is cut into frames here, and each frame
is read once it is whole. No extension is known: a frame that uses one is a violation, and so is a message that is too
large to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import cast

from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""The largest message that is taken, its frames' headers included: OpenAI takes 15 MiB of audio at once."""

_SHORT_HEADER_BYTES = 2
_MASKED = 0x80
_LENGTH = 0x7F
_EXTENDED_LENGTH_BYTES = {126: 2, 127: 8}
_MASK_BYTES = 4


class Kind(Enum):
    MESSAGE = auto()
    CONTROL = auto()
    """A ping or a pong."""
    CLOSE = auto()


@dataclass(frozen=True, slots=True)
class Unit:
    """What passes as one: a message, however many frames it has, or a control frame."""

    kind: Kind
    raw: bytes
    """The frames as they came."""
    data: bytes = b""
    """The message, unmasked: of a text its UTF-8."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a stream cannot be read on. `code` is the close code that says so."""

    code: int
    message: str


class WebSocketFramer:
    """Cuts one direction's bytes into units, in order; a control frame overtakes the message that it interrupts.

    Each byte that was fed is in the `raw` of one unit, waits for the rest of its message, or came after the end:
    nothing is read after a close frame, nor after a violation. Never raises; keeps no more than one message.
    """

    __slots__ = ("_buffer", "_data", "_message_bytes_max", "_protocol", "_raw", "is_closed", "violation")

    def __init__(self, *, from_client: bool, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        # wsproto asks for the role of the one who reads.
        self._protocol = FrameProtocol(client=not from_client, extensions=[])
        self._message_bytes_max = message_bytes_max
        self._buffer = bytearray()
        self._raw = bytearray()
        """The frames of a message that is not whole yet."""
        self._data = bytearray()
        self.is_closed = False
        """Whether a close frame has come."""
        self.violation: Violation | None = None

    def feed(self, chunk: bytes) -> list[Unit]:
        """The units that `chunk` completes; after the last of them there may be a `violation`."""
        if self._is_over():
            return []
        self._buffer += chunk
        units: list[Unit] = []
        try:
            while not self.is_closed and (end := self._frame_end()):
                raw = bytes(self._buffer[:end])
                del self._buffer[:end]
                units += self._read(raw)
        except ParseFailed as error:
            self.violation = Violation(int(error.code), str(error))
        if self._is_over():
            self._buffer.clear()
            self._raw.clear()
            self._data.clear()
        return units

    def _is_over(self) -> bool:
        return self.is_closed or self.violation is not None

    def _frame_end(self) -> int:
        """How many bytes the next frame has; zero while it is not whole. Raises `ParseFailed` if it is too large."""
        buffer = self._buffer
        if len(buffer) < _SHORT_HEADER_BYTES:
            return 0
        short = buffer[1] & _LENGTH
        header_bytes = _SHORT_HEADER_BYTES + _EXTENDED_LENGTH_BYTES.get(short, 0)
        if len(buffer) < header_bytes:
            return 0
        extended = bytes(buffer[_SHORT_HEADER_BYTES:header_bytes])
        payload_bytes = int.from_bytes(extended) if extended else short
        end = header_bytes + (_MASK_BYTES if buffer[1] & _MASKED else 0) + payload_bytes
        if len(self._raw) + end > self._message_bytes_max:
            message = f"a message is larger than {self._message_bytes_max} bytes"
            raise ParseFailed(message, CloseReason.MESSAGE_TOO_BIG)
        return end if end <= len(buffer) else 0

    def _read(self, raw: bytes) -> list[Unit]:
        """The unit that a whole frame completes, if it does. Raises `ParseFailed`."""
        self._protocol.receive_bytes(raw)
        (frame,) = self._protocol.received_frames()
        if frame.opcode is Opcode.CLOSE:
            self.is_closed = True
            return [Unit(Kind.CLOSE, raw)]
        if frame.opcode.iscontrol():
            return [Unit(Kind.CONTROL, raw)]
        self._raw += raw
        payload = frame.payload
        self._data += payload.encode() if isinstance(payload, str) else cast(bytes, payload)
        if not frame.message_finished:
            return []
        unit = Unit(Kind.MESSAGE, bytes(self._raw), bytes(self._data))
        self._raw.clear()
        self._data.clear()
        return [unit]


def encode_text(message: bytes, *, from_client: bool) -> bytes:
    """A text message in one frame. `message` is UTF-8."""
    return bytes(FrameProtocol(client=from_client, extensions=[]).send_data(message.decode()))


def encode_close(code: int, reason: str, *, from_client: bool) -> bytes:
    """A close frame. `reason` is cut to what such a frame has room for."""
    return bytes(FrameProtocol(client=from_client, extensions=[]).close(code, reason))


def encode_ping(*, from_client: bool) -> bytes:
    """A ping, which has to be answered."""
    return bytes(FrameProtocol(client=from_client, extensions=[]).ping())

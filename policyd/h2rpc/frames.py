"""Bytes to frames and back (RFC 9113, 4 and 6). What a frame means, the connection knows."""

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from policyd.h2rpc.codes import ConnectionFault, ErrorCode

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client's connection begins with."""

# Kinds of frame.
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

# Flags; ACK and END_STREAM share a bit.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_BYTES: Final = 9
STREAM_ID_MAX: Final = 2**31 - 1

_HEADER = Struct(">HBBBL")  # 24 bits of length as 16 and 8
_U32 = Struct(">L")
_U32_PAIR = Struct(">LL")
_SETTING = Struct(">HL")
_PRIORITY_BYTES = 5
_PING_BYTES = 8


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes


class FrameReader:
    """Cuts what comes in into frames, however it is split. Holds no more than one frame that is not whole."""

    def __init__(self, *, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._rest = b""

    def frames(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole with `data`. Raises `ConnectionFault` at one that is too large.

        To be read to its end, or no more.
        """
        data = self._rest + data if self._rest else data
        self._rest = b""
        at, end = 0, len(data)
        while end - at >= HEADER_BYTES:
            high, low, kind, flags, stream_id = _HEADER.unpack_from(data, at)
            length = high << 8 | low
            if length > self._frame_bytes_max:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame is larger than SETTINGS allow")
            following = at + HEADER_BYTES + length
            if following > end:
                break
            yield Frame(kind, flags, stream_id & STREAM_ID_MAX, data[at + HEADER_BYTES : following])
            at = following
        self._rest = data[at:]


# --- frames to send ---


def frame_header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return frame_header(kind, flags, stream_id, len(payload)) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values.items()))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0, b"")


def ping(content: bytes, *, ack: bool) -> bytes:
    return frame(PING, ACK if ack else 0, 0, content)


def goaway(last_stream_id: int, code: ErrorCode, reason: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _U32_PAIR.pack(last_stream_id, code) + reason.encode())


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _U32.pack(code))


def window_update(stream_id: int, increment_bytes: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, _U32.pack(increment_bytes))


# --- payloads received ---


def without_padding(frame: Frame) -> bytes:
    """What is in a DATA or HEADERS frame. Raises `ConnectionFault` where there is more padding than frame."""
    payload = frame.payload
    if not frame.flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without the length of its padding")
    end = len(payload) - payload[0]
    if end < 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame with more padding than content")
    return payload[1:end]


def header_fragment(frame: Frame) -> bytes:
    """The part of a header block in a HEADERS frame, whose priority is ignored."""
    payload = without_padding(frame)
    if not frame.flags & HAS_PRIORITY:
        return payload
    if len(payload) < _PRIORITY_BYTES:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a HEADERS frame shorter than its priority")
    return payload[_PRIORITY_BYTES:]


def settings_in(frame: Frame) -> Iterator[tuple[int, int]]:
    """Identifiers and values."""
    if len(frame.payload) % _SETTING.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS are not a multiple of 6 bytes")
    return _SETTING.iter_unpack(frame.payload)


def number_in(frame: Frame) -> int:
    """The code of a RST_STREAM, the increment of a WINDOW_UPDATE."""
    if len(frame.payload) != _U32.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM and WINDOW_UPDATE have 4 bytes")
    number: int = _U32.unpack(frame.payload)[0]
    return number


def check_ping(frame: Frame) -> None:
    if len(frame.payload) != _PING_BYTES:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING has 8 bytes")


def check_goaway(frame: Frame) -> None:
    if len(frame.payload) < _U32_PAIR.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY has at least 8 bytes")


def check_priority(frame: Frame) -> None:
    if len(frame.payload) != _PRIORITY_BYTES:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has 5 bytes")

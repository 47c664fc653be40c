"""What SETTINGS say, and may say (RFC 9113, 6.5)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from policyd.h2rpc.codes import ConnectionFault, ErrorCode
from policyd.h2rpc.limits import (
    FRAME_BYTES_DEFAULT,
    FRAME_BYTES_MAX,
    WINDOW_BYTES_DEFAULT,
    WINDOW_BYTES_MAX,
    Limits,
)

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6


def settings_of(limits: Limits) -> dict[int, int]:
    """What the server tells its peer."""
    return {
        HEADER_TABLE_SIZE: 0,
        MAX_CONCURRENT_STREAMS: limits.streams_max,
        INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
        MAX_FRAME_SIZE: limits.frame_bytes_max,
        MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
    }


@dataclass(slots=True)
class PeerSettings:
    """What the peer has said, as far as it matters to a server that compresses nothing and pushes nothing."""

    stream_window_bytes: int = WINDOW_BYTES_DEFAULT
    frame_bytes_max: int = FRAME_BYTES_DEFAULT

    def take(self, settings: Iterable[tuple[int, int]]) -> None:
        """Of a setting that is said twice, the last counts. Raises `ConnectionFault` for a value that may not be."""
        for identifier, value in settings:
            if identifier == INITIAL_WINDOW_SIZE:
                if value > WINDOW_BYTES_MAX:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS with too large a window")
                self.stream_window_bytes = value
            elif identifier == MAX_FRAME_SIZE:
                if not FRAME_BYTES_DEFAULT <= value <= FRAME_BYTES_MAX:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS with a frame size that may not be")
                self.frame_bytes_max = value
            elif identifier == ENABLE_PUSH and value > 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS with ENABLE_PUSH neither 0 nor 1")

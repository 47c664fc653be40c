"""The life of a stream, as its server sees it (RFC 9113, 5.1), in one table.

    IDLE --HEADERS--> OPEN --END_STREAM--> HALF_CLOSED
                       |                        |
                       +---- END or RESET ------+----> CLOSED

HALF_CLOSED is the RFC's half-closed (remote). There is no half-closed (local): when the server has ended a stream whose
peer has not, it resets it with NO_ERROR (8.1), since nothing that could still come would be read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from policyd.h2rpc.codes import ErrorCode, StreamFault
from policyd.h2rpc.flow import ReceiveWindow, SendWindow


class StreamState(IntEnum):
    IDLE = 0
    OPEN = 1
    HALF_CLOSED = 2
    CLOSED = 3


class StreamInput(IntEnum):
    HEADERS = 0
    """Of the request, or its trailers."""
    DATA = 1
    END_STREAM = 2
    """The peer has sent everything."""
    END = 3
    """The server has sent everything."""
    RESET = 4
    """By either side."""


TABLE: Final[Mapping[tuple[StreamState, StreamInput], StreamState]] = {
    (StreamState.IDLE, StreamInput.HEADERS): StreamState.OPEN,
    (StreamState.OPEN, StreamInput.HEADERS): StreamState.OPEN,
    (StreamState.OPEN, StreamInput.DATA): StreamState.OPEN,
    (StreamState.OPEN, StreamInput.END_STREAM): StreamState.HALF_CLOSED,
    (StreamState.OPEN, StreamInput.END): StreamState.CLOSED,
    (StreamState.HALF_CLOSED, StreamInput.END): StreamState.CLOSED,
    (StreamState.OPEN, StreamInput.RESET): StreamState.CLOSED,
    (StreamState.HALF_CLOSED, StreamInput.RESET): StreamState.CLOSED,
}
"""What has no row is the peer's fault: STREAM_CLOSED."""


class Stream:
    """A stream that is not closed: its state, its windows, and what waits to be sent."""

    __slots__ = ("answered", "id", "outbox", "receive_window", "send_window", "state", "trailers", "waiting_bytes")

    def __init__(self, stream_id: int, *, send_window_bytes: int, receive_window_bytes: int) -> None:
        self.id = stream_id
        self.state = StreamState.IDLE
        self.send_window = SendWindow(send_window_bytes)
        self.receive_window = ReceiveWindow(receive_window_bytes)
        self.answered = False
        """Whether reply headers were sent."""
        self.outbox: deque[memoryview] = deque()
        """DATA that waits for a window."""
        self.waiting_bytes = 0
        """The size of it."""
        self.trailers: bytes | None = None
        """The header block that ends the stream once the outbox is empty."""

    def step(self, event: StreamInput) -> None:
        """Raises `StreamFault` for what cannot come in this state."""
        following = TABLE.get((self.state, event))
        if following is None:
            raise StreamFault(self.id, ErrorCode.STREAM_CLOSED)
        self.state = following

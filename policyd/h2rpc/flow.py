"""Windows: how much may be sent, and how much may come (RFC 9113, 5.2)."""

from policyd.h2rpc.limits import WINDOW_BYTES_MAX


class WindowOverflow(Exception):
    """A window grew past 2^31-1 bytes."""


class SendWindow:
    """What the peer still takes. It can be negative, after SETTINGS made it smaller."""

    __slots__ = ("bytes_left",)

    def __init__(self, size_bytes: int) -> None:
        self.bytes_left = size_bytes

    def grow(self, by_bytes: int) -> None:
        """By a WINDOW_UPDATE, or by the change of SETTINGS, which can be negative. Raises `WindowOverflow`."""
        if self.bytes_left + by_bytes > WINDOW_BYTES_MAX:
            raise WindowOverflow
        self.bytes_left += by_bytes


class ReceiveWindow:
    """What the peer may still send. It is told of more once half of the window is free, not byte by byte."""

    __slots__ = ("_free_bytes", "_left_bytes", "_size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._left_bytes = size_bytes
        self._free_bytes = 0

    def receive(self, count_bytes: int) -> bool:
        """Whether the peer was allowed to send that much."""
        self._left_bytes -= count_bytes
        return self._left_bytes >= 0

    def free(self, count_bytes: int) -> int:
        """What has come was taken; returns the increment to tell the peer, which is mostly 0."""
        self._free_bytes += count_bytes
        if self._free_bytes * 2 < self._size_bytes:
            return 0
        increment = self._free_bytes
        self._left_bytes += increment
        self._free_bytes = 0
        return increment

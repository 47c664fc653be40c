"""How much a peer may send that does no work.

PING, SETTINGS, PRIORITY, empty DATA, frames for streams that are gone, streams that are reset before they are answered:
each is legal, and a peer that sends nothing else costs time and answers. Each therefore takes one from a bucket, which
fills up again with time and with work done. No peer in its right mind comes near the end of it.
"""

from policyd.h2rpc.codes import ConnectionFault, ErrorCode


class NuisanceBucket:
    """`now_ms` is any clock that only goes forward."""

    def __init__(self, *, most: int, per_second: int) -> None:
        self._most = most
        self._per_second = per_second
        self._left = float(most)
        self._filled_at_ms = 0

    def take(self, *, now_ms: int) -> None:
        """Raises `ConnectionFault` when nothing is left."""
        self._left = min(self._most, self._left + (now_ms - self._filled_at_ms) * self._per_second / 1000)
        self._filled_at_ms = now_ms
        if self._left < 1:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that do no work")
        self._left -= 1

    def give_back(self) -> None:
        """For a frame that did work."""
        if self._left < self._most:
            self._left += 1

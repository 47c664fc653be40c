"""What all framings make: whole events, each with the bytes that made it, so that what goes on is what came in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Frame:
    """One event, or a run of bytes between events (comments, keep-alives, separators)."""

    raw: bytes
    event: str
    """The event's type; empty where it has none."""
    data: bytes
    """The event's content; empty for a frame that is no event."""


class Framer(Protocol):
    """Keeps what is incomplete and nothing else. Never raises on what is fed; bounded in what it keeps."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """The events that `chunk` completes. The `raw` of all frames, joined, is what was fed."""
        ...

    def finish(self) -> list[Frame]:
        """What was left incomplete when the bytes ended."""
        ...

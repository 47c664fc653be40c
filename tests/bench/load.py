"""What a load generator reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


class UnexpectedReply(Exception):
    """A reply that is not the one that the benchmark measures: its figures would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load that was carried in full: every request was answered, and as expected."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    first_byte_p50_ms: float | None = None
    """Until the reply began, where that was looked at."""

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @classmethod
    def of(
        cls,
        latencies_seconds: Sequence[float],
        *,
        requests: int,
        seconds: float,
        first_bytes_seconds: Sequence[float] = (),
    ) -> Self:
        """From latencies, each of one request or of a few that belong together."""
        ordered = sorted(latencies_seconds)
        first_bytes = sorted(first_bytes_seconds)
        return cls(
            requests=requests,
            seconds=seconds,
            p50_ms=percentile(ordered, 50) * 1000,
            p99_ms=percentile(ordered, 99) * 1000,
            first_byte_p50_ms=percentile(first_bytes, 50) * 1000 if first_bytes else None,
        )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The least value that `percent` of all values do not pass (nearest rank)."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

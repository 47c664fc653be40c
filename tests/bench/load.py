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

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @classmethod
    def of(cls, latencies_seconds: Sequence[float], *, requests: int, seconds: float) -> Self:
        """From latencies, each of one request or of a few that belong together."""
        ordered = sorted(latencies_seconds)
        return cls(
            requests=requests,
            seconds=seconds,
            p50_ms=_percentile(ordered, 50) * 1000,
            p99_ms=_percentile(ordered, 99) * 1000,
        )


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The least value that `percent` of all values do not pass (nearest rank)."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

"""What was measured, and what of it is shown: medians of the rounds, and how far the rounds lie apart.

Machines differ, and one machine differs from minute to minute. So what is compared is compared within each round, and
the median is taken of the ratios; it is not the ratio of the medians.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Self


class Figure(StrEnum):
    """What can be measured. CPU microseconds are those of one unit: a request, a chunk of a stream, or a call."""

    PER_SECOND = "per_second"
    """Units in a second of wall time."""
    P50_MS = "p50_ms"
    """Of a whole request, or of calls that belong together."""
    P99_MS = "p99_ms"
    FIRST_BYTE_P50_MS = "first_byte_p50_ms"
    SERVER_CPU_US = "server_cpu_us"
    """Of the server that Envoy asks, or that is called, in all its processes."""
    ENVOY_CPU_US = "envoy_cpu_us"
    ALL_CPU_US = "all_cpu_us"
    """Of everything between the client and the provider."""
    READY_SECONDS = "ready_seconds"
    """From the start of the process to the first 200 of /readyz."""
    IMPORT_SECONDS = "import_seconds"
    RESIDENT_MB = "resident_mb"
    """Millions of bytes of memory; where something is added, those that it added."""
    DISK_MB = "disk_mb"
    FILL_SECONDS = "fill_seconds"
    SWEEP_MS = "sweep_ms"
    STALL_MS = "stall_ms"
    """The longest time for which nothing else could run on the event loop."""

    @property
    def more_is_better(self) -> bool:
        return self is Figure.PER_SECOND


Figures = Mapping[Figure, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row of a table under one workload in one round."""

    workload: str
    row: str
    round: int
    figures: Figures


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises `statistics.StatisticsError` if there are none."""
        return cls(median(values), min(values), max(values))


class Samples:
    """All samples of a run. What was not measured has no spread: `None`."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.all = tuple(samples)
        self._rounds: dict[tuple[str, str, Figure], dict[int, float]] = defaultdict(dict)
        for sample in self.all:
            for figure, value in sample.figures.items():
                self._rounds[sample.workload, sample.row, figure][sample.round] = value

    def spread(self, workload: str, row: str, figure: Figure) -> Spread | None:
        return _spread(list(self._by_round(workload, row, figure).values()))

    def ratio(self, workload: str, row: str, figure: Figure, *, to: str) -> Spread | None:
        """Of one row's figure to another's, round by round."""
        return _spread([value / other for value, other in self._pairs(workload, row, to, figure)])

    def difference(self, workload: str, row: str, figure: Figure, *, to: str) -> Spread | None:
        """One row's figure less another's, round by round."""
        return _spread([value - other for value, other in self._pairs(workload, row, to, figure)])

    def _pairs(self, workload: str, row: str, other: str, figure: Figure) -> list[tuple[float, float]]:
        others = self._by_round(workload, other, figure)
        rounds = self._by_round(workload, row, figure)
        return [(value, others[number]) for number, value in rounds.items() if number in others]

    def _by_round(self, workload: str, row: str, figure: Figure) -> Mapping[int, float]:
        return self._rounds.get((workload, row, figure), {})


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread.of(values) if values else None

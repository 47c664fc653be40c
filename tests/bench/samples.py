"""What was measured, and what of it is shown: medians of the rounds, and how far the rounds lie apart.

Machines differ, and one machine differs from minute to minute. So what is compared is compared within each round, and
the median is taken of the ratios; it is not the ratio of the medians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Self


class Series(StrEnum):
    """What is done again and again."""

    HTTP = "http"
    STREAM = "stream"
    CHECK = "check_budget"
    RESERVE = "reserve_and_settle"


@dataclass(frozen=True, slots=True)
class Workload:
    series: Series
    at_once: int
    """How many requests or calls are under way at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One arrangement under one workload in one round. `units` are requests, of a stream its chunks, or calls."""

    workload: Workload
    row: str
    """The arrangement's name."""
    round: int
    units: int
    units_per_second: float
    p50_ms: float
    """Of a whole request."""
    p99_ms: float
    envoy_cpu_us: float
    """CPU microseconds that Envoy used for a unit."""
    server_cpu_us: float
    """The same for the server that Envoy asks, or that is called; 0 where there is none."""


Measure = Callable[[Sample], float]
"""One of a sample's figures."""


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
    """All samples of a run."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.all = tuple(samples)

    def spread(self, workload: Workload, row: str, measure: Measure) -> Spread:
        return Spread.of(self._by_round(workload, row, measure))

    def ratio(self, workload: Workload, row: str, measure: Measure, *, to: str) -> Spread:
        """Of one row's figure to another's, round by round."""
        return Spread.of([value / other for value, other in self._pairs(workload, row, to, measure)])

    def difference(self, workload: Workload, row: str, measure: Measure, *, to: str) -> Spread:
        """One row's figure less another's, round by round."""
        return Spread.of([value - other for value, other in self._pairs(workload, row, to, measure)])

    def _pairs(self, workload: Workload, row: str, other: str, measure: Measure) -> list[tuple[float, float]]:
        of_rows = (self._by_round(workload, each, measure) for each in (row, other))
        return list(zip(*of_rows, strict=True))

    def _by_round(self, workload: Workload, row: str, measure: Measure) -> list[float]:
        return [measure(sample) for sample in self.all if (sample.workload, sample.row) == (workload, row)]

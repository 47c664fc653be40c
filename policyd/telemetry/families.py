"""Counters and histograms that are counted into by plain integers, and become metrics when a scrape reads them.

Each request counts into some ten of them. The client library looks a time series up and takes its lock for each, which
makes up a quarter of what a decision costs; here it is one dictionary. They may be counted into and read from one
thread only: that of the event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
"""The values of a time series' labels, in the order of their names."""


class Counts(Collector):
    """A counter for each combination of labels: summed as integers, shown divided by `unit`."""

    def __init__(
        self, name: str, documentation: str, labels: Labels, *, registry: CollectorRegistry, unit: int = 1
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._unit = unit
        self._totals: dict[Labels, int] = defaultdict(int)
        registry.register(self)

    def add(self, labels: Labels, amount: int = 1) -> None:
        self._totals[labels] += amount

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, total in self._totals.items():
            family.add_metric(labels, total / self._unit)
        yield family


class _Series:
    """One histogram."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0


class Distributions(Collector):
    """A histogram for each combination of labels. `buckets` are the upper ends, in order; what is above has its own."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Labels,
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._buckets = tuple(buckets)
        self._series: dict[Labels, _Series] = defaultdict(lambda: _Series(len(self._buckets) + 1))
        registry.register(self)

    def observe(self, labels: Labels, value: float) -> None:
        series = self._series[labels]
        series.counts[bisect_left(self._buckets, value)] += 1
        series.total += value

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        ends = [floatToGoString(end) for end in (*self._buckets, float("inf"))]  # type: ignore[no-untyped-call]
        for labels, series in self._series.items():
            family.add_metric(labels, [*zip(ends, accumulate(series.counts), strict=True)], series.total)
        yield family

"""Metrics of what stands between this process and its store, read at every scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from policyd.stores.outage.store import OutageStatus

_NO_OUTAGES = OutageStatus(is_away=False, journalled=0, drained=0, unapplied=0, waiting_bytes=0, oldest_ms=None)
"""Of a store that is a part of the process."""


class Outages(Collector):
    """Whether the store is away, and what waits for it."""

    def __init__(self) -> None:
        self._status: Callable[[], OutageStatus] = lambda: _NO_OUTAGES
        self._now_ms: Callable[[], int] = lambda: 0

    def watch(self, status: Callable[[], OutageStatus], *, now_ms: Callable[[], int]) -> None:
        """Tells of `status` from now on."""
        self._status, self._now_ms = status, now_ms

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        waiting_ms = 0 if status.oldest_ms is None else max(0, self._now_ms() - status.oldest_ms)
        for name, documentation, value in (
            (
                "policyd_store_away",
                "1 while the store is not asked, because it failed again and again.",
                status.is_away,
            ),
            ("policyd_journal_bytes", "What waits in the journal for the store.", status.waiting_bytes),
            ("policyd_journal_oldest_seconds", "How long the oldest event of the journal waits.", waiting_ms / 1000),
        ):
            yield GaugeMetricFamily(name, documentation, value=value)
        for name, documentation, value in (
            ("policyd_journal_written", "Holds and charges that were written to the journal.", status.journalled),
            ("policyd_journal_drained", "Those that were brought into the store.", status.drained),
            ("policyd_journal_unapplied", "Those that never can be, and damaged lines.", status.unapplied),
        ):
            yield CounterMetricFamily(name, documentation, value=value)

"""The workers' metrics as one page: every series with the label `worker` added, the number of its worker.

So a scrape reads of each worker what it would read of a replica: a counter starts at zero with its process, as `rate()`
expects, a gauge is never the sum of things that do not add up, and what belonged to a process that has ended is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LABEL = "worker"


def merged_page(pages: Mapping[int, str]) -> bytes:
    """One page out of the workers' own, by their numbers."""
    registry = CollectorRegistry()
    registry.register(_Merged(pages))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, pages: Mapping[int, str]) -> None:
        self._pages = pages

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for number, page in sorted(self._pages.items()):
            for found in text_string_to_metric_families(page):
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                family.samples += [
                    sample._replace(labels={LABEL: str(number), **sample.labels}) for sample in found.samples
                ]
        return families.values()

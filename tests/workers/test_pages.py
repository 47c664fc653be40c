"""The workers' metrics on one page."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from policyd.workers.pages import merged_page
from policyd.workers.supervisor import restart_delay_seconds

PAGE = """# HELP policyd_exchanges_total Exchanges by how they ended.
# TYPE policyd_exchanges_total counter
policyd_exchanges_total{{decision="allow"}} {exchanges}
# HELP policyd_open_exchanges Exchanges that are passing.
# TYPE policyd_open_exchanges gauge
policyd_open_exchanges {open}
"""


def test_every_series_says_whose_it_is_and_families_stand_once() -> None:
    page = merged_page({1: PAGE.format(exchanges=7, open=2), 0: PAGE.format(exchanges=5, open=3)}).decode()
    assert page.count("# TYPE policyd_exchanges_total counter") == 1
    samples = [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    ]
    assert samples == [
        ("policyd_exchanges_total", {"worker": "0", "decision": "allow"}, 5),
        ("policyd_exchanges_total", {"worker": "1", "decision": "allow"}, 7),
        ("policyd_open_exchanges", {"worker": "0"}, 3),
        ("policyd_open_exchanges", {"worker": "1"}, 2),
    ]


def test_without_workers_there_is_nothing() -> None:
    assert merged_page({}) == b""


def test_starts_that_do_not_last_are_tried_less_and_less_often() -> None:
    assert [restart_delay_seconds(failures) for failures in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]

"""Instants: read as people write them, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.times import iso_time, parse_instant


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-12-01", "2026-12-01T00:00:00.000Z"),
        ("2026-12-01T09:30:00Z", "2026-12-01T09:30:00.000Z"),
        ("2026-12-01t09:30:00z", "2026-12-01T09:30:00.000Z"),
        ("2026-12-01 09:30:00.25+02:00", "2026-12-01T07:30:00.250Z"),
        ("2026-12-01T09:30:00-00:30", "2026-12-01T10:00:00.000Z"),
        ("2026-12-01T09:30:00.999999999Z", "2026-12-01T09:30:00.999Z"),
        ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999Z"),
    ],
)
def test_dates_and_instants(text: str, instant: str) -> None:
    assert iso_time(parse_instant(text)) == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2026-13-01",
        "2026-02-29",
        "2026-12-1",
        "20261201",
        "2026-W49-2",
        "2026-12-01T09:30:00",
        "2026-12-01T09:30Z",
        "2026-12-01T24:00:00Z",
        "2026-12-01T09:30:00+24:00",
        "2026-12-01T09:30:00.1234567890Z",
        "2026-12-01\n",
        "٢٠٢٦-12-01",
        "0001-01-01T00:00:00+01:00",
    ],
)
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_instant(text)


@given(st.integers(-(10**12), 10**13))
def test_what_is_printed_reads_back(at_ms: int) -> None:
    assert parse_instant(iso_time(at_ms)) == at_ms

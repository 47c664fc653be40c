"""Instants as people read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime.fromtimestamp(0, tz=UTC)
# The standard library would also take week dates, basic formats and times without an offset.
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_RFC_3339 = re.compile(
    rf"{_DATE.pattern}[Tt ][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(\.[0-9]{{1,9}})?([Zz]|[+-][0-9]{{2}}:[0-9]{{2}})"
)


def iso_time(at_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds: `2026-11-21T09:30:00.250Z`."""
    return f"{_second(at_ms // 1000)}.{at_ms % 1000:03d}Z"


@lru_cache(maxsize=64)
def _second(at_seconds: int) -> str:
    """Remembered: many exchanges begin within one."""
    return f"{datetime.fromtimestamp(at_seconds, tz=UTC):%Y-%m-%dT%H:%M:%S}"


def parse_instant(text: str) -> int:
    """Milliseconds since the epoch of a date (its first moment in UTC) or an RFC 3339 instant such as
    `2026-12-01T09:30:00Z`; finer fractions of a second are cut off. Raises `ValueError`."""
    if _DATE.fullmatch(text):
        instant = datetime.fromisoformat(text).replace(tzinfo=UTC)
    elif _RFC_3339.fullmatch(text):
        instant = datetime.fromisoformat(text.upper())
    else:
        raise ValueError(f"{text!r} is not a date, nor an instant with its offset from UTC")
    try:
        return (instant.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError:
        raise ValueError(f"{text!r} is out of range") from None

"""Windows: when a limit's counting starts and ends.

A calendar window follows the wall clock of an IANA time zone: a day starts at its first local instant and ends where
the next one starts, so it lasts 23 or 25 hours when daylight saving changes. The week starts on Monday. Minutes and
hours are counted on the wall clock too, which matters in zones that are half an hour off.

A sliding window of N seconds is two adjoining buckets of N seconds each: what counts is the current bucket plus the
part of the one before that still overlaps the last N seconds, taken as evenly spread. At 12:00:45 a 60 s window counts
the bucket 12:00:00-12:01:00 in full and a quarter of 11:59:00-12:00:00.

A window of N days from first use starts at an instant that only the store knows: the first request of its scope. The
next one starts with the first request after its end, not at its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

DAY_MS = 86_400_000

WEIGHT_UNIT = 1_000_000
"""Overlap weights are integers in millionths."""


class CalendarUnit(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class CalendarWindow:
    """One calendar unit in a time zone."""

    unit: CalendarUnit
    timezone: str = "UTC"

    def __str__(self) -> str:
        return str(self.unit) if self.timezone == "UTC" else f"{self.unit} ({self.timezone})"


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """The last `seconds` seconds."""

    seconds: int

    def __str__(self) -> str:
        return f"sliding {self.seconds}s"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """From the beginning, for ever."""

    def __str__(self) -> str:
        return "lifetime"


@dataclass(frozen=True, slots=True)
class FirstUseWindow:
    """`days` times 24 hours from the first request on. A request that is refused is a use too."""

    days: int

    def __str__(self) -> str:
        return f"{self.days} days from first use"

    @property
    def length_ms(self) -> int:
        return self.days * DAY_MS

    def beginning(self, starts_at_ms: int) -> Bounds:
        """The occurrence that began at `starts_at_ms`."""
        return Bounds(starts_at_ms, starts_at_ms + self.length_ms)


ClockWindow = CalendarWindow | SlidingWindow | Lifetime
"""A window that the clock alone tells."""

Window = ClockWindow | FirstUseWindow


@dataclass(frozen=True, slots=True)
class Bounds:
    """One occurrence of a window: `[starts_at_ms, ends_at_ms)`; no end where it lasts for ever."""

    starts_at_ms: int
    ends_at_ms: int | None


def bounds(window: ClockWindow, now_ms: int) -> Bounds:
    """The occurrence of `window` that `now_ms` falls in."""
    match window:
        case Lifetime():
            return Bounds(0, None)
        case SlidingWindow(seconds):
            length_ms = seconds * 1000
            starts_at_ms = now_ms - now_ms % length_ms
            return Bounds(starts_at_ms, starts_at_ms + length_ms)
        case CalendarWindow(unit, timezone):
            # Offsets are whole minutes in all modern zones, so the instants of one UTC minute share their window and
            # the answer can be kept.
            return _calendar_bounds(unit, timezone, now_ms // 60_000)


def overlap_weight(window: SlidingWindow, now_ms: int) -> int:
    """How much of the bucket before the current one still counts, in millionths."""
    length_ms = window.seconds * 1000
    return (length_ms - now_ms % length_ms) * WEIGHT_UNIT // length_ms


@lru_cache(maxsize=4096)
def _calendar_bounds(unit: CalendarUnit, timezone: str, minute: int) -> Bounds:
    if unit is CalendarUnit.MINUTE:
        return Bounds(minute * 60_000, (minute + 1) * 60_000)
    zone = ZoneInfo(timezone)
    local = datetime.fromtimestamp(minute * 60, tz=zone)
    if unit is CalendarUnit.HOUR:
        # Found by elapsed time, not by wall-clock arithmetic: the hour that daylight saving repeats is two windows.
        starts = local.astimezone(UTC) - timedelta(minutes=local.minute)
        return _cut_at_change(starts, local.astimezone(UTC), starts + timedelta(hours=1), zone)
    start = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    if unit is CalendarUnit.WEEK:
        start -= timedelta(days=start.weekday())
    elif unit is CalendarUnit.MONTH:
        start = start.replace(day=1)
    return Bounds(_first_instant_ms(start, zone), _first_instant_ms(_next(unit, start), zone))


def _next(unit: CalendarUnit, start: datetime) -> datetime:
    if unit is CalendarUnit.DAY:
        return start + timedelta(days=1)
    if unit is CalendarUnit.WEEK:
        return start + timedelta(days=7)
    return (start + timedelta(days=32)).replace(day=1)


def _first_instant_ms(midnight: datetime, zone: ZoneInfo) -> int:
    """The first instant of the local day that begins at `midnight`.

    Where the clock jumps over midnight, that is the instant of the jump. `fold=0` reads a time that does not exist with
    the offset from before the jump, so the jump lies at most one gap earlier.
    """
    instant = midnight.replace(tzinfo=zone).astimezone(UTC)
    gap = instant.astimezone(zone).replace(tzinfo=None) - midnight
    if not gap:
        return _ms(instant)
    return _clock_change_ms(instant - gap - timedelta(seconds=1), instant, zone)


def _cut_at_change(starts: datetime, now: datetime, ends: datetime, zone: ZoneInfo) -> Bounds:
    """The hour from `starts` to `ends`, without what lies beyond a change of the clocks by a part of an hour."""
    last = ends - timedelta(seconds=1)
    return Bounds(
        _ms(starts) if _offset(starts, zone) == _offset(now, zone) else _clock_change_ms(starts, now, zone),
        _ms(ends) if _offset(last, zone) == _offset(now, zone) else _clock_change_ms(now, last, zone),
    )


def _clock_change_ms(before: datetime, after: datetime, zone: ZoneInfo) -> int:
    """The instant between `before` and `after` from which on `after`'s offset applies."""
    low, high = int(before.timestamp()), int(after.timestamp())
    offset_after = _offset(after, zone)
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, tz=zone).utcoffset() == offset_after:
            high = middle
        else:
            low = middle
    return high * 1000


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta | None:
    return instant.astimezone(zone).utcoffset()


def _ms(instant: datetime) -> int:
    return int(instant.timestamp()) * 1000

"""Which window an instant is in, reckoned another way than policyd does."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from policyd.core.windows import CalendarUnit, CalendarWindow, Lifetime, SlidingWindow, Window


def is_window_of(window: Window, at_ms: int, *, starts_at_ms: int, ends_at_ms: int | None) -> bool:
    """Whether `[starts_at_ms, ends_at_ms)` is the occurrence of `window` that `at_ms` is in."""
    match window:
        case Lifetime():
            return (starts_at_ms, ends_at_ms) == (0, None)
        case SlidingWindow(seconds):
            number = at_ms // (seconds * 1000)
            return (starts_at_ms, ends_at_ms) == (number * seconds * 1000, (number + 1) * seconds * 1000)
        case CalendarWindow(unit, timezone):
            zone = ZoneInfo(timezone)
            name = _name(unit, zone, at_ms)
            return (
                ends_at_ms is not None
                and name == _name(unit, zone, starts_at_ms) == _name(unit, zone, ends_at_ms - 1)
                and name != _name(unit, zone, starts_at_ms - 1)
                and name != _name(unit, zone, ends_at_ms)
            )


def _name(unit: CalendarUnit, zone: ZoneInfo, at_ms: int) -> object:
    """What people call the unit of time that an instant is in."""
    local = datetime.fromtimestamp(at_ms // 1000, tz=UTC).astimezone(zone)
    match unit:
        case CalendarUnit.MINUTE:
            return local.date(), local.hour, local.minute, local.utcoffset()
        case CalendarUnit.HOUR:
            return local.date(), local.hour, local.utcoffset()
        case CalendarUnit.DAY:
            return local.date()
        case CalendarUnit.WEEK:
            return local.isocalendar()[:2]
        case CalendarUnit.MONTH:
            return local.year, local.month

"""Which window an instant is in, reckoned another way than policyd does."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from policyd.core.windows import CalendarUnit, CalendarWindow, Lifetime, SlidingWindow


def is_window_of(
    window: CalendarWindow | SlidingWindow | Lifetime,
    at_ms: int,
    *,
    starts_at_ms: int,
    ends_at_ms: int | None,
    reset_at_ms: int | None,
) -> bool:
    """Whether `[starts_at_ms, ends_at_ms)` is the occurrence of `window` that `at_ms` is in.

    If it was reset in that occurrence, it starts there.
    """
    match window:
        case Lifetime():
            return (starts_at_ms, ends_at_ms) == (reset_at_ms or 0, None)
        case SlidingWindow(seconds):
            starts, ends = (at_ms // (seconds * 1000) + more for more in (0, 1))
            starts, ends = starts * seconds * 1000, ends * seconds * 1000
            if reset_at_ms is not None and reset_at_ms < ends:
                starts = max(starts, reset_at_ms)
            return (starts_at_ms, ends_at_ms) == (starts, ends)
        case CalendarWindow(unit, timezone):
            zone = ZoneInfo(timezone)
            name = _name(unit, zone, at_ms)
            if ends_at_ms is None or not name == _name(unit, zone, ends_at_ms - 1) != _name(unit, zone, ends_at_ms):
                return False
            if reset_at_ms is not None and _name(unit, zone, reset_at_ms) == name:
                return starts_at_ms == reset_at_ms
            return name == _name(unit, zone, starts_at_ms) != _name(unit, zone, starts_at_ms - 1)


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

"""Windows: every instant lies in exactly one, and it is the one on the wall.

What a day, week or month is follows from the local date alone: a window is right if all its instants have one local
date (week, month) and the instants just outside have another. That is checked by property, in zones that make it hard.
"""

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.core.windows import (
    WEIGHT_UNIT,
    Bounds,
    CalendarUnit,
    CalendarWindow,
    ClockWindow,
    FirstUseWindow,
    Lifetime,
    SlidingWindow,
    Window,
    bounds,
    overlap_weight,
)

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "Asia/Kolkata",  # half an hour off
    "Asia/Kathmandu",  # three quarters of an hour off
    "America/Sao_Paulo",  # until 2018 clocks jumped over midnight
    "Asia/Beirut",  # they still do
    "America/Havana",  # clocks go back from one to midnight, which comes twice
    "America/Santiago",  # the date changes back at midnight
    "Pacific/Apia",  # had no 30 December 2011
    "Pacific/Chatham",
)
LEAP_YEARS = st.sampled_from([2012, 2016, 2020, 2024, 2028, 2032, 2036])
MONTHS = st.just(3) | st.integers(1, 12)
DATED_UNITS = (CalendarUnit.DAY, CalendarUnit.WEEK, CalendarUnit.MONTH)
HOUR_MS = 3_600_000
FIRST_S = int(datetime(2011, 12, 1, tzinfo=UTC).timestamp())
LAST_S = int(datetime(2037, 12, 1, tzinfo=UTC).timestamp())


def ms(text: str, zone: str = "UTC", *, fold: int = 0) -> int:
    """Of a local time such as `2026-03-29 02:30`."""
    local = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return int(local.timestamp()) * 1000


def local(instant_ms: int, zone: str) -> datetime:
    return datetime.fromtimestamp(instant_ms // 1000, tz=ZoneInfo(zone))


def clock_changes(zone: str) -> list[int]:
    """The seconds at which a zone's offset changes."""

    def offset(second: int) -> float:
        shift = local(second * 1000, zone).utcoffset()
        assert shift is not None
        return shift.total_seconds()

    changes = []
    for start, end in pairwise(range(FIRST_S, LAST_S, 7 * 86_400)):
        if offset(start) == offset(end):
            continue
        before, after = start, end
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (middle, after) if offset(middle) == offset(start) else (before, middle)
        changes.append(after)
    return changes


CHANGES = [(zone, second) for zone in ZONES for second in clock_changes(zone)]


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, int]:
    """A zone and an instant in milliseconds, often near a change of the zone's clocks, or the end of a month."""
    if draw(st.booleans()):
        zone, change = draw(st.sampled_from(CHANGES))
        return zone, change * 1000 + draw(st.integers(-36 * HOUR_MS, 36 * HOUR_MS))
    if draw(st.booleans()):
        zone, year, month = draw(st.sampled_from(ZONES)), draw(LEAP_YEARS | st.integers(2012, 2036)), draw(MONTHS)
        first_ms = int(datetime(year, month, 1, tzinfo=ZoneInfo(zone)).timestamp()) * 1000
        # Around midnight of the first, which 29 February is before as the 28th is in other years, or of the day before.
        return zone, first_ms - draw(st.sampled_from([0, 24])) * HOUR_MS + draw(st.integers(-1_500, 1_500))
    return draw(st.sampled_from(ZONES)), draw(st.integers(FIRST_S, LAST_S)) * 1000 + draw(st.integers(0, 999))


def date_of(unit: CalendarUnit, instant_ms: int, zone: str) -> tuple[int, ...]:
    """The local day, ISO week or month of an instant."""
    moment = local(instant_ms, zone)
    match unit:
        case CalendarUnit.WEEK:
            return moment.isocalendar()[:2]
        case CalendarUnit.MONTH:
            return moment.year, moment.month
        case _:
            return moment.year, moment.month, moment.day


def ends(within: Bounds) -> int:
    assert within.ends_at_ms is not None
    return within.ends_at_ms


@settings(max_examples=500)
@given(moments(), st.sampled_from(DATED_UNITS), st.floats(0, 1, exclude_max=True))
def test_a_window_is_one_local_date(moment: tuple[str, int], unit: CalendarUnit, share: float) -> None:
    zone, now_ms = moment
    within = bounds(CalendarWindow(unit, zone), now_ms)
    inside_ms = within.starts_at_ms + int((ends(within) - within.starts_at_ms) * share)
    date = date_of(unit, now_ms, zone)
    assert within.starts_at_ms <= now_ms < ends(within)
    assert date_of(unit, within.starts_at_ms, zone) == date_of(unit, inside_ms, zone) == date
    assert date_of(unit, ends(within) - 1, zone) == date
    assert date_of(unit, within.starts_at_ms - 1, zone) < date < date_of(unit, ends(within), zone)


def assert_tiles(window: ClockWindow, now_ms: int) -> None:
    """The window of an instant holds it, is the same at its edges, and meets its neighbours there."""
    within = bounds(window, now_ms)
    assert within.starts_at_ms <= now_ms < ends(within)
    assert bounds(window, within.starts_at_ms) == bounds(window, ends(within) - 1) == within
    assert ends(bounds(window, within.starts_at_ms - 1)) == within.starts_at_ms
    assert bounds(window, ends(within)).starts_at_ms == ends(within)


@settings(max_examples=500)
@given(moments(), st.sampled_from(DATED_UNITS))
def test_days_weeks_and_months_tile(moment: tuple[str, int], unit: CalendarUnit) -> None:
    zone, now_ms = moment
    assert_tiles(CalendarWindow(unit, zone), now_ms)


@given(moments(), st.sampled_from([CalendarUnit.MINUTE, CalendarUnit.HOUR]))
def test_minutes_and_hours_tile_and_follow_the_wall_clock(moment: tuple[str, int], unit: CalendarUnit) -> None:
    zone, now_ms = moment
    window = CalendarWindow(unit, zone)
    assert_tiles(window, now_ms)
    within = bounds(window, now_ms)
    length_ms = ends(within) - within.starts_at_ms
    starts = local(within.starts_at_ms, zone)
    assert starts.second == 0
    if unit is CalendarUnit.MINUTE:
        assert length_ms == 60_000
    elif length_ms != HOUR_MS:
        # Lord Howe moves its clocks by half an hour and Chatham at a quarter to: either cuts an hour in two.
        assert zone in {"Australia/Lord_Howe", "Pacific/Chatham"}
        assert length_ms % (HOUR_MS // 4) == 0
    else:
        assert starts.minute == 0


@given(st.integers(1, 10**6), st.integers(0, 2**42))
def test_sliding_buckets_tile(seconds: int, now_ms: int) -> None:
    assert_tiles(SlidingWindow(seconds), now_ms)
    within = bounds(SlidingWindow(seconds), now_ms)
    assert ends(within) - within.starts_at_ms == seconds * 1000


@pytest.mark.parametrize(
    ("unit", "zone", "now", "starts", "ends", "hours"),
    [
        (CalendarUnit.DAY, "UTC", "2026-05-01 12:00", "2026-05-01 00:00", "2026-05-02 00:00", 24),
        (CalendarUnit.DAY, "UTC", "2026-12-31 23:59:59", "2026-12-31 00:00", "2027-01-01 00:00", 24),
        # Daylight saving begins, and ends.
        (CalendarUnit.DAY, "Europe/Berlin", "2026-03-29 12:00", "2026-03-29 00:00", "2026-03-30 00:00", 23),
        (CalendarUnit.DAY, "Europe/Berlin", "2026-10-25 12:00", "2026-10-25 00:00", "2026-10-26 00:00", 25),
        (CalendarUnit.DAY, "Australia/Lord_Howe", "2026-10-04 12:00", "2026-10-04 00:00", "2026-10-05 00:00", 23.5),
        (CalendarUnit.DAY, "Australia/Lord_Howe", "2026-04-05 12:00", "2026-04-05 00:00", "2026-04-06 00:00", 24.5),
        (CalendarUnit.WEEK, "America/New_York", "2026-03-08 12:00", "2026-03-02 00:00", "2026-03-09 00:00", 167),
        (CalendarUnit.MONTH, "Europe/Berlin", "2026-03-15 12:00", "2026-03-01 00:00", "2026-04-01 00:00", 743),
        # Midnight was skipped: this day began at one.
        (CalendarUnit.DAY, "America/Sao_Paulo", "2018-11-04 12:00", "2018-11-04 01:00", "2018-11-05 00:00", 23),
        (CalendarUnit.DAY, "America/Sao_Paulo", "2018-11-03 12:00", "2018-11-03 00:00", "2018-11-04 01:00", 24),
        (CalendarUnit.WEEK, "America/Sao_Paulo", "2018-11-04 12:00", "2018-10-29 00:00", "2018-11-05 00:00", 167),
        # Midnight was skipped from half an hour before to half an hour after.
        (CalendarUnit.DAY, "America/Toronto", "1919-03-31 12:00", "1919-03-31 00:30", "1919-04-01 00:00", 23.5),
        (CalendarUnit.DAY, "America/Toronto", "1919-03-30 12:00", "1919-03-30 00:00", "1919-03-31 00:30", 23.5),
        # 23:00 to midnight came twice.
        (CalendarUnit.DAY, "America/Sao_Paulo", "2018-02-17 12:00", "2018-02-17 00:00", "2018-02-18 00:00", 25),
        # Midnight comes twice: the day begins at the first.
        (CalendarUnit.DAY, "America/Havana", "2026-11-01 12:00", "2026-11-01 00:00", "2026-11-02 00:00", 25),
        # The day that this zone left out.
        (CalendarUnit.DAY, "Pacific/Apia", "2011-12-29 12:00", "2011-12-29 00:00", "2011-12-31 00:00", 24),
        (CalendarUnit.WEEK, "Pacific/Apia", "2011-12-29 12:00", "2011-12-26 00:00", "2012-01-02 00:00", 144),
        # Weeks begin on Monday, across a year's end too.
        (CalendarUnit.WEEK, "UTC", "2026-05-03 23:59", "2026-04-27 00:00", "2026-05-04 00:00", 168),
        (CalendarUnit.WEEK, "UTC", "2026-05-04 00:00", "2026-05-04 00:00", "2026-05-11 00:00", 168),
        (CalendarUnit.WEEK, "UTC", "2027-01-01 00:00", "2026-12-28 00:00", "2027-01-04 00:00", 168),
        # Months of every length.
        (CalendarUnit.MONTH, "UTC", "2027-02-28 23:59:59", "2027-02-01 00:00", "2027-03-01 00:00", 28 * 24),
        (CalendarUnit.MONTH, "UTC", "2028-02-29 12:00", "2028-02-01 00:00", "2028-03-01 00:00", 29 * 24),
        (CalendarUnit.MONTH, "UTC", "2026-04-30 12:00", "2026-04-01 00:00", "2026-05-01 00:00", 30 * 24),
        (CalendarUnit.MONTH, "UTC", "2026-01-31 12:00", "2026-01-01 00:00", "2026-02-01 00:00", 31 * 24),
        (CalendarUnit.MONTH, "UTC", "2026-12-31 12:00", "2026-12-01 00:00", "2027-01-01 00:00", 31 * 24),
        (CalendarUnit.DAY, "UTC", "2028-02-29 12:00", "2028-02-29 00:00", "2028-03-01 00:00", 24),
        # 2100 is no leap year.
        (CalendarUnit.MONTH, "UTC", "2100-02-10 12:00", "2100-02-01 00:00", "2100-03-01 00:00", 28 * 24),
        (CalendarUnit.HOUR, "Asia/Kolkata", "2026-05-01 12:45", "2026-05-01 12:00", "2026-05-01 13:00", 1),
        (CalendarUnit.MINUTE, "Asia/Kathmandu", "2026-05-01 12:45:30", "2026-05-01 12:45", "2026-05-01 12:46", 1 / 60),
    ],
)
def test_calendar(unit: CalendarUnit, zone: str, now: str, starts: str, ends: str, hours: float) -> None:
    within = bounds(CalendarWindow(unit, zone), ms(now, zone))
    assert within == Bounds(ms(starts, zone), ms(ends, zone))
    assert within == Bounds(within.starts_at_ms, within.starts_at_ms + round(hours * HOUR_MS))


def test_the_month_of_a_zone_ahead_of_utc_begins_earlier() -> None:
    within = bounds(CalendarWindow(CalendarUnit.MONTH, "Europe/Berlin"), ms("2026-04-30 22:30"))
    assert within == Bounds(ms("2026-04-30 22:00"), ms("2026-05-31 22:00"))


def test_an_hour_that_comes_twice_is_two_windows() -> None:
    window = CalendarWindow(CalendarUnit.HOUR, "America/New_York")
    first = bounds(window, ms("2026-11-01 01:30", "America/New_York", fold=0))
    second = bounds(window, ms("2026-11-01 01:30", "America/New_York", fold=1))
    assert first.ends_at_ms == second.starts_at_ms
    assert ends(second) - second.starts_at_ms == HOUR_MS


def test_a_lifetime_never_ends() -> None:
    assert bounds(Lifetime(), ms("2026-05-01 12:00")) == bounds(Lifetime(), 0) == Bounds(0, None)


def test_a_day_from_first_use_has_24_hours_whatever_the_clocks_do() -> None:
    began_ms = ms("2026-03-28 12:00", "Europe/Berlin")
    assert FirstUseWindow(1).beginning(began_ms) == Bounds(began_ms, ms("2026-03-29 13:00", "Europe/Berlin"))


def test_the_buckets_of_a_sliding_window_are_aligned() -> None:
    assert bounds(SlidingWindow(60), ms("2026-05-01 12:00:45") + 999) == Bounds(
        ms("2026-05-01 12:00"), ms("2026-05-01 12:01")
    )


@pytest.mark.parametrize(
    ("now", "weight"),
    [("12:00:00", 1_000_000), ("12:00:15", 750_000), ("12:00:45", 250_000), ("12:00:59", 16_666)],
)
def test_the_bucket_before_fades(now: str, weight: int) -> None:
    assert overlap_weight(SlidingWindow(60), ms(f"2026-05-01 {now}")) == weight


@given(st.integers(1, 10**6), st.integers(0, 2**42))
def test_the_weight_falls_from_one_to_nearly_nothing(seconds: int, now_ms: int) -> None:
    window = SlidingWindow(seconds)
    within = bounds(window, now_ms)
    assert overlap_weight(window, within.starts_at_ms) == WEIGHT_UNIT
    assert 0 <= overlap_weight(window, now_ms) <= WEIGHT_UNIT
    assert overlap_weight(window, ends(within) - 1) == WEIGHT_UNIT // (seconds * 1000)


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (CalendarWindow(CalendarUnit.MONTH), "month"),
        (CalendarWindow(CalendarUnit.DAY, "Europe/Berlin"), "day (Europe/Berlin)"),
        (SlidingWindow(60), "sliding 60s"),
        (FirstUseWindow(30), "30 days from first use"),
        (Lifetime(), "lifetime"),
    ],
)
def test_how_people_see_windows(window: Window, text: str) -> None:
    assert str(window) == text

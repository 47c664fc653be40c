"""A limit's window in the policy file: `window: month`, `window: {sliding: 60s}`, `window: {days: 30}`."""

from dataclasses import replace

from policyd.config import shapes, values
from policyd.config.problems import one_of
from policyd.config.section import Section
from policyd.config.shapes import Key
from policyd.config.values import duration_seconds
from policyd.config.yaml_tree import MappingTree, Tree
from policyd.core.windows import CalendarUnit, CalendarWindow, FirstUseWindow, Lifetime, SlidingWindow, Window

FIRST_USE_DAYS_MAX = 3650

_LIFETIME = "lifetime"
_WINDOW_WORDS = (*CalendarUnit, _LIFETIME)
_MAPPING_KEYS = {
    "sliding": Key(shapes.SPAN, "The last so many seconds, minutes, hours or days, such as 60s."),
    "days": Key(shapes.whole_number(1, FIRST_USE_DAYS_MAX), "So many times 24 hours from the scope's first request."),
}
_MAPPING_EXAMPLES = ("{sliding: 60s}", "{days: 30}")

WINDOW_EXPECTED = one_of((*_WINDOW_WORDS, *_MAPPING_EXAMPLES))
WINDOW_SHAPE = shapes.any_of(
    shapes.words(*_WINDOW_WORDS),
    shapes.record(_MAPPING_KEYS, **shapes.exactly_one(tuple(_MAPPING_KEYS))),
)


def read_window(section: Section) -> Window | None:
    """The window under `window` in UTC, or what is missing or wrong is reported."""
    if "window" not in section:
        section.report_missing("window", WINDOW_EXPECTED)
        return None
    tree = section["window"]
    if isinstance(tree, MappingTree):
        return _window_of(section.within("window", tree, keys=_MAPPING_KEYS))
    return section.read("window", _named_window, None)


def in_timezone(window: Window | None, timezone: str | None) -> Window | None:
    """`window` by the clock of `timezone`, where it has to do with one."""
    return replace(window, timezone=timezone) if timezone and isinstance(window, CalendarWindow) else window


def label(window: Window) -> str:
    """What tells the windows of one limit apart in the names of their accounts: `day`, `lifetime`, `60s`, `30d`."""
    match window:
        case CalendarWindow(unit):
            return unit.value
        case SlidingWindow(seconds):
            return f"{seconds}s"
        case FirstUseWindow(days):
            return f"{days}d"
        case Lifetime():
            return _LIFETIME


def _window_of(section: Section) -> Window | None:
    key = section.exactly_one(tuple(_MAPPING_KEYS))
    if key == "days":
        days = section.read(key, values.whole_number(1, FIRST_USE_DAYS_MAX), None)
        return None if days is None else FirstUseWindow(days)
    seconds = section.read("sliding", duration_seconds(minimum=1), None)
    return None if seconds is None else SlidingWindow(seconds)


def _named_window(tree: Tree) -> CalendarWindow | Lifetime:
    word = values.word(_WINDOW_WORDS, others=_MAPPING_EXAMPLES)(tree)
    return Lifetime() if word == _LIFETIME else CalendarWindow(CalendarUnit(word))

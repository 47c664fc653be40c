"""What a limit caps: a metric, how much of it, in which window; with `windows` several of these."""

from collections.abc import Sequence
from dataclasses import dataclass

from policyd.config import values
from policyd.config.section import Section
from policyd.config.windows import in_timezone, label, read_window
from policyd.config.yaml_tree import Scalar, Tree
from policyd.core.policy import Metric
from policyd.core.windows import CalendarUnit, CalendarWindow, Window

METRICS = tuple(Metric)
BY_TIER = "by_tier"
CAP_KEYS = (*METRICS, "window", "windows", "timezone")

_WINDOWS_KEYS = (*METRICS, "window")
_WINDOWS_EXAMPLE = "[{window: day, cost_usd: 5.00}, {window: month, cost_usd: 100.00}]"


@dataclass(frozen=True, slots=True)
class Cap:
    """One account's worth of a limit. `metric` is `None` where the file does not tell it."""

    metric: Metric | None
    amount: int | None
    """`None`: each tier has its own."""
    window: Window | None
    label: str | None
    """Tells it apart from the limit's other windows; `None` for a limit that has one."""


def amount_of(metric: Metric, tree: Tree) -> int:
    """An amount of `metric`: nano-USD from dollars, else whole units."""
    return values.usd_nanos(tree) if metric is Metric.COST else values.whole_number(0)(tree)


def read_caps(section: Section) -> tuple[Cap, ...]:
    """At least one, the last resort being a cap that only lets the rest of the limit be checked."""
    timezone = section.read("timezone", values.timezone, None)
    caps = _caps_of_windows(section) if "windows" in section else (_cap(section),)
    in_use = [cap for cap in caps if isinstance(cap.window, CalendarWindow)]
    # A window that is missing or wrong is reported already, and might have been a calendar one.
    if "timezone" in section and not in_use and all(_is_known(cap) for cap in caps):
        section.reject("timezone", f"only a calendar window ({', '.join(CalendarUnit)}) has a time zone")
    return tuple(Cap(cap.metric, cap.amount, in_timezone(cap.window, timezone), cap.label) for cap in caps)


def _is_known(cap: Cap) -> bool:
    return cap.window is not None


def _cap(section: Section) -> Cap:
    metric, amount = _amount(section)
    if metric is Metric.CONCURRENT_REQUESTS:
        for key in ("window", "timezone"):
            if key in section:
                section.reject(key, f"{metric} counts what is open now and takes no {key}")
        return Cap(metric, amount, None, None)
    # Whether a window is missing depends on the metric.
    window = read_window(section) if metric is not None or "window" in section else None
    return Cap(metric, amount, window, None)


def _amount(section: Section) -> tuple[Metric | None, int | None]:
    """The metric and its amount; no metric unless there is exactly one."""
    key = section.exactly_one(METRICS)
    if key is None:
        return None, 0
    metric = Metric(key)
    return metric, section.read(key, lambda tree: None if _is_by_tier(tree) else amount_of(metric, tree), 0)


def _is_by_tier(tree: Tree) -> bool:
    return isinstance(tree, Scalar) and tree.text == BY_TIER


def _caps_of_windows(section: Section) -> Sequence[Cap]:
    for key in _WINDOWS_KEYS:
        if key in section:
            section.reject(key, '"windows" is given, expected this inside of it')
    path, problems = section.path_of("windows"), section.problems
    caps: dict[str | None, Cap] = {}
    for index, tree in enumerate(section.read("windows", values.items(_WINDOWS_EXAMPLE), ())):
        item_path = f"{path}[{index}]"
        entries = problems.attempt(item_path, values.mapping("{window: day, cost_usd: 5.00}"), tree, None)
        if entries is None:
            continue
        cap = _windowed_cap(Section(entries, path=item_path, keys=_WINDOWS_KEYS, problems=problems))
        if cap.window is not None and cap.label in caps:
            problems.add(tree.at, item_path, f"the limit has a window of {cap.window} already")
        caps.setdefault(cap.label, cap)
    return list(caps.values()) or [Cap(None, 0, None, None)]


def _windowed_cap(section: Section) -> Cap:
    metric, amount = _amount(section)
    if metric is Metric.CONCURRENT_REQUESTS:
        section.reject(metric, "what is open now has no window, expected a limit of its own")
        return Cap(metric, amount, None, None)
    window = read_window(section)
    return Cap(metric, amount, window, label(window) if window is not None else None)

"""What a limit caps: a metric, how much of it, in which window; with `windows` several of these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from policyd.config import shapes, values
from policyd.config.problems import did_you_mean
from policyd.config.section import Section
from policyd.config.shapes import Key, Keys, Schema
from policyd.config.values import found
from policyd.config.windows import WINDOW_SHAPE, in_timezone, label, read_window
from policyd.config.yaml_tree import Scalar, Tree
from policyd.core.policy import Metric
from policyd.core.windows import CalendarUnit, CalendarWindow, Window

METRICS = tuple(Metric)
BY_TIER = "by_tier"

_TOLD_BY_METRIC: Mapping[Metric, str] = {
    Metric.COST: "US dollars, to the billionth.",
    Metric.TOKENS: "Tokens of all kinds.",
    Metric.INPUT_TOKENS: "Tokens that requests send, cached ones included.",
    Metric.OUTPUT_TOKENS: "Tokens that replies have, reasoning included.",
    Metric.REQUESTS: "Requests that are let through.",
    Metric.CONCURRENT_REQUESTS: "Requests that are open now; takes no window.",
    Metric.IMAGES: "Images that are made.",
    Metric.AUDIO_SECONDS: "Seconds of audio that is listened to, rounded up for each request.",
}


def amount_shape(metric: Metric) -> Schema:
    """What `amount_of` takes."""
    return shapes.USD if metric is Metric.COST else shapes.COUNT


_WINDOWS_KEYS: Keys = {
    **{
        metric.value: Key(shapes.any_of(amount_shape(metric), shapes.words(BY_TIER)), told)
        for metric, told in _TOLD_BY_METRIC.items()
    },
    "window": Key(WINDOW_SHAPE, "From when to when it counts."),
}
_WINDOWED_METRICS = tuple(metric for metric in METRICS if metric is not Metric.CONCURRENT_REQUESTS)
_ITEM_SHAPE = shapes.record(_WINDOWS_KEYS, required=("window",), **shapes.exactly_one(_WINDOWED_METRICS))

CAP_KEYS = {
    **_WINDOWS_KEYS,
    "windows": Key(shapes.items(_ITEM_SHAPE), "Several windows, each with an account of its own."),
    "timezone": Key(shapes.TEXT, "An IANA time zone that calendar windows go by; the default is UTC."),
}
_BY_THE_CLOCK = shapes.only_with("window", *CalendarUnit)
_ONE_BY_THE_CLOCK = {"required": ["windows"], "properties": {"windows": {"contains": _BY_THE_CLOCK}}}
CAPS_SHAPE = {
    "oneOf": [
        *({"required": [metric, "window"]} for metric in _WINDOWED_METRICS),
        {"required": [Metric.CONCURRENT_REQUESTS], **shapes.without("window", "timezone")},
        {"required": ["windows"]},
    ],
    "dependentSchemas": {
        "windows": shapes.without(*_WINDOWS_KEYS),
        "timezone": shapes.any_of(_BY_THE_CLOCK, _ONE_BY_THE_CLOCK),
    },
}
"""Of a limit: one metric and what goes with it."""

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


def read_caps(section: Section, *, has_tiers: bool) -> tuple[Cap, ...]:
    """At least one, the last resort being a cap that only lets the rest of the limit be checked."""
    timezone = section.read("timezone", values.timezone, None)
    caps = _caps_of_windows(section, has_tiers) if "windows" in section else (_cap(section, has_tiers),)
    on_the_clock = any(isinstance(cap.window, CalendarWindow) for cap in caps)
    # A window that could not be read is reported already, and might have been one of these.
    unknown = any(cap.window is None for cap in caps)
    if "timezone" in section and not on_the_clock and not unknown:
        section.reject("timezone", f"only a calendar window ({', '.join(CalendarUnit)}) has a time zone")
    return tuple(replace(cap, window=in_timezone(cap.window, timezone)) for cap in caps)


def _cap(section: Section, has_tiers: bool) -> Cap:
    metric, amount = _amount(section, has_tiers)
    if metric is Metric.CONCURRENT_REQUESTS:
        for key in ("window", "timezone"):
            if key in section:
                section.reject(key, f"{metric} counts what is open now and takes no {key}")
        return Cap(metric, amount, None, None)
    # Whether a window is missing depends on the metric.
    window = read_window(section) if metric is not None or "window" in section else None
    return Cap(metric, amount, window, None)


def _amount(section: Section, has_tiers: bool) -> tuple[Metric | None, int | None]:
    """The metric and its amount; no metric unless there is exactly one."""
    key = section.exactly_one(METRICS)
    if key is None:
        return None, 0
    metric = Metric(key)
    tree = section[key]
    written = tree.text if isinstance(tree, Scalar) else ""
    if hint := did_you_mean(written, (BY_TIER,)):
        if written != BY_TIER:
            section.reject(key, f"found {found(tree)}, expected an amount, or {BY_TIER}{hint}")
        elif not has_tiers:
            section.reject(key, f'there are no tiers that "{BY_TIER}" could take the amount from')
        return metric, None
    return metric, section.read(key, lambda tree: amount_of(metric, tree), 0)


def _caps_of_windows(section: Section, has_tiers: bool) -> Sequence[Cap]:
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
        cap = _windowed_cap(Section(entries, path=item_path, keys=_WINDOWS_KEYS, problems=problems), has_tiers)
        if cap.window is not None and cap.label in caps:
            problems.add(tree.at, item_path, f"the limit has a window of {cap.window} already")
        caps.setdefault(cap.label, cap)
    return list(caps.values()) or [Cap(None, 0, None, None)]


def _windowed_cap(section: Section, has_tiers: bool) -> Cap:
    metric, amount = _amount(section, has_tiers)
    if metric is Metric.CONCURRENT_REQUESTS:
        section.reject(metric, "what is open now has no window, expected a limit of its own")
        return Cap(metric, amount, None, None)
    window = read_window(section)
    return Cap(metric, amount, window, label(window) if window is not None else None)

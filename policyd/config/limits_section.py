"""`limits:` in the policy file."""

import re
from collections.abc import Sequence
from dataclasses import replace

from policyd.config import values
from policyd.config.problems import Mistake, Position, Problems, did_you_mean, one_of
from policyd.config.section import Section, unique_entries
from policyd.config.values import choice, duration_seconds, expected, found
from policyd.config.yaml_tree import ListTree, MappingTree, Tree
from policyd.core.policy import Action, Hold, Limit, Match, Metric, Refusal
from policyd.core.windows import CalendarUnit, CalendarWindow, Lifetime, SlidingWindow, Window

REFUSAL_FIELDS_RESERVED = (
    "reason",
    "request_id",
    "limits",
    "limit_usd",
    "spent_usd",
    "remaining_usd",
    "estimated_cost_usd",
)
"""What a refusal's `policyd` object says by itself, and an operator's own field cannot."""

_METRICS = tuple(Metric)
_LIMIT_KEYS = ("name", *_METRICS, "window", "timezone", "per", "match", "hold", "action", "status", "refusal")
_LIMIT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_LIFETIME = "lifetime"
_WINDOW_WORDS = (*CalendarUnit, _LIFETIME)
_SLIDING_EXAMPLE = "{sliding: 60s}"


def read_limits(
    tree: ListTree, *, path: str, attributes: Sequence[str] | None, problems: Problems
) -> tuple[Limit, ...]:
    """The limits, in the file's order. `attributes` are those that a request can have; `None` if that is not known."""
    limits: list[Limit] = []
    named: dict[str, Position] = {}
    for index, item in enumerate(tree.items):
        item_path = f"{path}[{index}]"
        entries = problems.attempt(item_path, values.mapping("{name: ..., requests: ...}"), item, None)
        if entries is None:
            continue
        section = Section(entries, path=item_path, keys=_LIMIT_KEYS, problems=problems)
        limits.append(_limit(section, attributes))
        _check_unique(section, limits[-1].name, named)
    return tuple(limits)


def _check_unique(section: Section, name: str, named: dict[str, Position]) -> None:
    """Accounts go by the limit's name: two of one name would share them."""
    if not name:
        return
    if name in named:
        section.reject("name", f'the limit on line {named[name].line} is named "{name}" too, expected another name')
    named.setdefault(name, section["name"].at)


def _limit(section: Section, attributes: Sequence[str] | None) -> Limit:
    name = section.require("name", _limit_name, "", expectation="a name such as team-monthly-spend")
    metric, amount = _cap(section)
    limit = Limit(name=name, metric=metric or Metric.COST, amount=amount, window=_window(section, metric))
    return replace(
        limit,
        per=_per(section, attributes),
        match=_match(section, attributes),
        hold=section.read("hold", choice(Hold), limit.hold),
        action=section.read("action", choice(Action), limit.action),
        status=section.read("status", _refusal_status, 402 if metric is Metric.COST else 429),
        refusal=_refusal(section),
    )


def _limit_name(tree: Tree) -> str:
    name = values.text(tree)
    if not _LIMIT_NAME.fullmatch(name):
        raise expected(tree, "a name of lower-case letters, digits, dots, dashes and _, 64 at most")
    return name


def _cap(section: Section) -> tuple[Metric | None, int]:
    """The metric and its amount; no metric unless there is exactly one."""
    key = section.exactly_one(_METRICS)
    if key is None:
        return None, 0
    metric = Metric(key)
    return metric, section.read(key, values.usd_nanos if metric is Metric.COST else values.whole_number(0), 0)


def _window(section: Section, metric: Metric | None) -> Window | None:
    if metric is Metric.CONCURRENT_REQUESTS:
        for key in ("window", "timezone"):
            if key in section:
                section.reject(key, f"{metric} counts what is open now and takes no {key}")
        return None
    if "window" not in section:
        if metric is not None:
            section.report_missing("window", one_of((*_WINDOW_WORDS, _SLIDING_EXAMPLE)))
        return None
    tree = section["window"]
    if isinstance(tree, MappingTree):
        window: Window | None = _sliding_window(section.within("window", tree, keys=("sliding",)))
    else:
        window = section.read("window", _named_window, None)
    if isinstance(window, SlidingWindow | Lifetime):
        if "timezone" in section:
            section.reject("timezone", f"only a calendar window ({', '.join(CalendarUnit)}) has a time zone")
        return window
    timezone = section.read("timezone", values.timezone, None)
    return replace(window, timezone=timezone) if window and timezone else window


def _sliding_window(section: Section) -> SlidingWindow | None:
    seconds = section.require("sliding", duration_seconds(minimum=1), None, expectation=values.DURATION_EXPECTED)
    return None if seconds is None else SlidingWindow(seconds)


def _named_window(tree: Tree) -> CalendarWindow | Lifetime:
    word = values.word(_WINDOW_WORDS, other=_SLIDING_EXAMPLE)(tree)
    return Lifetime() if word == _LIFETIME else CalendarWindow(CalendarUnit(word))


def _per(section: Section, attributes: Sequence[str] | None) -> tuple[str, ...]:
    path = section.path_of("per")
    per: list[str] = []
    for index, tree in enumerate(section.read("per", values.items("[project]"), ())):
        item_path = f"{path}[{index}]"
        name = section.problems.attempt(item_path, lambda tree: _attribute(tree, attributes), tree, None)
        if name in per:
            section.problems.add(tree.at, item_path, f"{found(tree)} is listed twice")
        elif name is not None:
            per.append(name)
    return tuple(per)


def _attribute(tree: Tree, attributes: Sequence[str] | None) -> str:
    name = values.text(tree)
    if attributes is not None and name not in attributes:
        hint = did_you_mean(name, attributes)
        raise Mistake(tree.at, f"nothing sets the attribute {found(tree)}, expected {one_of(attributes)}{hint}")
    return name


def _match(section: Section, attributes: Sequence[str] | None) -> Match:
    tree = section.read("match", values.mapping("{tier: free}"), None)
    if tree is None:
        return Match()
    path, problems = section.path_of("match"), section.problems
    patterns = {}
    for key, value in unique_entries(tree, path=path, problems=problems).items():
        problems.attempt(path, lambda key: _attribute(key, attributes), key, None)
        patterns[key.text] = _globs(value, path=f"{path}.{key.text}", problems=problems)
    return Match(patterns)


def _globs(tree: Tree, *, path: str, problems: Problems) -> tuple[str, ...]:
    if not isinstance(tree, ListTree):
        return (problems.attempt(path, values.printable, tree, ""),)
    trees = problems.attempt(path, values.items('["gpt-4o*", "o1*"]'), tree, ())
    return tuple(problems.attempt(f"{path}[{index}]", values.printable, item, "") for index, item in enumerate(trees))


def _refusal_status(tree: Tree) -> int:
    try:
        return values.whole_number(400, 499)(tree)
    except Mistake:
        raise expected(tree, "402, 429 or another status from 400 to 499") from None


def _refusal(section: Section) -> Refusal:
    tree = section.read("refusal", values.mapping('{message: "..."}'), None)
    if tree is None:
        return Refusal()
    path, problems = section.path_of("refusal"), section.problems
    said: dict[str, str] = {}
    for key, value in unique_entries(tree, path=path, problems=problems).items():
        if key.text in REFUSAL_FIELDS_RESERVED:
            problems.add(key.at, path, f"{found(key)} is a field that every refusal has, expected one of your own")
        said[key.text] = problems.attempt(f"{path}.{key.text}", values.text, value, "")
    return Refusal(said.pop("message", None), said)

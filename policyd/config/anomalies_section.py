"""`anomalies:` in the policy file."""

from collections.abc import Callable, Mapping
from enum import StrEnum

from policyd.config import shapes, values
from policyd.config.matching import MATCH_KEY, PER_KEY, Attributes, read_match, read_per
from policyd.config.problems import Position, Problems
from policyd.config.refusals import REFUSAL_KEYS, read_refusal
from policyd.config.rules_section import EVENT_EVERY_SECONDS, event_period
from policyd.config.section import Section
from policyd.config.shapes import Key
from policyd.config.values import DURATION_EXPECTED, choice, duration_seconds, expected
from policyd.config.yaml_tree import ListTree, Tree
from policyd.core.anomalies import Anomaly, Detector, Repetition, RequestRate, SpendingVelocity
from policyd.core.rules import RuleAction

WITHIN_SECONDS = 600
REPEATS_MAX = 1000
SIGMAS_MAX = 100
PAST_MINUTES_MAX = 60
REQUESTS_MAX = 1_000_000


class _Action(StrEnum):
    WARN = "warn"
    DENY = "deny"
    FREEZE = "freeze"


_RULE_ACTIONS: Mapping[_Action, RuleAction] = {
    _Action.WARN: RuleAction.NOTIFY,
    _Action.DENY: RuleAction.DENY,
    _Action.FREEZE: RuleAction.FREEZE,
}

_RATE_KEYS = {
    "sigmas": Key(shapes.whole_number(1, SIGMAS_MAX), "How far above its past; the default is 6."),
    "at_least": Key(shapes.whole_number(1, REQUESTS_MAX), "Fewer requests a minute never show; the default is 20."),
    "past": Key(shapes.SPAN, "How much past, in whole minutes; the default is 15m, 60m at most."),
}
_DETECTORS = ("repeats", "usd_per_minute", "request_rate")

ANOMALY_KEYS = {
    "name": Key(shapes.NAME, "Logs, metrics and replies call it anomaly:NAME."),
    "per": PER_KEY,
    "match": MATCH_KEY,
    "repeats": Key(shapes.whole_number(2, REPEATS_MAX), "So many times in a row the same request."),
    "within": Key(shapes.SPAN, "After so long without it a repeated request counts anew; the default is 10m."),
    "usd_per_minute": Key(shapes.USD, "So much spent and held by the requests of the last minute."),
    "request_rate": Key(shapes.record(_RATE_KEYS), "More requests a minute than the past lets expect."),
    "action": Key(shapes.choice(_Action), "What becomes of a request that shows it."),
    "for": Key(shapes.SPAN, "How long a freeze lasts."),
    "every": Key(shapes.SPAN, "How long a period is in which one event is enough; the default is 1h."),
    "refusal": REFUSAL_KEYS["refusal"],
}
ANOMALY_SHAPE = shapes.record(
    ANOMALY_KEYS,
    required=("name", "action"),
    allOf=[
        shapes.exactly_one(_DETECTORS),
        {"if": shapes.only_with("action", _Action.FREEZE), "then": {"required": ["per", "for"]}},
    ],
    dependentSchemas={
        "within": {"required": ["repeats"]},
        "for": shapes.only_with("action", _Action.FREEZE),
        "refusal": shapes.only_with("action", _Action.DENY, _Action.FREEZE),
    },
)


def read_anomalies(tree: ListTree, *, path: str, attributes: Attributes, problems: Problems) -> tuple[Anomaly, ...]:
    """The anomalies, in the file's order."""
    named: dict[str, Position] = {}
    read: list[Anomaly] = []
    for index, item in enumerate(tree.items):
        item_path = f"{path}[{index}]"
        entries = problems.attempt(item_path, values.mapping("{name: loop, repeats: 5, action: deny}"), item, None)
        if entries is None:
            continue
        section = Section(entries, path=item_path, keys=ANOMALY_KEYS, problems=problems)
        name = section.require("name", values.stable_name, "", expectation="a name such as loop")
        if name in named:
            where = f'the anomaly on line {named[name].line} is named "{name}" too'
            section.reject("name", f"{where}, expected another name")
        elif name:
            named[name] = section["name"].at
        anomaly = _anomaly(section, name, attributes)
        if anomaly is not None:
            read.append(anomaly)
    return tuple(read)


def _anomaly(section: Section, name: str, attributes: Attributes) -> Anomaly | None:
    """The anomaly; `None` if it is not known what it is, or what is done about it."""
    action = section.require("action", choice(_Action), None, expectation="one of warn, deny or freeze")
    if action is not None:
        _check_keys(section, action)
    kind = section.exactly_one(_DETECTORS)
    if "within" in section and kind != "repeats":
        section.reject("within", 'it goes with "repeats" alone')
    detector = _READERS[kind](section) if kind is not None else None
    per, match = read_per(section, attributes), read_match(section, attributes)
    freeze_seconds = section.read("for", duration_seconds(minimum=1), None)
    every_seconds = section.read("every", event_period, EVENT_EVERY_SECONDS)
    refusal = read_refusal(section)
    if action is None or detector is None:
        return None
    return Anomaly(
        name=name,
        detector=detector,
        action=_RULE_ACTIONS[action],
        event_every_seconds=every_seconds,
        per=per,
        match=match,
        freeze_seconds=freeze_seconds,
        refusal=refusal,
    )


def _check_keys(section: Section, action: _Action) -> None:
    if action is not _Action.FREEZE and "for" in section:
        section.reject("for", 'it goes with "action: freeze" alone')
    if action is _Action.WARN and "refusal" in section:
        section.reject("refusal", 'it goes with "action: deny or freeze" alone')
    if action is _Action.FREEZE:
        needed = {"per": "the attributes whose values are frozen, such as [session]", "for": DURATION_EXPECTED}
        for key, expectation in needed.items():
            if key not in section:
                section.report_missing(key, expectation)


def _repeats(section: Section) -> Detector:
    return Repetition(
        times=section.read("repeats", values.whole_number(2, REPEATS_MAX), 2),
        within_seconds=section.read("within", duration_seconds(minimum=1), WITHIN_SECONDS),
    )


def _usd_per_minute(section: Section) -> Detector:
    return SpendingVelocity(nanos_per_minute=section.read("usd_per_minute", _some_usd, 0))


def _some_usd(tree: Tree) -> int:
    nanos = values.usd_nanos(tree)
    if not nanos:
        raise expected(tree, "an amount in USD above 0: every request would show")
    return nanos


def _request_rate(section: Section) -> Detector:
    tree = section.read("request_rate", values.mapping("{sigmas: 6, at_least: 20, past: 15m}"), None)
    defaults = RequestRate(sigmas=6, requests_min=20, past_minutes=15)
    if tree is None:
        return defaults
    within = section.within("request_rate", tree, keys=_RATE_KEYS)
    return RequestRate(
        sigmas=within.read("sigmas", values.whole_number(1, SIGMAS_MAX), defaults.sigmas),
        requests_min=within.read("at_least", values.whole_number(1, REQUESTS_MAX), defaults.requests_min),
        past_minutes=within.read("past", _past_minutes, defaults.past_minutes),
    )


def _past_minutes(tree: Tree) -> int:
    minutes, rest = divmod(duration_seconds(minimum=60)(tree), 60)
    if rest or minutes > PAST_MINUTES_MAX:
        raise expected(tree, f"whole minutes such as 15m, {PAST_MINUTES_MAX}m at most")
    return minutes


_READERS: Mapping[str, Callable[[Section], Detector]] = {
    "repeats": _repeats,
    "usd_per_minute": _usd_per_minute,
    "request_rate": _request_rate,
}

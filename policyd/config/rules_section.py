"""`rules:` in the policy file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from policyd.config import shapes, values
from policyd.config.conditions import CONDITION_SHAPE, Known, read_when
from policyd.config.coverage import implies
from policyd.config.matching import PER_KEY, read_per
from policyd.config.problems import Position, Problems
from policyd.config.refusals import REFUSAL_KEYS, read_refusal, refusal_status
from policyd.config.section import Section, unique_entries
from policyd.config.shapes import Key
from policyd.config.values import DURATION_EXPECTED, choice, duration_seconds, expected, found
from policyd.config.yaml_tree import ListTree, Tree
from policyd.core.events import KEPT_MS
from policyd.core.rules import Rule, RuleAction
from policyd.providers.base import OUTPUT_TOKENS_MAX


class Mode(StrEnum):
    ENABLED = "enabled"
    SHADOW = "shadow"
    """Only the operator is told that it would have fired."""
    DISABLED = "disabled"
    """It is checked, and nothing else."""


_KEYS_BY_ACTION: Mapping[RuleAction, tuple[str, ...]] = {
    RuleAction.ALLOW: (),
    RuleAction.DENY: ("status", "refusal"),
    RuleAction.FREEZE: ("per", "for", "status", "refusal"),
    RuleAction.ADD_HEADERS: ("headers",),
    RuleAction.CLAMP: ("max_output_tokens", "status", "refusal"),
    RuleAction.SWITCH_MODEL: ("switch_to", "status", "refusal"),
    RuleAction.NOTIFY: ("per", "every"),
}
_KEYS_OF_ACTIONS = tuple(dict.fromkeys(key for keys in _KEYS_BY_ACTION.values() for key in keys))
_NEEDED_BY_ACTION: Mapping[RuleAction, Mapping[str, str]] = {
    RuleAction.FREEZE: {"per": "the attributes whose values are frozen, such as [session]", "for": DURATION_EXPECTED},
    RuleAction.ADD_HEADERS: {"headers": 'a mapping such as {x-budget: "80 percent used"}'},
    RuleAction.CLAMP: {"max_output_tokens": "the most tokens of output for one choice"},
    RuleAction.SWITCH_MODEL: {"switch_to": "the name of a model of the same provider"},
}

EVENT_EVERY_SECONDS = 3600
"""How long a period is in which one event is enough, where the policy does not say."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_HEADER_VALUE_LENGTH_MAX = 200
_HEADERS_OF_HTTP = ("connection", "content-encoding", "content-length", "content-type", "date", "retry-after", "te")
_HEADER_PREFIXES_TAKEN = ("transfer-", "keep-alive", "proxy-", "set-cookie", "upgrade", "trailer", "x-policyd-")
"""What HTTP, Envoy and policyd itself say by headers, and no rule may say otherwise."""

RULE_KEYS = {
    "name": Key(shapes.NAME, "What logs, metrics and replies call it."),
    "mode": Key(shapes.choice(Mode), "Whether it does what it says; the default is enabled."),
    "when": Key({"$ref": "#/$defs/condition"}, "The conditions, all of which have to hold; left out: every request."),
    "action": Key(shapes.choice(RuleAction), "What becomes of a request that it fires for."),
    "headers": Key(
        shapes.named(
            {**shapes.matching(_HEADER_VALUE), "maxLength": _HEADER_VALUE_LENGTH_MAX},
            names=shapes.matching(_HEADER_NAME),
        ),
        "What the reply has besides.",
    ),
    "max_output_tokens": Key(shapes.whole_number(1, OUTPUT_TOKENS_MAX), "The most output for each choice."),
    "switch_to": Key(shapes.TEXT, "A model of the same provider."),
    "per": Key(PER_KEY.schema, "Attributes, every combination of which is frozen, or told of, apart."),
    "for": Key(shapes.SPAN, "How long a freeze lasts."),
    "every": Key(shapes.SPAN, "How long a period is in which one event is enough; the default is 1h."),
    **REFUSAL_KEYS,
}
RULE_SHAPE = shapes.record(
    RULE_KEYS,
    required=("name", "action"),
    allOf=[
        {"if": shapes.only_with("action", action), "then": {"required": list(needed)}}
        for action, needed in _NEEDED_BY_ACTION.items()
    ],
    dependentSchemas={
        key: shapes.only_with("action", *(action for action, keys in _KEYS_BY_ACTION.items() if key in keys))
        for key in _KEYS_OF_ACTIONS
    },
)
RULE_DEFINITIONS = {"condition": CONDITION_SHAPE}


@dataclass(frozen=True, slots=True)
class _Placed:
    rule: Rule
    at: Position
    path: str


def read_rules(tree: ListTree, *, path: str, known: Known, problems: Problems) -> tuple[Rule, ...]:
    """The rules that are not disabled, in the file's order."""
    named: dict[str, Position] = {}
    placed: list[_Placed] = []
    for index, item in enumerate(tree.items):
        item_path = f"{path}[{index}]"
        entries = problems.attempt(item_path, values.mapping("{name: ..., action: deny}"), item, None)
        if entries is None:
            continue
        section = Section(entries, path=item_path, keys=RULE_KEYS, problems=problems)
        name = section.require("name", values.stable_name, "", expectation="a name such as no-previews")
        if name in named:
            section.reject("name", f'the rule on line {named[name].line} is named "{name}" too, expected another name')
        elif name:
            named[name] = section["name"].at
        mode = section.read("mode", choice(Mode), Mode.ENABLED)
        rule = _rule(section, name, known, mode)
        if rule is not None and mode is not Mode.DISABLED:
            placed.append(_Placed(rule, item.at, item_path))
    if not problems:
        _report_unreached(placed, problems)
    return tuple(each.rule for each in placed)


def _rule(section: Section, name: str, known: Known, mode: Mode) -> Rule | None:
    """The rule; `None` if it is not known what it does."""
    when = read_when(section, known)
    action = section.require("action", choice(RuleAction), None, expectation="what the rule does, such as deny")
    if action is None:
        return None
    for key in _KEYS_OF_ACTIONS:
        if key in section and key not in _KEYS_BY_ACTION[action]:
            with_it = [each for each, keys in _KEYS_BY_ACTION.items() if key in keys]
            section.reject(key, f'it goes with "action: {" or ".join(with_it)}" alone')
    for key, expectation in _NEEDED_BY_ACTION.get(action, {}).items():
        if key not in section:
            section.report_missing(key, expectation)
    freeze_seconds = section.read("for", duration_seconds(minimum=1), None)
    event_every_seconds = section.read("every", event_period, EVENT_EVERY_SECONDS)
    return Rule(
        name,
        when,
        action,
        shadow=mode is Mode.SHADOW,
        status=section.read("status", refusal_status, 403),
        refusal=read_refusal(section),
        headers=_headers(section),
        max_output_tokens=section.read("max_output_tokens", values.whole_number(1, OUTPUT_TOKENS_MAX), None),
        switch_to=section.read("switch_to", values.printable, None),
        per=read_per(section, known.attributes),
        freeze_seconds=freeze_seconds,
        event_every_seconds=freeze_seconds if action is not RuleAction.NOTIFY else event_every_seconds,
    )


def event_period(tree: Tree) -> int:
    """Seconds in which one event is enough: no more than events are kept, or it could be forgotten and come again."""
    seconds = duration_seconds(minimum=1)(tree)
    if seconds * 1000 > KEPT_MS:
        raise expected(tree, "at most 30d")
    return seconds


def _report_unreached(placed: Sequence[_Placed], problems: Problems) -> None:
    """Reports each rule that another one is always decided before. Rules that could not be read would mislead."""
    decisive: list[_Placed] = []
    for each in placed:
        covering = (other for other in decisive if implies(each.rule.when, other.rule.when))
        if (earlier := next(covering, None)) is not None:
            does = "allows" if earlier.rule.action is RuleAction.ALLOW else "denies"
            where = f'the rule "{earlier.rule.name}" on line {earlier.at.line}'
            problems.add(each.at, each.path, f"it never fires: {where} {does} all of its requests before")
        elif each.rule.action.decisive and not each.rule.shadow:
            decisive.append(each)


def _headers(section: Section) -> dict[str, str]:
    tree = section.read("headers", values.mapping('{x-budget: "80 percent used"}'), None)
    path, problems = section.path_of("headers"), section.problems
    headers: dict[str, str] = {}
    for key, value in unique_entries(tree, path=path, problems=problems).items() if tree is not None else ():
        name = problems.attempt(path, _header_name, key, "")
        headers[name] = problems.attempt(f"{path}.{key.text}", _header_value, value, "")
    return headers


def _header_name(tree: Tree) -> str:
    name = values.text(tree).lower()
    if not _HEADER_NAME.fullmatch(name):
        raise expected(tree, "the name of a header, of letters, digits and dashes")
    if name in _HEADERS_OF_HTTP or name.startswith(_HEADER_PREFIXES_TAKEN):
        raise expected(tree, f"a header of your own; {found(tree)} is not one")
    return name


def _header_value(tree: Tree) -> str:
    value = values.printable(tree)
    if len(value) > _HEADER_VALUE_LENGTH_MAX or not _HEADER_VALUE.fullmatch(value):
        raise expected(tree, f"plain ASCII text, {_HEADER_VALUE_LENGTH_MAX} characters at most")
    return value

"""`action` of a limit, and the keys that go with one action alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from policyd.config import shapes, values
from policyd.config.caps import Cap
from policyd.config.section import Section
from policyd.config.shapes import Key
from policyd.config.values import choice
from policyd.core.policy import Action, Metric
from policyd.providers.base import OUTPUT_TOKENS_MAX

_KEY_BY_ACTION: Mapping[str, Action] = {"min_output_tokens": Action.CLAMP, "switch_to": Action.SWITCH_MODEL}
_CLAMPED = (Metric.COST, Metric.TOKENS, Metric.OUTPUT_TOKENS)
"""The metrics that a lower maximum output leaves more room in."""

ACTION_KEYS = {
    "action": Key(shapes.choice(Action), "What becomes of a request when the limit lacks room; the default is deny."),
    "min_output_tokens": Key(
        shapes.whole_number(1, OUTPUT_TOKENS_MAX), "The least output, for each choice, that a request is clamped to."
    ),
    "switch_to": Key(shapes.TEXT, "A cheaper model of the same provider."),
}
_NOT_CLAMPED = tuple(metric for metric in Metric if metric not in _CLAMPED)
ACTIONS_SHAPE = {
    "dependentSchemas": {key: shapes.only_with("action", action) for key, action in _KEY_BY_ACTION.items()},
    "allOf": [
        {"if": shapes.only_with("action", Action.SWITCH_MODEL), "then": {"required": ["switch_to"]}},
        {"if": shapes.only_with("action", Action.CLAMP), "then": shapes.without(*_NOT_CLAMPED)},
    ],
}
"""Of a limit: what goes with which action."""


@dataclass(frozen=True, slots=True)
class OnExceed:
    """What a limit does when it lacks room."""

    action: Action
    min_output_tokens: int
    switch_to: str | None


def read_on_exceed(section: Section, caps: tuple[Cap, ...]) -> OnExceed:
    action = section.read("action", choice(Action), None) if "action" in section else Action.DENY
    if action is None:
        # Which keys go with what was meant is not known.
        return OnExceed(Action.DENY, min_output_tokens=1, switch_to=None)
    for key, needed in _KEY_BY_ACTION.items():
        if key in section and action is not needed:
            section.reject(key, f'it goes with "action: {needed}" alone')
    for cap in caps:
        if action is Action.CLAMP and cap.metric is not None and cap.metric not in _CLAMPED:
            section.reject("action", f"less output leaves no more {cap.metric}, expected another action")
    if action is Action.SWITCH_MODEL and "switch_to" not in section:
        section.report_missing("switch_to", "the name of a cheaper model of the same provider")
    return OnExceed(
        action,
        min_output_tokens=section.read("min_output_tokens", values.whole_number(1, OUTPUT_TOKENS_MAX), 1),
        switch_to=section.read("switch_to", values.printable, None),
    )

"""How a request is changed before it goes upstream, by rules and by limits.

What rules say is done first, and to every request that they fire for; where it cannot be done the request is refused.
Then limits decide what becomes of a request that does not fit: it is clamped, switched to a cheaper model, or refused.

The numbers it was refused by say what would fit, so a change is tried with those; another request may have taken the
room meanwhile, so it may be refused again. After `REVISIONS_MAX` changes the refusal stands.

    a limit that refuses says      what is tried
    `switch_model`                 its model, once; of several the binding one's
    `clamp`                        the highest maximum output that all limits that refuse have room for
    neither                        nothing

A limit that says `deny` has to have room for the changed request like all others.
A change that the request has no place for, a model that the provider has no price for, and one that is not cheaper are
not tried.
"""

from __future__ import annotations

from dataclasses import replace

from msgspec import Struct, structs

from policyd.core.decision import NO_CHANGES, Changes, Decision, highest_output_tokens
from policyd.core.errors import RequestError
from policyd.core.estimate import Estimate
from policyd.core.policy import Action, Limit
from policyd.core.rules import NO_RULING, Ruling
from policyd.estimator import Ask, Estimator
from policyd.providers.base import RequestEdits, RequestFacts
from policyd.providers.vendors import vendor_named

REVISIONS_MAX = 3


class Plan(Struct, frozen=True):
    """A request as it is to go upstream."""

    ask: Ask
    estimate: Estimate
    changes: Changes = NO_CHANGES
    requested_model: str | None = None
    """The model that the client asked for, where it is another one now."""
    ruling: Ruling = NO_RULING


async def ruled(plan: Plan, ruling: Ruling, *, estimator: Estimator, now_ms: int) -> Plan:
    """The plan as the rules want it. If they refuse the request, or what they change cannot be changed, it is as it was
    and its ruling says so."""
    if ruling is NO_RULING:
        return plan
    changed = plan
    rule = ruling.switch
    if rule is not None and rule.switch_to is not None and rule.switch_to != plan.ask.facts.model:
        switched = await _with_model(plan, rule.switch_to, by=(rule.label,), estimator=estimator, now_ms=now_ms)
        if switched is None:
            return structs.replace(plan, ruling=ruling.unchangeable(rule))
        changed = switched
    rule = ruling.clamp
    if rule is not None and rule.max_output_tokens is not None:
        clamped = _with_rules_maximum(changed, rule.max_output_tokens, by=rule.label)
        if clamped is None:
            return structs.replace(plan, ruling=ruling.unchangeable(rule))
        changed = clamped
    return structs.replace(changed, ruling=ruling)


def _with_rules_maximum(plan: Plan, tokens: int, *, by: str) -> Plan | None:
    """The plan with a maximum output of `tokens` for a choice at most; a lower one of the client's stays."""
    # Below its vendor's floor a maximum bounds nothing.
    highest = max(tokens, vendor_named(plan.ask.provider).output_floor)
    if plan.estimate.bounded and plan.estimate.maximum.output_tokens <= highest * plan.estimate.choices:
        return plan
    return _with_maximum(plan, highest, by=(by,))


async def revised(plan: Plan, refusal: Decision, *, estimator: Estimator, now_ms: int) -> Plan | None:
    """The next plan to try after `plan` was refused; `None`: the refusal stands."""
    return await _switched(plan, refusal, estimator=estimator, now_ms=now_ms) or _clamped(plan, refusal)


def _refusing(refusal: Decision, action: Action) -> list[Limit]:
    return [report.limit for report in refusal.denials if report.limit.action is action]


async def _switched(plan: Plan, refusal: Decision, *, estimator: Estimator, now_ms: int) -> Plan | None:
    by = _refusing(refusal, Action.SWITCH_MODEL)
    model = by[0].switch_to if by else None
    if model is None or plan.changes.model is not None:
        return None
    names = tuple(limit.name for limit in by)
    switched = await _with_model(plan, model, by=names, estimator=estimator, now_ms=now_ms)
    if switched is None or switched.estimate.maximum_cost_nanos >= plan.estimate.maximum_cost_nanos:
        return None
    return switched


async def _with_model(plan: Plan, model: str, *, by: tuple[str, ...], estimator: Estimator, now_ms: int) -> Plan | None:
    """The plan with another model; `None` if the provider has no price for it, or the request no place."""
    if not estimator.is_priced(model, ask=plan.ask, now_ms=now_ms):
        return None
    changes = replace(plan.changes, model=model, switched_by=by)
    facts = _reread(plan.ask, changes)
    if facts is None:
        return None
    ask = replace(plan.ask, facts=facts)
    try:
        estimate = await estimator.estimate(ask, now_ms=now_ms)
    except RequestError:
        return None
    return structs.replace(plan, ask=ask, estimate=estimate, changes=changes, requested_model=plan.ask.facts.model)


def _clamped(plan: Plan, refusal: Decision) -> Plan | None:
    clamping = _refusing(refusal, Action.CLAMP)
    if not clamping:
        return None
    choices = plan.ask.facts.choices
    # Below its vendor's floor a maximum bounds nothing.
    floor = vendor_named(plan.ask.provider).output_floor
    least = max(floor, *(limit.min_output_tokens for limit in clamping))
    tokens = highest_output_tokens(refusal, choices=choices, least=least)
    if tokens is None:
        return None
    return _with_maximum(plan, tokens, by=tuple(limit.name for limit in clamping))


def _with_maximum(plan: Plan, tokens: int, *, by: tuple[str, ...]) -> Plan | None:
    """The plan with `tokens` as the maximum output of a choice; `None` if the request has no place for one."""
    all_by = tuple(dict.fromkeys((*plan.changes.clamped_by, *by)))
    changes = replace(plan.changes, max_output_tokens=tokens, clamped_by=all_by)
    facts = _reread(plan.ask, changes)
    if facts is None:
        return None
    ask = replace(plan.ask, facts=facts)
    estimate = plan.estimate.bounded_to(tokens * plan.ask.facts.choices)
    return structs.replace(plan, ask=ask, estimate=estimate, changes=changes)


def _reread(ask: Ask, changes: Changes) -> RequestFacts | None:
    """What the request says with `changes`; `None` if it has no place for them."""
    if ask.reread is None:
        return None
    try:
        return ask.reread(RequestEdits(model=changes.model, max_output_tokens=changes.max_output_tokens))
    except RequestError:
        return None

"""What `policyd explain` tells: step by step, why a request would pass or not. Nothing is held and nothing is set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from policyd.columns import aligned
from policyd.core.decision import Decision, LimitReport
from policyd.core.errors import ConfigError, EndpointUnknown, RequestError
from policyd.core.estimate import Estimate
from policyd.core.events import OperatorEvent
from policyd.core.money import format_usd
from policyd.core.policy import Limit, Match, Metric, Policy
from policyd.core.price_book import PriceBook
from policyd.core.record import Record
from policyd.core.rules import Ruling
from policyd.core.runtime import Block, Blocked
from policyd.core.scopes import shown
from policyd.core.times import iso_time
from policyd.enforcer import Enforcer
from policyd.estimator import Ask
from policyd.ext_proc.messages import RequestBody, RequestHeaders
from policyd.ext_proc.request import RequestSide
from policyd.learning import Corrections
from policyd.providers.endpoint import Endpoint
from policyd.providers.registry import resolve
from policyd.stores.base import Store, Swept
from policyd.tokens import TokenCounter

REQUEST_BYTES_MAX = 16 * 1024 * 1024


class HttpRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request as a file describes it."""

    path: str
    """With its query."""
    body: dict[str, Any] | str
    provider: str = "openai"
    method: str = "POST"
    headers: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Each step by the names of what it looks at."""

    decision: str
    """`allow` or `deny`."""
    because: tuple[str, ...]
    """What refuses the request, or changes it."""
    attributes: Mapping[str, str]
    estimate: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)


def parse_request(content: bytes, *, source: str) -> HttpRequest:
    """The request in a JSON file. Raises `ConfigError`."""
    try:
        return msgspec.json.decode(content, type=HttpRequest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        example = '{"path": "/v1/chat/completions", "headers": {...}, "body": {...}}'
        raise ConfigError(f"{source}: {error}, expected a request such as {example}") from None


async def explain(request: HttpRequest, *, policy: Policy, store: Store, prices: PriceBook, at_ms: int) -> Explanation:
    """Why the request would pass or not at `at_ms`.

    Raises `RequestError`s for a request that cannot be read or attributed, and `StoreError`s.
    """
    enforcer = Enforcer(
        store=store,
        prices=prices,
        counter=TokenCounter(),
        clock=_Moment(at_ms),
        policy=lambda: policy,
        observer=_Nobody(),
    )
    ask = await _ask(request, policy, enforcer)
    attributes = policy.grouping.complete(ask.attributes)
    block: Block | None = None
    try:
        try:
            decision = await enforcer.check(ask)
        except Blocked as error:
            block = error.block
            decision = await enforcer.check(ask, heed_blocks=False)
    except RequestError as error:
        return Explanation("deny", (*_because_of(block), f"{error.reason}: {error}"), attributes)
    return Explanation(
        decision="allow" if decision.allowed and block is None else "deny",
        because=(*_because_of(block), *_because(decision)),
        attributes=attributes,
        estimate=_estimate(decision.estimate),
        rules=_rules(policy, decision.ruling),
        limits=_limits(policy, decision, attributes),
    )


def explanation_text(told: Explanation) -> str:
    """The steps in their order, the decision last."""
    lines: list[str] = []
    steps = {"attributes": told.attributes, "estimate": told.estimate, "rules": told.rules, "limits": told.limits}
    for title, said in steps.items():
        if said:
            lines += [title, *aligned(tuple(said.items()), indent="  "), ""]
    return "\n".join([*lines, f"decision: {told.decision}", *(f"  {each}" for each in told.because)])


def explanation_json(told: Explanation) -> str:
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()


async def _ask(request: HttpRequest, policy: Policy, enforcer: Enforcer) -> Ask:
    headers = {name.lower(): value for name, value in request.headers.items()}
    headers |= {":method": request.method, ":path": request.path}
    side = RequestSide(RequestHeaders(headers, end_of_stream=False), policy=policy)
    endpoint = resolve(provider=request.provider, host=headers.get("host", ""), method=request.method, path=side.path)
    if not isinstance(endpoint, Endpoint) or endpoint.wire is None:
        raise EndpointUnknown(f"{request.method} {request.path} of {request.provider} is not a request with a price")
    if (digest := side.key_digest()) is not None:
        side.identify(await enforcer.authenticate(digest, endpoint=endpoint.name, metered=True))
    body = request.body.encode() if isinstance(request.body, str) else msgspec.json.encode(request.body)
    side.take(RequestBody(body, end_of_stream=True), body_bytes_max=REQUEST_BYTES_MAX)
    return side.ask(request_id="explain", endpoint=endpoint, wire=endpoint.wire, policy=policy)


def _estimate(made: Estimate) -> dict[str, str]:
    expected, maximum = made.expected, made.maximum
    return {
        "input_tokens": f"{expected.input_tokens} (at most {maximum.input_tokens})",
        "output_tokens": f"{expected.output_tokens} (at most {maximum.output_tokens})",
        "cost_usd": f"{format_usd(made.expected_cost_nanos)} (at most {format_usd(made.maximum_cost_nanos)})",
        "confidence": made.confidence,
    }


def _rules(policy: Policy, ruling: Ruling) -> dict[str, str]:
    """What became of each rule."""
    said: dict[str, str] = {}
    decided = False
    for rule in policy.judged:
        if rule in ruling.fired:
            said[rule.name] = f"fires: {rule.action}"
            decided = rule.action.decisive
        elif rule in ruling.shadowed:
            said[rule.name] = f"would fire, and is a shadow: {rule.action}"
        else:
            said[rule.name] = "not looked at: an earlier rule decided" if decided else "its conditions do not hold"
    return said


def _limits(policy: Policy, decision: Decision, attributes: Mapping[str, str]) -> dict[str, str]:
    """How each limit stands, or why it does not apply. Those of one name differ in their tiers."""
    reports = {report.limit.name: report for report in decision.reports}
    return {
        limit.name: _report(reports[limit.name]) if limit.name in reports else _absent(limit, attributes)
        for limit in policy.limits
    }


def _report(report: LimitReport) -> str:
    limit = report.limit
    amounts = (report.requested, report.remaining, limit.amount)
    requested, remaining, amount = (_amount(limit.metric, each) for each in amounts)
    fits = "does not fit" if report.refuses else "fits"
    resets = f", resets {iso_time(report.resets_at_ms)}" if report.resets_at_ms is not None else ""
    numbers = f"{requested} {limit.metric} of {remaining} left of {amount}"
    return f"{fits} ({limit.action}): {numbers} for {shown(report.scope)}{resets}"


def _amount(metric: Metric, amount: int) -> str:
    return format_usd(amount) if metric is Metric.COST else str(amount)


def _absent(limit: Limit, attributes: Mapping[str, str]) -> str:
    for name, patterns in limit.match.patterns.items():
        if not Match({name: patterns}).fits(attributes):
            found = f"is {attributes[name]}" if name in attributes else "is missing"
            return f"does not apply: {name} {found}, and it is for {', '.join(patterns)}"
    return f"does not apply: another limit of the pool {limit.pool} leaves less"


def _because_of(block: Block | None) -> Iterator[str]:
    """What refuses the request before anything is judged."""
    if block is not None:
        ends = f" until {iso_time(block.expires_at_ms)}" if block.expires_at_ms is not None else ""
        yield f"{block.name}{ends}: {block.reason}"


def _because(decision: Decision) -> Iterator[str]:
    """What refuses the request, or else what changes it."""
    if decision.ruling.denied_by is not None:
        yield f"refused by {decision.ruling.denied_by.label}"
    for report in decision.denials:
        yield f"refused by {report.limit.name}"
    if decision.retry_after_seconds is not None:
        yield f"it may fit after {decision.retry_after_seconds} s"
    changes = decision.changes
    if decision.allowed and changes.model is not None:
        yield f"goes to {changes.model}: {', '.join(changes.switched_by)}"
    if decision.allowed and changes.max_output_tokens is not None:
        yield f"has at most {changes.max_output_tokens} tokens of output: {', '.join(changes.clamped_by)}"


@dataclass(frozen=True, slots=True)
class _Moment:
    """A clock that stands still."""

    at_ms: int

    def now_ms(self) -> int:
        return self.at_ms


class _Nobody:
    """An observer for whom nothing happens."""

    def ended(self, record: Record, estimate: Estimate | None) -> None: ...

    def store_call(self, operation: str, seconds: float, *, failed: bool) -> None: ...

    def swept(self, swept: Swept) -> None: ...

    def learned(self, corrections: Corrections) -> None: ...

    def emitted(self, event: OperatorEvent) -> None: ...

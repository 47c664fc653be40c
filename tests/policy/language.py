"""The language of the scenarios in this folder: a policy, and steps one after the other. `README.md` describes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from policyd.api import reading
from policyd.config import parse_policy
from policyd.control import budgets
from policyd.control.desk import Desk
from policyd.control.reading import ends_at_ms as ends_at_ms_of
from policyd.core.decision import Decision, LimitReport
from policyd.core.errors import RequestError
from policyd.core.ledger import Balance
from policyd.core.money import format_usd, parse_usd
from policyd.core.policy import Metric
from policyd.core.scopes import shown
from policyd.core.times import parse_instant
from policyd.core.usage import Usage
from policyd.enforcer import RELEASED, Verdict, reported_ending
from policyd.estimator import Ask
from policyd.stores.base import Store
from policyd.v1.model_request_pb2 import ModelRequest, TokenCounts
from tests.builders import World

FIRST_MS = int(datetime(2026, 5, 15, 12, tzinfo=UTC).timestamp()) * 1000
"""When a scenario begins that does not say so."""

EXAMPLES = Path(__file__).parents[2] / "envoy" / "policies"

ROWS_MAX = 1000

_MS_BY_UNIT = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LATER = re.compile(r"\+(\d+)([smhd])")
_DECISIONS = ("allow", "deny")
_REQUEST_KEYS = ("model", "input", "output", "choices", "text")


class Tokens(msgspec.Struct, forbid_unknown_fields=True):
    input: int = 0
    output: int = 0

    def usage(self) -> Usage:
        return Usage(input=self.input, output=self.output)


class Expected(msgspec.Struct, forbid_unknown_fields=True):
    """How one limit stands; what is left out is not looked at. Money in dollars."""

    spent: str | None = None
    reserved: str | None = None
    limit: str | None = None
    resets: str | None = None


class Step(msgspec.Struct, forbid_unknown_fields=True):
    at: str | None = None
    request: dict[str, str] | None = None
    id: str | None = None
    expect: str | None = None
    denied_by: list[str] = []
    shadow_denied_by: list[str] = []
    warned_by: list[str] = []
    clamped_by: list[str] = []
    switched_by: list[str] = []
    rules: list[str] = []
    shadow_rules: list[str] = []
    rule_denial: str | None = None
    headers: dict[str, str] = {}
    model: str | None = None
    output: int | None = None
    retry_after: int | None = None
    used: Tokens | None = None
    settle: dict[str, Tokens] = {}
    release: list[str] = []
    whose: dict[str, str] | None = None
    state: dict[str, Expected] = {}
    set_budget: Budget | None = None
    delete_budget: Budget | None = None
    reset_budget: Budget | None = None
    accounts: list[str] | None = None
    sessions: list[str] | None = None
    events: list[str] | None = None
    acknowledge: bool = False


class Budget(msgspec.Struct, forbid_unknown_fields=True):
    """Whose limit an operator changes; `amount` and how long it applies go with `set_budget` alone."""

    scope: str
    limit: str
    amount: str = ""
    lasting: str | None = None


class Scenario(msgspec.Struct, forbid_unknown_fields=True):
    steps: list[Step]
    policy: str = ""
    example: str | None = None
    """The file in `envoy/policies` that has the policy instead."""

    @property
    def text(self) -> str:
        return self.policy if self.example is None else (EXAMPLES / f"{self.example}.yaml").read_text()


def parse_scenario(written: str) -> Scenario:
    # Every scalar as the text it is: money must not pass through a float.
    return msgspec.convert(yaml.load(written, yaml.BaseLoader), Scenario, strict=False)


async def play(scenario: Scenario, store: Store) -> None:
    """Raises `AssertionError` for the first step that goes otherwise, with its number."""
    player = Player(World(parse_policy(scenario.text, source="policy"), store=store))
    for number, step in enumerate(scenario.steps, start=1):
        try:
            await player.play(step)
        except AssertionError as error:
            raise AssertionError(f"step {number}: {error}") from error


class Player:
    def __init__(self, world: World) -> None:
        self._world = world
        self._open: dict[str, Verdict] = {}
        world.clock.ms = FIRST_MS

    async def play(self, step: Step) -> None:
        self._set_clock(step.at)
        await self._operate(step)
        if step.request is not None:
            await self._request(step)
        for name, tokens in step.settle.items():
            await self._end(name, tokens.usage())
        for name in step.release:
            await self._end(name, None)
        await self._check_state(step)
        await self._check_events(step)

    def _set_clock(self, at: str | None) -> None:
        if at is None:
            return
        later = _LATER.fullmatch(at)
        if later is not None:
            self._world.clock.ms += int(later[1]) * _MS_BY_UNIT[later[2]]
        else:
            self._world.clock.ms = parse_instant(at)

    async def _operate(self, step: Step) -> None:
        """What an operator does, and sees, before the request of the step."""
        desk = Desk(self._world.store, self._world.policy, self._world.clock.ms)
        if (new := step.set_budget) is not None:
            ends_at_ms = ends_at_ms_of(until=None, lasting=new.lasting, now_ms=desk.now_ms)
            await budgets.set_amount(desk, new.scope, new.amount, limit=new.limit, ends_at_ms=ends_at_ms)
        if (gone := step.delete_budget) is not None:
            await budgets.delete_amount(desk, gone.scope, limit=gone.limit)
        if (fresh := step.reset_budget) is not None:
            await budgets.reset(desk, fresh.scope, limit=fresh.limit)
        if step.accounts is not None:
            page = await desk.store.accounts(page=ROWS_MAX)
            self._compare_rows("accounts", step.accounts, [(row.limit, row.scope, kept) for row, kept in page.rows])
        if step.sessions is not None:
            listed = (await budgets.standing(desk, limit=None, per="session")).budgets
            rows = [(budget.limit.name, budget.scope, budget.balance) for budget in listed]
            self._compare_rows("sessions", step.sessions, rows)

    def _compare_rows(self, what: str, expected: list[str], rows: Sequence[tuple[str, str, Balance]]) -> None:
        metrics = {limit.name: limit.metric for limit in self._world.policy.limits}
        found = sorted(
            f"{name} {scope}: {format_usd(balance.spent) if metrics[name] is Metric.COST else balance.spent}"
            for name, scope, balance in rows
        )
        assert found == expected, f"{what} are {found}, expected {expected}"

    async def _request(self, step: Step) -> None:
        name = step.id or f"request {len(self._open) + 1}"
        ask = reading.ask(_model_request(step.request or {}), self._world.policy, request_id=name)
        ask = replace(ask, content=(step.request or {}).get("text", "").encode())
        if step.expect not in _DECISIONS:
            assert await self._reason(ask) == step.expect, f"expected {step.expect}"
            return
        checked = await self._world.enforcer.check(ask)
        verdict = await self._world.enforcer.reserve(ask, fingerprint="scenario")
        _compare(step, verdict.decision)
        # Asking changes nothing, and tells the same.
        _compare(step, checked)
        if verdict.decision.allowed:
            assert step.model in {None, verdict.facts.model}, f"the model is {verdict.facts.model}"
            assert step.output in {None, verdict.max_output_tokens}, f"the maximum is {verdict.max_output_tokens}"
            self._open[name] = verdict
            if step.used is not None:
                await self._end(name, step.used.usage())

    async def _reason(self, ask: Ask) -> str | None:
        """What the request is refused for that no limit refuses."""
        try:
            await self._world.enforcer.reserve(ask)
        except RequestError as error:
            return error.reason
        return None

    async def _end(self, name: str, usage: Usage | None) -> None:
        await self._world.enforcer.end_held(name, RELEASED if usage is None else reported_ending(usage))

    async def _check_state(self, step: Step) -> None:
        if not step.state:
            return
        attributes = dict(step.whose if step.whose is not None else step.request or {})
        for key in ("input", "output", "choices", "text"):
            attributes.pop(key, None)
        policy = self._world.policy
        reports = {report.limit.name: report for report in await self._world.enforcer.budget(policy, attributes)}
        for name, expected in step.state.items():
            assert name in reports, f"{name} does not apply, expected one of {', '.join(reports)}"
            _compare_state(reports[name], expected)

    async def _check_events(self, step: Step) -> None:
        pending = (await self._world.store.events(page=100)).events
        found = [f"{event.source} {shown(event.scope)}" for event in pending]
        assert step.events in (None, found), f"the events are {found}, expected {step.events}"
        if step.acknowledge:
            await self._world.store.acknowledge([event.id for event in pending])


def _model_request(said: Mapping[str, str]) -> ModelRequest:
    counts = TokenCounts(model=said.get("model", "cent"), input_tokens=int(said.get("input", "0")))
    if "output" in said:
        counts.max_output_tokens = int(said["output"])
    if "choices" in said:
        counts.choices = int(said["choices"])
    attributes = {name: value for name, value in said.items() if name not in _REQUEST_KEYS}
    return ModelRequest(provider="openai", endpoint="chat.completions", attributes=attributes, counts=counts)


def _compare(step: Step, decision: Decision) -> None:
    found: dict[str, Any] = {
        "expect": "allow" if decision.allowed else "deny",
        "denied_by": [report.limit.name for report in decision.denials],
        "shadow_denied_by": [report.limit.name for report in decision.shadow_denials],
        "warned_by": [report.limit.name for report in decision.warnings],
        "clamped_by": list(decision.changes.clamped_by),
        "switched_by": list(decision.changes.switched_by),
        "rules": list(decision.ruling.names),
        "shadow_rules": list(decision.ruling.shadow_names),
        "rule_denial": decision.ruling.denied_by.name if decision.ruling.denied_by is not None else None,
        "headers": dict(decision.ruling.headers),
    }
    if step.retry_after is not None:
        found["retry_after"] = decision.retry_after_seconds
    expected = {name: getattr(step, name) for name in found}
    assert found == expected, f"expected {expected}, got {found}"


def _compare_state(report: LimitReport, expected: Expected) -> None:
    amount = parse_usd if report.limit.metric is Metric.COST else int
    for name, found in (("spent", report.spent), ("reserved", report.reserved), ("limit", report.limit.amount)):
        wanted = getattr(expected, name)
        assert wanted is None or amount(wanted) == found, f"{report.limit.name}: {name} is {found}, expected {wanted}"
    if expected.resets is not None:
        assert report.resets_at_ms == parse_instant(expected.resets), f"{report.limit.name}: resets at another time"

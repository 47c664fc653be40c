"""What rules do to a request through Envoy: what goes upstream, what the client is told, what is charged."""

from __future__ import annotations

import json
from dataclasses import replace

from policyd.core.policy import Match, Metric, Refusal
from policyd.core.record import Outcome
from policyd.core.rules import ALWAYS, EstimateReaches, Matches, Rule, RuleAction, UsagePercent
from tests.builders import USD, World, limit, policy
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import chat, reply_headers, request_headers

DENY = Rule(
    "no-gpt-4o",
    UsagePercent({"budget": 50}),
    RuleAction.DENY,
    status=451,
    refusal=Refusal("Not this month.", {"upgrade_url": "https://example.com/upgrade"}),
)
TOLD = Rule("told", ALWAYS, RuleAction.ADD_HEADERS, headers={"x-budget": "nearly used", "x-policyd-decision": "mine"})


async def answered(envoy: Envoy, body: bytes) -> None:
    await envoy.response(reply_headers(length=len(body)), [body])
    await envoy.close()


async def test_a_refusal_in_the_operators_words() -> None:
    world = World(policy(limit(amount=0), limit(name="other"), rules=(TOLD, DENY, replace(TOLD, name="later"))))
    envoy = Envoy(world)
    body = chat()
    await envoy.request(request_headers(body), [body])
    assert envoy.client.status == 451
    assert not envoy.upstream.body
    assert json.loads(envoy.client.body)["error"]["message"] == "Not this month."
    told = wire.decision_fields(envoy.client.body)
    assert (told["reason"], told["rule"]) == ("denied_by_rule", "no-gpt-4o")
    assert told["upgrade_url"] == "https://example.com/upgrade"
    assert [each["name"] for each in told["limits"]] == ["budget"]
    headers = envoy.client.headers
    assert (headers["x-policyd-rules"], headers["x-budget"]) == ("told, no-gpt-4o", "nearly used")
    assert headers["x-policyd-decision"] == "deny"
    assert headers["x-should-retry"] == "false"
    record = world.record
    assert (record.outcome, record.status) == (Outcome.DENIED, 451)
    assert (record.denied_by, record.rules) == (("rule:no-gpt-4o", "budget"), ("told", "no-gpt-4o"))
    assert await world.spent("other") == 0


async def test_headers_of_a_request_that_passes() -> None:
    world = World(policy(limit(), rules=(TOLD, replace(DENY, shadow=True, when=ALWAYS))))
    envoy = Envoy(world)
    body = chat()
    await envoy.request(request_headers(body), [body])
    assert envoy.upstream.body == body
    await answered(envoy, wire.chat_reply())
    headers = envoy.client.headers
    assert (headers["x-policyd-rules"], headers["x-budget"]) == ("told", "nearly used")
    assert headers["x-policyd-decision"] == "allow"
    assert (world.record.rules, world.record.shadow_rules) == (("told",), ("no-gpt-4o",))


async def test_the_body_is_changed() -> None:
    clamp = Rule("short", ALWAYS, RuleAction.CLAMP, max_output_tokens=60)
    switch = Rule("cheap", Matches(Match({"model": ("gpt-4o",)})), RuleAction.SWITCH_MODEL, switch_to="gpt-4o-mini")
    world = World(policy(limit(), rules=(clamp, switch)))
    envoy = Envoy(world)
    body = chat(max_tokens=1000)
    await envoy.request(request_headers(body), [body])
    assert envoy.upstream.body == body.replace(b"1000", b"60").replace(b"gpt-4o", b"gpt-4o-mini")
    await answered(envoy, wire.chat_reply())
    assert (world.record.clamped_by, world.record.switched_by) == (("rule:short",), ("rule:cheap",))
    assert world.record.requested_model == "gpt-4o"


async def test_what_cannot_be_changed_is_refused() -> None:
    switch = Rule("cheap", ALWAYS, RuleAction.SWITCH_MODEL, switch_to="gemini-2.5-flash-lite")
    world = World(policy(limit(), rules=(switch,)))
    envoy = Envoy(world)
    body = wire.to_json({"contents": [{"parts": [{"text": "Hi."}]}]})
    await envoy.request(request_headers(body, path="/v1beta/models/gemini-2.5-pro:generateContent"), [body])
    assert envoy.client.status == 403
    assert world.record.denied_by == ("rule:cheap",)


async def test_a_long_prompt_is_judged_by_what_it_really_is() -> None:
    """Not by the bound that its limits would be tried with."""
    rules = [
        Rule(name, EstimateReaches({Metric.INPUT_TOKENS: tokens}), RuleAction.ADD_HEADERS)
        for name, tokens in (("long", 50_000), ("longer", 100_000))
    ]
    world = World(policy(limit(amount=100 * USD), rules=tuple(rules)))
    envoy = Envoy(world)
    body = chat("word " * 60_000)
    await envoy.request(request_headers(body), [body])
    await answered(envoy, wire.chat_reply())
    assert world.record.rules == ("long",)
